// Decisions of the fleet that meet something else at the same moment: each is wholly made or not at all.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { loadConfig, type Config } from '../../src/config.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import { tendFleet, type FleetDeps } from '../../src/fleet/fleet.ts';
import { releaseIdle, releaseLoser } from '../../src/fleet/release.ts';
import type { FleetInstance } from '../../src/fleet/fleet-state.ts';
import { loadFleet } from '../../src/fleet/state.ts';
import { createInstances } from '../../src/instances/service.ts';
import { systemClock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { createJobBench, type JobBench } from '../support/jobs.ts';
import { offer } from '../support/offers.ts';
import { intendedRental } from '../support/rentals.ts';
import { emptyImage } from '../support/workflows.ts';

const ROUNDS = 25;

let bench: JobBench;

beforeAll(async () => {
  bench = await createJobBench();
});
afterAll(() => bench.stop());
beforeEach(async () => {
  const { db } = bench.database;
  for (const table of [
    'slots',
    'outputs',
    'job_events',
    'attempts',
    'jobs',
    'rentals',
    'instances',
  ] as const) {
    await db.deleteFrom(table).execute();
  }
});

async function addIdleInstance(): Promise<string> {
  const id = await bench.addInstance();
  const readyAt = new Date(Date.now() - 3_600_000);
  await bench.database.db
    .updateTable('instances')
    .set({ ready_at: readyAt, provider: 'vast' })
    .where('id', '=', id)
    .execute();
  return id;
}
async function seen(id: string): Promise<FleetInstance> {
  const state = await bench.database.db.transaction().execute((trx) => loadFleet(trx, 15, new Date()));
  const instance = state.instances.find((candidate) => candidate.id === id);
  if (instance === undefined) throw new Error('The fleet does not see the instance.');
  return instance;
}
function release(instance: FleetInstance): Promise<boolean> {
  const { db, queues } = bench.database;
  return releaseIdle({ db, queues, maxAttempts: 3 }, instance, null, new Date());
}
const statusOf = async (id: string) =>
  (
    await bench.database.db
      .selectFrom('instances')
      .select('status')
      .where('id', '=', id)
      .executeTakeFirstOrThrow()
  ).status;

describe('an instance that is about to be let go', () => {
  it('is kept when it has got a job since, also one that has ended again, or one that wants it', async () => {
    const id = await addIdleInstance();
    const before = await seen(id);
    const job = await bench.submit(emptyImage, { instanceId: id });
    expect(await release(before)).toBe(false);
    await bench.dispatch();
    expect(await release(before)).toBe(false);
    await bench.run(job);
    expect(await release(before)).toBe(false);
    expect(await statusOf(id)).toBe('ready');
    expect(await release(await seen(id))).toBe(true);
    expect(await statusOf(id)).toBe('draining');
    expect(await release(await seen(id))).toBe(false);
  });

  it('is kept by a job that wants it although it has lost its race', async () => {
    const id = await addIdleInstance();
    const before = await seen(id);
    await bench.submit(emptyImage, { instanceId: id });
    const { db, queues } = bench.database;
    expect(await releaseLoser({ db, queues, maxAttempts: 3 }, before, new Date())).toBe(false);
    expect(await statusOf(id)).toBe('ready');
  });

  it('either goes or gets the job that is dispatched at that moment', { timeout: 60_000 }, async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const id = await addIdleInstance();
      const instance = await seen(id);
      const job = await bench.submit(emptyImage);
      const [, isReleased] = await Promise.all([bench.dispatch(), release(instance)]);
      expect((await bench.job(job)).status).toBe(isReleased ? 'queued' : 'running');
      expect(await statusOf(id)).toBe(isReleased ? 'draining' : 'ready');
      await bench.jobs.cancel(job);
      await bench.database.db.deleteFrom('slots').where('instance_id', '=', id).execute();
    }
  });

  it('either goes or takes the job that wants it and comes at that moment', { timeout: 60_000 }, async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const id = await addIdleInstance();
      const instance = await seen(id);
      const [submitted, isReleased] = await Promise.all([
        bench.submit(emptyImage, { instanceId: id }).then(
          () => true,
          () => false,
        ),
        release(instance),
      ]);
      expect([submitted, isReleased]).toEqual(isReleased ? [false, true] : [true, false]);
    }
  });
});

describe('a server of the settings', () => {
  it.each([
    ['is waited for in a moment of silence', 5_000, true],
    ['is not waited for when it stays silent', 61_000, false],
  ])('%s', async (_, silentMs, isWaitedFor) => {
    const id = await bench.addInstance();
    await bench.database.db
      .updateTable('instances')
      .set({ unreachable_since: new Date(Date.now() - silentMs) })
      .execute();
    expect(await seen(id)).toMatchObject({ rented: false, promising: isWaitedFor });
  });
});

describe('the pause after an instance that was never ready', () => {
  it('counts from the end of the instance, also where its last machine had failed long before', async () => {
    const { db } = bench.database;
    const id = randomUUID();
    const rental = intendedRental(id, offer());
    const agoMs = (ms: number) => new Date(Date.now() - ms);
    const [failedAt, endedAt] = [agoMs(600_000), agoMs(10_000)];
    const searching = { phase: 'searching', rental: 1, startedAt: failedAt, endedAt };
    await db
      .insertInto('instances')
      .values({
        id,
        provider: 'vast',
        status: 'terminating',
        wish: 'null',
        rental_id: rental.id,
        phases: JSON.stringify([searching]),
        pending_reason: 'no_offer',
      })
      .execute();
    const gone = { status: 'gone' as const, destroy_requested_at: failedAt, gone_at: failedAt };
    await db
      .insertInto('rentals')
      .values({ ...rental, ...gone })
      .execute();
    const { setbacks } = await db.transaction().execute((trx) => loadFleet(trx, 15, new Date()));
    expect(setbacks).toMatchObject([{ wish: 'null', tries: 1, lastAt: endedAt }]);
  });
});

describe('several replicas that look at the same queue', () => {
  it('rent once for what waits, and once for what is to be kept', async () => {
    const { db } = bench.database;
    const { deps, close } = fleetOf({ FLEET_MIN: '2', FLEET_MAX: '3' });
    await bench.submit(emptyImage);
    await Promise.all(Array.from({ length: 5 }, () => tendFleet(deps)));
    expect(await db.selectFrom('instances').select('id').execute()).toHaveLength(2);
    for (let count = 0; count < 11; count += 1) await bench.submit(emptyImage);
    await Promise.all(Array.from({ length: 5 }, () => tendFleet(deps)));
    expect(await db.selectFrom('instances').select('id').execute()).toHaveLength(3);
    await close();
  });

  it(
    'never pass FLEET_MAX with a machine that is found again at that moment',
    { timeout: 60_000 },
    async () => {
      const { db } = bench.database;
      const { deps, budget, close } = fleetOf({ FLEET_MAX: '1' });
      const terms = { expiresAt: new Date(Date.now() + 3_600_000), maxPricePerHourUsd: 1, forFleet: true };
      const adopt = () =>
        db.transaction().execute(async (trx) => {
          if (!(await budget.mayAdopt(trx, offer(), terms))) return;
          await trx
            .insertInto('instances')
            .values({ id: randomUUID(), provider: 'vast', status: 'provisioning', wish: 'null' })
            .execute();
        });
      await bench.submit(emptyImage);
      for (let round = 0; round < ROUNDS; round += 1) {
        await Promise.all([tendFleet(deps), adopt(), tendFleet(deps), adopt()]);
        expect(await db.selectFrom('instances').select('id').execute()).toHaveLength(1);
        await db.deleteFrom('instances').execute();
      }
      await close();
    },
  );
});

function fleetOf(settings: Record<string, string>) {
  const { db, queues } = bench.database;
  const config: Config = loadConfig({ VASTAI_API_KEY: 'never-used', MAX_INSTANCES: '20', ...settings });
  const log = createLogger({ ...config, LOG_LEVEL: 'silent' });
  const clock = systemClock;
  const provider = createVastProvider({ config, log });
  const budget = createBudget({ db, config, clock });
  const instances = createInstances({ db, queues, provider, budget, config, clock });
  const deps: FleetDeps = { db, queues, instances, canRent: true, config, clock, log };
  return { deps, budget, close: () => provider.close() };
}
