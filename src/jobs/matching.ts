// Which waiting job goes to which free slot: pure, so that every rule can be tested by itself.
import {
  acceptsGpu,
  gpuNameOfApi,
  NOMINAL_SHARE,
  satisfiesVram,
  type RequestedRequirements,
} from '../instances/requirements.ts';
import { takeTurns, type KeyUse, type Waiting } from './turns.ts';

export interface WaitingJob extends Waiting {
  id: string;
  requirements: RequestedRequirements | null;
  wantedInstanceId: string | null;
  /** Where its last attempt was lost, if there was one. */
  lastInstanceId: string | null;
  /** The same for workflows that need the same models. */
  shape: string | null;
}

/** What requirements are compared with; a null is a fact that nobody knows. */
export interface InstanceFacts {
  id: string;
  gpuName: string | null;
  gpuCount: number | null;
  vramGb: number | null;
  ramGb: number | null;
  diskGb: number | null;
  cudaVersion: number | null;
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
  /** Of the job that was placed there last: its models are loaded. */
  lastShape: string | null;
}

export interface Placement {
  jobId: string;
  instanceId: string;
  slot: number;
}

/**
 * Gives each job, in turn, the best free slot that fits. An instance with two free slots comes before the second slot of a busy one,
 * so that no job waits behind another while a GPU is idle; among equals, one that has the models loaded comes first. An instance that
 * lost the job before comes last of all. `jobs` come in the order that they have among the jobs of their key.
 */
export function matchJobs(
  jobs: readonly WaitingJob[],
  instances: readonly FreeInstance[],
  { uses, now }: { uses: ReadonlyMap<string | null, KeyUse>; now: Date },
): Placement[] {
  const free = instances.map((instance) => ({
    ...instance,
    freeSlots: instance.freeSlots.toSorted((a, b) => a - b),
  }));
  let left = free.reduce((count, { freeSlots }) => count + freeSlots.length, 0);
  const turns = takeTurns(jobs, uses, now);
  const placements: Placement[] = [];
  while (left > 0) {
    const job = turns.next();
    if (job === null) break;
    const instance = bestFor(job, free);
    const slot = instance?.freeSlots.shift();
    if (instance === undefined || slot === undefined) continue;
    placements.push({ jobId: job.id, instanceId: instance.id, slot });
    instance.lastShape = job.shape;
    left -= 1;
    turns.serve(job.apiKey);
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
    satisfiesVram(wanted, instance.vramGb ?? 0) &&
    reaches(instance.ramGb, wanted.minRamGb * NOMINAL_SHARE) &&
    reaches(instance.diskGb, wanted.diskGb ?? 0) &&
    reaches(instance.cudaVersion, wanted.minCuda)
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
    asked.minVramGb >= wanted.minVramGb &&
    asked.minRamGb >= wanted.minRamGb &&
    (asked.diskGb ?? 0) >= (wanted.diskGb ?? 0) &&
    asked.minCuda >= wanted.minCuda
  );
}

/** What nobody knows of a machine, such as one of the settings, does not speak against it. */
function reaches(fact: number | null, least: number): boolean {
  return fact === null || fact >= least;
}

/** Whether all that `asked` accepts is accepted; an empty list accepts everything. */
function isWithin(asked: readonly string[], accepted: readonly string[]): boolean {
  return accepted.length === 0 || (asked.length > 0 && asked.every((name) => accepted.includes(name)));
}

function isOneOf(accepted: readonly string[], fact: string | null): boolean {
  return accepted.length === 0 || (fact !== null && accepted.includes(fact));
}

function bestFor(job: WaitingJob, instances: readonly FreeInstance[]): FreeInstance | undefined {
  const isWarm = ({ lastShape }: FreeInstance) => Number(lastShape !== null && lastShape === job.shape);
  return instances
    .filter((instance) => instance.freeSlots.length > 0 && fits(job, instance))
    .toSorted(
      (a, b) =>
        Number(a.id === job.lastInstanceId) - Number(b.id === job.lastInstanceId) ||
        b.freeSlots.length - a.freeSlots.length ||
        isWarm(b) - isWarm(a) ||
        a.id.localeCompare(b.id),
    )
    .at(0);
}
