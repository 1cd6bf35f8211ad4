// The fleet in the whole service: a whole life through the API, beside servers that are not its own, and at two replicas.
import { describe, expect } from 'vitest';
import { startService } from '../../src/app.ts';
import { createLogger } from '../../src/support/log.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { startComfyDouble } from '../doubles/comfyui/index.ts';
import { fresh } from '../support/jobs.ts';
import { it as base, withEnv, type Instance, type RentingOptions } from '../support/renting.ts';
import { emptyImage } from '../support/workflows.ts';

interface Job {
  id: string;
  status: string;
  waitingFor: string | null;
  instanceId: string | null;
}

const never = '0';
const soon = '0.02';

/** Idle instances stay, unless a test says when they go. */
const it = base.extend('startFleet', ({ start }) => async (options?: RentingOptions) => {
  const renting = await withEnv(start, { INSTANCE_IDLE_MINUTES: never })(options);
  const { service, post } = renting;
  const jobWhen = (id: string, done: (job: Job) => boolean) => service.until<Job>(`/jobs/${id}`, done);
  const instancesWhen = async (done: (instances: Instance[]) => boolean) =>
    (await service.until<{ items: Instance[] }>('/instances?limit=100', ({ items }) => done(items))).items;
  return {
    ...renting,
    submit: async (json: object = {}): Promise<string> => {
      const { status, body } = await post<Job>('/jobs', { workflow: fresh(emptyImage), ...json });
      expect(status).toBe(201);
      return body.id;
    },
    succeeded: (id: string) => jobWhen(id, ({ status }) => status === 'succeeded'),
    waits: (id: string, text: RegExp) => jobWhen(id, ({ waitingFor }) => text.test(waitingFor ?? '')),
    instancesWhen,
    instances: () => instancesWhen(() => true),
  };
});

describe.concurrent('a job that names no instance', () => {
  it('brings one, tells how far it is, runs on it, and the instance goes when it has nothing to do', async ({
    startFleet,
  }) => {
    // Longer than any pause between two looks, also where other tests have the machine.
    const phases = { ...instantPhases, loadingMs: 1000, provisioningMs: 1000 };
    const { vast, instanceWhen, submit, succeeded, waits } = await startFleet({
      env: { INSTANCE_IDLE_MINUTES: soon },
      vast: { knobs: { phases } },
    });
    const id = await submit();
    await waits(id, /^The machine loads its image\.$/);
    await waits(id, /^ComfyUI starts on the machine\.$/);
    const { instanceId } = await succeeded(id);
    const gone = await instanceWhen(instanceId ?? '', 'terminated');
    expect(gone).toMatchObject({ origin: 'fleet', terminationReason: 'idle' });
    expect(vast.state.rentals.size).toBe(1);
    expect(vast.liveRentals()).toEqual([]);
  });
});

describe.concurrent('a job that wants a certain instance', () => {
  it('never brings another', async ({ startFleet }) => {
    const double = await startComfyDouble({
      knobs: { nodes: { FakeSampler: { durationMs: 600, steps: 3 } } },
    });
    const { vast, submit, succeeded, instancesWhen } = await startFleet({
      env: { FLEET_JOBS_PER_INSTANCE: '1' },
      comfyUrls: [double.url],
    });
    const [server] = await instancesWhen(([instance]) => instance?.status === 'ready');
    const workflow = {
      '1': { class_type: 'FakeSampler', inputs: {} },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'pinned' } },
    };
    const ids = [];
    for (let count = 0; count < 4; count += 1) ids.push(await submit({ workflow, instanceId: server?.id }));
    await Promise.all(ids.map(succeeded));
    expect(vast.state.rentals.size).toBe(0);
    expect(server?.origin).toBe('settings');
    await double.stop();
  });
});

describe.concurrent('two replicas', () => {
  it('rent once for one job', async ({ startFleet }) => {
    const { vast, service, succeeded, instances } = await startFleet({
      env: { FLEET_MAX: '3', MAX_INSTANCES: '5', FLEET_JOBS_PER_INSTANCE: '1' },
      // No job ends, and makes a machine needless, before all machines are rented.
      vast: { knobs: { phases: { ...instantPhases, loadingMs: 500 } } },
    });
    const replica = await startService({ ...service.config, PORT: 0 }, createLogger(service.config));
    const ids = await Promise.all(
      Array.from({ length: 3 }, async (_, index) => {
        const answer = await fetch(`${index % 2 === 0 ? service.url : replica.url}/jobs`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ workflow: fresh(emptyImage) }),
        });
        return ((await answer.json()) as Job).id;
      }),
    );
    await Promise.all(ids.map(succeeded));
    expect(vast.state.rentals.size).toBeLessThanOrEqual(3);
    expect((await instances()).length).toBe(vast.state.rentals.size);
    await replica.stop();
  });
});
