// Rows of jobs turned into what the API shows.
import type { z } from 'zod';
import type { AttemptRow } from '../database/tables.ts';
import { plainLink, type LinkTo } from '../http/signed-links.ts';
import type { JobCost } from './cost.ts';
import { isFinal } from './job.ts';
import { outputUrl } from './output.ts';
import type { jobSchema, jobSummarySchema, outputSchema } from './schemas.ts';
import type { ComingColumns, JobDetails, JobSummaryRow, StoredOutput } from './records.ts';

export type JobView = z.output<typeof jobSchema>;

export function presentSummary(job: JobSummaryRow): z.output<typeof jobSummarySchema> {
  return {
    id: job.id,
    status: job.status,
    waitingFor: job.status === 'queued' ? (job.waiting_for ?? 'It has just been accepted.') : null,
    progress: isFinal(job.status) ? null : job.progress,
    error: job.error,
    instanceId: job.status === 'queued' ? null : job.instance_id,
    attempt: job.attempt,
    priority: job.priority,
    metadata: job.metadata,
    batchId: job.batch_id,
    apiKey: job.api_key,
    createdAt: job.created_at.toISOString(),
    startedAt: textOf(job.started_at),
    finishedAt: textOf(job.finished_at),
  };
}

export function presentJob(
  { job, attempts, outputs, coming }: JobDetails,
  now: Date,
  cost: JobCost | null = null,
  linkTo: LinkTo = plainLink,
): JobView {
  return {
    ...presentSummary(job),
    comingInstance: presentComing(coming),
    wantedInstanceId: job.wanted_instance_id,
    requirements: job.requirements,
    timeLimitSeconds: job.time_limit_ms / 1000,
    waitLimitSeconds: job.wait_limit_ms / 1000,
    webhookUrl: job.webhook_url,
    attempts: attempts.map(presentAttempt),
    outputs: outputs.map((output) => presentOutput(job.id, output, linkTo)),
    outputsReused: attempts.at(-1)?.outputs_reused ?? null,
    seeds: job.seeds,
    timings: timingsOf(job, attempts.at(-1), now),
    cost,
    urls: {
      self: `/jobs/${job.id}`,
      events: `/jobs/${job.id}/events`,
      cancel: `/jobs/${job.id}/cancel`,
    },
  };
}

/** The instance that a queued job waits for; null where none is on its way for it. */
export function presentComing(coming: ComingColumns | null): JobView['comingInstance'] {
  if (coming === null || coming.coming_id === null) return null;
  return {
    id: coming.coming_id,
    phase: coming.coming_phase,
    phaseStartedAt: textOf(coming.coming_since),
    message: coming.coming_message,
  };
}

export function presentOutput(
  jobId: string,
  output: StoredOutput,
  linkTo: LinkTo = plainLink,
): z.output<typeof outputSchema> {
  return {
    name: output.name,
    url: linkTo(outputUrl(jobId, output.name)),
    kind: output.kind,
    nodeId: output.node_id,
    temporary: output.temporary,
    assetId: output.asset_id,
    contentType: output.content_type,
    sizeBytes: output.size_bytes,
    text: output.text,
    expiredAt: textOf(output.expired_at),
  };
}

function presentAttempt(attempt: AttemptRow): JobView['attempts'][number] {
  return {
    number: attempt.number,
    instanceId: attempt.instance_id,
    status: attempt.status,
    outcome: attempt.outcome,
    reason: attempt.reason,
    createdAt: attempt.created_at.toISOString(),
    submittedAt: textOf(attempt.submitted_at),
    startedAt: textOf(attempt.started_at),
    executedAt: textOf(attempt.executed_at),
    endedAt: textOf(attempt.ended_at),
  };
}

function timingsOf(job: JobSummaryRow, attempt: AttemptRow | undefined, now: Date): JobView['timings'] {
  return {
    waitingMs: between(job.created_at, job.started_at),
    stagingMs: between(attempt?.created_at, attempt?.submitted_at),
    executingMs: between(attempt?.started_at, attempt?.executed_at),
    collectingMs: between(attempt?.collecting_at ?? attempt?.executed_at, attempt?.ended_at),
    totalMs: between(job.created_at, job.finished_at ?? now),
  };
}

function between(from: Date | null | undefined, to: Date | null | undefined): number | null {
  if (from == null || to == null) return null;
  return Math.max(0, to.getTime() - from.getTime());
}

function textOf(time: Date | null): string | null {
  return time === null ? null : time.toISOString();
}
