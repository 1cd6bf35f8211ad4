// Host memory: a machine that failed is left alone for a while by every instance, and a measured boot beats an estimate.
import { describe, expect } from 'vitest';
import { instantPhases } from '../doubles/vast/knobs.ts';
import type { OfferSpec } from '../doubles/vast/index.ts';
import { it as whole } from '../support/renting.ts';
import { it as simulated, type SimulationOptions } from '../support/simulation.ts';

const machine = (machineId: number, gpuPricePerHourUsd: number): OfferSpec => ({
  machineId,
  gpuName: 'RTX 4090',
  gpuPricePerHourUsd,
  cudaVersion: 12.9,
  remainingSeconds: 30 * 86_400,
});
const [cheap, dear] = [71_001, 71_002];
/** Two machines are let out. */
const market = [machine(cheap, 0.2), machine(dear, 0.6)];

const it = simulated.extend(
  'startMarket',
  ({ simulate }) =>
    async (env: Record<string, string> = {}, vast: SimulationOptions['vast'] = {}) => {
      const simulation = await simulate({ vast: { offers: market, ...vast }, env });
      const { database, replica, pass } = simulation;
      const remembered = (machineId: number) =>
        database.db
          .selectFrom('machines')
          .selectAll()
          .where('machine_id', '=', String(machineId))
          .executeTakeFirst();
      return {
        ...simulation,
        remembered,
        /** When a machine failed last, and until when it is left alone for that, in milliseconds since 1970. */
        cooling: async (machineId: number) => {
          const row = await remembered(machineId);
          return {
            failedMs: row?.last_failed_at?.getTime() ?? 0,
            untilMs: row?.cooldown_until?.getTime() ?? 0,
          };
        },
        passTo: (atMs: number) => pass((atMs - replica.clock.now().getTime()) / 1000),
      };
    },
);

const machinesOf = (listed: { machineId: string }[]): number[] =>
  listed.map(({ machineId }) => Number(machineId));

describe('a machine that failed', () => {
  it('is not rented by the next instance either, though it is the cheapest and has another offer id', async ({
    startMarket,
  }) => {
    const { vast, rent, instanceWhen, offers } = await startMarket(
      {},
      {
        // Two can rent the dear one, so that nothing has to end between them, while time passes.
        offers: [machine(cheap, 0.2), { ...machine(dear, 0.6), slices: 2 }],
        knobs: { search: { newOfferIdChance: 1 } },
      },
    );
    const idOf = (listed: { id: string; machineId: string }[]) =>
      listed.find(({ machineId }) => Number(machineId) === cheap)?.id;
    const before = await offers();
    expect(machinesOf(before.items)).toEqual([cheap, dear]);
    vast.knobs.machineFates[cheap] = 'oci-error';
    const first = await rent();
    await instanceWhen(first, ({ rentals }) => rentals.length === 2);
    const after = idOf((await offers()).rejected);
    expect(after).toBeDefined();
    expect(after).not.toBe(idOf(before.items));
    const second = await rent();
    expect(machinesOf((await instanceWhen(first, 'ready')).rentals)).toEqual([cheap, dear]);
    expect(machinesOf((await instanceWhen(second, 'ready')).rentals)).toEqual([dear]);
  });

  it('is shown among the rejected offers, with the reason and until when', async ({ startMarket }) => {
    const { vast, settled, offers, cooling, passTo } = await startMarket({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    await settled();
    const { untilMs } = await cooling(cheap);
    const until = new Date(untilMs).toISOString();
    const expectRejected = async () => {
      const { items, rejected } = await offers();
      expect(machinesOf(items)).toEqual([dear]);
      expect(rejected.find(({ machineId }) => Number(machineId) === cheap)?.reasons).toEqual([
        `Its machine failed once (container_failed) and is not rented before ${until}.`,
      ]);
    };
    await expectRejected();
    await passTo(untilMs - 1);
    await expectRejected();
    await passTo(untilMs);
    const { items, rejected } = await offers();
    expect(machinesOf(items)).toEqual([cheap, dear]);
    expect(rejected).toEqual([]);
  });

  it('is left alone for longer with each failure in a row, and is forgiven by a success', async ({
    startMarket,
  }) => {
    const { vast, replica, settled, offers, remembered, cooling, passTo } = await startMarket({
      MAX_RENTALS_PER_INSTANCE: '1',
    });
    const nowMs = () => replica.clock.now().getTime();
    vast.knobs.machineFates[cheap] = 'oci-error';
    for (const seconds of [60, 300, 900]) {
      const beforeMs = nowMs();
      expect(await settled()).toMatchObject({
        status: 'terminated',
        rentals: [{ machineId: String(cheap) }],
      });
      const { failedMs, untilMs } = await cooling(cheap);
      expect(failedMs).toBeGreaterThanOrEqual(beforeMs);
      expect(failedMs).toBeLessThan(nowMs());
      expect(untilMs - failedMs).toBe(seconds * 1000);
      await passTo(untilMs - 1000);
      expect(machinesOf((await offers()).items)).toEqual([dear]);
      await passTo(untilMs);
      expect(machinesOf((await offers()).items)).toContain(cheap);
    }
    delete vast.knobs.machineFates[cheap];
    const good = await settled();
    expect(good).toMatchObject({ status: 'ready', rentals: [{ machineId: String(cheap) }] });
    expect(await remembered(cheap)).toMatchObject({
      failures: 3,
      failures_in_row: 0,
      successes: 1,
      cooldown_until: null,
    });
  });

  whole('is rented all the same when a caller names it', async ({ start }) => {
    const { vast, service, settled } = await start({
      vast: { offers: market },
      env: { DEAD_MAN_SWITCH_MINUTES: '0', MAX_RENTALS_PER_INSTANCE: '1' },
    });
    vast.knobs.machineFates[cheap] = 'oci-error';
    await settled();
    delete vast.knobs.machineFates[cheap];
    const { body } = await service.call<{ rejected: { id: string; machineId: string }[] }>('/offers');
    const named = body.rejected.find(({ machineId }) => Number(machineId) === cheap);
    if (named === undefined) throw new Error('The machine is not left alone.');
    expect(await settled({ offerId: named.id })).toMatchObject({
      status: 'ready',
      rentals: [{ machineId: String(cheap) }],
    });
  });

  it('counts when it fails after it was ready', async ({ startMarket }) => {
    const { vast, settled, instanceWhen, remembered } = await startMarket();
    const { id } = await settled();
    const [rental] = vast.liveRentals();
    vast.strike(rental?.id ?? 0, 'exited');
    await instanceWhen(id, 'terminated');
    expect(await remembered(cheap)).toMatchObject({
      successes: 1,
      failures: 1,
      failures_in_row: 1,
      last_reasons: [{ reason: 'exited' }],
    });
  });
});

describe('what is not the fault of a machine', () => {
  it.for(['insufficient-credit', 'no-such-ask-410', 'invalid-args'] as const)(
    'does not count against it: %s',
    async (fault, { startMarket }) => {
      const { vast, settled, remembered, offers } = await startMarket({ MAX_RENTALS_PER_INSTANCE: '1' });
      vast.knobs.faults.create.push(fault);
      const { rentals } = await settled();
      expect(vast.counters.faults).toBe(1);
      expect(rentals[0]).toMatchObject({ machineId: String(cheap), status: 'gone' });
      expect((await remembered(cheap))?.failures ?? 0).toBe(0);
      expect(machinesOf((await offers()).rejected)).toEqual([]);
    },
  );

  it('does not count against it: an image that does not exist', async ({ startMarket }) => {
    const { settled, remembered } = await startMarket({
      VAST_IMAGE: 'nobody/nothing',
      MAX_RENTALS_PER_INSTANCE: '1',
    });
    expect(await settled()).toMatchObject({
      status: 'terminated',
      rentals: [{ machineId: String(cheap), endReason: 'image_pull_failed' }],
    });
    expect((await remembered(cheap))?.failures ?? 0).toBe(0);
  });

  it('does not count against it: an end on request', async ({ startMarket }) => {
    const { settled, end, remembered } = await startMarket();
    const { id } = await settled();
    expect((await end(id)).rentals).toMatchObject([{ machineId: String(cheap), endReason: 'requested' }]);
    expect(await remembered(cheap)).toMatchObject({ failures: 0, successes: 1 });
  });
});

describe('a machine that became ready', () => {
  it('is expected to take as long again, and its offer says that this was measured', async ({
    startMarket,
  }) => {
    const { database, settled, end, offers } = await startMarket(
      {},
      { knobs: { phases: { ...instantPhases, loadingMs: 120_000 } } },
    );
    const before = (await offers()).items.find(({ machineId }) => Number(machineId) === cheap);
    expect(before).toMatchObject({ measuredBootMinutes: null });
    expect(before?.expectedBootMinutes).toBeGreaterThan(3);
    const { id } = await settled();
    const { create_sent_at: sentAt, ready_at: readyAt } = await database.db
      .selectFrom('rentals')
      .select(['create_sent_at', 'ready_at'])
      .executeTakeFirstOrThrow();
    await end(id);
    const after = (await offers()).items.find(({ machineId }) => Number(machineId) === cheap);
    const bootMinutes = ((readyAt?.getTime() ?? 0) - (sentAt?.getTime() ?? 0)) / 60_000;
    expect(bootMinutes).toBeGreaterThanOrEqual(2);
    expect(after?.measuredBootMinutes).toBe(Math.round(bootMinutes * 10) / 10);
    expect(after?.expectedBootMinutes).toBe(after?.measuredBootMinutes);
    expect(after?.reasons.join()).toMatch(/measured/);
  });
});
