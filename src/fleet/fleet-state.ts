// What the fleet decides from, and what it may decide.
import type { RequestedRequirements } from '../instances/requirements.ts';
import type { ExpectedFacts } from '../jobs/matching.ts';
import type { Setback } from './setbacks.ts';

/** Queued jobs that want the same and no certain instance. */
export interface Demand {
  /** Names the demand, over restarts and replicas. */
  wish: string;
  /** Null accepts every instance. */
  requirements: RequestedRequirements | null;
  jobs: number;
}

export interface FleetInstance extends ExpectedFacts {
  /** `coming` will be ready, if nothing fails; `ending` drains or is being destroyed. */
  state: 'coming' | 'ready' | 'ending';
  rented: boolean;
  /** The demand that the fleet made it for; null when somebody asked for it. */
  wish: string | null;
  /** Shared by the instances of which only the first to be ready is kept. */
  raceId: string | null;
  readyAt: Date | null;
  /** False where nobody knows whether it will ever take a job again. */
  promising: boolean;
  /** Queued jobs that want this very instance. */
  pinnedJobs: number;
  /** Jobs that it works for, those whose outputs are still being fetched included. */
  busyJobs: number;
  /** Since when a ready instance has had nothing to do. */
  idleSince: Date | null;
  /** How long it may have nothing to do; null for ever. */
  idleLimitMs: number | null;
}

export interface FleetSettings {
  /** Rented instances that are kept although nothing waits for them. */
  minInstances: number;
  /** Instances that the fleet may have at once; 0 rents nothing. */
  maxInstances: number;
  /** Queued jobs that one instance is enough for. */
  jobsPerInstance: number;
  /** Machines that are rented for one place, of which the first to be ready is kept. */
  race: number;
  /** The first wait after an instance that was never ready; it doubles with each further one. */
  retryMs: number;
  /** What is rented for jobs without requirements. */
  requirements: RequestedRequirements;
  /** The disk of what is rented where no other is asked for. */
  diskGb: number;
  /** Why nothing can be rented at all; null when it can. */
  obstacle: string | null;
}

export interface FleetState {
  /** The most urgent first. */
  demands: readonly Demand[];
  /** All that have not ended. */
  instances: readonly FleetInstance[];
  setbacks: readonly Setback[];
}

export interface Rent {
  wish: string;
  /** Null takes the fleet's own. */
  requirements: RequestedRequirements | null;
  /** More than one race each other. */
  machines: number;
}

export interface FleetPlan {
  rent: Rent[];
  /** Have had nothing to do for too long. */
  drain: FleetInstance[];
  /** Have nothing to do and leave no room, within the most that the fleet may have, for what other jobs need. */
  giveWay: FleetInstance[];
  /** Another of the same race was ready before. */
  lostRaces: FleetInstance[];
  /** Nothing waits for them any more, and no machine was rented for them yet. */
  unneeded: FleetInstance[];
  /** Why no more is rented, for each demand that is not wholly covered. */
  notes: Map<string, string>;
  /** When the plan may change although nothing happens. */
  nextLookAt: Date | null;
}
