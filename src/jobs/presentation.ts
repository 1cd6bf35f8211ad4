// Rows of jobs turned into what the API shows.
import type { z } from 'zod';
import type { AttemptRow, JobRow } from '../database/tables.ts';
import type { JobCost } from './cost.ts';
import { isFinal } from './job.ts';
import { outputUrl } from './output.ts';
import type { jobSchema, jobSummarySchema, outputSchema } from './schemas.ts';
import type { JobDetails, JobSummaryRow, StoredOutput } from './records.ts';

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
    createdAt: job.created_at.toISOString(),
    startedAt: textOf(job.started_at),
    finishedAt: textOf(job.finished_at),
  };
}

export function presentJob(
  { job, attempts, outputs }: JobDetails,
  now: Date,
  cost: JobCost | null = null,
): JobView {
  return {
    ...presentSummary(job),
    wantedInstanceId: job.wanted_instance_id,
    requirements: job.requirements,
    timeLimitSeconds: job.time_limit_ms / 1000,
    waitLimitSeconds: job.wait_limit_ms / 1000,
    attempts: attempts.map(presentAttempt),
    outputs: outputs.map((output) => presentOutput(job.id, output)),
    timings: timingsOf(job, attempts.at(-1), now),
    cost,
    urls: {
      self: `/jobs/${job.id}`,
      events: `/jobs/${job.id}/events`,
      cancel: `/jobs/${job.id}/cancel`,
    },
  };
}

export function presentOutput(jobId: string, output: StoredOutput): z.output<typeof outputSchema> {
  return {
    name: output.name,
    url: outputUrl(jobId, output.name),
    kind: output.kind,
    nodeId: output.node_id,
    temporary: output.temporary,
    assetId: output.asset_id,
    contentType: output.content_type ?? 'text/plain',
    sizeBytes: output.size_bytes ?? Buffer.byteLength(output.text ?? ''),
    text: output.text,
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

function timingsOf(job: JobRow, attempt: AttemptRow | undefined, now: Date): JobView['timings'] {
  return {
    waitingMs: between(job.created_at, job.started_at),
    stagingMs: between(attempt?.created_at, attempt?.submitted_at),
    executingMs: between(attempt?.started_at, attempt?.executed_at),
    collectingMs: between(attempt?.executed_at, attempt?.ended_at),
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
