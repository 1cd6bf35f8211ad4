// The end of an attempt: what it means for its job, and the one transaction that writes it.
import type { Transaction } from 'kysely';
import type { QueueMessages, Queues } from '../database/queues.ts';
import type { JobRow, Tables } from '../database/tables.ts';
import { appendEvent } from './events.ts';
import {
  isFinal,
  jobStatusesBefore,
  type AttemptOutcome,
  type JobError,
  type JobStatus,
  type OutputKind,
} from './job.ts';
import { storable } from './json-value.ts';
import { outputUrl } from './output.ts';

/** Which attempt of which job, and where: the fence of everything that a run writes. */
export type AttemptRef = QueueMessages['run'];

/** A result as it is stored; exactly one of `assetId` and `text` is set. */
export interface CollectedOutput {
  name: string;
  nodeId: string;
  kind: OutputKind;
  temporary: boolean;
  assetId: string | null;
  text: string | null;
}

/** How an attempt ended. */
export type Verdict =
  | { kind: 'succeeded'; outputs: CollectedOutput[] }
  | { kind: 'failed'; error: JobError }
  | { kind: 'canceled'; reason: string }
  /** Through no fault of the job: it may be tried again. */
  | { kind: 'lost'; code: 'instance_lost' | 'prompt_lost'; reason: string };

/** Thrown within a run to end its attempt. */
export class AttemptEnd extends Error {
  readonly verdict: Verdict;

  constructor(verdict: Verdict) {
    super(`The attempt ends: ${verdict.kind}`);
    this.name = 'AttemptEnd';
    this.verdict = verdict;
  }
}

export interface Consequence {
  status: JobStatus;
  outcome: AttemptOutcome;
  error: JobError | null;
  reason: string | null;
}

/** What becomes of a job when its attempt ends. */
export function consequenceOf(
  job: Pick<JobRow, 'status' | 'attempt' | 'wanted_instance_id'>,
  verdict: Verdict,
  maxAttempts: number,
): Consequence {
  switch (verdict.kind) {
    case 'succeeded':
      return { status: 'succeeded', outcome: 'succeeded', error: null, reason: null };
    case 'failed':
      return { status: 'failed', outcome: 'failed', error: verdict.error, reason: verdict.error.detail };
    case 'canceled':
      return { status: 'canceled', outcome: 'canceled', error: null, reason: verdict.reason };
    default:
      return afterLoss(job, verdict, maxAttempts);
  }
}

/** Ends the current attempt of a job and frees its slot. False when the attempt is no longer the job's: then nothing was written. */
export async function endAttempt(
  trx: Transaction<Tables>,
  queues: Queues,
  ref: AttemptRef,
  verdict: Verdict,
  { maxAttempts, now }: { maxAttempts: number; now: Date },
): Promise<boolean> {
  // Slots are locked before jobs, here as in the dispatch and when an instance closes.
  await trx
    .selectFrom('slots')
    .select('slot')
    .where('instance_id', '=', ref.instanceId)
    .where('slot', '=', ref.slot)
    .forUpdate()
    .execute();
  const job = await trx
    .selectFrom('jobs')
    .select(['id', 'status', 'attempt', 'wanted_instance_id'])
    .where('id', '=', ref.jobId)
    .where('attempt_id', '=', ref.attemptId)
    .where('status', 'in', ['running', 'canceling'])
    .forUpdate()
    .executeTakeFirst();
  if (job === undefined) return false;
  const next = consequenceOf(job, verdict, maxAttempts);
  if (!jobStatusesBefore(next.status).includes(job.status)) return false;

  if (verdict.kind === 'succeeded') await writeOutputs(trx, ref.jobId, verdict.outputs);
  await writeAttempt(trx, ref, next, now);
  await writeJob(trx, ref, job, next, now);
  await trx
    .updateTable('slots')
    .set({ job_id: null })
    .where('instance_id', '=', ref.instanceId)
    .where('slot', '=', ref.slot)
    .where('job_id', '=', ref.jobId)
    .execute();
  await queues.send(trx, 'dispatch', {});
  return true;
}

function afterLoss(
  job: Pick<JobRow, 'status' | 'attempt' | 'wanted_instance_id'>,
  { code, reason }: Extract<Verdict, { kind: 'lost' }>,
  maxAttempts: number,
): Consequence {
  if (job.status === 'canceling') return { status: 'canceled', outcome: 'lost', error: null, reason };
  if (code === 'instance_lost' && job.wanted_instance_id !== null) {
    const detail = `${reason} The job asked for this very instance, so it is not tried on another.`;
    return { status: 'failed', outcome: 'lost', error: { code, detail }, reason };
  }
  if (job.attempt >= maxAttempts) {
    const detail = `${reason} The job was tried ${job.attempt} times and is given up. Submit it again to try further.`;
    return { status: 'failed', outcome: 'lost', error: { code, detail }, reason };
  }
  return { status: 'queued', outcome: 'lost', error: null, reason };
}

async function writeOutputs(
  trx: Transaction<Tables>,
  jobId: string,
  outputs: CollectedOutput[],
): Promise<void> {
  for (const [position, { name, nodeId, kind, temporary, assetId, text }] of outputs.entries()) {
    await trx
      .insertInto('outputs')
      .values({
        job_id: jobId,
        name,
        position,
        node_id: nodeId,
        kind,
        temporary,
        asset_id: assetId,
        text,
      })
      .execute();
    const data = { name, kind, nodeId, temporary, url: outputUrl(jobId, name) };
    await appendEvent(trx, jobId, { type: 'output', data });
  }
}

async function writeAttempt(
  trx: Transaction<Tables>,
  { attemptId }: AttemptRef,
  { outcome, reason }: Consequence,
  now: Date,
): Promise<void> {
  await trx
    .updateTable('attempts')
    .set({ status: 'ended', outcome, reason: reason === null ? null : storable(reason), ended_at: now })
    .where('id', '=', attemptId)
    .where('status', '<>', 'ended')
    .execute();
}

async function writeJob(
  trx: Transaction<Tables>,
  { jobId, instanceId }: AttemptRef,
  { status: before, attempt }: Pick<JobRow, 'status' | 'attempt'>,
  next: Consequence,
  now: Date,
): Promise<void> {
  const error = next.error === null ? null : storable(next.error);
  const ending = isFinal(next.status)
    ? { finished_at: now }
    : { queued_at: now, started_at: null, attempt_id: null, waiting_for: null };
  await trx
    .updateTable('jobs')
    .set({
      status: next.status,
      error: error === null ? null : JSON.stringify(error),
      progress: null,
      ...ending,
    })
    .where('id', '=', jobId)
    .where('status', '=', before)
    .execute();
  if (next.status === 'queued') {
    const message = `Attempt ${attempt} was lost, and the job waits for another. ${next.reason ?? ''}`.trim();
    await appendEvent(trx, jobId, { type: 'log', data: { message: storable(message), attempt } });
  }
  const shownInstance = next.status === 'queued' ? null : instanceId;
  await appendEvent(trx, jobId, {
    type: 'status',
    data: { status: next.status, waitingFor: null, instanceId: shownInstance, attempt, error },
  });
}
