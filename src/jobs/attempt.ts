// The end of an attempt: the one transaction that writes it, with what it means for its job.
import { sql, type Transaction } from 'kysely';
import type { QueueMessages, Queues } from '../database/queues.ts';
import type { JobRow, Tables } from '../database/tables.ts';
import { beginAttempt } from './begin-attempt.ts';
import { endJobs } from './ending.ts';
import { appendEvent } from './events.ts';
import { isFinal, jobStatusesBefore } from './job.ts';
import { storable } from './json-value.ts';
import { handOnSlots, lockSlots } from './slots.ts';
import {
  consequenceOf,
  type CollectedOutput,
  type Consequence,
  type PastAttempts,
  type Verdict,
} from './verdict.ts';

export type { CollectedOutput, Verdict } from './verdict.ts';

/** Which attempt of which job, and where: the fence of everything that a run writes. */
export type AttemptRef = QueueMessages['run'];

/**
 * Ends the current attempt of a job and frees its slot, if it still has it; another try that stays on the instance begins at once.
 * False when the attempt is no longer the job's: then nothing was written.
 */
export async function endAttempt(
  trx: Transaction<Tables>,
  queues: Queues,
  ref: AttemptRef,
  verdict: Verdict,
  { maxAttempts, now }: { maxAttempts: number; now: Date },
): Promise<boolean> {
  if (verdict.kind === 'again') await holdInstance(trx, ref.instanceId);
  await lockSlots(trx, queues, ref.instanceId);
  const job = await trx
    .selectFrom('jobs')
    .select(['status', 'attempt', 'wanted_instance_id'])
    .where('id', '=', ref.jobId)
    .where('attempt_id', '=', ref.attemptId)
    .where('status', 'in', ['running', 'canceling'])
    .forUpdate()
    .executeTakeFirst();
  if (job === undefined) return false;
  const past = job.attempt === 1 ? noPast : await pastAttempts(trx, ref);
  const next = consequenceOf(job, verdict, past, maxAttempts);
  if (!jobStatusesBefore(next.status).includes(job.status)) return false;

  const outputs = verdict.kind === 'succeeded' ? verdict.outputs : [];
  const freed = await closeAttempt(trx, ref, next, now);
  await writeOutputs(trx, ref.jobId, outputs);
  // After the outputs: who sees the end has seen what came of it.
  await writeJob(trx, queues, ref, job, next, now);
  if (freed && next.retriedFor !== null) {
    await beginAttempt(trx, queues, ref, now);
    return true;
  }
  // Its own was given away before: now another that fetches its outputs may give its slot away.
  if (!freed) await handOnSlots(trx, ref.instanceId);
  return true;
}

/** Another attempt on it will refer to it. */
async function holdInstance(trx: Transaction<Tables>, instanceId: string): Promise<void> {
  await trx.selectFrom('instances').select('id').where('id', '=', instanceId).forKeyShare().execute();
}

const noPast: PastAttempts = { lost: 0, retriedFor: [] };

async function pastAttempts(
  trx: Transaction<Tables>,
  { jobId, attemptId }: AttemptRef,
): Promise<PastAttempts> {
  const past = await trx
    .selectFrom('attempts')
    .select(['outcome', 'retried_for'])
    .where('job_id', '=', jobId)
    .where('id', '<>', attemptId)
    .execute();
  return {
    lost: past.filter(({ outcome }) => outcome === 'lost').length,
    retriedFor: past.flatMap(({ retried_for: error }) => (error === null ? [] : [error])),
  };
}

async function writeOutputs(
  trx: Transaction<Tables>,
  jobId: string,
  outputs: CollectedOutput[],
): Promise<void> {
  const rows = outputs.map((output, position) => ({
    job_id: jobId,
    name: output.name,
    position,
    node_id: output.nodeId,
    kind: output.kind,
    temporary: output.temporary,
    asset_id: output.assetId,
    text: output.text,
    content_type: output.contentType,
    size_bytes: output.sizeBytes,
  }));
  // A statement takes 65,535 values, and a call not many more. The end of the job, in this transaction too, announces them.
  for (let from = 0; from < rows.length; from += 1000) {
    const some = rows.slice(from, from + 1000);
    await sql`
      with stored as (
        ${trx.insertInto('outputs').values(some).returning(['name', 'position'])}
      )
      insert into job_events (job_id, type, data)
      select ${jobId}::uuid, 'output', jsonb_build_object('name', name) from stored order by position`.execute(
      trx,
    );
  }
}

/** Writes the end of the attempt, and frees its slot. False when the slot was not its any more. */
async function closeAttempt(
  trx: Transaction<Tables>,
  { attemptId, jobId, instanceId, slot }: AttemptRef,
  { outcome, reason, retriedFor }: Consequence,
  now: Date,
): Promise<boolean> {
  const { rows } = await sql`
    with closed as (
      update attempts set status = 'ended', outcome = ${outcome}, reason = ${reason === null ? null : storable(reason)},
        retried_for = ${retriedFor}, ended_at = ${now}
      where id = ${attemptId} and status <> 'ended'
    )
    update slots set job_id = null where instance_id = ${instanceId} and slot = ${slot} and job_id = ${jobId}
    returning slot`.execute(trx);
  return rows.length === 1;
}

async function writeJob(
  trx: Transaction<Tables>,
  queues: Queues,
  { jobId, instanceId }: AttemptRef,
  { status: before, attempt }: Pick<JobRow, 'status' | 'attempt'>,
  next: Consequence,
  now: Date,
): Promise<void> {
  const { status } = next;
  if (isFinal(status)) {
    const error = next.error === null ? null : storable(next.error);
    await endJobs(trx, queues, [jobId], { status, error, instanceId, now });
    return;
  }
  await trx
    .updateTable('jobs')
    .set({
      status,
      error: null,
      progress: null,
      queued_at: now,
      started_at: null,
      attempt_id: null,
      waiting_for: null,
    })
    .where('id', '=', jobId)
    .where('status', '=', before)
    .execute();
  const what =
    next.retriedFor === null
      ? 'was lost, and the job waits for another'
      : 'failed, and the job is tried once more';
  const message = `Attempt ${attempt} ${what}. ${next.reason ?? ''}`.trim();
  await appendEvent(trx, jobId, { type: 'log', data: { message: storable(message), attempt } });
  await appendEvent(trx, jobId, {
    type: 'status',
    data: { status, waitingFor: null, instanceId: null, attempt, error: null },
  });
}
