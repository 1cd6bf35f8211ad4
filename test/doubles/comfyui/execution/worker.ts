// The worker thread: takes one prompt after the other, and never comes back once it has died.
import { NodeError, ProcessEnded } from '../nodes/definition.ts';
import type { PromptQueue } from '../queue.ts';
import { executePrompt, type ExecutorTools } from './executor.ts';

export interface WorkerOptions extends ExecutorTools {
  readonly queue: PromptQueue;
  readonly signal: AbortSignal;
  /** Set by POST /free, looked at after the current job. */
  readonly free: { memory: boolean };
}

/** How often a wedged worker looks whether the knob was turned back, in milliseconds. */
const WEDGE_POLL_MS = 20;

/** Resolves when the process ends or the thread has died. */
export async function runWorker(options: WorkerOptions): Promise<void> {
  try {
    while (!options.signal.aborted) await runNext(options);
  } catch (error) {
    if (error instanceof ProcessEnded || error instanceof NodeError) return;
    throw error;
  }
}

async function runNext(options: WorkerOptions): Promise<void> {
  const { queue, hub, knobs, counters, signal, free } = options;
  if (knobs.wedged) return options.wait(WEDGE_POLL_MS);
  if (free.memory) {
    free.memory = false;
    options.cache.clear();
  }
  const item = queue.take();
  if (item === undefined) return queue.changed(signal);

  counters.executionsStarted += 1;
  counters.executionsOf[item.promptId] = (counters.executionsOf[item.promptId] ?? 0) + 1;
  const entry = await executePrompt(item, options);
  if (knobs.historyDelayMs > 0) await options.wait(knobs.historyDelayMs);
  if (signal.aborted) return;
  counters.executionsFinished += 1;
  queue.finish(item, entry);
  const clientId = options.current.clientId;
  if (clientId !== null) hub.send('executing', { node: null, prompt_id: item.promptId }, clientId);
}
