// Which waiting job goes to which free slot: pure, so that every rule can be tested by itself.
import {
  acceptsGpu,
  gpuNameOfApi,
  satisfiesVram,
  type RequestedRequirements,
} from '../instances/requirements.ts';

export interface WaitingJob {
  id: string;
  requirements: RequestedRequirements | null;
  wantedInstanceId: string | null;
  /** Where its last attempt was lost, if there was one. */
  lastInstanceId: string | null;
}

/** What requirements are compared with; a null is a fact that nobody knows. */
export interface InstanceFacts {
  id: string;
  gpuName: string | null;
  gpuCount: number | null;
  vramGb: number | null;
  region: string | null;
}

/** An instance that may still be on its way. */
export interface ExpectedFacts extends InstanceFacts {
  /** Whether the facts are those of the machine that it is; otherwise no more is known than what was asked of it. */
  machineKnown: boolean;
  /** What its machine will satisfy; null where nothing was asked. */
  requirements: RequestedRequirements | null;
}

export interface FreeInstance extends InstanceFacts {
  freeSlots: number[];
}

export interface Placement {
  jobId: string;
  instanceId: string;
  slot: number;
}

/**
 * Gives each job, in the order given, the best free slot that fits. An instance with two free slots comes before the second slot of a
 * busy one, so that no job waits behind another while a GPU is idle; an instance that lost the job before comes last.
 */
export function matchJobs(jobs: readonly WaitingJob[], instances: readonly FreeInstance[]): Placement[] {
  const free = new Map(
    instances.map((instance) => [instance.id, instance.freeSlots.toSorted((a, b) => a - b)]),
  );
  const placements: Placement[] = [];
  for (const job of jobs) {
    const [best] = instances
      .filter((instance) => freeCount(free, instance) > 0 && fits(job, instance))
      .sort(
        (a, b) =>
          Number(a.id === job.lastInstanceId) - Number(b.id === job.lastInstanceId) ||
          freeCount(free, b) - freeCount(free, a) ||
          a.id.localeCompare(b.id),
      );
    const slot = best === undefined ? undefined : free.get(best.id)?.shift();
    if (best !== undefined && slot !== undefined)
      placements.push({ jobId: job.id, instanceId: best.id, slot });
  }
  return placements;
}

/** Whether a job may run on an instance. The price is not asked again: it was when the instance was rented. */
export function fits(
  job: Pick<WaitingJob, 'requirements' | 'wantedInstanceId'>,
  instance: InstanceFacts,
): boolean {
  if (job.wantedInstanceId !== null && job.wantedInstanceId !== instance.id) return false;
  const wanted = job.requirements;
  if (wanted === null) return true;
  return (
    acceptsGpu(wanted, instance.gpuName ?? '') &&
    isOneOf(wanted.regions, instance.region) &&
    (instance.gpuCount ?? 1) >= wanted.gpuCount &&
    satisfiesVram(wanted, instance.vramGb ?? 0)
  );
}

/** Whether an instance surely satisfies requirements once it is ready, whatever machine it becomes. */
export function willFit(wanted: RequestedRequirements | null, instance: ExpectedFacts): boolean {
  if (wanted === null) return true;
  if (instance.machineKnown) return fits({ requirements: wanted, wantedInstanceId: null }, instance);
  const asked = instance.requirements;
  return (
    asked !== null &&
    isWithin(asked.gpuNames.map(gpuNameOfApi), wanted.gpuNames.map(gpuNameOfApi)) &&
    isWithin(asked.regions, wanted.regions) &&
    asked.gpuCount >= wanted.gpuCount &&
    asked.minVramGb >= wanted.minVramGb
  );
}

/** Whether all that `asked` accepts is accepted; an empty list accepts everything. */
function isWithin(asked: readonly string[], accepted: readonly string[]): boolean {
  return accepted.length === 0 || (asked.length > 0 && asked.every((name) => accepted.includes(name)));
}

function isOneOf(accepted: readonly string[], fact: string | null): boolean {
  return accepted.length === 0 || (fact !== null && accepted.includes(fact));
}

function freeCount(free: ReadonlyMap<string, number[]>, instance: FreeInstance): number {
  return free.get(instance.id)?.length ?? 0;
}
