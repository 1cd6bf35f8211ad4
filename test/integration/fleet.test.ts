// The fleet through the API, against the double of vast.ai: jobs that name no instance bring one, and idle ones go.
import { sql } from 'kysely';
import { afterEach, describe, expect, it } from 'vitest';
import { startService } from '../../src/app.ts';
import { createLogger } from '../../src/support/log.ts';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { startComfyDouble } from '../doubles/comfyui/index.ts';
import { fresh } from '../support/jobs.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { emptyImage } from '../support/workflows.ts';

interface Instance {
  id: string;
  origin: string;
  status: string;
  terminationReason: string | null;
}
interface Job {
  id: string;
  status: string;
  waitingFor: string | null;
  comingInstance: { message: string | null } | null;
  instanceId: string | null;
  attempt: number;
}
interface Page<T> {
  items: T[];
}

const never = '0';
const soon = '0.02';

let vast: VastDouble;
let service: TestService;

async function start(
  env: Record<string, string> = {},
  options: Parameters<typeof startVastDouble>[0] = {},
  comfyUrls: string[] = [],
): Promise<void> {
  vast = await startVastDouble({ ...options, knobs: { phases: instantPhases, ...options.knobs } });
  service = await startTestService({ vast, comfyUrls, env: { INSTANCE_IDLE_MINUTES: never, ...env } });
}
afterEach(async () => {
  await service.stop();
  await vast.stop();
});

async function submit(json: object = {}): Promise<string> {
  const { status, body } = await service.call<Job>('/jobs', {
    method: 'POST',
    json: { workflow: fresh(emptyImage), ...json },
  });
  expect(status).toBe(201);
  return body.id;
}
const rent = async (json: object = {}) =>
  (await service.call<Instance>('/instances', { method: 'POST', json })).body.id;
const jobWhen = (id: string, done: (job: Job) => boolean) => service.until<Job>(`/jobs/${id}`, done);
const succeeded = (id: string) => jobWhen(id, ({ status }) => status === 'succeeded');
const waits = (id: string, text: RegExp) => jobWhen(id, ({ waitingFor }) => text.test(waitingFor ?? ''));
const instances = async () => (await service.call<Page<Instance>>('/instances?limit=100')).body.items;
const instanceWhen = (id: string, status: string) =>
  service.until<Instance>(`/instances/${id}`, (instance) => instance.status === status);

describe('a job that names no instance', () => {
  it('brings one, tells how far it is, runs on it, and the instance goes when it has nothing to do', async () => {
    const phases = { ...instantPhases, loadingMs: 500, provisioningMs: 500 };
    await start({ INSTANCE_IDLE_MINUTES: soon }, { knobs: { phases } });
    const id = await submit();
    await waits(id, /^The machine loads its image\.$/);
    await waits(id, /^ComfyUI starts on the machine\.$/);
    const { instanceId } = await succeeded(id);
    const gone = await instanceWhen(instanceId ?? '', 'terminated');
    expect(gone).toMatchObject({ origin: 'fleet', terminationReason: 'idle' });
    expect(vast.state.rentals.size).toBe(1);
    expect(vast.liveRentals()).toEqual([]);
  });

  it('brings no more than the fleet may have, however many there are, and all of them run', async () => {
    await start(
      { FLEET_MAX: '2', FLEET_JOBS_PER_INSTANCE: '2' },
      { knobs: { phases: { ...instantPhases, loadingMs: 500 } } },
    );
    const ids = await Promise.all(Array.from({ length: 12 }, () => submit()));
    await service.until<Page<Instance>>('/instances', ({ items }) => items.length === 2);
    await Promise.all(ids.map(succeeded));
    expect(vast.state.rentals.size).toBe(2);
    expect((await instances()).map(({ origin }) => origin)).toEqual(['fleet', 'fleet']);
  });

  it('says that the fleet may have no more', async () => {
    await start({ FLEET_MAX: '1' }, { knobs: { fates: ['loading-forever'] } });
    const covered = await submit();
    await waits(covered, /loads its image/);
    const other = await submit({ requirements: { minVramGb: 40 } });
    await waits(other, /FLEET_MAX \(1\) is reached/);
    expect(vast.state.rentals.size).toBe(1);
  });

  it('gets another machine in place of one that has had nothing to do for a minute, where the fleet may have no more', async () => {
    await start({ FLEET_MAX: '1' });
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

  it('says which limit forbids another instance', async () => {
    await start({ MAX_INSTANCES: '1' }, { knobs: { fates: ['loading-forever'] } });
    await rent();
    const id = await submit({ requirements: { minVramGb: 40 } });
    await waits(id, /MAX_INSTANCES/);
    expect(await instances()).toHaveLength(1);
  });

  it('uses an instance that somebody asked for, also one that is on its way', async () => {
    await start({}, { knobs: { phases: { ...instantPhases, loadingMs: 300 } } });
    const instanceId = await rent();
    const id = await submit();
    expect(await succeeded(id)).toMatchObject({ instanceId });
    expect(await instances()).toHaveLength(1);
  });

  it('is rented for by its own requirements, and otherwise by those of the settings', async () => {
    await start({ FLEET_REQUIREMENTS: '{"minVramGb":40}' });
    const own = await succeeded(await submit({ requirements: { gpuNames: ['RTX 3090'] } }));
    const ours = await service.call<{ gpuName: string }>(`/instances/${own.instanceId}`);
    expect(ours.body.gpuName).toBe('RTX 3090');
    await service.call(`/instances/${own.instanceId}`, { method: 'DELETE' });
    await instanceWhen(own.instanceId ?? '', 'terminated');
    const any = await succeeded(await submit());
    const large = await service.call<{ vramGb: number }>(`/instances/${any.instanceId}`);
    expect(large.body.vramGb).toBeGreaterThanOrEqual(40);
  });

  it('does not bring machine after machine when none ever gets ready', async () => {
    await start({ SEARCH_TIMEOUT_SECONDS: '1', FLEET_RETRY_SECONDS: '3' });
    const id = await submit({ requirements: { minVramGb: 600 } });
    const waiting = await waits(id, /tries again at \d\d:\d\d:\d\d UTC/);
    expect(waiting.waitingFor).toMatch(/No offer satisfied the requirements in time/);
    expect(await instances()).toHaveLength(1);
    await service.until<Page<Instance>>('/instances', ({ items }) => items.length === 2);
    await waits(id, /The last 2 instances/);
  });

  it('rents nothing once it was canceled', async () => {
    await start({}, { offers: [] });
    const id = await submit();
    const { items } = await service.until<Page<Instance>>('/instances', (page) => page.items.length === 1);
    await service.call(`/jobs/${id}/cancel`, { method: 'POST' });
    const gone = await instanceWhen(items[0]?.id ?? '', 'terminated');
    expect(gone).toMatchObject({ origin: 'fleet', terminationReason: 'not_needed' });
    expect(vast.state.rentals.size).toBe(0);
  });

  it('rents nothing for anybody while the account lacks credit', async () => {
    await start({ FLEET_RETRY_SECONDS: '600' }, { creditUsd: 0 });
    const ids = [await submit(), await submit({ requirements: { minVramGb: 40 } })];
    // Of an account that was not read yet, it is the instance that finds out.
    const tellsOfCredit = ({ waitingFor, comingInstance }: Job): boolean =>
      /credit/.test(`${waitingFor} ${comingInstance?.message}`);
    await Promise.all(ids.map((id) => jobWhen(id, tellsOfCredit)));
    expect(vast.state.rentals.size).toBe(0);
    expect((await instances()).length).toBeLessThanOrEqual(2);
  });

  it('waits no longer for credit once the account has more', async () => {
    await start({ FLEET_RETRY_SECONDS: '3600', CREDIT_CHECK_SECONDS: '1' }, { creditUsd: 20 });
    const { db } = service.service.database;
    const isRead = async () => (await db.selectFrom('provider_credit').selectAll().execute()).length;
    await expect.poll(isRead).toBe(1);
    vast.knobs.faults.create.push('insufficient-credit');
    const id = await submit();
    await waits(id, /credit.*The fleet tries again at/);
    vast.state.creditUsd = 30;
    await succeeded(id);
    expect(vast.counters.created).toBe(1);
  });

  it('waits for a person where the fleet rents nothing', async () => {
    await start({ FLEET_MAX: '0' });
    await waits(await submit(), /FLEET_MAX is 0.*POST \/instances/);
    expect(await instances()).toEqual([]);
  });
});

describe('a job that wants a certain instance', () => {
  it('never brings another', async () => {
    const double = await startComfyDouble({
      knobs: { nodes: { FakeSampler: { durationMs: 600, steps: 3 } } },
    });
    await start({ FLEET_JOBS_PER_INSTANCE: '1' }, {}, [double.url]);
    const [server] = (
      await service.until<Page<Instance>>('/instances', ({ items }) => items[0]?.status === 'ready')
    ).items;
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

describe('an idle instance', () => {
  it('stays as long as its request says', async () => {
    await start({ INSTANCE_IDLE_MINUTES: '0.01' });
    const [kept, given] = [await rent({ idleMinutes: 0 }), await rent()];
    expect(await instanceWhen(given, 'terminated')).toMatchObject({ terminationReason: 'idle' });
    expect((await instanceWhen(kept, 'ready')).origin).toBe('request');
    const refused = await service.call<{ field: string }>('/instances', {
      method: 'POST',
      json: { idleMinutes: -1 },
    });
    expect(refused).toMatchObject({ status: 400, body: { field: 'idleMinutes' } });
  });

  it('stays where it is the last that is to be kept, and is rented before anybody asks', async () => {
    await start({ FLEET_MIN: '1', INSTANCE_IDLE_MINUTES: '0.01' });
    const first = await service.until<Page<Instance>>(
      '/instances',
      ({ items }) => items[0]?.status === 'ready',
    );
    const other = await rent();
    const states = await service.until<Page<Instance>>('/instances', ({ items }) =>
      items.some(({ status }) => status === 'terminated'),
    );
    expect(states.items.map(({ status }) => status).sort()).toEqual(['ready', 'terminated']);
    expect(states.items.map(({ id }) => id)).toContain(other);
    expect(first.items).toHaveLength(1);
  });
});

describe('a race', () => {
  it('keeps the first machine that is ready and destroys the other', async () => {
    await start({ FLEET_RACE: '2' }, { knobs: { fates: ['loading-forever'] } });
    await succeeded(await submit());
    const { items } = await service.until<Page<Instance>>('/instances', (page) =>
      page.items.some(({ status }) => status === 'terminated'),
    );
    expect(new Set(items.map(({ terminationReason }) => terminationReason))).toEqual(
      new Set(['lost_race', null]),
    );
    const machines = [...vast.state.rentals.values()].map(({ machine }) => machine.machineId);
    expect(new Set(machines).size).toBe(2);
    expect(vast.liveRentals()).toHaveLength(1);
  });

  it('is held with as many machines as the limits allow', async () => {
    await start({ FLEET_RACE: '2', MAX_INSTANCES: '1' });
    await succeeded(await submit());
    expect(vast.state.rentals.size).toBe(1);
  });
});

describe('two replicas', () => {
  it('rent once for one job', async () => {
    await start({ FLEET_MAX: '3', MAX_INSTANCES: '5', FLEET_JOBS_PER_INSTANCE: '1' });
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
