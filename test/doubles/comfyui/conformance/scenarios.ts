// The recorded scenarios, in the order in which they were played, and how to play them again.
import type { ComfyVersion } from '../versions.ts';
import { isEndOf, openSocket, poll, post, send, type Frame, type Socket } from './client.ts';
import { withoutMiddleSteps, type Recording } from './recordings.ts';

export interface Scenario {
  readonly name: string;
  /** Cancelled as soon as that node runs. */
  readonly cancel?: { readonly whenRuns: string; readonly by: 'interrupt' | 'interrupt-id' | 'jobs' };
}

const COMMON: readonly Scenario[] = [
  { name: 'a_success' },
  { name: 'a_cached' },
  { name: 'a_cached_prefix_changed' },
  { name: 'a_no_client_id' },
  { name: 'b_success' },
  { name: 'b_cached' },
  { name: 'c_video' },
  { name: 'c_video_cached' },
  { name: 'd_fail' },
  { name: 'd_fail_again' },
  { name: 'd2_fail_regex' },
];

export const SCENARIOS: Readonly<Record<ComfyVersion, readonly Scenario[]>> = {
  '0.33.0': [
    ...COMMON,
    { name: 'f_progress' },
    { name: 'e_interrupt', cancel: { whenRuns: '1', by: 'interrupt-id' } },
    { name: 'f_interrupt_progress', cancel: { whenRuns: '1', by: 'interrupt-id' } },
    { name: 'e_cancel_job', cancel: { whenRuns: '1', by: 'jobs' } },
    { name: 'e_interrupt_no_client', cancel: { whenRuns: '1', by: 'interrupt' } },
  ],
  '0.3.64': [
    ...COMMON,
    { name: 'e_interrupt', cancel: { whenRuns: '1', by: 'interrupt-id' } },
    // The route does not exist there, so the job runs to its end.
    { name: 'e_cancel_job', cancel: { whenRuns: '1', by: 'jobs' } },
    { name: 'e_interrupt_no_client', cancel: { whenRuns: '3', by: 'interrupt' } },
  ],
};

/** The parts of a recording or a replay that are compared. */
export interface Transcript {
  readonly submit: Recording['submit'];
  readonly clientFrames: readonly Frame[];
  readonly observerFrames: readonly Frame[];
  readonly history: unknown;
  readonly job: unknown;
}

export const recordedTranscript = (recording: Recording): Transcript => ({
  submit: recording.submit,
  clientFrames: withoutMiddleSteps(recording.client_events.map(([, frame]) => frame)),
  observerFrames: recording.observer_events.map(([, frame]) => frame),
  history: recording.history,
  job: recording.job,
});

/**
 * Submits the recorded graph with the recorded client id and writes down all that can be seen of it.
 * `onCancelled` is called once the server has answered the cancel, if the scenario has one.
 */
export async function replay(
  url: string,
  recording: Recording,
  { cancel }: Scenario,
  onCancelled: () => void,
): Promise<Transcript> {
  const [entry] = Object.values(recording.history);
  if (entry === undefined) throw new Error('The recording has no history.');
  const [, , graph, extraData] = entry.prompt;
  const clientId = extraData['client_id'];
  const client = await openSocket(url, typeof clientId === 'string' ? clientId : 'conformance-client');
  const observer = await openSocket(url, 'conformance-observer');
  try {
    const submitted = await post(`${url}/prompt`, {
      prompt: graph,
      ...(typeof clientId === 'string' ? { client_id: clientId } : {}),
    });
    const body: { prompt_id: string; number: number } = JSON.parse(submitted.text);
    const id = body.prompt_id;
    if (cancel !== undefined) {
      await client.waitFor((frame) => isRunning(frame, cancel.whenRuns));
      await cancelPrompt(url, id, cancel.by);
      onCancelled();
    }
    await ended(client, observer, id, typeof clientId === 'string');
    const history = await poll(
      () => readHistory(url, id),
      (found) => id in found,
    );
    const job = await send(`${url}/api/jobs/${id}`);
    return {
      submit: [submitted.status, body],
      clientFrames: withoutMiddleSteps(client.frames),
      observerFrames: observer.frames,
      history,
      job: [job.status, job.text === '' ? '' : JSON.parse(job.text)],
    };
  } finally {
    await Promise.all([client.close(), observer.close()]);
  }
}

async function readHistory(url: string, id: string): Promise<Record<string, unknown>> {
  return JSON.parse((await send(`${url}/history/${id}`)).text);
}

/** Both sockets have seen the last frame: the end marker, or the third status where there is none. */
async function ended(client: Socket, observer: Socket, promptId: string, hasClient: boolean): Promise<void> {
  const isLastStatus = (frame: Frame): boolean =>
    frame.type === 'status' && JSON.stringify(frame.data).includes('"queue_remaining":0');
  await Promise.all([
    client.waitFor(hasClient ? isEndOf(promptId) : isLastStatus),
    observer.waitFor(isLastStatus),
  ]);
}

function isRunning({ type, data }: Frame, node: string): boolean {
  const { nodes } = data;
  if (type !== 'progress_state' || typeof nodes !== 'object' || nodes === null) return false;
  return Object.entries(nodes).some(
    ([id, state]: [string, { state?: unknown }]) => id === node && state.state === 'running',
  );
}

async function cancelPrompt(
  url: string,
  id: string,
  by: 'interrupt' | 'interrupt-id' | 'jobs',
): Promise<void> {
  if (by === 'jobs') await post(`${url}/api/jobs/${id}/cancel`, '');
  else await post(`${url}/interrupt`, by === 'interrupt' ? '' : { prompt_id: id });
}
