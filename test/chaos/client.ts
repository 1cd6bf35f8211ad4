// A patient caller: it asks whichever service answers, and again when the answer does not come.
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServiceProcess } from './service-process.ts';

export interface Client {
  /** One call. Rejects without an answer, or with a status that is not below 400. */
  call<T>(path: string, init?: { method?: string; json?: unknown }): Promise<T>;
  bytes(path: string): Promise<Buffer>;
}

const callLimitMs = 5_000;
const pauseMs = 150;

export function clientOf(services: readonly ServiceProcess[]): Client {
  let turn = 0;

  async function ask(path: string, { method = 'GET', json }: { method?: string; json?: unknown } = {}) {
    const urls = services.flatMap(({ url }) => (url === null ? [] : [url]));
    const url = urls[turn++ % urls.length];
    if (url === undefined) throw new Error('No service answers.');
    const answer = await fetch(url + path, {
      method,
      signal: AbortSignal.timeout(callLimitMs),
      ...(json === undefined
        ? {}
        : { body: JSON.stringify(json), headers: { 'content-type': 'application/json' } }),
    });
    if (answer.ok) return answer;
    throw new Error(`${method} ${path} answered ${answer.status}: ${await answer.text()}`);
  }

  return {
    call: async <T>(path: string, init?: { method?: string; json?: unknown }) =>
      (await (await ask(path, init)).json()) as T,
    bytes: async (path) => Buffer.from(await (await ask(path)).arrayBuffer()),
  };
}

/** Tries until there is something other than undefined; a rejection counts as not yet. Rejects with the last one after `limitMs`. */
export async function patiently<T>(
  what: string,
  limitMs: number,
  attempt: () => Promise<T | undefined>,
): Promise<T> {
  const deadline = performance.now() + limitMs;
  let last: unknown;
  while (performance.now() < deadline) {
    try {
      const result = await attempt();
      if (result !== undefined) return result;
      last = undefined;
    } catch (error) {
      last = error;
    }
    await sleep(pauseMs);
  }
  throw new Error(`Not within ${limitMs / 1000} s: ${what}`, { cause: last });
}
