// The whole process killed at bad moments, and its database with it: no machine is lost, none is rented twice, no job is lost or
// run twice. `npm run test:chaos` kills at many more.
import { chmod, mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { stopEmbeddedServer } from '../../src/database/embedded.ts';
import { serverProcess } from '../../src/database/embedded-process.ts';
import { serviceProcess, type ServiceProcess } from '../chaos/service-process.ts';
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
  attempt: number;
  progress: { phase: string; fraction: number } | null;
  outputs: { name: string }[];
}

let vast: VastDouble;
let dataDir: string;
let service: ServiceProcess;

beforeEach(async () => {
  vast = await startVastDouble({
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
  await until(async () => (await serverProcess(folder)) !== null);
  await service.stop();
  expect(await serverProcess(folder)).toBeNull();
  await expect(service.up()).rejects.toThrow('ended before it answered');
});

describe('a service that is killed', () => {
  it(
    'goes on renting, running and destroying where it was, and does nothing twice',
    { timeout: 180_000 },
    async () => {
      await start();
      const { id } = await call<Instance>('/instances', { method: 'POST', json: {} });

      // Right after the request, while the machine loads, and while ComfyUI starts.
      await service.kill();
      await start();
      await instanceIs(id, ({ phase }) => phase === 'loading');
      await service.kill();
      await start();
      await instanceIs(id, ({ phase }) => phase === 'starting');
      await service.kill();
      await start();
      await instanceIs(id, ({ status }) => status === 'ready');
      expect(vast.state.rentals.size).toBe(1);

      const workflow = {
        '1': { class_type: 'FakeSampler', inputs: {} },
        '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'crash' } },
      };
      const job = await call<Job>('/jobs', { method: 'POST', json: { workflow } });
      await until(async () => (await call<Job>(`/jobs/${job.id}`)).progress?.phase === 'executing');
      await service.kill();
      await start();
      await until(async () => (await call<Job>(`/jobs/${job.id}`)).status === 'succeeded');
      const done = await call<Job>(`/jobs/${job.id}`);
      expect(done).toMatchObject({ attempt: 1, outputs: [{ name: 'crash_00001_.png' }] });
      const { rentals } = await call<Instance>(`/instances/${id}`);
      expect(vast.comfyOf(Number(rentals[0]?.providerInstanceId))?.counters.executionsStarted).toBe(1);

      await call(`/instances/${id}`, { method: 'DELETE' });
      await service.kill();
      await start();
      await instanceIs(id, ({ status }) => status === 'terminated');
      expect(vast.liveRentals()).toEqual([]);
      expect(vast.state.rentals.size).toBe(1);
    },
  );

  it(
    'in the middle of creates whose answers are lost finds the machines by their labels and rents no others',
    { timeout: 90_000 },
    async () => {
      vast.knobs.faults.create.push('503-after-create', 'hang-after-create');
      await start();
      const rent = () => call<Instance>('/instances', { method: 'POST', json: {} });
      const instances = await Promise.all([rent(), rent()]);
      await vast.until(() => vast.state.rentals.size === 2);
      await service.kill();
      await start();
      for (const { id } of instances) {
        await instanceIs(id, ({ status }) => status === 'ready');
        expect((await call<Instance>(`/instances/${id}`)).rentals).toHaveLength(1);
      }
      expect(vast.state.rentals.size).toBe(2);
    },
  );
});
