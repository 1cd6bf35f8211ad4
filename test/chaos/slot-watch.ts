// Looks at the queues of ComfyUI doubles all the time: an instance has two slots, so no more than two prompts may ever be there.
import { setTimeout as sleep } from 'node:timers/promises';
import { SLOTS_PER_INSTANCE } from '../../src/jobs/placement.ts';
import type { ComfyDouble } from '../doubles/comfyui/index.ts';

export interface SlotWatch {
  /** Ends it. The most prompts seen on one instance at once, how often was looked, and what was too many. */
  stop(): Promise<{ most: number; looks: number; violations: string[] }>;
}

const PAUSE_MS = 40;

/** Ends with `stack` at the latest. */
export function watchSlots(doubles: readonly ComfyDouble[], stack: AsyncDisposableStack): SlotWatch {
  const stopping = new AbortController();
  const violations: string[] = [];
  let most = 0;
  let looks = 0;
  const done = Promise.all(doubles.map(watch));
  stack.defer(async () => {
    stopping.abort();
    await done;
  });

  async function watch({ url }: ComfyDouble): Promise<void> {
    while (!stopping.signal.aborted) {
      const answer = await fetch(`${url}/queue`);
      const queue = (await answer.json()) as { queue_running: unknown[]; queue_pending: unknown[] };
      const count = queue.queue_running.length + queue.queue_pending.length;
      most = Math.max(most, count);
      looks += 1;
      if (count > SLOTS_PER_INSTANCE) violations.push(`slots: ${count} prompts at once on ${url}`);
      await sleep(PAUSE_MS);
    }
  }

  return {
    async stop() {
      stopping.abort();
      await done;
      return { most, looks, violations };
    },
  };
}
