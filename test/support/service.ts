// The whole service for tests: real HTTP, a database and a data folder of its own, as impatient as can be.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startService, type Service } from '../../src/app.ts';
import { loadConfig, type Config } from '../../src/config.ts';
import { createLogger } from '../../src/support/log.ts';
import type { VastDouble } from '../doubles/vast/index.ts';
import { createBareDatabase } from './database.ts';

export interface Answer<T> {
  status: number;
  headers: Headers;
  body: T;
}

export interface TestService {
  readonly service: Service;
  readonly url: string;
  readonly config: Config;
  /** Calls a route; a `json` body is sent as JSON, anything else as it is. */
  call<T>(path: string, init?: RequestInit & { json?: unknown }): Promise<Answer<T>>;
  /** Reads a route until `done` says so; rejects after `limitMs` with the last body. */
  until<T>(path: string, done: (body: T) => boolean, limitMs?: number): Promise<T>;
  stop(): Promise<void>;
}

export interface TestServiceOptions {
  vast?: VastDouble;
  comfyUrls?: string[];
  env?: Record<string, string>;
}

export async function startTestService({
  vast,
  comfyUrls = [],
  env = {},
}: TestServiceOptions): Promise<TestService> {
  const database = await createBareDatabase();
  const dataDir = await mkdtemp(join(tmpdir(), 'comfyfleet-service-'));
  const config = loadConfig({
    PORT: '0',
    LOG_LEVEL: process.env['TEST_LOG_LEVEL'] ?? 'silent',
    LOG_FORMAT: 'pretty',
    DATABASE_URL: database.url,
    DATABASE_POOL_SIZE: '5',
    DATA_DIR: dataDir,
    COMFYUI_URLS: comfyUrls.join(','),
    INSTANCE_POLL_SECONDS: '0.1',
    INSTANCE_CHECK_SECONDS: '1',
    RENT_SETTLE_SECONDS: '2',
    VAST_PACING: 'none',
    // Several services share one event loop with what they are tested by.
    LAG_LIMIT_MS: '0',
    ...(vast === undefined ? {} : { VASTAI_API_KEY: vast.apiKey, VAST_API_URL: vast.url }),
    ...env,
  });
  const service = await startService(config, createLogger(config));

  async function call<T>(path: string, init: RequestInit & { json?: unknown } = {}): Promise<Answer<T>> {
    const { json, ...rest } = init;
    const headers = new Headers(rest.headers);
    if (json !== undefined) headers.set('content-type', 'application/json');
    const answer = await fetch(service.url + path, {
      ...rest,
      headers,
      ...(json === undefined ? {} : { body: JSON.stringify(json) }),
    });
    return { status: answer.status, headers: answer.headers, body: (await answer.json()) as T };
  }

  return {
    service,
    url: service.url,
    config,
    call,
    async until<T>(path: string, done: (body: T) => boolean, limitMs = 40_000): Promise<T> {
      const deadline = performance.now() + limitMs;
      // What does not come at once is asked for less and less often: each look has its price for all tests.
      for (let pauseMs = 25; ; pauseMs = Math.min(250, pauseMs * 1.4)) {
        const { body } = await call<T>(path);
        if (done(body)) return body;
        if (performance.now() > deadline)
          throw new Error(`${path} did not get there: ${JSON.stringify(body)}`);
        await sleep(pauseMs);
      }
    },
    async stop() {
      await service.stop();
      await database.drop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}
