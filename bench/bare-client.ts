// What everything is compared with: the least that a program of one's own does to run a workflow on ComfyUI and have its file. It
// keeps one WebSocket and its HTTP connections open, stores nothing else, and survives nothing.
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { WebSocket } from 'ws';
import { call, download, getJson } from './http.ts';
import { wallClock } from './stats.ts';
import { workflowOf, type Work } from './workload.ts';

export interface BareClient {
  /** Runs one workflow and saves its file. Resolves with the times since the submit, in milliseconds. */
  run(work: Work): Promise<BareTimes>;
}

export interface BareTimes {
  seed: number;
  /** By the clock of the wall. */
  submittedAt: number;
  /** Until the event that says that it succeeded. */
  executedMs: number;
  /** Until its file was saved. */
  totalMs: number;
}

interface HistoryAnswer {
  [promptId: string]: {
    outputs: Record<string, { images: { filename: string; subfolder: string; type: string }[] }>;
  };
}

const endLimitMs = 300_000;

/** Connected and ready; closes with the scenario. Files are written into `folder`, flushed to the disk where `flush` says so. */
export async function openBareClient(
  url: string,
  { folder, flush = false, stack }: { folder: string; flush?: boolean; stack: AsyncDisposableStack },
): Promise<BareClient> {
  const clientId = randomUUID();
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws?clientId=${clientId}`);
  stack.defer(() => socket.terminate());
  await once(socket, 'open');
  const waiting = new Map<string, PromiseWithResolvers<void>>();
  socket.on('message', (data: Buffer, isBinary) => {
    if (isBinary) return;
    const { type, data: facts }: Frame = JSON.parse(data.toString('utf8'));
    if (type === 'execution_success') waiting.get(facts.prompt_id)?.resolve();
    if (type === 'execution_error') waiting.get(facts.prompt_id)?.reject(new Error('The workflow failed.'));
  });

  return {
    async run(work) {
      const { seed, workflow } = workflowOf(work);
      const promptId = randomUUID();
      const ended = Promise.withResolvers<void>();
      waiting.set(promptId, ended);
      const limit = setTimeout(() => ended.reject(new Error('No workflow takes so long.')), endLimitMs);
      try {
        const submittedAt = wallClock();
        const start = performance.now();
        const json = { prompt: workflow, prompt_id: promptId, client_id: clientId };
        await Promise.all([call('POST', `${url}/prompt`, { json }), ended.promise]);
        const executedMs = performance.now() - start;
        const query = new URLSearchParams(await fileOf(url, promptId));
        await download(`${url}/view?${query.toString()}`, { path: join(folder, `bare-${promptId}`), flush });
        return { seed, submittedAt, executedMs, totalMs: performance.now() - start };
      } finally {
        clearTimeout(limit);
        waiting.delete(promptId);
      }
    },
  };
}

interface Frame {
  type: string;
  data: { prompt_id: string };
}

/** ComfyUI 0.33 announces the end a moment before it writes the history. */
async function fileOf(url: string, promptId: string): Promise<Record<string, string>> {
  for (;;) {
    const { [promptId]: entry } = await getJson<HistoryAnswer>(`${url}/history/${promptId}`);
    if (entry === undefined) continue;
    const [file] = Object.values(entry.outputs).flatMap(({ images }) => images);
    if (file === undefined) throw new Error('The workflow left no file.');
    return { ...file };
  }
}
