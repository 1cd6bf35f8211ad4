// The worker of a queue: when it looks for messages, and that none waits beside a free hand.
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { startWorker, type Claim, type Worker } from '../../src/database/worker.ts';

const RETRY_MS = 20;
const NEVER_MS = 600_000;

let worker: Worker;
/** How many messages each look asked for. */
let looks: number[];
let waiting: string[];
let working: { name: string; end: () => void }[];
/** What a claim waits for before it answers, and the end of a message. */
let claimed: Promise<void>;
let completed: Promise<void>;
/** Messages that are given back, and those that others of their key follow. */
let failing: Set<string>;
let followed: Set<string>;

function start(concurrency: number): void {
  looks = [];
  failing = new Set();
  followed = new Set();
  waiting = [];
  working = [];
  claimed = Promise.resolve();
  completed = Promise.resolve();
  worker = startWorker<string>({
    name: 'test',
    store: {
      claim: async (limit) => {
        looks.push(limit);
        const messages = waiting.splice(0, limit);
        await claimed;
        return messages.map((name) => ({ id: name, retryCount: 0, data: name }));
      },
      touch: async (claims: Claim[]) => claims,
      complete: async ({ id }) => {
        const follows = followed.has(id);
        await completed;
        return follows;
      },
      retry: async () => undefined,
      release: async () => undefined,
    },
    concurrency,
    handler: async (name) => {
      await new Promise<void>((end) => void working.push({ name, end }));
      if (failing.has(name)) throw new Error('failed');
    },
    retryMs: RETRY_MS,
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
  it('looks for nothing before it is woken', async () => {
    start(2);
    await settled();
    expect(looks).toEqual([]);
    send('a');
    await settled();
    expect(names()).toEqual(['a']);
  });

  it('takes as many messages as it has hands, and the next when one is free', async () => {
    start(2);
    send('a', 'b', 'c', 'd');
    await settled();
    expect(names()).toEqual(['a', 'b']);
    end('b');
    await settled();
    expect(names()).toEqual(['a', 'b', 'c']);
  });

  it('takes what waits when two hands get free while it looks', async () => {
    start(2);
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

  it('takes all that come at once, in batches of few sizes', async () => {
    start(7);
    await settled();
    looks = [];
    send('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
    await settled();
    expect(names()).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'g']);
    expect(looks).toEqual([4, 2, 1]);
  });

  it('looks no more at the end of a message beside which a hand was free', async () => {
    start(2);
    send('a');
    await settled();
    looks = [];
    end('a');
    await settled();
    expect(looks).toEqual([]);
  });

  it('looks again at the end of a message that another of its key follows', async () => {
    start(2);
    send('a');
    await settled();
    looks = [];
    followed.add('a');
    end('a');
    await settled();
    expect(looks).toEqual([2]);
  });

  it('looks again when it looked while a message was ending, whose key another may have', async () => {
    start(2);
    send('a');
    await settled();
    const answer = Promise.withResolvers<void>();
    completed = answer.promise;
    end('a');
    await settled();
    send();
    await settled();
    looks = [];
    answer.resolve();
    await settled();
    expect(looks).toEqual([2]);
  });

  it('looks again by itself when it could not, and is not healthy until then', async () => {
    start(2);
    await settled();
    claimed = Promise.reject(new Error('out of reach'));
    worker.wake();
    await settled();
    expect(worker.healthy()).toBe(false);
    claimed = Promise.resolve();
    waiting.push('a');
    await expect.poll(names, { interval: RETRY_MS }).toEqual(['a']);
    expect(worker.healthy()).toBe(true);
  });

  it('looks again after a message that failed, since another of its key may go first', async () => {
    start(2);
    send('a');
    await settled();
    looks = [];
    failing.add('a');
    end('a');
    await settled();
    expect(looks).toEqual([2]);
  });
});
