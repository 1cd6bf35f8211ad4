// The worker of a queue: when it looks for messages, and that none waits beside a free hand.
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { startWorker, type Claim, type Worker } from '../../src/database/worker.ts';

/** Polling comes too late for any of these tests, so what happens was brought by a wake-up. */
const NEVER_MS = 600_000;

let worker: Worker;
let looks: number;
let waiting: string[];
let working: { name: string; end: () => void }[];
/** What a claim waits for before it answers. */
let claimed: Promise<void>;

function start({ concurrency, looksAgain = false }: { concurrency: number; looksAgain?: boolean }): void {
  looks = 0;
  waiting = [];
  working = [];
  claimed = Promise.resolve();
  worker = startWorker<string>({
    name: 'test',
    store: {
      claim: async (limit) => {
        looks += 1;
        const messages = waiting.splice(0, limit);
        await claimed;
        return messages.map((name) => ({ id: name, retryCount: 0, data: name }));
      },
      touch: async (claims: Claim[]) => claims,
      complete: async () => undefined,
      retry: async () => undefined,
      release: async () => undefined,
    },
    concurrency,
    looksAgain,
    handler: (name) => new Promise((end) => void working.push({ name, end })),
    pollMs: NEVER_MS,
    touchMs: NEVER_MS,
    log: pino({ level: 'silent' }),
  });
}

function send(...names: string[]): void {
  waiting.push(...names);
  worker.wake();
}

const names = () => working.map(({ name }) => name);
const end = (name: string) => working.find((each) => each.name === name)?.end();
/** All that follows from what was done, timers aside. */
const settled = () => new Promise((resolve) => void setImmediate(() => setImmediate(resolve)));

afterEach(async () => {
  for (const each of working) each.end();
  await worker.stop(1_000);
});

describe('a worker', () => {
  it('takes as many messages as it has hands, and the next when one is free', async () => {
    start({ concurrency: 2 });
    send('a', 'b', 'c', 'd');
    await settled();
    expect(names()).toEqual(['a', 'b']);
    end('b');
    await settled();
    expect(names()).toEqual(['a', 'b', 'c']);
  });

  it('takes what waits when two hands get free while it looks', async () => {
    start({ concurrency: 2 });
    send('a', 'b', 'c', 'd');
    await settled();
    const answer = Promise.withResolvers<void>();
    claimed = answer.promise;
    end('a');
    await settled();
    end('b');
    await settled();
    answer.resolve();
    await settled();
    expect(names()).toEqual(['a', 'b', 'c', 'd']);
  });

  it('looks no more at the end of a message beside which a hand was free', async () => {
    start({ concurrency: 2 });
    send('a');
    await settled();
    const before = looks;
    end('a');
    await settled();
    expect(looks).toBe(before);
  });

  it('looks again after each message, and after its end, where a claim may leave out some', async () => {
    start({ concurrency: 2, looksAgain: true });
    await settled();
    const before = looks;
    send('a');
    await settled();
    expect(looks).toBe(before + 2);
    end('a');
    await settled();
    expect(looks).toBe(before + 3);
  });
});
