// Host memory: a machine that failed is left alone for a while by every instance, and a measured boot beats an estimate.
import { describe, expect } from 'vitest';
import type { OfferSpec } from '../doubles/vast/index.ts';
import { it as base } from '../support/renting.ts';

interface Offer {
  id: string;
  machineId: string;
  rank: number;
  expectedBootMinutes: number;
  measuredBootMinutes: number | null;
  reasons: string[];
}

const machine = (machineId: number, gpuPricePerHourUsd: number): OfferSpec => ({
  machineId,
  gpuName: 'RTX 4090',
  gpuPricePerHourUsd,
  cudaVersion: 12.9,
  remainingSeconds: 30 * 86_400,
});
const [cheap, dear] = [71_001, 71_002];

/** Two machines are let out. */
const it = base.extend('startMarket', ({ start }) => async (env: Record<string, string> = {}) => {
  const renting = await start({
    vast: { offers: [machine(cheap, 0.2), machine(dear, 0.6)] },
    env: { DEAD_MAN_SWITCH_MINUTES: '0', ...env },
  });
  const { service } = renting;
  const { db } = service.service.database;
  return {
    ...renting,
    offers: async () => (await service.call<{ items: Offer[]; rejected: Offer[] }>('/offers')).body,
    remembered: (machineId: number) =>
      db.selectFrom('machines').selectAll().where('machine_id', '=', String(machineId)).executeTakeFirst(),
    /** As if so much time had passed. */
    coolDown: (machineId: number) =>
      db
        .updateTable('machines')
        .set({ cooldown_until: new Date(Date.now() - 1) })
        .where('machine_id', '=', String(machineId))
        .execute(),
  };
});

describe.concurrent('a machine that failed', () => {
  it('is not rented by the next instance either, though it is the cheapest and has another offer id', async ({
    startMarket,
  }) => {
    const { vast, settled, end } = await startMarket();
    vast.knobs.machineFates[cheap] = 'oci-error';
    const first = await settled();
    expect(first.rentals.map(({ machineId }) => Number(machineId))).toEqual([cheap, dear]);
    await end(first.id);
    const second = await settled();
    expect(second.rentals.map(({ machineId }) => Number(machineId))).toEqual([dear]);
  });

  it('is shown among the rejected offers, with the reason and until when', async ({ startMarket }) => {
    const { vast, settled, offers } = await startMarket({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    await settled();
    const { items, rejected } = await offers();
    expect(items.map(({ machineId }) => Number(machineId))).toEqual([dear]);
    const reasons = rejected.find(({ machineId }) => Number(machineId) === cheap)?.reasons;
    expect(reasons?.[0]).toMatch(/failed once \(container_failed\) and is not rented before 2\d{3}-/);
  });

  it('is left alone for longer with each failure in a row, and is forgiven by a success', async ({
    startMarket,
  }) => {
    const { vast, settled, remembered, coolDown } = await startMarket({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    for (const seconds of [60, 300, 900]) {
      const before = Date.now();
      expect((await settled()).status).toBe('terminated');
      const until = (await remembered(cheap))?.cooldown_until?.getTime() ?? 0;
      expect(Math.abs(until - before - seconds * 1000)).toBeLessThan(30_000);
      await coolDown(cheap);
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

  it('is rented all the same when a caller names it', async ({ startMarket }) => {
    const { vast, settled, offers } = await startMarket({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    await settled();
    delete vast.knobs.machineFates[cheap];
    const { rejected } = await offers();
    const named = rejected.find(({ machineId }) => Number(machineId) === cheap);
    expect(await settled({ offerId: named?.id })).toMatchObject({
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
    expect(await remembered(cheap)).toMatchObject({ successes: 1, failures: 1, failures_in_row: 1 });
  });
});

describe.concurrent('what is not the fault of a machine', () => {
  it.for(['insufficient-credit', 'no-such-ask-410', 'invalid-args'] as const)(
    'does not count against it: %s',
    async (fault, { startMarket }) => {
      const { vast, settled, remembered } = await startMarket({ MAX_RENTALS_PER_INSTANCE: '1' });
      vast.knobs.faults.create.push(fault);
      await settled();
      expect((await remembered(cheap))?.failures ?? 0).toBe(0);
    },
  );

  it('does not count against it: an image that does not exist, and an end on request', async ({
    startMarket,
  }) => {
    const { settled, remembered } = await startMarket({
      VAST_IMAGE: 'nobody/nothing',
      MAX_RENTALS_PER_INSTANCE: '1',
    });
    expect(await settled()).toMatchObject({
      status: 'terminated',
      rentals: [{ endReason: 'image_pull_failed' }],
    });
    expect((await remembered(cheap))?.failures ?? 0).toBe(0);
  });
});

describe.concurrent('a machine that became ready', () => {
  it('is expected to take as long again, and its offer says that this was measured', async ({
    startMarket,
  }) => {
    const { settled, end, offers } = await startMarket();
    const before = (await offers()).items.find(({ machineId }) => Number(machineId) === cheap);
    expect(before).toMatchObject({ measuredBootMinutes: null });
    expect(before?.expectedBootMinutes).toBeGreaterThan(3);
    const { id } = await settled();
    await end(id);
    const after = (await offers()).items.find(({ machineId }) => Number(machineId) === cheap);
    expect(after?.measuredBootMinutes).toBeLessThan(1);
    expect(after?.expectedBootMinutes).toBe(after?.measuredBootMinutes);
    expect(after?.reasons.join()).toMatch(/measured/);
  });
});
