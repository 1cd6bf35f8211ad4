// The job and its attempts: statuses, errors, progress, and which may follow which.

export const jobStatuses = [
  'queued',
  'running',
  'canceling',
  'succeeded',
  'failed',
  'canceled',
  'expired',
] as const;
export type JobStatus = (typeof jobStatuses)[number];

/** Which status may follow which. A running job goes back to `queued` when its instance is lost and another try is allowed. */
const jobTransitions: Record<JobStatus, readonly JobStatus[]> = {
  queued: ['running', 'canceled', 'expired', 'failed'],
  running: ['succeeded', 'failed', 'canceling', 'queued'],
  canceling: ['canceled', 'succeeded', 'failed'],
  succeeded: [],
  failed: [],
  canceled: [],
  expired: [],
};

/** The statuses that nothing follows. */
export type FinalStatus = 'succeeded' | 'failed' | 'canceled' | 'expired';

export function isFinal(status: JobStatus): status is FinalStatus {
  return jobTransitions[status].length === 0;
}

/** The statuses from which `to` may be reached: the guard of every write of a status. */
export function jobStatusesBefore(to: JobStatus): JobStatus[] {
  return jobStatuses.filter((from) => jobTransitions[from].includes(to));
}

/** Why a job failed or expired. */
export const jobErrorCodes = [
  'node_error',
  'invalid_workflow',
  'invalid_input',
  'input_unavailable',
  'out_of_memory',
  'time_limit',
  'wait_limit',
  'instance_lost',
  'prompt_lost',
  'output_unavailable',
  'unexpected_answer',
] as const;
export type JobErrorCode = (typeof jobErrorCodes)[number];

/** The errors that another try on an instance with freed memory may cure: one, and no more. */
export type RetriedError = Extract<JobErrorCode, 'out_of_memory' | 'output_unavailable'>;

export interface JobError {
  code: JobErrorCode;
  /** What happened and what to do, for a person. */
  detail: string;
  nodeId?: string;
  nodeType?: string;
  exceptionType?: string;
  /** ComfyUI's own findings, node by node, where it refused the workflow. */
  nodeErrors?: Record<string, unknown>;
  /** With which it would probably run. */
  requirements?: { minVramGb: number };
}

/** A snapshot of a running job. Fractions are 0 to 1. */
export interface JobProgress {
  /** What the attempt is doing. */
  phase: 'staging' | 'waiting' | 'executing' | 'collecting';
  /** Part of the nodes that are done, the steps of the current one included. */
  fraction: number;
  nodesDone: number;
  nodesTotal: number;
  currentNode: string | null;
  currentNodeType: string | null;
  step: number | null;
  steps: number | null;
}

/** A value for one input of one node of the workflow: a `value`, or a file as `assetId` or `url`. A fetched `url` has an `assetId` too. */
export interface JobInput {
  node: string;
  input: string;
  value?: unknown;
  assetId?: string;
  url?: string;
  /** What the file was called when the job was accepted, or fetched: others may call the same bytes otherwise. */
  fileName?: string;
  /** The value was drawn for this job. */
  random?: true;
}

/** A number that decides what is random in a job. */
export interface JobSeed {
  node: string;
  input: string;
  value: number;
}

/** One node of an API-format workflow. */
export interface WorkflowNode {
  class_type: string;
  inputs: Record<string, unknown>;
  _meta?: Record<string, unknown>;
}
export type Workflow = Record<string, WorkflowNode>;

export const attemptStatuses = ['staging', 'submitted', 'collecting', 'ended'] as const;
export type AttemptStatus = (typeof attemptStatuses)[number];
export type AttemptOutcome = 'succeeded' | 'failed' | 'canceled' | 'lost';

export const outputKinds = ['image', 'video', 'audio', 'model', 'text', 'file'] as const;
export type OutputKind = (typeof outputKinds)[number];
