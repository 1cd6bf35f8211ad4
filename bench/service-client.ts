// A caller of the service: submits a job, learns of its end over the event stream or by waiting, and fetches what it produced.
import { call, download, follow, type Sink } from './http.ts';
import { wallClock } from './stats.ts';
import { workflowOf, type Work } from './workload.ts';

export interface JobTimes {
  seed: number;
  /** By the clock of the wall. */
  submittedAt: number;
  /** Until the caller knows that the job succeeded; its output is stored then. In milliseconds since the submit. */
  knownMs: number;
  /** Where the bytes of its output are. */
  outputUrl: string;
}

interface JobAnswer {
  id: string;
  status: string;
  outputs: { url: string }[];
}

interface StreamEvent {
  type: string;
  data: { status?: string; url?: string };
}

/** Runs one job and follows its event stream to the end. */
export async function runJob(base: string, work: Work): Promise<JobTimes> {
  const { seed, workflow } = workflowOf(work);
  const submittedAt = wallClock();
  const start = performance.now();
  const job = await call<JobAnswer>('POST', `${base}/jobs`, { json: { workflow } });
  let outputUrl = '';
  for await (const { type, data } of eventsOf(base, job.id)) {
    if (type === 'output') outputUrl = `${base}${data.url}`;
    if (type !== 'status' || !isFinal(data.status)) continue;
    const knownMs = performance.now() - start;
    if (data.status !== 'succeeded') throw new Error(`A job ended as ${data.status}: ${base}/jobs/${job.id}`);
    return { seed, submittedAt, knownMs, outputUrl };
  }
  throw new Error('The event stream ended before its job.');
}

/** Runs one job with a request that waits for its end; null where the service does not offer that. */
export async function runJobWaiting(base: string, work: Work): Promise<JobTimes | null> {
  const { seed, workflow } = workflowOf(work);
  const submittedAt = wallClock();
  const start = performance.now();
  const headers = { prefer: 'wait=60' };
  const job = await call<JobAnswer>('POST', `${base}/jobs`, { json: { workflow }, headers });
  const knownMs = performance.now() - start;
  if (job.status !== 'succeeded') return null;
  const [output] = job.outputs;
  return { seed, submittedAt, knownMs, outputUrl: `${base}${output?.url ?? ''}` };
}

/** Fetches the output of a job. Rejects when it is not as large as it should be. Resolves with the milliseconds. */
export async function fetchOutput({ outputUrl }: JobTimes, work: Work, sink: Sink | null): Promise<number> {
  const start = performance.now();
  const bytes = await download(outputUrl, sink);
  if (bytes !== work.outputBytes) throw new Error(`An output has ${bytes} bytes, not ${work.outputBytes}.`);
  return performance.now() - start;
}

/** The events of a job as they come. */
export async function* eventsOf(base: string, jobId: string): AsyncGenerator<StreamEvent> {
  let text = '';
  for await (const piece of follow(`${base}/jobs/${jobId}/events`)) {
    const frames = (text + piece).split('\n\n');
    text = frames.pop() ?? '';
    for (const frame of frames) {
      const type = /^event: (.*)$/m.exec(frame)?.[1];
      const data = /^data: (.*)$/m.exec(frame)?.[1];
      if (type !== undefined && data !== undefined) yield { type, data: JSON.parse(data) };
    }
  }
}

function isFinal(status: string | undefined): boolean {
  return ['succeeded', 'failed', 'canceled', 'expired'].includes(status ?? '');
}
