// Work without messages: it looks at everything there is to do, so one call stands for every wake-up before it.
import type { Logger } from 'pino';
import { sleep } from '../support/sleep.ts';
import { createWake } from '../support/wake.ts';
import type { HandlerContext } from './queues.ts';
import { waitAtMost } from './within.ts';
import type { Worker } from './worker.ts';

export interface LoopOptions {
  name: string;
  /** May resolve with the milliseconds after which it wants to look again, although nothing woke it. */
  act: (context: HandlerContext) => Promise<number | void>;
  /** How often it acts although nothing woke it: a wake-up may be lost with the connection that carries it. */
  everyMs: number;
  /** From a wake-up to the call, which then stands for all that came meanwhile. */
  gatherMs: number;
  /** After a call that failed. */
  retryMs: number;
  log: Logger;
}

/** Acts at once and then when it is woken, one call at a time; wake-ups that come during a call bring one more. */
export function startLoop({ name, act, everyMs, gatherMs, retryMs, log }: LoopOptions): Worker {
  const stopping = new AbortController();
  const { signal } = stopping;
  let healthy = true;
  const alarm = createWake();

  async function loop(): Promise<void> {
    while (!signal.aborted) {
      const nextMs = await attempt();
      await pause(nextMs).catch(() => undefined);
    }
  }

  async function pause(nextMs: number): Promise<void> {
    const gatheringMs = healthy ? gatherMs : retryMs;
    await alarm.wait(Math.max(0, nextMs - gatheringMs), signal);
    if (gatheringMs === 0) return;
    await sleep(gatheringMs, signal);
    alarm.forget();
  }

  /** Resolves with the milliseconds until the next call, if nothing wakes it before. */
  async function attempt(): Promise<number> {
    try {
      const nextMs = await act({ signal });
      healthy = true;
      return Math.min(everyMs, nextMs ?? everyMs);
    } catch (error) {
      healthy = false;
      if (!signal.aborted) log.warn({ err: error, loop: name }, 'The work failed and is done again');
      return 0;
    }
  }

  const looping = loop();
  return {
    wake: () => alarm.now(),
    healthy: () => healthy,
    stop: async (timeoutMs) => {
      stopping.abort(new Error('The service stops'));
      await waitAtMost(timeoutMs, looping);
    },
  };
}
