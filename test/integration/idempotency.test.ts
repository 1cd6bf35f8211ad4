// Requests that are repeated under an Idempotency-Key: once, whatever happens between.
import { randomUUID } from 'node:crypto';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forgetKeys } from '../../src/database/once.ts';
import type { App } from '../../src/http/server.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { jobRoutes } from '../../src/jobs/routes.ts';
import { createJobs } from '../../src/jobs/service.ts';
import { startVastDouble } from '../doubles/vast/index.ts';
import { createTestApp } from '../support/http.ts';
import { createJobBench, type JobBench } from '../support/jobs.ts';
import { startTestService } from '../support/service.ts';
import { emptyImage, scaledImage } from '../support/workflows.ts';

const HOUR_MS = 3_600_000;
const keys = { alice: 'a'.repeat(40), bob: 'b'.repeat(40) };

let bench: JobBench;
/** Two replicas: apps and services of their own on one database. */
let apps: App[];
let urls: string[];
/** How far the clock of the services is ahead. */
let aheadMs = 0;

beforeAll(async () => {
  bench = await createJobBench();
  const clock = { now: () => new Date(Date.now() + aheadMs) };
  const nodes = createKnownNodes({ ...bench.deps, canRent: false });
  const replica = () => {
    const jobs = createJobs({ ...bench.deps, nodes, clock });
    return createTestApp({
      keys,
      routes: [losingAnswers(jobRoutes({ jobs, assets: bench.deps.assets }))],
    });
  };
  apps = (await Promise.all([replica(), replica()])).map(({ app }) => app);
  urls = await Promise.all(apps.map((app) => app.listen({ host: '127.0.0.1', port: 0 })));
});
afterAll(async () => {
  await Promise.all(apps.map((app) => app.close()));
  await bench.stop();
});

/** Cuts the connection of a request that asks for it when its answer is complete: as if the process had died there. */
function losingAnswers(routes: FastifyPluginAsyncZod): FastifyPluginAsyncZod {
  return async (app) => {
    app.addHook('onSend', async (request) => {
      if (request.headers['x-lose-answer'] !== undefined) request.raw.socket.destroy();
    });
    await app.register(routes);
  };
}

type Answer = JobView & { code: string; field: string };

interface Sending {
  key?: string;
  body?: object | FormData;
  caller?: 'alice' | 'bob';
  replica?: number;
  headers?: Record<string, string>;
}

async function post({ key, body = {}, caller = 'alice', replica = 0, headers = {} }: Sending) {
  const isForm = body instanceof FormData;
  const answer = await fetch(`${urls[replica]}/jobs`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${keys[caller]}`,
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...(isForm ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    body: isForm ? body : JSON.stringify(body),
  });
  return {
    status: answer.status,
    location: answer.headers.get('location'),
    replayed: answer.headers.get('idempotency-replayed'),
    retryAfter: answer.headers.get('retry-after'),
    body: (await answer.json()) as Answer,
  };
}

/** A body whose jobs can be counted. */
function marked(): { body: { workflow: object; metadata: { mark: string } }; count: () => Promise<number> } {
  const metadata = { mark: randomUUID() };
  const count = async () =>
    (await bench.jobs.list({ status: [], limit: 50, labels: labelsOf(metadata) })).items.length;
  return { body: { workflow: emptyImage, metadata }, count };
}

const labelsOf = (metadata: { mark: string }) => [{ name: 'mark', value: metadata.mark }];

describe('an Idempotency-Key', () => {
  it('makes a repeated request answer for the job that the first one made, as it is now', async () => {
    const { body, count } = marked();
    const key = randomUUID();
    const first = await post({ key, body });
    expect(first).toMatchObject({ status: 201, replayed: null });
    await bench.jobs.cancel(first.body.id);
    const again = await post({ key, body, replica: 1 });
    expect(again).toMatchObject({
      status: 201,
      replayed: 'true',
      location: first.location,
      body: { id: first.body.id, status: 'canceled' },
    });
    expect(await count()).toBe(1);
  });

  it('takes no notice of the order of fields, and of nothing else', async () => {
    const { body } = marked();
    const key = randomUUID();
    const { body: job } = await post({ key, body });
    const reordered = {
      metadata: body.metadata,
      workflow: Object.fromEntries(Object.entries(body.workflow).toReversed()),
    };
    expect((await post({ key, body: reordered })).body.id).toBe(job.id);
    expect(await post({ key, body: { ...body, priority: 1 } })).toMatchObject({
      status: 422,
      replayed: null,
      body: { code: 'idempotency_key_reused', field: 'idempotency-key' },
    });
  });

  it('belongs to the API key that sent it', async () => {
    const { body, count } = marked();
    const key = randomUUID();
    const alice = await post({ key, body });
    const bob = await post({ key, body, caller: 'bob' });
    expect(bob).toMatchObject({ status: 201, replayed: null, body: { apiKey: 'bob' } });
    expect(bob.body.id).not.toBe(alice.body.id);
    expect(await count()).toBe(2);
  });

  it('makes one job of many requests at once, at two replicas', async () => {
    const { body, count } = marked();
    const key = randomUUID();
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, index) => post({ key, body, replica: index % 2 })),
    );
    const accepted = answers.filter(({ status }) => status === 201);
    const refused = answers.filter(({ status }) => status !== 201);
    expect(accepted.filter(({ replayed }) => replayed === null)).toHaveLength(1);
    expect(new Set(accepted.map((answer) => answer.body.id)).size).toBe(1);
    expect(refused.every(({ body: problem }) => problem.code === 'idempotency_in_flight')).toBe(true);
    expect(await count()).toBe(1);
  });

  it('survives that the answer is lost', async () => {
    const { body, count } = marked();
    const key = randomUUID();
    await expect(post({ key, body, headers: { 'x-lose-answer': 'yes' } })).rejects.toThrow('fetch failed');
    expect(await post({ key, body, replica: 1 })).toMatchObject({ status: 201, replayed: 'true' });
    expect(await count()).toBe(1);
  });

  it('is not used up by a request that was refused', async () => {
    const key = randomUUID();
    const { body, count } = marked();
    const inputs = [{ node: '9', input: 'x', value: 1 }];
    expect((await post({ key, body: { ...body, inputs } })).body.code).toBe('invalid_input');
    expect((await post({ key, body: { ...body, priority: 1000 } })).status).toBe(400);
    expect(await post({ key, body })).toMatchObject({ status: 201, replayed: null });
    expect(await count()).toBe(1);
  });

  it('covers the files of a form, and not how the form is written', async () => {
    const key = randomUUID();
    const form = (bytes: string) => {
      const made = new FormData();
      made.set('photo', new Blob([bytes]), 'photo.png');
      made.set(
        'job',
        JSON.stringify({ workflow: scaledImage, inputs: [{ node: '1', input: 'image', file: 'photo' }] }),
      );
      return made;
    };
    const first = await post({ key, body: form('a picture') });
    expect(first.status).toBe(201);
    const again = await post({ key, body: form('a picture') });
    expect(again).toMatchObject({ replayed: 'true', body: { id: first.body.id } });
    expect((await post({ key, body: form('another') })).body.code).toBe('idempotency_key_reused');
  });

  it('is kept for a day', async () => {
    const { body, count } = marked();
    const key = randomUUID();
    await post({ key, body });
    aheadMs = 23 * HOUR_MS;
    expect((await post({ key, body })).replayed).toBe('true');
    aheadMs = 25 * HOUR_MS;
    expect((await post({ key, body: { ...body, priority: 1 } })).replayed).toBe(null);
    expect(await count()).toBe(2);
    // The new record counts, and only it.
    expect((await post({ key, body: { ...body, priority: 1 } })).replayed).toBe('true');
    await forgetKeys(bench.deps.db, new Date(Date.now() + 48 * HOUR_MS));
    const { rows } = await sql`select from idempotency_keys where key = ${key}`.execute(bench.deps.db);
    expect(rows).toHaveLength(1);
    await forgetKeys(bench.deps.db, new Date(Date.now() + 49 * HOUR_MS + 1000));
    expect((await sql`select from idempotency_keys`.execute(bench.deps.db)).rows).toHaveLength(0);
    aheadMs = 0;
  });

  it.each([
    ['nothing', ''],
    ['more than 255 characters', 'k'.repeat(256)],
    ['a character beyond ASCII', 'schlüssel'],
  ])('must not be %s', async (_name, key) => {
    expect(await post({ key, body: { workflow: emptyImage } })).toMatchObject({
      status: 400,
      body: { code: 'invalid_request', field: 'idempotency-key' },
    });
  });
});

describe('a request in flight', () => {
  /** A job for an instance that is locked comes to a halt inside of its transaction. */
  async function holdUp(work: (instanceId: string) => Promise<void>): Promise<void> {
    const instanceId = await bench.addInstance();
    await bench.deps.db.transaction().execute(async (trx) => {
      await trx.selectFrom('instances').select('id').where('id', '=', instanceId).forUpdate().execute();
      await work(instanceId);
    });
  }

  const blocked = async () =>
    (
      await sql<{ pid: number }>`select pid from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`.execute(bench.deps.db)
    ).rows.map(({ pid }) => pid);

  it('keeps others with its key out until it has ended', async () => {
    const key = randomUUID();
    const { body, count } = marked();
    let first: ReturnType<typeof post> | undefined;
    let request = {};
    await holdUp(async (instanceId) => {
      request = { key, body: { ...body, instanceId } };
      first = post(request);
      await expect.poll(blocked).toHaveLength(1);
      const second = await post({ ...request, replica: 1 });
      expect(second).toMatchObject({
        status: 409,
        retryAfter: '1',
        body: { code: 'idempotency_in_flight', field: 'idempotency-key' },
      });
    });
    expect(await first).toMatchObject({ status: 201, replayed: null });
    expect(await post(request)).toMatchObject({ status: 201, replayed: 'true' });
    expect(await count()).toBe(1);
  });

  it('frees its key when it dies', async () => {
    const key = randomUUID();
    const { body, count } = marked();
    await holdUp(async (instanceId) => {
      const first = post({ key, body: { ...body, instanceId } });
      await expect.poll(blocked).toHaveLength(1);
      for (const pid of await blocked())
        await sql`select pg_terminate_backend(${pid})`.execute(bench.deps.db);
      expect((await first).status).toBe(503);
      expect(await post({ key, body, replica: 1 })).toMatchObject({ status: 201, replayed: null });
    });
    expect(await count()).toBe(1);
  });
});

describe('POST /instances', () => {
  it('rents once, however often it is repeated', async () => {
    const vast = await startVastDouble();
    const service = await startTestService({ vast });
    const rent = (key: string, maxLifetimeHours: number) =>
      service.call<{ id: string; code?: string }>('/instances', {
        method: 'POST',
        headers: { 'idempotency-key': key },
        json: { maxLifetimeHours },
      });
    try {
      const answers = [await rent('first', 1), await rent('first', 1)];
      expect(answers.map(({ status }) => status)).toEqual([202, 202]);
      expect(answers.map(({ headers }) => headers.get('idempotency-replayed'))).toEqual([null, 'true']);
      expect(answers[1]?.headers.get('location')).toBe(`/instances/${answers[0]?.body.id}`);
      expect((await rent('first', 2)).body.code).toBe('idempotency_key_reused');
      // The same key means something else on another route.
      const job = await service.call<JobView>('/jobs', {
        method: 'POST',
        headers: { 'idempotency-key': 'first' },
        json: { workflow: emptyImage },
      });
      expect(job.status).toBe(201);
      const { body } = await service.call<{ items: object[] }>('/instances');
      expect(body.items).toHaveLength(1);
    } finally {
      await service.stop();
      await vast.stop();
    }
  });
});
