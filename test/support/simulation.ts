// Instances on a clock of the test's own: what the queues of the service would carry is done by hand when it falls due, so that hours pass
// in milliseconds, and nothing happens that the test does not let happen.
import type { RentalRow } from '../../src/database/tables.ts';
import { MONEY_EVERY_MS, moneyUpkeep } from '../../src/fleet/money.ts';
import { reconcile } from '../../src/instances/reconcile.ts';
import { ProviderError } from '../../src/instances/provider.ts';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { presentInstance, presentOffer, presentRejected } from '../../src/instances/schemas.ts';
import type { InstanceRequest } from '../../src/instances/service.ts';
import { stepInstance } from '../../src/instances/steps.ts';
import type { VastDoubleOptions } from '../doubles/vast/index.ts';
import { manualClock } from '../doubles/vast/clock.ts';
import { createInstanceBench, type InstanceBench } from './instance-bench.ts';
import { it as base } from './open.ts';

/** As callers of the API see it. */
export type Instance = ReturnType<typeof presentInstance>;

export interface Simulation extends Omit<InstanceBench, 'stop'> {
  /** As `GET /offers` answers: those that fit, the best first, and those that do not. */
  readonly offers: (requirements?: object) => Promise<{
    items: ReturnType<typeof presentOffer>[];
    rejected: ReturnType<typeof presentRejected>[];
  }>;
  /** Requests an instance; its id. */
  readonly rent: (request?: Partial<InstanceRequest>) => Promise<string>;
  /** Requests an instance, and lets time pass until it is ready. */
  readonly readyInstance: (request?: Partial<InstanceRequest>) => Promise<Instance>;
  /** Requests an instance, and lets time pass until it is ready or has ended. */
  readonly settled: (request?: Partial<InstanceRequest>) => Promise<Instance>;
  /** Asks for the end of an instance, and lets time pass until it has ended. */
  readonly end: (id: string) => Promise<Instance>;
  readonly show: (id: string) => Promise<Instance>;
  /** All of them, the newest first. */
  readonly list: () => Promise<Instance[]>;
  /** Lets time pass for the provider and for the service, which does what falls due meanwhile: steps of instances, rounds. */
  readonly pass: (seconds: number) => Promise<void>;
  /** Lets time pass for the provider and its machines alone, second by second, as while the service is down. */
  readonly passUnwatched: (seconds: number) => Promise<void>;
  /** Lets time pass until the condition holds, which is looked at after everything that was done. Rejects after `limitSeconds`. */
  readonly passUntil: (condition: () => boolean | Promise<boolean>, limitSeconds?: number) => Promise<void>;
  /** Lets time pass until the instance has this status, or `done` says so. Rejects after `limitSeconds` with what it is then. */
  readonly instanceWhen: (
    id: string,
    done: string | ((instance: Instance) => boolean),
    limitSeconds?: number,
  ) => Promise<Instance>;
}

export interface SimulationOptions {
  vast?: Omit<VastDoubleOptions, 'clock'>;
  /** The defaults of the service, unless it is said here. */
  env?: Record<string, string>;
  /** When it begins: now, unless it is said here. Not in the past: the database notes some moments by its own clock. */
  startsAt?: Date;
  /** Whether limits, books and credit are looked after too, as often as the service does it. */
  money?: boolean;
}

export type Simulate = (options?: SimulationOptions) => Promise<Simulation>;

const anHour = 3600;
/** So much is never done at one moment, but by something that is due again at once, for ever. */
const MOST_AT_ONE_MOMENT = 1000;

/** The rental at the provider, by its number there. */
export const machineOf = ({ rentals }: Pick<Instance, 'rentals'>): number =>
  Number(rentals[0]?.providerInstanceId);

/** The only rental, as it is kept. */
export function rentalOf({ replica }: Pick<Simulation, 'replica'>): Promise<RentalRow> {
  return replica.db.selectFrom('rentals').selectAll().executeTakeFirstOrThrow();
}

/** A test that starts simulations by `simulate`; all of them are stopped after the test. */
export const it = base.extend('simulate', ({ open }) => {
  const simulate: Simulate = async (options) => {
    const { bench, rounds, advance } = await openSimulation(options);
    open.defer(() => bench.stop());
    return createSimulation(bench, rounds, advance);
  };
  return simulate;
});

/** What is done again and again, the first time at once. */
interface Round {
  everyMs: number;
  run: () => Promise<void>;
}

/** What a simulation is made of, for those that add to it. */
export async function openSimulation({
  vast,
  env = {},
  startsAt = new Date(),
  money = false,
}: SimulationOptions = {}): Promise<{
  bench: InstanceBench;
  rounds: Round[];
  /** Moves the clock, and all that hangs on it. */
  advance: (ms: number) => void;
}> {
  const clock = manualClock(startsAt.getTime());
  const now = () => new Date(clock.now());
  const bench = await createInstanceBench({ env, vast: { ...vast, clock }, clock: { now } });
  const rounds = [reconciliations(bench), ...(money ? [roundsOfMoney(bench)] : [])];
  return { bench, rounds, advance: (ms) => clock.advance(ms) };
}

function reconciliations({ replica }: InstanceBench): Round {
  const { signal } = new AbortController();
  return {
    everyMs: replica.config.RECONCILE_SECONDS * 1000,
    async run() {
      await reconcile(replica, signal).catch((error: unknown) => {
        if (!(error instanceof ProviderError)) throw error;
      });
    },
  };
}

function roundsOfMoney({ replica }: InstanceBench): Round {
  const parts = Object.values(moneyUpkeep(replica));
  return {
    everyMs: MONEY_EVERY_MS,
    async run() {
      for (const part of parts) await part();
    },
  };
}

/** `woken` is called after whatever was done, and says in how many milliseconds it wants to be called again at the latest. */
export function createSimulation(
  bench: InstanceBench,
  rounds: readonly Round[],
  advance: (ms: number) => void,
  woken: () => Promise<number> = async () => Infinity,
): Simulation {
  const { vast, instances, replica } = bench;
  const { db, clock } = replica;
  const { signal } = new AbortController();
  const nowMs = (): number => clock.now().getTime();
  const dueRounds = rounds.map((round) => ({ ...round, atMs: nowMs() }));
  /** When `woken` is due. */
  let wakeMs = nowMs();
  let doneNow = 0;

  async function nextStep(): Promise<{ id: string; wake: number; atMs: number } | undefined> {
    const row = await db
      .selectFrom('instances')
      .select(['id', 'wake', (eb) => eb.fn.coalesce('next_step_at', 'created_at').as('at')])
      .where('status', '<>', 'terminated')
      .orderBy('at')
      .limit(1)
      .executeTakeFirst();
    return row && { id: row.id, wake: row.wake, atMs: row.at.getTime() };
  }

  /** Does what falls due first. False when that is after `endMs`, which it is then. */
  async function act(endMs: number): Promise<boolean> {
    const step = await nextStep();
    const [round] = dueRounds.toSorted((a, b) => a.atMs - b.atMs);
    const stepMs = step?.atMs ?? Infinity;
    const roundMs = round?.atMs ?? Infinity;
    const dueMs = Math.min(stepMs, roundMs, wakeMs);
    const restMs = Math.max(0, Math.min(dueMs, endMs) - nowMs());
    advance(restMs);
    if (dueMs > endMs) return false;
    doneNow = restMs > 0 ? 0 : doneNow + 1;
    if (doneNow > MOST_AT_ONE_MOMENT) throw new Error('Time stands still: something is due again and again.');
    if (step !== undefined && stepMs === dueMs) {
      await stepInstance(replica, { instanceId: step.id, wake: step.wake }, { signal });
    } else if (round !== undefined && roundMs === dueMs) {
      round.atMs = nowMs() + round.everyMs;
      await round.run();
    }
    wakeMs = nowMs() + (await woken());
    return true;
  }

  async function show(id: string): Promise<Instance> {
    return presentInstance(await instances.get(id), clock.now());
  }

  const simulation: Simulation = {
    ...bench,
    async offers(requirements = {}) {
      const { offers, rejected } = await instances.offers(requirementsSchema.parse(requirements));
      return { items: offers.map(presentOffer), rejected: rejected.map(presentRejected) };
    },
    async rent(request = {}) {
      const asked = { requirements: undefined, offerId: undefined, apiKey: null, ...request };
      return (await instances.request(asked)).instance.id;
    },
    async settled(request) {
      return simulation.instanceWhen(
        await simulation.rent(request),
        ({ status }) => status === 'ready' || status === 'terminated',
      );
    },
    async readyInstance(request) {
      return simulation.instanceWhen(await simulation.rent(request), 'ready');
    },
    async end(id) {
      await instances.end(id, { drain: false });
      return simulation.instanceWhen(id, 'terminated');
    },
    show,
    async list() {
      const query = { status: [], provider: undefined, limit: 100, cursor: undefined };
      const { items } = await instances.list(query);
      return items.map((item) => presentInstance(item, clock.now()));
    },
    async pass(seconds) {
      const endMs = nowMs() + Math.round(seconds * 1000);
      wakeMs = nowMs();
      while (await act(endMs));
    },
    async passUnwatched(seconds) {
      const endMs = nowMs() + seconds * 1000;
      while (nowMs() < endMs) {
        advance(Math.min(1000, endMs - nowMs()));
        await vast.settled();
      }
    },
    async passUntil(condition, limitSeconds = anHour) {
      const endMs = nowMs() + limitSeconds * 1000;
      // The test may have changed anything.
      wakeMs = nowMs();
      while (!(await condition())) {
        if (await act(endMs)) continue;
        if (await condition()) return;
        throw new Error(`The condition did not hold within ${limitSeconds} s.`);
      }
    },
    async instanceWhen(id, done, limitSeconds = anHour) {
      const isDone = typeof done === 'string' ? ({ status }: Instance) => status === done : done;
      let seen = await show(id);
      await simulation
        .passUntil(async () => isDone((seen = await show(id))), limitSeconds)
        .catch((cause: unknown) => {
          throw new Error(`Instance ${id} did not get there: ${JSON.stringify(seen)}`, { cause });
        });
      return seen;
    },
  };
  return simulation;
}
