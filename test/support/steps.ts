// The steps of one instance, taken one by one by hand: no queue carries them, so a test may do anything between two.
import { loadState, type InstanceState } from '../../src/instances/records.ts';
import { nextStep, stepInstance, type InstanceDeps, type StepName } from '../../src/instances/steps.ts';
import type { PartialKnobs } from '../doubles/vast/knobs.ts';
import { expect } from 'vitest';
import { createInstanceBench, type InstanceBench, type InstanceBenchOptions } from './instance-bench.ts';

export interface StepBench extends InstanceBench {
  /** The first instance, which was requested. */
  readonly id: string;
  request(): Promise<string>;
  state(id?: string): Promise<InstanceState>;
  /** The step of the wake-up with this number; the newest unless given. */
  step(deps?: InstanceDeps, wake?: number, id?: string): Promise<void>;
  /** Takes step after step until that one is next. */
  stepUntil(name: StepName, id?: string): Promise<void>;
}

export interface StepBenchOptions extends Pick<InstanceBenchOptions, 'env' | 'intervals'> {
  knobs?: PartialKnobs;
}

/** On the real clock, and impatient. */
export async function createStepBench({
  env,
  knobs = {},
  ...options
}: StepBenchOptions = {}): Promise<StepBench> {
  const impatient = { INSTANCE_POLL_SECONDS: '0.05', RENT_SETTLE_SECONDS: '1' };
  const bench = await createInstanceBench({ ...options, env: { ...impatient, ...env }, vast: { knobs } });
  const { instances, replica } = bench;
  const { db } = replica;

  async function request(): Promise<string> {
    const asked = { requirements: undefined, offerId: undefined, apiKey: null };
    return (await instances.request(asked)).instance.id;
  }
  const first = await request();
  const { signal } = new AbortController();

  async function state(id = first): Promise<InstanceState> {
    const found = await loadState(db, id);
    if (found === null) throw new Error('The instance is gone.');
    return found;
  }
  async function step(deps: InstanceDeps = replica, wake?: number, id = first): Promise<void> {
    const newest = wake ?? (await state(id)).instance.wake;
    await stepInstance(deps, { instanceId: id, wake: newest }, { signal });
  }
  async function stepUntil(name: StepName, id = first): Promise<void> {
    await expect
      .poll(
        async () => {
          const { instance, rental } = await state(id);
          const next = nextStep(instance, rental);
          if (next !== name) await step(replica, instance.wake, id);
          return next;
        },
        { timeout: 15_000, interval: 10 },
      )
      .toBe(name);
  }

  return { ...bench, id: first, request, state, step, stepUntil };
}
