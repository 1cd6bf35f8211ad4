// The fleet through the API, against the double of vast.ai: jobs that name no instance bring one, and idle ones go.
import { sql } from 'kysely';
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
  comingInstance: { message: string | null } | null;
  instanceId: string | null;
}
interface Health {
  parts: { credit: { status: string } };
}

const never = '0';
const soon = '0.02';

const anyHasEnded = (instances: Instance[]): boolean =>
  instances.some(({ status }) => status === 'terminated');

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
    jobWhen,
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

  it('brings no more than the fleet may have, however many there are, and all of them run', async ({
    startFleet,
  }) => {
    const { vast, submit, succeeded, instancesWhen, instances } = await startFleet({
      env: { FLEET_MAX: '2', FLEET_JOBS_PER_INSTANCE: '2' },
      vast: { knobs: { phases: { ...instantPhases, loadingMs: 500 } } },
    });
    const ids = await Promise.all(Array.from({ length: 12 }, () => submit()));
    await instancesWhen(({ length }) => length === 2);
    await Promise.all(ids.map(succeeded));
    expect(vast.state.rentals.size).toBe(2);
    expect((await instances()).map(({ origin }) => origin)).toEqual(['fleet', 'fleet']);
  });

  it('says that the fleet may have no more', async ({ startFleet }) => {
    const { vast, submit, waits } = await startFleet({
      env: { FLEET_MAX: '1' },
      vast: { knobs: { fates: ['loading-forever'] } },
    });
    const covered = await submit();
    await waits(covered, /loads its image/);
    const other = await submit({ requirements: { minVramGb: 40 } });
    await waits(other, /FLEET_MAX \(1\) is reached/);
    expect(vast.state.rentals.size).toBe(1);
  });

  it('gets another machine in place of one that has had nothing to do for a minute, where the fleet may have no more', async ({
    startFleet,
  }) => {
    const { service, instanceWhen, submit, succeeded, waits } = await startFleet({ env: { FLEET_MAX: '1' } });
    const { instanceId: small } = await succeeded(await submit({ requirements: { gpuNames: ['RTX 3090'] } }));
    const id = await submit({ requirements: { minVramGb: 40 } });
    await waits(id, /FLEET_MAX \(1\) is reached/);
    const { db } = service.service.database;
    await sql`update attempts set ended_at = ended_at - interval '1 minute'`.execute(db);
    await sql`update instances set ready_at = ready_at - interval '1 minute'`.execute(db);
    service.service.database.queues.wakeHere('fleet');
    expect((await succeeded(id)).instanceId).not.toBe(small);
    expect(await instanceWhen(small ?? '', 'terminated')).toMatchObject({
      terminationReason: 'idle',
      terminationDetail: 'Other jobs need another machine, and FLEET_MAX has no room for both.',
    });
  });

  it('says which limit forbids another instance', async ({ startFleet }) => {
    const { rent, submit, waits, instances } = await startFleet({
      env: { MAX_INSTANCES: '1' },
      vast: { knobs: { fates: ['loading-forever'] } },
    });
    await rent();
    const id = await submit({ requirements: { minVramGb: 40 } });
    await waits(id, /MAX_INSTANCES/);
    expect(await instances()).toHaveLength(1);
  });

  it('uses an instance that somebody asked for, also one that is on its way', async ({ startFleet }) => {
    const { rent, submit, succeeded, instances } = await startFleet({
      vast: { knobs: { phases: { ...instantPhases, loadingMs: 300 } } },
    });
    const { id: instanceId } = await rent();
    const id = await submit();
    expect(await succeeded(id)).toMatchObject({ instanceId });
    expect(await instances()).toHaveLength(1);
  });

  it('is rented for by its own requirements, and otherwise by those of the settings', async ({
    startFleet,
  }) => {
    const { service, end, submit, succeeded } = await startFleet({
      env: { FLEET_REQUIREMENTS: '{"minVramGb":40}' },
    });
    const own = await succeeded(await submit({ requirements: { gpuNames: ['RTX 3090'] } }));
    const ours = await service.call<{ gpuName: string }>(`/instances/${own.instanceId}`);
    expect(ours.body.gpuName).toBe('RTX 3090');
    await end(own.instanceId ?? '');
    const any = await succeeded(await submit());
    const large = await service.call<{ vramGb: number }>(`/instances/${any.instanceId}`);
    expect(large.body.vramGb).toBeGreaterThanOrEqual(40);
  });

  it('does not bring machine after machine when none ever gets ready', async ({ startFleet }) => {
    const { submit, waits, instancesWhen, instances } = await startFleet({
      env: { SEARCH_TIMEOUT_SECONDS: '1', FLEET_RETRY_SECONDS: '3' },
    });
    const id = await submit({ requirements: { minVramGb: 600 } });
    const waiting = await waits(id, /tries again at \d\d:\d\d:\d\d UTC/);
    expect(waiting.waitingFor).toMatch(/No offer satisfied the requirements in time/);
    expect(await instances()).toHaveLength(1);
    await instancesWhen(({ length }) => length === 2);
    await waits(id, /The last 2 instances/);
  });

  it('rents nothing once it was canceled', async ({ startFleet }) => {
    const { vast, service, instanceWhen, submit, instancesWhen } = await startFleet({ vast: { offers: [] } });
    const id = await submit();
    const [coming] = await instancesWhen(({ length }) => length === 1);
    await service.call(`/jobs/${id}/cancel`, { method: 'POST' });
    const gone = await instanceWhen(coming?.id ?? '', 'terminated');
    expect(gone).toMatchObject({ origin: 'fleet', terminationReason: 'not_needed' });
    expect(vast.state.rentals.size).toBe(0);
  });

  it('rents nothing for anybody while the account lacks credit', async ({ startFleet }) => {
    const { vast, submit, jobWhen, instances } = await startFleet({
      env: { FLEET_RETRY_SECONDS: '600' },
      vast: { creditUsd: 0 },
    });
    const ids = [await submit(), await submit({ requirements: { minVramGb: 40 } })];
    // Of an account that was not read yet, it is the instance that finds out.
    const tellsOfCredit = ({ waitingFor, comingInstance }: Job): boolean =>
      /credit/.test(`${waitingFor} ${comingInstance?.message}`);
    await Promise.all(ids.map((id) => jobWhen(id, tellsOfCredit)));
    expect(vast.state.rentals.size).toBe(0);
    expect((await instances()).length).toBeLessThanOrEqual(2);
  });

  it('waits no longer for credit once the account has more', async ({ startFleet }) => {
    const { vast, service, submit, succeeded, waits } = await startFleet({
      env: { FLEET_RETRY_SECONDS: '3600', CREDIT_CHECK_SECONDS: '1' },
      vast: { creditUsd: 20 },
    });
    await service.until<Health>('/health', ({ parts }) => parts.credit.status === 'ok');
    vast.knobs.faults.create.push('insufficient-credit');
    const id = await submit();
    await waits(id, /credit.*The fleet tries again at/);
    vast.state.creditUsd = 30;
    await succeeded(id);
    expect(vast.counters.created).toBe(1);
  });

  it('waits for a person where the fleet rents nothing', async ({ startFleet }) => {
    const { submit, waits, instances } = await startFleet({ env: { FLEET_MAX: '0' } });
    await waits(await submit(), /FLEET_MAX is 0.*POST \/instances/);
    expect(await instances()).toEqual([]);
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

describe.concurrent('an idle instance', () => {
  it('stays as long as its request says', async ({ startFleet }) => {
    const { rent, post, instanceWhen } = await startFleet({ env: { INSTANCE_IDLE_MINUTES: '0.01' } });
    const [kept, given] = [await rent({ idleMinutes: 0 }), await rent()];
    expect(await instanceWhen(given.id, 'terminated')).toMatchObject({ terminationReason: 'idle' });
    expect((await instanceWhen(kept.id, 'ready')).origin).toBe('request');
    const refused = await post<{ field: string }>('/instances', { idleMinutes: -1 });
    expect(refused).toMatchObject({ status: 400, body: { field: 'idleMinutes' } });
  });

  it('stays where it is the last that is to be kept, and is rented before anybody asks', async ({
    startFleet,
  }) => {
    const { rent, instancesWhen } = await startFleet({
      env: { FLEET_MIN: '1', INSTANCE_IDLE_MINUTES: '0.01' },
    });
    const first = await instancesWhen(([instance]) => instance?.status === 'ready');
    const { id: other } = await rent();
    const both = await instancesWhen(anyHasEnded);
    expect(both.map(({ status }) => status).sort()).toEqual(['ready', 'terminated']);
    expect(both.map(({ id }) => id)).toContain(other);
    expect(first).toHaveLength(1);
  });
});

describe.concurrent('a race', () => {
  it('keeps the first machine that is ready and destroys the other', async ({ startFleet }) => {
    const { vast, submit, succeeded, instancesWhen } = await startFleet({
      env: { FLEET_RACE: '2' },
      vast: { knobs: { fates: ['loading-forever'] } },
    });
    await succeeded(await submit());
    const racers = await instancesWhen(anyHasEnded);
    expect(new Set(racers.map(({ terminationReason }) => terminationReason))).toEqual(
      new Set(['lost_race', null]),
    );
    const machines = [...vast.state.rentals.values()].map(({ machine }) => machine.machineId);
    expect(new Set(machines).size).toBe(2);
    expect(vast.liveRentals()).toHaveLength(1);
  });

  it('is held with as many machines as the limits allow', async ({ startFleet }) => {
    const { vast, submit, succeeded } = await startFleet({ env: { FLEET_RACE: '2', MAX_INSTANCES: '1' } });
    await succeeded(await submit());
    expect(vast.state.rentals.size).toBe(1);
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
