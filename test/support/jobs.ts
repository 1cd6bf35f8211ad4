// Jobs without the rest of the service: a database, a double of ComfyUI behind every instance, and the parts called by hand.
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { v7 as uuid } from 'uuid';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import { createAssets, type Asset } from '../../src/assets/service.ts';
import { openLink } from '../../src/comfyui/link.ts';
import { openSession, type ComfySession } from '../../src/comfyui/session.ts';
import { loadConfig } from '../../src/config.ts';
import type { Database } from '../../src/database/database.ts';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import type { AttemptRef } from '../../src/jobs/attempt.ts';
import type { RunDeps, RunTiming } from '../../src/jobs/deps.ts';
import { dispatch } from '../../src/jobs/dispatch.ts';
import type { JobInput, Workflow } from '../../src/jobs/job.ts';
import { watchJob } from '../../src/jobs/events.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import { openSlots } from '../../src/jobs/placement.ts';
import { presentJob, type JobView } from '../../src/jobs/presentation.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { jobRequestSchema } from '../../src/jobs/schemas.ts';
import { createJobs, type JobService } from '../../src/jobs/service.ts';
import { createWake } from '../../src/support/wake.ts';
import { createLogger } from '../../src/support/log.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { createTestDatabase } from './database.ts';

export interface JobBench {
  readonly database: Database;
  /** For another replica. */
  readonly databaseUrl: string;
  readonly deps: RunDeps;
  readonly jobs: JobService;
  readonly double: ComfyDouble;
  /** The session behind every instance. */
  readonly session: ComfySession;
  /** A ready instance with two open slots. */
  addInstance(facts?: { gpuName?: string; vramGb?: number; region?: string }): Promise<string>;
  /** Accepts a job; nothing is placed yet. */
  submit(workflow: Workflow, request?: Record<string, unknown>): Promise<string>;
  /** Places what can be placed. */
  dispatch(): Promise<number>;
  /** The current attempt of a placed job, as its message has it. */
  attemptOf(jobId: string): Promise<AttemptRef>;
  /** Places jobs and works on the attempt of this one until it ends, or the signal is aborted. */
  run(jobId: string, signal?: AbortSignal): Promise<JobView>;
  job(id: string): Promise<JobView>;
  /** What the job puts into its workflow, which no answer shows. */
  inputsOf(id: string): Promise<JobInput[]>;
  /** Reads the job, at each of its changes, until `done` says so. */
  jobWhen(id: string, done: (job: JobView) => boolean): Promise<JobView>;
  addAsset(bytes: Buffer, fileName: string): Promise<Asset>;
  stop(): Promise<void>;
}

/** Waits of the real service, in a hurry. */
const hurried: RunTiming = {
  pollMs: 1000,
  blindPollMs: 40,
  endedPollMs: 10,
  progressMs: 20,
  guardMs: 50,
  streamWaitMs: 200,
  settleMs: 300,
  confirmStopMs: 1500,
  stalledMs: 300,
  unreachableMs: 5000,
  storageMs: 5000,
  retryMs: 20,
  retryCapMs: 100,
};

/** A signal that is never aborted. */
const forever = new AbortController().signal;

export async function createJobBench(settings: Record<string, string> = {}): Promise<JobBench> {
  const { database, url: databaseUrl, stop: stopDatabase } = await createTestDatabase();
  const { db, queues, notifications } = database;
  const config = loadConfig({ LOG_LEVEL: process.env['TEST_LOG_LEVEL'] ?? 'silent', ...settings });
  const log = createLogger(config);
  const folder = await mkdtemp(join(tmpdir(), 'comfyfleet-jobs-'));
  const assets = createAssets({ db, store: createLocalDiskStore({ dir: folder }), config, log });
  const double = await startComfyDouble();
  const link = openLink({ baseUrl: double.url, token: null, certificateFingerprint: null });
  const session = openSession(link, { log, reconnectBaseMs: 20, reconnectCapMs: 50 });
  const sessions = { get: async () => session };
  const clock = { now: () => new Date() };
  const deps: RunDeps = { db, queues, notifications, assets, config, clock, log, sessions, timing: hurried };
  const nodes = createKnownNodes({ ...deps, canRent: false });
  const jobs = createJobs({ ...deps, nodes });

  async function job(id: string): Promise<JobView> {
    return presentJob(await jobs.get(id), new Date());
  }

  async function attemptOf(jobId: string): Promise<AttemptRef> {
    const row = await db
      .selectFrom('jobs')
      .innerJoin('attempts', 'attempts.id', 'jobs.attempt_id')
      .select(['attempts.id', 'attempts.instance_id', 'attempts.slot'])
      .where('jobs.id', '=', jobId)
      .executeTakeFirstOrThrow();
    return { jobId, attemptId: row.id, instanceId: row.instance_id, slot: row.slot };
  }

  return {
    database,
    databaseUrl,
    deps,
    jobs,
    double,
    session,
    async addInstance({ gpuName = 'RTX 4090', vramGb = 24, region = 'DE' } = {}) {
      const id = uuid();
      await db.transaction().execute(async (trx) => {
        await trx
          .insertInto('instances')
          .values({
            id,
            provider: 'static',
            status: 'ready',
            static_url: `http://instance.invalid/${id}`,
            requirements: JSON.stringify(requirementsSchema.parse({})),
            gpu_name: gpuName,
            gpu_count: 1,
            vram_gb: vramGb,
            region,
          })
          .execute();
        await openSlots(trx, id);
      });
      return id;
    },
    async submit(workflow, request = {}) {
      const body = jobRequestSchema.parse({ workflow, ...request });
      return (await jobs.create({ ...body, apiKey: null })).job.id;
    },
    dispatch: () => dispatch(deps),
    attemptOf,
    async run(jobId, signal = forever) {
      await dispatch(deps);
      await runAttempt(deps, await attemptOf(jobId), { signal });
      return job(jobId);
    },
    job,
    async inputsOf(id) {
      const row = await db.selectFrom('jobs').select('inputs').where('id', '=', id).executeTakeFirstOrThrow();
      return row.inputs;
    },
    async jobWhen(id, done) {
      const wake = createWake();
      const unwatch = watchJob(notifications, id, () => wake.now());
      try {
        for (;;) {
          const view = await job(id);
          if (done(view)) return view;
          await wake.wait(1000, forever);
        }
      } finally {
        unwatch();
      }
    },
    async addAsset(bytes, fileName) {
      const { asset } = await assets.save(Readable.from([bytes]), { fileName, contentType: null });
      return asset;
    },
    async stop() {
      await session.close();
      await link.close();
      await double.stop();
      await stopDatabase();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** A workflow whose result no cache has yet. */
export function fresh(workflow: Workflow): Workflow {
  const copy = structuredClone(workflow);
  const image = Object.values(copy).find(({ class_type }) => class_type === 'EmptyImage');
  if (image !== undefined) image.inputs['color'] = randomBytes(3).readUIntBE(0, 3);
  return copy;
}
