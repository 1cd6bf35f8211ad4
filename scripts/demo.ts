// The main job, end to end, without a GPU or an account: the real service against the doubles of vast.ai and ComfyUI.
// `npm run demo -- --keep` leaves it running afterwards, to be clicked through.
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import { startVastDouble, type VastDouble } from '../test/doubles/vast/index.ts';
import { bareEnvironment } from '../test/support/child.ts';

interface Instance {
  id: string;
  status: string;
  phase: string | null;
  message: string | null;
  gpuName: string | null;
  pricePerHourUsd: number | null;
  costUsd: number;
  phases: { phase: string; seconds: number }[];
  rentals: { providerInstanceId: string | null; goneAt: string | null }[];
  terminationReason: string | null;
  terminationDetail: string | null;
}

interface Job {
  id: string;
  status: string;
  waitingFor: string | null;
  progress: { phase: string; fraction: number } | null;
  error: { code: string; detail: string } | null;
  outputs: { name: string; url: string | null; contentType: string | null; sizeBytes: number | null }[];
}

/** Everything here takes seconds; what takes longer has gone wrong. */
const FOLLOW_LIMIT_MS = 180_000;

const started = performance.now();
/** From the first moment on: whatever was started has to be stopped. */
const interrupted = Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')]);
const { values: options } = parseArgs({ options: { keep: { type: 'boolean', default: false } } });
const outputDir = resolve('demo-output');
const dataDir = await mkdtemp(join(tmpdir(), 'comfyfleet-demo-'));
// Where root runs the demo, the database server is somebody else, who must pass.
await chmod(dataDir, 0o711);

const vast = await startVastDouble();
say(`A double of vast.ai answers at ${vast.url}; what it rents are doubles of ComfyUI.`);
const port = await freePort(8400);
const api = `http://127.0.0.1:${port}`;
const service = startService(port, vast);
let failed = false;
try {
  const ended = interrupted.then(() => Promise.reject(new Error('It was told to end.')));
  await Promise.race([run(), ended]);
  if (options.keep) await keep();
} catch (error) {
  failed = true;
  say(`The demo failed: ${error instanceof Error ? error.message : String(error)}`);
} finally {
  await stopService(service);
  await vast.stop();
  await rm(dataDir, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;

async function run(): Promise<void> {
  await serviceUp();
  say(`Comfyfleet is up. Swagger UI: ${api}/docs`);

  const offers = await call<{ items: { gpuName: string; pricePerHourUsd: number; reasons: string[] }[] }>(
    '/offers',
  );
  const best = offers.items[0];
  say(`${offers.items.length} offers fit. The best: ${best?.gpuName} (${best?.reasons.join('; ')}).`);

  const instance = await rentInstance();
  const picture = await uploadPicture();
  const job = await runJob(picture, instance.id);
  await saveOutputs(job, instance);
  if (!options.keep) await destroyInstance(instance.id);
}

async function rentInstance(): Promise<Instance> {
  const requested = await call<Instance>('/instances', {
    method: 'POST',
    json: { requirements: { minVramGb: 16 } },
  });
  say(`POST /instances: instance ${requested.id} is requested.`);
  const ready = await follow(
    () => call<Instance>(`/instances/${requested.id}`),
    ({ status, phase, message }) =>
      `  ${[status, phase, message].filter((part) => part !== null).join(' · ')}`,
    ({ status }) => status === 'ready' || status === 'terminated',
  );
  if (ready.status !== 'ready')
    throw new Error(`The instance ended: ${ready.terminationDetail ?? ready.terminationReason}`);
  const phases = ready.phases.map(({ phase, seconds }) => `${phase} ${seconds} s`).join(', ');
  say(`It is ready: ${ready.gpuName} for ${ready.pricePerHourUsd?.toFixed(3)} USD per hour (${phases}).`);
  return ready;
}

async function uploadPicture(): Promise<string> {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="320" height="240">
    <defs><linearGradient id="g" x2="1" y2="1"><stop stop-color="#1b2a6b"/><stop offset="1" stop-color="#f2a33a"/></linearGradient></defs>
    <rect width="320" height="240" fill="url(#g)"/><circle cx="220" cy="90" r="44" fill="#ffe9a8"/></svg>`;
  const png = await sharp(Buffer.from(svg)).png().toBuffer();
  const form = new FormData();
  form.set('file', new Blob([new Uint8Array(png)], { type: 'image/png' }), 'sunset.png');
  const asset = await call<{ id: string; sizeBytes: number }>('/assets', { method: 'POST', body: form });
  say(`POST /assets: a picture of ${asset.sizeBytes} bytes is stored as ${asset.id.slice(0, 12)}….`);
  return asset.id;
}

async function runJob(assetId: string, instanceId: string): Promise<Job> {
  const workflow: unknown = JSON.parse(
    await readFile(new URL('../test/workflows/c_image_to_video.json', import.meta.url), 'utf8'),
  );
  const submitted = await call<Job>('/jobs', {
    method: 'POST',
    json: { workflow, inputs: [{ node: '1', input: 'image', assetId }], instanceId },
  });
  say(`POST /jobs: job ${submitted.id} runs the image-to-video workflow.`);
  const done = await follow(
    () => call<Job>(`/jobs/${submitted.id}`),
    ({ status, waitingFor, progress }) =>
      `  ${status}${progress === null ? (waitingFor === null ? '' : ` · ${waitingFor}`) : ` · ${progress.phase} · ${Math.round(progress.fraction * 100)} %`}`,
    ({ status }) => ['succeeded', 'failed', 'canceled', 'expired'].includes(status),
  );
  if (done.status !== 'succeeded')
    throw new Error(`The job ended as ${done.status}: ${done.error?.detail ?? ''}`);
  return done;
}

async function saveOutputs(job: Job, instance: Instance): Promise<void> {
  await mkdir(outputDir, { recursive: true });
  for (const output of job.outputs) {
    if (output.url === null) continue;
    const answer = await fetch(api + output.url);
    if (!answer.ok) throw new Error(`GET ${output.url} answered ${answer.status}.`);
    const bytes = Buffer.from(await answer.arrayBuffer());
    const path = join(outputDir, output.name);
    await writeFile(path, bytes);
    say(`Saved ${path} (${output.contentType}, ${bytes.length} bytes).`);
    await compareWithDouble(instance, bytes);
  }
  const now = await call<Instance>(`/instances/${instance.id}`);
  say(`So far the machine has cost ${now.costUsd.toFixed(6)} USD.`);
}

/** The proof that nothing changed on the way: the file on the double's own disk has the same hash. */
async function compareWithDouble(instance: Instance, bytes: Buffer): Promise<void> {
  const rentalId = Number(instance.rentals.at(-1)?.providerInstanceId);
  const comfy = vast.comfyOf(rentalId);
  if (comfy === undefined) throw new Error('The double no longer knows the rental.');
  const files = await readdir(join(comfy.dataDir, 'output'), { recursive: true, withFileTypes: true });
  const hashes = await Promise.all(
    files
      .filter((file) => file.isFile())
      .map(async (file) => sha256(await readFile(join(file.parentPath, file.name)))),
  );
  if (!hashes.includes(sha256(bytes)))
    throw new Error('The saved file differs from the one that ComfyUI made.');
  say(`It is byte for byte what ComfyUI made (sha256 ${sha256(bytes).slice(0, 16)}…).`);
}

async function destroyInstance(id: string): Promise<void> {
  await call<Instance>(`/instances/${id}`, { method: 'DELETE' });
  const gone = await follow(
    () => call<Instance>(`/instances/${id}`),
    ({ status, message }) => `  ${status}${message === null ? '' : ` · ${message}`}`,
    ({ status }) => status === 'terminated',
  );
  say(
    `The instance is terminated, its machine confirmed gone. It cost ${gone.costUsd.toFixed(6)} USD in all.`,
  );
  const left = vast.liveRentals().length;
  if (left !== 0) throw new Error(`${left} rentals are still alive.`);
  say(`vast.ai's double shows no rental any more, and billed ${totalBill().toFixed(6)} USD.`);
  if (!options.keep) say(`Swagger UI was at ${api}/docs; run "npm run demo -- --keep" to click through it.`);
}

async function keep(): Promise<void> {
  say(`Left running: ${api}/docs. Press Ctrl+C to destroy the machine and stop.`);
  await Promise.race([interrupted, once(service, 'exit')]);
  const live = await call<{ items: Instance[] }>('/instances?status=ready&status=provisioning');
  for (const instance of live.items) await destroyInstance(instance.id);
}

function startService(servicePort: number, { url, apiKey }: VastDouble): ChildProcess {
  return spawn(process.execPath, ['src/server.ts'], {
    // Its own group, so that Ctrl+C reaches only the demo, which then stops it in order.
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit'],
    // Settings of the caller's own service, its storage and keys above all, are none of the demo's business.
    env: {
      ...bareEnvironment(),
      PORT: String(servicePort),
      DATA_DIR: dataDir,
      VASTAI_API_KEY: apiKey,
      VAST_API_URL: url,
      INSTANCE_POLL_SECONDS: '0.5',
      LOG_LEVEL: 'warn',
    },
  });
}

async function serviceUp(): Promise<void> {
  for (let tries = 0; tries < 300; tries += 1) {
    if (service.exitCode !== null) throw new Error(`The service ended with code ${service.exitCode}.`);
    const answer = await fetch(`${api}/health/ready`).catch(() => null);
    if (answer?.ok === true) return;
    await sleep(100);
  }
  throw new Error('The service did not come up in 30 s.');
}

async function stopService(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  await ended;
}

/** Reads again and again until `done`, and says what is new. */
async function follow<T>(
  read: () => Promise<T>,
  describe: (state: T) => string,
  done: (state: T) => boolean,
): Promise<T> {
  const deadline = performance.now() + FOLLOW_LIMIT_MS;
  let last = '';
  for (;;) {
    const state = await read();
    const line = describe(state);
    if (line !== last) say(line);
    last = line;
    if (done(state)) return state;
    if (performance.now() > deadline) throw new Error(`Nothing more came in ${FOLLOW_LIMIT_MS / 1000} s.`);
    await sleep(200);
  }
}

async function call<T>(path: string, init: RequestInit & { json?: unknown } = {}): Promise<T> {
  const { json, ...rest } = init;
  const body =
    json === undefined ? {} : { body: JSON.stringify(json), headers: { 'content-type': 'application/json' } };
  const answer = await fetch(api + path, { ...rest, ...body });
  const value: unknown = await answer.json();
  if (!answer.ok)
    throw new Error(`${init.method ?? 'GET'} ${path} answered ${answer.status}: ${JSON.stringify(value)}`);
  return value as T;
}

async function freePort(wanted: number): Promise<number> {
  for (const candidate of [wanted, 0]) {
    const server = createServer();
    const taken = await new Promise<number | null>((settle) => {
      server.once('error', () => settle(null));
      server.listen(candidate, '127.0.0.1', () => {
        const address = server.address();
        settle(address !== null && typeof address === 'object' ? address.port : null);
      });
    });
    if (taken === null) continue;
    server.close();
    await once(server, 'close');
    return taken;
  }
  throw new Error('No port is free.');
}

function totalBill(): number {
  return vast.bill().reduce((sum, { totalUsd }) => sum + totalUsd, 0);
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function say(line: string): void {
  const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(5);
  process.stdout.write(`${seconds} s  ${line}\n`);
}
