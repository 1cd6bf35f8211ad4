// How an attempt ended, and what that means for its job: pure.
import type { JobRow } from '../database/tables.ts';
import type { AttemptOutcome, JobError, JobStatus, OutputKind, RetriedError } from './job.ts';

/** A result as it is stored; exactly one of `assetId` and `text` is set. */
export interface CollectedOutput {
  name: string;
  nodeId: string;
  kind: OutputKind;
  temporary: boolean;
  assetId: string | null;
  text: string | null;
  contentType: string;
  sizeBytes: number;
}

/** The part of it that is known once a file is stored. */
export type CollectedFile = Pick<CollectedOutput, 'assetId' | 'kind' | 'contentType' | 'sizeBytes'>;

/** How an attempt ended. */
export type Verdict =
  | { kind: 'succeeded'; outputs: CollectedOutput[] }
  | { kind: 'failed'; error: JobError }
  /** In a way that another try may cure, on an instance with freed memory: worth one try. */
  | { kind: 'again'; error: JobError & { code: RetriedError } }
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
  /** `queued` where the job is tried once more. */
  status: JobStatus;
  outcome: AttemptOutcome;
  error: JobError | null;
  reason: string | null;
  retriedFor: RetriedError | null;
}

/** What has become of the attempts of a job before this one. */
export interface PastAttempts {
  lost: number;
  retriedFor: readonly RetriedError[];
}

type Ending = Pick<JobRow, 'status' | 'wanted_instance_id'>;

/** What becomes of a job when its attempt ends. `maxLosses` attempts may be lost before it is given up. */
export function consequenceOf(
  job: Ending,
  verdict: Verdict,
  past: PastAttempts,
  maxLosses: number,
): Consequence {
  switch (verdict.kind) {
    case 'succeeded':
      return end('succeeded', 'succeeded');
    case 'failed':
      return end('failed', 'failed', verdict.error, verdict.error.detail);
    case 'again':
      return afterCurable(job, verdict.error, past);
    case 'canceled':
      return end('canceled', 'canceled', null, verdict.reason);
    default:
      return afterLoss(job, verdict, past, maxLosses);
  }
}

function afterCurable(
  { status }: Ending,
  error: JobError & { code: RetriedError },
  { retriedFor }: PastAttempts,
): Consequence {
  if (status === 'canceling') return end('canceled', 'failed', null, error.detail);
  if (!retriedFor.includes(error.code))
    return { ...end('queued', 'failed', null, error.detail), retriedFor: error.code };
  const detail = `${error.detail} It was tried twice, the second time after the memory of the instance had been freed.`;
  return end('failed', 'failed', { ...error, detail }, error.detail);
}

function afterLoss(
  job: Ending,
  { code, reason }: Extract<Verdict, { kind: 'lost' }>,
  past: PastAttempts,
  maxLosses: number,
): Consequence {
  if (job.status === 'canceling') return end('canceled', 'lost', null, reason);
  if (code === 'instance_lost' && job.wanted_instance_id !== null) {
    const detail = `${reason} The job asked for this very instance, so it is not tried on another.`;
    return end('failed', 'lost', { code, detail }, reason);
  }
  const losses = past.lost + 1;
  if (losses >= maxLosses) {
    const detail = `${reason} The job was lost ${losses} times and is given up. Submit it again to try further.`;
    return end('failed', 'lost', { code, detail }, reason);
  }
  return end('queued', 'lost', null, reason);
}

function end(
  status: JobStatus,
  outcome: AttemptOutcome,
  error: JobError | null = null,
  reason: string | null = null,
): Consequence {
  return { status, outcome, error, reason, retriedFor: null };
}
