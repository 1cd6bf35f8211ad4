// The fleet on a clock of the test's own: jobs bring instances, and run on them, as in the service, while hours pass in milliseconds.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import { createAssets } from '../../src/assets/service.ts';
import { runFleet } from '../../src/fleet/fleet.ts';
import type { RunDeps } from '../../src/jobs/deps.ts';
import { dispatch } from '../../src/jobs/dispatch.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import { presentJob, type JobView } from '../../src/jobs/presentation.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { jobRequestSchema } from '../../src/jobs/schemas.ts';
import { createJobs, type JobService } from '../../src/jobs/service.ts';
import type { InstanceBench } from './instance-bench.ts';
import { fresh } from './jobs.ts';
import { it as base } from './open.ts';
import { createSimulation, openSimulation, type Simulation, type SimulationOptions } from './simulation.ts';
import { emptyImage } from './workflows.ts';

export interface FleetSimulation extends Simulation {
  readonly jobs: JobService;
  /** Accepts a job that makes an image; its id. */
  readonly submit: (request?: Record<string, unknown>) => Promise<string>;
  readonly job: (id: string) => Promise<JobView>;
  /** Lets time pass until the job is so. Rejects after `limitSeconds`. */
  readonly jobWhen: (id: string, done: (job: JobView) => boolean, limitSeconds?: number) => Promise<JobView>;
  readonly succeeded: (id: string) => Promise<JobView>;
  /** Lets time pass until the job says that it waits for this. */
  readonly waits: (id: string, text: RegExp) => Promise<JobView>;
}

export type SimulateFleet = (options?: SimulationOptions) => Promise<FleetSimulation>;

/** A test that starts simulations by `simulateFleet`; all of them are stopped after the test. */
export const it = base.extend('simulateFleet', ({ open }) => {
  const simulateFleet: SimulateFleet = async (options) => {
    const { bench, rounds, advance } = await openSimulation(options);
    open.defer(() => bench.stop());
    const dir = await mkdtemp(join(tmpdir(), 'comfyfleet-fleet-'));
    open.defer(() => rm(dir, { recursive: true, force: true }));
    const runs = runsOf(bench, dir);
    const simulation = createSimulation(bench, rounds, advance, () => tend(bench, runs));
    return createFleetSimulation(simulation, runs);
  };
  return simulateFleet;
});

function runsOf({ replica, database }: InstanceBench, dir: string): RunDeps {
  const { db, sessions, config, clock, log } = replica;
  const { queues, notifications } = database;
  const assets = createAssets({ db, store: createLocalDiskStore({ dir }), config, log });
  return { db, queues, notifications, assets, sessions, config, clock, log };
}

/** As the loops of the service do when anything has changed; jobs that were placed run to their end before time goes on. */
async function tend({ replica, instances }: InstanceBench, runs: RunDeps): Promise<number> {
  for (;;) {
    await dispatch(runs);
    const nextLookMs = await runFleet({ ...replica, instances, canRent: true });
    // Jobs are told what the fleet says of them.
    await dispatch(runs);
    const placed = await placedAttempts(runs);
    if (placed.length === 0) return nextLookMs ?? Infinity;
    const { signal } = new AbortController();
    await Promise.all(placed.map((attempt) => runAttempt(runs, attempt, { signal })));
  }
}

function placedAttempts({ db }: RunDeps) {
  return db
    .selectFrom('jobs')
    .innerJoin('attempts', 'attempts.id', 'jobs.attempt_id')
    .select(['jobs.id as jobId', 'attempts.id as attemptId', 'attempts.instance_id as instanceId', 'slot'])
    .where('jobs.status', '=', 'running')
    .execute();
}

function createFleetSimulation(simulation: Simulation, runs: RunDeps): FleetSimulation {
  const nodes = createKnownNodes({ ...runs, canRent: true });
  const jobs = createJobs({ ...runs, nodes });
  const fleet: FleetSimulation = {
    ...simulation,
    jobs,
    async submit(request = {}) {
      const body = jobRequestSchema.parse({ workflow: fresh(emptyImage), ...request });
      return (await jobs.create({ ...body, apiKey: null })).job.id;
    },
    async job(id) {
      return presentJob(await jobs.get(id), runs.clock.now());
    },
    async jobWhen(id, done, limitSeconds) {
      let seen = await fleet.job(id);
      await simulation
        .passUntil(async () => done((seen = await fleet.job(id))), limitSeconds)
        .catch((cause: unknown) => {
          throw new Error(`Job ${id} did not get there: ${JSON.stringify(seen)}`, { cause });
        });
      return seen;
    },
    succeeded: (id) => fleet.jobWhen(id, ({ status }) => status === 'succeeded'),
    waits: (id, text) => fleet.jobWhen(id, ({ waitingFor }) => text.test(waitingFor ?? '')),
  };
  return fleet;
}
