// Host memory: a machine that failed is left alone for a while by every instance, and a measured boot beats an estimate.
import { afterEach, describe, expect, it } from 'vitest';
import { startVastDouble, type OfferSpec, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { startTestService, type TestService } from '../support/service.ts';

interface Instance {
  id: string;
  status: string;
  rentals: { machineId: string; endReason: string | null }[];
}
interface Offer {
  id: string;
  machineId: string;
  rank: number;
  expectedBootMinutes: number;
  measuredBootMinutes: number | null;
  reasons: string[];
}

let vast: VastDouble;
let service: TestService;

const machine = (machineId: number, gpuPricePerHourUsd: number): OfferSpec => ({
  machineId,
  gpuName: 'RTX 4090',
  gpuPricePerHourUsd,
  cudaVersion: 12.9,
  remainingSeconds: 30 * 86_400,
});
const [cheap, dear] = [71_001, 71_002];

async function start(env: Record<string, string> = {}) {
  vast = await startVastDouble({
    knobs: { phases: instantPhases },
    offers: [machine(cheap, 0.2), machine(dear, 0.6)],
  });
  service = await startTestService({ vast, env: { DEAD_MAN_SWITCH_MINUTES: '0', ...env } });
}

afterEach(async () => {
  await service.stop();
  await vast.stop();
});

const settled = ({ status }: Instance) => status === 'ready' || status === 'terminated';

async function rent(json: object = {}): Promise<Instance> {
  const { body } = await service.call<Instance>('/instances', { method: 'POST', json });
  return service.until<Instance>(`/instances/${body.id}`, settled);
}

async function end({ id }: Instance): Promise<void> {
  await service.call(`/instances/${id}`, { method: 'DELETE' });
  await service.until<Instance>(`/instances/${id}`, ({ status }) => status === 'terminated');
}

async function offers(): Promise<{ items: Offer[]; rejected: Offer[] }> {
  return (await service.call<{ items: Offer[]; rejected: Offer[] }>('/offers')).body;
}

const remembered = async (machineId: number) =>
  service.service.database.db
    .selectFrom('machines')
    .selectAll()
    .where('machine_id', '=', String(machineId))
    .executeTakeFirst();

/** As if so much time had passed. */
async function coolDown(machineId: number): Promise<void> {
  await service.service.database.db
    .updateTable('machines')
    .set({ cooldown_until: new Date(Date.now() - 1) })
    .where('machine_id', '=', String(machineId))
    .execute();
}

describe('a machine that failed', () => {
  it('is not rented by the next instance either, though it is the cheapest and has another offer id', async () => {
    await start();
    vast.knobs.machineFates[cheap] = 'oci-error';
    const first = await rent();
    expect(first.rentals.map(({ machineId }) => Number(machineId))).toEqual([cheap, dear]);
    await end(first);
    const second = await rent();
    expect(second.rentals.map(({ machineId }) => Number(machineId))).toEqual([dear]);
  });

  it('is shown among the rejected offers, with the reason and until when', async () => {
    await start({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    await rent();
    const { items, rejected } = await offers();
    expect(items.map(({ machineId }) => Number(machineId))).toEqual([dear]);
    const reasons = rejected.find(({ machineId }) => Number(machineId) === cheap)?.reasons;
    expect(reasons?.[0]).toMatch(/failed once \(container_failed\) and is not rented before 2\d{3}-/);
  });

  it('is left alone for longer with each failure in a row, and is forgiven by a success', async () => {
    await start({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    for (const seconds of [60, 300, 900]) {
      const before = Date.now();
      expect((await rent()).status).toBe('terminated');
      const until = (await remembered(cheap))?.cooldown_until?.getTime() ?? 0;
      expect(Math.abs(until - before - seconds * 1000)).toBeLessThan(30_000);
      await coolDown(cheap);
    }
    delete vast.knobs.machineFates[cheap];
    const good = await rent();
    expect(good).toMatchObject({ status: 'ready', rentals: [{ machineId: String(cheap) }] });
    expect(await remembered(cheap)).toMatchObject({
      failures: 3,
      failures_in_row: 0,
      successes: 1,
      cooldown_until: null,
    });
  });

  it('is rented all the same when a caller names it', async () => {
    await start({ MAX_RENTALS_PER_INSTANCE: '1' });
    vast.knobs.machineFates[cheap] = 'oci-error';
    await rent();
    delete vast.knobs.machineFates[cheap];
    const { rejected } = await offers();
    const named = rejected.find(({ machineId }) => Number(machineId) === cheap);
    expect(await rent({ offerId: named?.id })).toMatchObject({
      status: 'ready',
      rentals: [{ machineId: String(cheap) }],
    });
  });

  it('counts when it fails after it was ready', async () => {
    await start();
    const instance = await rent();
    const [rental] = vast.liveRentals();
    vast.strike(rental?.id ?? 0, 'exited');
    await service.until<Instance>(`/instances/${instance.id}`, ({ status }) => status === 'terminated');
    expect(await remembered(cheap)).toMatchObject({ successes: 1, failures: 1, failures_in_row: 1 });
  });
});

describe('what is not the fault of a machine', () => {
  it.each(['insufficient-credit', 'no-such-ask-410', 'invalid-args'] as const)(
    'does not count against it: %s',
    async (fault) => {
      await start({ MAX_RENTALS_PER_INSTANCE: '1' });
      vast.knobs.faults.create.push(fault);
      await rent();
      expect((await remembered(cheap))?.failures ?? 0).toBe(0);
    },
  );

  it('does not count against it: an image that does not exist, and an end on request', async () => {
    await start({ VAST_IMAGE: 'nobody/nothing', MAX_RENTALS_PER_INSTANCE: '1' });
    expect(await rent()).toMatchObject({
      status: 'terminated',
      rentals: [{ endReason: 'image_pull_failed' }],
    });
    expect((await remembered(cheap))?.failures ?? 0).toBe(0);
  });
});

describe('a machine that became ready', () => {
  it('is expected to take as long again, and its offer says that this was measured', async () => {
    await start();
    const before = (await offers()).items.find(({ machineId }) => Number(machineId) === cheap);
    expect(before).toMatchObject({ measuredBootMinutes: null });
    expect(before?.expectedBootMinutes).toBeGreaterThan(3);
    await end(await rent());
    const after = (await offers()).items.find(({ machineId }) => Number(machineId) === cheap);
    expect(after?.measuredBootMinutes).toBeLessThan(1);
    expect(after?.expectedBootMinutes).toBe(after?.measuredBootMinutes);
    expect(after?.reasons.join()).toMatch(/measured/);
  });
});
