// Optional check of the vast.ai double: vast.ai's own command line, installed from PyPI into a temporary folder, rents,
// reads and destroys against it. Needs Python 3.10 or newer with venv. `--vastai PATH` uses one that is installed.
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual, parseArgs, promisify } from 'node:util';
import { setTimeout as delay } from 'node:timers/promises';
import { startVastDouble } from '../test/doubles/vast/index.ts';

/** Base of the API by VAST_URL; the key by VAST_API_KEY. */
const VERSION = '1.9.1';
const IMAGE = 'vastai/comfy:v0.35.0-cuda-12.9-py312';
const PASSWORD = 'a-secret-of-the-check';

interface Offer {
  id: number;
  gpu_name: string;
  cuda_max_good: number;
  dph_total: number;
}
interface InstanceRow {
  id: number;
  label: string | null;
  actual_status: string | null;
  image_uuid: string;
  public_ipaddr: string | null;
  ports: Record<string, { HostIp: string; HostPort: string }[]> | null;
  extra_env: Record<string, string>;
}
interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

const { values: options } = parseArgs({ options: { vastai: { type: 'string' } } });
let failures = 0;

await using ending = new AsyncDisposableStack();
const folder = await mkdtemp(join(tmpdir(), 'vast-cli-check-'));
ending.defer(() => rm(folder, { recursive: true, force: true }));
const vastai = options.vastai ?? (await install());
const vast = await startVastDouble({
  knobs: { phases: { scheduledMs: 50, createdMs: 50, loadingMs: 200, bootMs: 50, provisioningMs: 50 } },
});
ending.defer(() => vast.stop());

const id = await createInstance(await searchOffers());
await showRunning(id);
await listInstances(id);
await label(id);
await readLogs(id);
await restart(id);
await destroy(id);
await refusals();
process.stdout.write(failures === 0 ? `vastai ${VERSION}: all is well\n` : `${failures} checks failed\n`);
process.exitCode = failures === 0 ? 0 : 1;

async function install(): Promise<string> {
  process.stdout.write(`Installing vastai ${VERSION} from PyPI.\n`);
  const execute = promisify(execFile);
  const venv = join(folder, 'venv');
  await execute('python3', ['-m', 'venv', venv]);
  await execute(join(venv, 'bin', 'pip'), ['install', '--quiet', `vastai==${VERSION}`]);
  return join(venv, 'bin', 'vastai');
}

async function searchOffers(): Promise<Offer> {
  const query = 'num_gpus=1 gpu_name=RTX_4090 cuda_vers>=13 disk_space>=60';
  const rows = await raw<Offer[]>('search', 'offers', query, '-o', 'dph', '--storage', '60');
  const [first] = rows;
  check(
    'search offers finds what the query asks for',
    rows.length > 0,
    rows.every((row) => row.gpu_name === 'RTX 4090' && row.cuda_max_good >= 13),
  );
  const newer = await raw<Offer[]>('search', 'offers', '--new', query);
  check('search offers --new finds the same', newer.length === rows.length);
  const table = await run('search', 'offers', query);
  check('search offers prints a table', table.code === 0, table.stdout.includes('RTX_4090'));
  if (first === undefined) throw new Error('Without an offer there is nothing more to check.');
  return first;
}

async function createInstance(offer: Offer): Promise<number> {
  const env = `-p 8188:8188 -e PORTAL_CONFIG="localhost:8188:18188:/:ComfyUI" -e WEB_PASSWORD=${PASSWORD}`;
  const answer = await raw<{ success: boolean; new_contract: number }>(
    'create',
    'instance',
    String(offer.id),
    '--image',
    IMAGE,
    '--disk',
    '60',
    '--label',
    'check-one',
    '--ssh',
    '--direct',
    '--onstart-cmd',
    'entrypoint.sh',
    '--env',
    env,
    '--cancel-unavail',
  );
  check(
    'create instance makes a rental',
    answer.success,
    vast.liveRentals().length === 1,
    vast.liveRentals()[0]?.id === answer.new_contract,
  );
  return answer.new_contract;
}

async function showRunning(rentalId: number): Promise<void> {
  await vast.until(() => vast.state.rentals.get(rentalId)?.arePortsPublished === true, 20_000);
  const row = await raw<InstanceRow>('show', 'instance', String(rentalId));
  check(
    'show instance shows it running, as it was ordered',
    row.id === rentalId,
    row.actual_status === 'running',
    row.label === 'check-one',
    row.image_uuid === IMAGE,
    row.extra_env['WEB_PASSWORD'] === PASSWORD,
    row.extra_env['-p 8188:8188'] === '1',
  );
  const table = await run('show', 'instance', String(rentalId));
  check('show instance prints a table', table.code === 0, table.stdout.includes(String(rentalId)));
  const port = row.ports?.['8188/tcp']?.[0]?.HostPort;
  const url = `http://${row.public_ipaddr?.trim()}:${port}/system_stats`;
  const status = await comfyUiStatus(url);
  check('ComfyUI answers at the address that it shows', status === 200);
}

async function listInstances(rentalId: number): Promise<void> {
  const rows = await raw<InstanceRow[]>('show', 'instances');
  check(
    'show instances lists it',
    isDeepStrictEqual(
      rows.map((row) => row.id),
      [rentalId],
    ),
  );
  const ids = await run('show', 'instances', '-q');
  check('show instances -q prints its id', ids.stdout.trim() === String(rentalId));
  const found = await raw<InstanceRow[]>('show', 'instances', '--label', 'check-one');
  const none = await raw<InstanceRow[]>('show', 'instances', '--label', 'other');
  check('show instances --label finds it, and nothing else', found.length === 1, none.length === 0);
  const table = await run('show', 'instances', '--verbose');
  check('show instances prints a table', table.code === 0, table.stdout.includes('check-one'));
}

async function label(rentalId: number): Promise<void> {
  const { stdout } = await run('label', 'instance', String(rentalId), 'check-two');
  check(
    'label instance renames it',
    stdout.includes(`label for ${rentalId} set to check-two`),
    vast.liveRentals()[0]?.label === 'check-two',
  );
}

async function readLogs(rentalId: number): Promise<void> {
  const container = await run('logs', String(rentalId), '--tail', '100');
  check('logs prints what the container wrote', container.stdout.includes('Starting ComfyUI'));
  const daemon = await run('logs', String(rentalId), '--daemon-logs');
  check('logs --daemon-logs prints what the host wrote', daemon.stdout.includes('Pull complete'));
}

async function restart(rentalId: number): Promise<void> {
  const isRunning = (): boolean => vast.state.rentals.get(rentalId)?.actualStatus === 'running';
  const stopped = await run('stop', 'instance', String(rentalId));
  check('stop instance stops it', stopped.stdout.includes('stopping instance'), !isRunning());
  const started = await run('start', 'instance', String(rentalId));
  await vast.until(isRunning, 20_000);
  check('start instance starts it', started.stdout.includes('starting instance'));
  const rebooted = await run('reboot', 'instance', String(rentalId));
  await vast.until(isRunning, 20_000);
  check('reboot instance restarts it', rebooted.stdout.includes('Rebooting instance'));
}

async function destroy(rentalId: number): Promise<void> {
  const { stdout } = await run('destroy', 'instance', String(rentalId), '--yes');
  check(
    'destroy instance ends it',
    stdout.includes(`destroying instance ${rentalId}`),
    vast.liveRentals().length === 0,
  );
  const shown = await run('show', 'instance', String(rentalId));
  check('show instance no longer finds it', shown.code === 1, shown.stderr.includes('not found'));
  const rows = await raw<InstanceRow[]>('show', 'instances');
  check('show instances is empty', rows.length === 0);
  const again = await run('destroy', 'instance', String(rentalId), '--yes');
  check('a second destroy is told that there is none', again.stderr.includes('error 404'));
}

async function refusals(): Promise<void> {
  const user = await raw<{ credit: number }>('show', 'user');
  check('show user shows the credit', user.credit > 0);
  const taken = await run('create', 'instance', '1', '--image', IMAGE, '--disk', '60');
  check('an offer that is gone is refused', taken.stderr.includes('no_such_ask'));
  const unknown = await run('show', 'user', '--api-key', 'wrong');
  check('a wrong key is refused', unknown.stderr.includes('Invalid user key'));
}

/** The image's proxy says 502 until ComfyUI is up. */
async function comfyUiStatus(url: string): Promise<number> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const answer = await fetch(url, { headers: { authorization: `Bearer ${PASSWORD}` } }).catch(() => null);
    await answer?.body?.cancel();
    if (answer?.status === 200 || performance.now() > deadline) return answer?.status ?? 0;
    await delay(50);
  }
}

async function raw<T>(...args: string[]): Promise<T> {
  const { stdout, stderr } = await run(...args, '--raw');
  try {
    return JSON.parse(stdout) as T;
  } catch {
    throw new Error(`vastai ${args.join(' ')} printed no JSON: ${stdout}${stderr}`);
  }
}

function run(...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    // A home of its own, so that it neither reads nor writes the keys of whoever runs this.
    const env = {
      PATH: process.env['PATH'],
      HOME: folder,
      VAST_URL: vast.url,
      VAST_API_KEY: vast.apiKey,
      VASTAI_NO_UPDATE_CHECK: '1',
      NO_COLOR: '1',
      COLUMNS: '200',
    };
    execFile(vastai, args, { env, timeout: 60_000 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : 1;
      resolve({ code, stdout, stderr });
    });
  });
}

function check(what: string, ...held: boolean[]): void {
  const isWell = held.every(Boolean);
  if (!isWell) failures += 1;
  const detail = isWell ? '' : ` (condition ${held.indexOf(false) + 1})`;
  process.stdout.write(`${isWell ? 'ok    ' : 'FAILED'} ${what}${detail}\n`);
}
