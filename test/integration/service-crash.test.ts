// The whole process killed at bad moments, and its database with it: no machine is lost, none is rented twice, no job is lost or
// run twice. `npm run test:chaos` kills at many more.
import { chmod, mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { stopEmbeddedServer } from '../../src/database/embedded.ts';
import { serverProcess } from '../../src/database/embedded-process.ts';
import { serviceProcess, type ServiceProcess } from '../chaos/service-process.ts';
import { manualClock, type ManualClock } from '../doubles/vast/clock.ts';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { copyUsedDatabase } from '../support/embedded.ts';

interface Instance {
  id: string;
  status: string;
  phase: string | null;
  rentals: { providerInstanceId: string | null; status: string }[];
}
interface Job {
  id: string;
  status: string;
  instanceId: string | null;
  attempt: number;
  progress: { phase: string; fraction: number } | null;
  outputs: { name: string }[];
}

let vast: VastDouble;
/** Of the double: its machines stay in their phase until the test moves it on, however long a start of the service takes. */
let clock: ManualClock;
let dataDir: string;
let service: ServiceProcess;

beforeEach(async () => {
  clock = manualClock(Date.now());
  vast = await startVastDouble({
    clock,
    knobs: {
      phases: {
        scheduledMs: 200,
        createdMs: 200,
        loadingMs: 800,
        portsLateMs: 200,
        bootMs: 200,
        provisioningMs: 500,
        rebootMs: 0,
        pullErrorToStoppedMs: 0,
        destroyShownMs: 0,
        queuedStartMs: null,
      },
    },
    comfyKnobs: { nodes: { FakeSampler: { durationMs: 3000, steps: 30 } } },
  });
  dataDir = await mkdtemp(join(tmpdir(), 'comfyfleet-crash-'));
  await chmod(dataDir, 0o711);
  await copyUsedDatabase(dataDir);
  service = serviceProcess('service', {
    logFile: join(dataDir, 'service.log'),
    env: {
      DATA_DIR: dataDir,
      VASTAI_API_KEY: vast.apiKey,
      VAST_API_URL: vast.url,
      INSTANCE_POLL_SECONDS: '0.2',
      RENT_SETTLE_SECONDS: '3',
      VAST_PACING: 'none',
      MAX_INSTANCES: '4',
      MAX_TOTAL_PRICE_PER_HOUR_USD: 'none',
    },
  });
});
afterEach(async () => {
  await service.kill();
  await service.stop();
  await stopEmbeddedServer(dataDir);
  await vast.stop();
  await rm(dataDir, { recursive: true, force: true });
});

async function start(): Promise<void> {
  service.start();
  await service.up();
}

async function call<T>(path: string, init: RequestInit & { json?: unknown } = {}): Promise<T> {
  const { json, ...rest } = init;
  const body =
    json === undefined ? {} : { body: JSON.stringify(json), headers: { 'content-type': 'application/json' } };
  return (await fetch(`${service.url}${path}`, { ...rest, ...body })).json() as Promise<T>;
}

/** Asks again until it is so; an answer that does not come counts as not yet. */
async function until(condition: () => Promise<boolean>, limitMs = 40_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    if (await condition().catch(() => false)) return;
    if (performance.now() > deadline) throw new Error('It did not come to pass in time.');
    await sleep(100);
  }
}

const instanceIs = (id: string, wanted: (instance: Instance) => boolean) =>
  until(async () => wanted(await call<Instance>(`/instances/${id}`)));

it('a service that is told to stop before it is up takes its database along', async () => {
  const folder = join(await realpath(dataDir), 'postgres');
  service.start();
  // Soon: the service is up half a second later.
  await expect.poll(() => serverProcess(folder), { timeout: 40_000, interval: 10 }).not.toBeNull();
  await service.stop();
  expect(await serverProcess(folder)).toBeNull();
  await expect(service.up()).rejects.toThrow('ended before it answered');
});

it(
  'a service that is killed goes on renting, running and destroying where it was, and does nothing twice',
  { timeout: 180_000 },
  async () => {
    const rent = () => call<Instance>('/instances', { method: 'POST', json: {} });
    const phasesAre = (wanted: ReadonlyMap<string, string>) =>
      until(async () => {
        const all = await Promise.all(
          [...wanted].map(async ([id, phase]) => (await call<Instance>(`/instances/${id}`)).phase === phase),
        );
        return all.every(Boolean);
      });

    // In the middle of creates whose answers are lost, and right after a request.
    vast.knobs.faults.create.push('503-after-create', 'hang-after-create');
    await start();
    const lost = await Promise.all([rent(), rent()]);
    await vast.until(() => vast.state.rentals.size === 2);
    const requested = await rent();
    await service.kill();

    // While one machine loads, and ComfyUI starts on another.
    const { scheduledMs, createdMs, loadingMs } = vast.knobs.phases;
    await start();
    await vast.until(() => vast.state.rentals.size === 3);
    clock.advance(scheduledMs + createdMs);
    await phasesAre(new Map([[requested.id, 'loading']]));
    clock.advance(loadingMs);
    const later = await rent();
    await vast.until(() => vast.state.rentals.size === 4);
    clock.advance(scheduledMs + createdMs);
    await phasesAre(
      new Map([
        [requested.id, 'starting'],
        [later.id, 'loading'],
      ]),
    );
    await service.kill();
    await start();
    clock.advance(10_000);
    const instances = [...lost, requested, later];
    for (const { id } of instances) {
      await instanceIs(id, ({ status }) => status === 'ready');
      // The lost ones are those that were found by their labels.
      expect((await call<Instance>(`/instances/${id}`)).rentals).toHaveLength(1);
    }
    expect(vast.state.rentals.size).toBe(4);

    // While a job runs, and right after the end of a machine was asked for.
    const workflow = {
      '1': { class_type: 'FakeSampler', inputs: {} },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'crash' } },
    };
    const { id: jobId } = await call<Job>('/jobs', { method: 'POST', json: { workflow } });
    await until(async () => (await call<Job>(`/jobs/${jobId}`)).progress?.phase === 'executing');
    const { instanceId } = await call<Job>(`/jobs/${jobId}`);
    const ending = instances.find(({ id }) => id !== instanceId);
    await call(`/instances/${ending?.id}`, { method: 'DELETE' });
    await service.kill();
    await start();
    await until(async () => (await call<Job>(`/jobs/${jobId}`)).status === 'succeeded');
    const done = await call<Job>(`/jobs/${jobId}`);
    expect(done).toMatchObject({ attempt: 1, instanceId, outputs: [{ name: 'crash_00001_.png' }] });
    const { rentals } = await call<Instance>(`/instances/${instanceId}`);
    expect(vast.comfyOf(Number(rentals[0]?.providerInstanceId))?.counters.executionsStarted).toBe(1);
    await instanceIs(ending?.id ?? '', ({ status }) => status === 'terminated');
    expect(vast.liveRentals()).toHaveLength(3);
    expect(vast.state.rentals.size).toBe(4);
  },
);
