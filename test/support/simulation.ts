// Instances on a clock of the test's own: what the queues of the service would carry is done by hand when it falls due, so that hours pass
// in milliseconds, and nothing happens that the test does not let happen.
import { it as base } from 'vitest';
import { reconcile } from '../../src/instances/reconcile.ts';
import { ProviderError } from '../../src/instances/provider.ts';
import { presentInstance } from '../../src/instances/schemas.ts';
import type { InstanceRequest } from '../../src/instances/service.ts';
import { stepInstance } from '../../src/instances/steps.ts';
import type { VastDoubleOptions } from '../doubles/vast/index.ts';
import { manualClock } from '../doubles/vast/clock.ts';
import { createInstanceBench, type InstanceBench } from './instance-bench.ts';

/** As callers of the API see it. */
export type Instance = ReturnType<typeof presentInstance>;

export interface Simulation extends Omit<InstanceBench, 'stop'> {
  /** Requests an instance; its id. */
  readonly rent: (request?: Partial<InstanceRequest>) => Promise<string>;
  /** Requests an instance, and lets time pass until it is ready. */
  readonly readyInstance: (request?: Partial<InstanceRequest>) => Promise<Instance>;
  /** Requests an instance, and lets time pass until it is ready or has ended. */
  readonly settled: (request?: Partial<InstanceRequest>) => Promise<Instance>;
  readonly show: (id: string) => Promise<Instance>;
  /** All of them, the newest first. */
  readonly list: () => Promise<Instance[]>;
  /** Lets time pass for the provider and for the service, which does what falls due meanwhile: steps of instances, reconciliations. */
  readonly pass: (seconds: number) => Promise<void>;
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
}

export type Simulate = (options?: SimulationOptions) => Promise<Simulation>;

const anHour = 3600;

/** A test that starts simulations by `simulate`; all of them are stopped after the test. */
// oxlint-disable-next-line no-empty-pattern -- Vitest reads from it which other fixtures are needed
export const it = base.extend('simulate', async ({}, { onCleanup }) => {
  const open = new AsyncDisposableStack();
  onCleanup(() => open.disposeAsync());
  const simulate: Simulate = async ({ vast, env = {} } = {}) => {
    const clock = manualClock(Date.now());
    const now = () => new Date(clock.now());
    const bench = await createInstanceBench({ env, vast: { ...vast, clock }, clock: { now } });
    open.defer(() => bench.stop());
    return createSimulation(bench, (ms) => clock.advance(ms));
  };
  return simulate;
});

function createSimulation(bench: InstanceBench, advance: (ms: number) => void): Simulation {
  const { instances, replica } = bench;
  const { db, clock, config } = replica;
  const { signal } = new AbortController();
  const nowMs = (): number => clock.now().getTime();
  let reconciliationMs = nowMs();

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

  /** Does what falls due first, unless that is after `endMs`. */
  async function act(endMs: number): Promise<void> {
    const step = await nextStep();
    const dueMs = Math.min(step?.atMs ?? Infinity, reconciliationMs);
    advance(Math.max(0, Math.min(dueMs, endMs) - nowMs()));
    if (dueMs > endMs) return;
    if (step !== undefined && step.atMs <= reconciliationMs)
      return stepInstance(replica, { instanceId: step.id, wake: step.wake }, { signal });
    reconciliationMs = nowMs() + config.RECONCILE_SECONDS * 1000;
    await reconcile(replica, signal).catch((error: unknown) => {
      if (!(error instanceof ProviderError)) throw error;
    });
  }

  async function show(id: string): Promise<Instance> {
    return presentInstance(await instances.get(id), clock.now());
  }

  const simulation: Simulation = {
    ...bench,
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
    show,
    async list() {
      const query = { status: [], provider: undefined, limit: 100, cursor: undefined };
      const { items } = await instances.list(query);
      return items.map((item) => presentInstance(item, clock.now()));
    },
    async pass(seconds) {
      const endMs = nowMs() + seconds * 1000;
      while (nowMs() < endMs) await act(endMs);
    },
    async passUntil(condition, limitSeconds = anHour) {
      const endMs = nowMs() + limitSeconds * 1000;
      while (!(await condition())) {
        if (nowMs() >= endMs) throw new Error(`The condition did not hold within ${limitSeconds} s.`);
        await act(endMs);
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
