import { afterEach, describe, expect, it } from 'vitest';
import { ServiceError } from '../../src/errors.ts';
import { createHealth, type PartHealth, type Probe } from '../../src/http/health.ts';
import { createMetrics } from '../../src/http/metrics.ts';
import { createTestApp, type TestAppOptions } from '../support/http.ts';

const well: PartHealth = { status: 'ok', detail: 'It works.' };
const part =
  (status: PartHealth['status']): Probe =>
  async () => ({ status, detail: `It is ${status}.` });
const failing: Probe = async () => {
  throw new Error('connect ECONNREFUSED db.internal:5432 password=hunter2');
};

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function appWith(options: TestAppOptions = {}) {
  const made = await createTestApp(options);
  closers.push(() => made.app.close());
  return made;
}

describe('GET /health', () => {
  it('says exactly "ok" when all is well, for the frontend that compares it', async () => {
    const { app } = await appWith();
    const response = await app.inject('/health');
    expect(response.statusCode).toBe(200);
    expect(response.json()).toEqual({
      status: 'ok',
      version: expect.stringMatching(/^\d+\.\d+\.\d+/),
      uptimeSeconds: expect.any(Number),
      parts: { database: well, queues: well, provider: well },
    });
  });

  it.each([
    ['the provider fails', { provider: failing }, 200, 'degraded'],
    ['a part beyond the usual fails', { storage: part('unavailable') }, 200, 'degraded'],
    ['the database is slow', { database: part('degraded') }, 200, 'degraded'],
    ['no provider is set up', { provider: part('off') }, 200, 'ok'],
    ['the database fails', { database: failing }, 503, 'unavailable'],
    ['the queues fail', { queues: failing, provider: failing }, 503, 'unavailable'],
  ])('when %s', async (_name, probes, status, expected) => {
    const { app } = await appWith({ probes });
    const response = await app.inject('/health');
    expect(response.statusCode).toBe(status);
    expect(response.json()).toMatchObject({ status: expected });
    expect(response.body).not.toMatch(/hunter2|db\.internal/);
  });

  it('says why a part fails where that is meant for callers', async () => {
    const full = async () => {
      throw new ServiceError('storage_full', 'The disk that holds the files is full.', {
        cause: new Error('ENOSPC hunter2'),
      });
    };
    const { app } = await appWith({ probes: { files: full } });
    const { parts } = (await app.inject('/health')).json<{ parts: Record<string, PartHealth> }>();
    expect(parts['files']).toEqual({
      status: 'unavailable',
      detail: 'The disk that holds the files is full.',
    });
  });

  it('answers a caller with an API key although the database that holds the keys is away', async () => {
    const { app } = await appWith({ probes: { database: failing }, keys: { alice: 'secret' } });
    const response = await app.inject({ url: '/health', headers: { authorization: 'Bearer other' } });
    expect(response.statusCode).toBe(503);
    expect(response.json()).toMatchObject({ status: 'unavailable' });
  });
});

describe('GET /health/ready', () => {
  it.each([
    ['starting', {}, 503, 'The service is starting.'],
    ['running', {}, 200, 'Ready.'],
    ['running', { provider: failing }, 200, 'Ready.'],
    ['running', { database: failing }, 503, 'Database: It does not answer.'],
    ['running', { queues: part('unavailable') }, 503, 'Queues: It is unavailable.'],
    ['stopping', {}, 503, 'The service is stopping.'],
  ] as const)('while %s, with %j', async (phase, probes, status, detail) => {
    const { app, health } = await appWith({ probes });
    health.enter(phase);
    const response = await app.inject('/health/ready');
    expect(response.statusCode).toBe(status);
    expect(response.json()).toMatchObject({ detail });
  });
});

it('GET /health/live answers whatever else fails', async () => {
  const { app, health } = await appWith({ probes: { database: failing, queues: failing } });
  health.enter('stopping');
  expect((await app.inject('/health/live')).statusCode).toBe(200);
});

describe('the check', () => {
  it('asks a part once for many who watch, and again when the answer is old', async () => {
    let asked = 0;
    const counting: Probe = async () => {
      asked++;
      return well;
    };
    const probes = { database: counting, queues: part('ok'), provider: part('ok') };
    const health = createHealth(probes, { cacheMs: 60_000 });
    await Promise.all([health.check(), health.check(), health.check()]);
    await health.check();
    expect(asked).toBe(1);

    const fresh = createHealth(probes, { cacheMs: 0 });
    await fresh.check();
    await fresh.check();
    expect(asked).toBe(3);
  });

  it('does not wait for a part that never answers, and tells it to give up', async () => {
    let signalled: AbortSignal | undefined;
    const silent: Probe = (signal) => {
      signalled = signal;
      return new Promise(() => undefined);
    };
    const probes = { database: silent, queues: part('ok'), provider: part('ok') };
    const report = await createHealth(probes, { timeoutMs: 20 }).check();
    expect(report.database).toEqual({ status: 'unavailable', detail: 'It does not answer.' });
    expect(signalled?.aborted).toBe(true);
  });

  it('survives a part that throws at once', async () => {
    const broken: Probe = () => {
      throw new Error('broken');
    };
    const report = await createHealth({ database: broken, queues: broken, provider: broken }).check();
    expect(report.queues.status).toBe('unavailable');
  });
});

describe('metrics', () => {
  it('count requests by the pattern of their route, and those without one together', async () => {
    const { app } = await appWith();
    for (const url of ['/health/live', '/nope/1', '/nope/2']) await app.inject(url);
    const { body, headers } = await app.inject('/metrics');
    expect(headers['content-type']).toMatch(/^text\/plain/);
    expect(body).toContain('duration_seconds_count{method="GET",route="/health/live",status="200"} 1');
    expect(body).toContain('duration_seconds_count{method="GET",route="none",status="404"} 2');
    expect(body).toContain('process_resident_memory_bytes');
  });

  it('of two services in one process do not mix', () => {
    expect(createMetrics().register).not.toBe(createMetrics().register);
  });
});
