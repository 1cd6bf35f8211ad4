import { once } from 'node:events';
import type { FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import type { Assets } from '../../src/assets/service.ts';
import type { App } from '../../src/http/server.ts';
import { announceJobs } from '../../src/jobs/events.ts';
import { formAsBody } from '../../src/jobs/form.ts';
import { jobRoutes } from '../../src/jobs/routes.ts';
import { createJobs } from '../../src/jobs/service.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { createTestApp } from '../support/http.ts';
import { createJobBench, fresh, type JobBench } from '../support/jobs.ts';
import { emptyImage, scaledImage } from '../support/workflows.ts';

let bench: JobBench;
let app: App;
let url: string;

beforeAll(async () => {
  bench = await createJobBench({ UPLOAD_LIMIT_MB: '1' });
  await bench.addInstance();
  ({ app } = await createTestApp({
    routes: [jobRoutes({ jobs: bench.jobs, assets: bench.deps.assets })],
  }));
  url = await app.listen({ host: '127.0.0.1', port: 0 });
});
afterAll(async () => {
  await app.close();
  await bench.stop();
});

/** Whatever a route answers: a job, a page of them, or a problem. */
type Body = JobView & {
  items: JobView[];
  nextCursor: string | null;
  code: string;
  field: string;
  detail: string;
};

async function call(
  path: string,
  init?: RequestInit,
  base = url,
): Promise<{ status: number; headers: Headers; body: Body }> {
  const answer = await fetch(base + path, init);
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Body };
}

const post = (path: string, body?: unknown) =>
  call(path, {
    method: 'POST',
    ...(body === undefined
      ? {}
      : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
  });

describe('POST /jobs', () => {
  it('accepts a workflow at once and says where to look', async () => {
    const { status, headers, body } = await post('/jobs', {
      workflow: fresh(emptyImage),
      metadata: { project: 'x' },
      priority: 3,
      timeLimitSeconds: 60,
    });
    expect(status).toBe(201);
    expect(headers.get('location')).toBe(`/jobs/${body.id}`);
    expect(body).toMatchObject({
      status: 'queued',
      waitingFor: expect.any(String),
      metadata: { project: 'x' },
      priority: 3,
      timeLimitSeconds: 60,
      waitLimitSeconds: 86_400,
      attempts: [],
      outputs: [],
      error: null,
      urls: { events: `/jobs/${body.id}/events` },
    });
    await bench.jobs.cancel(body.id);
  });

  it.each([
    ['an unknown field', { workflow: emptyImage, prio: 1 }, 400, 'invalid_request', 'prio'],
    ['no workflow', {}, 400, 'invalid_request', 'workflow'],
    ['a workflow that is none', { workflow: [] }, 422, 'invalid_workflow', 'workflow'],
    ['a UI export', { workflow: { nodes: [], links: [] } }, 422, 'workflow_format_ui', 'workflow'],
    [
      'a node without inputs',
      { workflow: { '3': { class_type: 'X' } } },
      422,
      'invalid_workflow',
      'workflow.3.inputs',
    ],
    [
      'an input for no node',
      { workflow: emptyImage, inputs: [{ node: '9', input: 'x', value: 1 }] },
      422,
      'invalid_input',
      'inputs[0].node',
    ],
    [
      'an asset that is not stored',
      { workflow: emptyImage, inputs: [{ node: '1', input: 'x', assetId: 'ab'.repeat(32) }] },
      422,
      'invalid_input',
      'inputs[0].assetId',
    ],
    [
      'a value that links a node to itself',
      { workflow: emptyImage, inputs: [{ node: '1', input: 'color', value: ['1', 0] }] },
      422,
      'invalid_workflow',
      'workflow.1',
    ],
    [
      'an instance that does not exist',
      { workflow: emptyImage, instanceId: '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21' },
      404,
      'instance_not_found',
      'instanceId',
    ],
    [
      'a NUL in the name of an input',
      { workflow: emptyImage, inputs: [{ node: '1', input: 'a\0b', value: 1 }] },
      400,
      'invalid_request',
      'inputs[0].input',
    ],
    [
      'half a character in a URL',
      { workflow: emptyImage, inputs: [{ node: '1', input: 'x', url: 'https://example.com/\ud800' }] },
      400,
      'invalid_request',
      'inputs[0].url',
    ],
    [
      'a NUL in the name of a GPU',
      { workflow: emptyImage, requirements: { gpuNames: ['RTX\0'] } },
      400,
      'invalid_request',
      'requirements.gpuNames[0]',
    ],
    ['a priority out of bounds', { workflow: emptyImage, priority: 101 }, 400, 'invalid_request', 'priority'],
  ])('refuses %s and names the field', async (_name, body, status, code, field) => {
    const answer = await post('/jobs', body);
    expect(answer.status).toBe(status);
    expect(answer.body).toMatchObject({ code, field, detail: expect.any(String) });
  });

  it('takes a form with the job and its files', async () => {
    const form = new FormData();
    form.set('photo', new Blob(['not really an image']), 'photo.png');
    form.set(
      'job',
      JSON.stringify({ workflow: scaledImage, inputs: [{ node: '1', input: 'image', file: 'photo' }] }),
    );
    const { status, body } = await call('/jobs', { method: 'POST', body: form });
    expect(status).toBe(201);
    const inputs = await bench.inputsOf(body.id);
    const assetId = inputs[0]?.assetId ?? '';
    expect(inputs).toMatchObject([{ node: '1', input: 'image', assetId }]);
    expect(await bench.deps.assets.get(assetId)).toMatchObject({ fileName: 'photo.png', sizeBytes: 19 });
    await bench.jobs.cancel(body.id);
  });

  it.each([
    ['without the job', { photo: new Blob(['x']) }, 'photo'],
    ['with a job that is no JSON', { job: '{' }, 'job'],
    [
      'with a file that no input names',
      { job: JSON.stringify({ workflow: emptyImage }), photo: new Blob(['x']) },
      'photo',
    ],
    ['with another field', { job: '{}', other: 'x' }, 'other'],
  ])('refuses a form %s', async (_name, fields, field) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.set(name, value);
    const answer = await call('/jobs', { method: 'POST', body: form });
    expect(answer.status).toBe(400);
    expect(answer.body.code).toBe('invalid_request');
    if (field !== 'photo' || 'job' in fields) expect(answer.body.field).toBe(field);
  });

  it('takes the job of a form as a file too, as `curl -F job=@job.json` sends it', async () => {
    const form = new FormData();
    form.set(
      'job',
      new Blob([JSON.stringify({ workflow: emptyImage })], { type: 'application/json' }),
      'job.json',
    );
    const { status, body } = await call('/jobs', { method: 'POST', body: form });
    expect(status).toBe(201);
    await bench.jobs.cancel(body.id);
    form.set('job', new Blob([' '.repeat(11_000_000)]), 'job.json');
    expect((await call('/jobs', { method: 'POST', body: form })).body).toMatchObject({
      code: 'payload_too_large',
      field: 'job',
    });
  });

  it.each([
    [
      'takes the job of a form as a field that says it is JSON',
      JSON.stringify({ workflow: emptyImage }),
      201,
    ],
    ['says of such a field that is none what it says of any other', '{bad', 400],
  ])('%s', async (_what, job, expected) => {
    const form = `--x\r\ncontent-disposition: form-data; name="job"\r\ncontent-type: application/json\r\n\r\n${job}\r\n--x--\r\n`;
    const headers = { 'content-type': 'multipart/form-data; boundary=x' };
    const { status, body } = await call('/jobs', { method: 'POST', headers, body: form });
    expect(status).toBe(expected);
    if (status === 201) await bench.jobs.cancel(body.id);
    else expect(body).toMatchObject({ field: 'job', detail: 'The field "job" is not valid JSON.' });
  });

  it('says which file of a form is too large', async () => {
    const form = new FormData();
    form.set('small', new Blob(['x']), 'small.png');
    form.set('large', new Blob([Buffer.alloc(1_100_000)]), 'large.png');
    form.set('job', JSON.stringify({ workflow: scaledImage }));
    const { status, body } = await call('/jobs', { method: 'POST', body: form });
    expect([status, body]).toMatchObject([413, { code: 'payload_too_large', field: 'large' }]);
  });

  describe('with a form that takes long to store', () => {
    const form = new FormData();
    form.set('photo', new Blob(['not really an image']), 'photo.png');
    form.set(
      'job',
      JSON.stringify({
        workflow: scaledImage,
        inputs: [{ node: '1', input: 'image', file: 'photo' }],
      }),
    );

    /** An app that keeps files until `release`. */
    async function slowApp(routes: (assets: Pick<Assets, 'save'>) => FastifyPluginAsyncZod) {
      const { assets } = bench.deps;
      const stored = Promise.withResolvers<void>();
      const { promise: released, resolve: release } = Promise.withResolvers<void>();
      const save: Assets['save'] = async (...file) => {
        const saved = await assets.save(...file);
        stored.resolve();
        await released;
        return saved;
      };
      const slow = (await createTestApp({ routes: [routes({ ...assets, save })] })).app;
      onTestFinished(() => slow.close());
      return { app: slow, stored: stored.promise, release };
    }

    it('lets its connection be silent meanwhile', async () => {
      const slow = await slowApp((assets) =>
        jobRoutes({ jobs: bench.jobs, assets: { ...bench.deps.assets, ...assets } }),
      );
      const base = await slow.app.listen({ host: '127.0.0.1', port: 0 });
      const answer = call('/jobs', { method: 'POST', body: form }, base);
      const [socket] = await once(slow.app.server, 'connection');
      await slow.stored;
      expect(socket.timeout).toBe(0);
      slow.release();
      const { status, body } = await answer;
      expect(status).toBe(201);
      await bench.jobs.cancel(body.id);
    });

    it.each([
      ['makes no job for a client that has gone', {}, 'invalid_request'],
      ['makes the job where a key lets the client ask again', { 'idempotency-key': 'a' }, 'accepted'],
    ])('%s', async (_what, headers, expected) => {
      const outcome = Promise.withResolvers<unknown>();
      const slow = await slowApp((assets) => async (routes) => {
        const read = formAsBody(assets, 'job');
        const preValidation = async (request: FastifyRequest) => {
          const reading = read(request);
          outcome.resolve(
            reading.then(
              () => 'accepted',
              (error: unknown) => Object(error).code,
            ),
          );
          await reading;
        };
        const schema = { consumes: ['multipart/form-data'], body: z.unknown() };
        routes.post('/form', { schema, preValidation }, async () => ({}));
      });
      const base = await slow.app.listen({ host: '127.0.0.1', port: 0 });
      const leaving = new AbortController();
      const [[socket]] = await Promise.all([
        once(slow.app.server, 'connection'),
        slow.stored.then(() => leaving.abort()),
        fetch(`${base}/form`, { method: 'POST', body: form, headers, signal: leaving.signal }).catch(
          () => null,
        ),
      ]);
      if (!socket.destroyed) await once(socket, 'close');
      slow.release();
      expect(await outcome.promise).toBe(expected);
    });
  });

  it('shows its form in the documentation', async () => {
    const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
      paths: Record<string, { post: { requestBody: { content: Record<string, { schema: unknown }> } } }>;
    };
    const { content } = document.paths['/jobs']?.post.requestBody ?? {};
    const job = { $ref: '#/components/schemas/JobRequest' };
    expect(content?.['application/json']?.schema).toEqual(job);
    expect(content?.['multipart/form-data']?.schema).toMatchObject({
      properties: { job },
      required: ['job'],
      additionalProperties: { type: 'string', format: 'binary' },
    });
  });

  it('refuses a file part that did not come', async () => {
    const body = { workflow: scaledImage, inputs: [{ node: '1', input: 'image', file: 'photo' }] };
    expect((await post('/jobs', body)).body).toMatchObject({
      code: 'invalid_input',
      field: 'inputs[0].file',
    });
  });

  it('runs the examples of its own documentation', async () => {
    const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
      components: { schemas: Record<string, { examples?: object[] }> };
    };
    const examples = document.components.schemas['JobRequest']?.examples ?? [];
    expect(examples.length).toBeGreaterThan(0);
    for (const example of examples) {
      const { status, body } = await post('/jobs', example);
      expect(status).toBe(201);
      expect(await bench.run(body.id)).toMatchObject({ status: 'succeeded', outputs: [{ kind: 'image' }] });
    }
  });
});

describe('GET /jobs', () => {
  it('pages through the jobs, newest first, each once', async () => {
    const ids: string[] = [];
    for (let count = 0; count < 5; count += 1) {
      ids.unshift(await bench.submit(emptyImage));
      await bench.jobs.cancel(ids[0] ?? '');
    }
    const seen: string[] = [];
    let cursor = '';
    while (seen.length < 5) {
      const page = await call(`/jobs?limit=2&status=canceled${cursor}`);
      seen.push(...page.body.items.map(({ id }) => id));
      cursor = `&cursor=${page.body.nextCursor}`;
    }
    expect(seen.slice(0, 5)).toEqual(ids);
  });

  it('filters by status and instance', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const { instanceId } = await bench.run(id);
    const path = `/jobs?status=succeeded&status=failed&instanceId=${instanceId}&limit=1`;
    expect((await call(path)).body.items).toMatchObject([{ id, status: 'succeeded' }]);
    const other = await call('/jobs?status=expired');
    expect(other.body).toEqual({ items: [], nextCursor: null });
  });
});

describe('the filters of GET /jobs', () => {
  const idsOf = async (query: string) => (await call(`/jobs?${query}`)).body.items.map(({ id }) => id);

  /** Jobs that nobody runs. */
  async function submitAll(...requests: Record<string, unknown>[]): Promise<string[]> {
    const ids: string[] = [];
    for (const request of requests) {
      ids.push(await bench.submit(emptyImage, request));
      await bench.jobs.cancel(ids.at(-1) ?? '');
    }
    return ids;
  }

  it('find jobs by their labels, of which all must be there', async () => {
    const [red, blue] = await submitAll(
      { metadata: { team: 'one', colour: 'red:ish', 'a b': '=&"\\' } },
      { metadata: { team: 'one', colour: 'blue' } },
      { metadata: { team: 'two', colour: 'red:ish' } },
    );
    expect(await idsOf('label=team:one')).toEqual([blue, red]);
    expect(await idsOf('label=team:one&label=colour:red:ish')).toEqual([red]);
    expect(await idsOf(`label=${encodeURIComponent('a b:=&"\\')}`)).toEqual([red]);
    expect(await idsOf('label=team:one&label=team:two')).toEqual([]);
    expect(await idsOf('label=team:on')).toEqual([]);
  });

  it('find jobs by the time of their acceptance', async () => {
    const [first, second, third] = await submitAll(
      { metadata: { series: 'time' } },
      { metadata: { series: 'time' } },
      { metadata: { series: 'time' } },
    );
    const { createdAt } = await bench.job(second ?? '');
    const between = (from: string, to: string) =>
      idsOf(`label=series:time&createdAfter=${from}&createdBefore=${to}`);
    const justBefore = new Date(Date.parse(createdAt) - 1).toISOString();
    const justAfter = new Date(Date.parse(createdAt) + 1).toISOString();
    expect(await between(justBefore, justAfter)).toContain(second);
    expect(await idsOf(`label=series:time&createdAfter=${createdAt}`)).not.toContain(second);
    expect(await idsOf(`label=series:time&createdBefore=${createdAt}`)).not.toContain(second);
    expect(await between('0000-01-01T00:00:00%2B12:00', '9999-12-31T23:59:59-12:00')).toEqual([
      third,
      second,
      first,
    ]);
  });

  it('find jobs by the API key that they came with', async () => {
    const { job } = await bench.jobs.create({
      workflow: emptyImage,
      inputs: [],
      priority: 0,
      previews: false,
      metadata: {},
      apiKey: 'frontend',
    });
    await bench.jobs.cancel(job.id);
    expect((await call('/jobs?apiKey=frontend')).body.items).toMatchObject([
      { id: job.id, apiKey: 'frontend' },
    ]);
    expect(await idsOf('apiKey=backend')).toEqual([]);
  });

  it('keep their pages apart while jobs come in between', async () => {
    const metadata = { series: 'pages' };
    const ids = await submitAll({ metadata }, { metadata }, { metadata });
    const first = await call('/jobs?label=series:pages&limit=2');
    await submitAll({ metadata });
    const rest = await call(`/jobs?label=series:pages&limit=2&cursor=${first.body.nextCursor}`);
    expect([...first.body.items, ...rest.body.items].map(({ id }) => id)).toEqual(ids.toReversed());
    expect(rest.body.nextCursor).toBeNull();
  });

  it('look labels up in their index', async () => {
    const plan = await bench.deps.db.transaction().execute(async (trx) => {
      await sql`set local enable_seqscan = off`.execute(trx);
      return sql<object>`explain select id from jobs where metadata @> '{"team": "one"}'`.execute(trx);
    });
    expect(JSON.stringify(plan.rows)).toContain('jobs_by_metadata');
  });

  it.each([
    ['label=team', 'label'],
    ['label=:one', 'label'],
    ['label=team:%00', 'label'],
    ['createdAfter=yesterday', 'createdAfter'],
    ['batchId=1', 'batchId'],
    ['apiKey=%00', 'apiKey'],
    ['metadata[team]=one', '["metadata[team]"]'],
  ])('name what is wrong in %s', async (query, field) => {
    expect(await call(`/jobs?${query}`)).toMatchObject({
      status: 400,
      body: { code: 'invalid_request', field },
    });
  });
});

describe('Prefer: wait', () => {
  const waiting = (seconds: number) => ({ headers: { prefer: `wait=${seconds}` } });

  /** The routes in another app, where at most 1 s is waited unless told; how many wait there for news of a job, and what they ask. */
  async function startWaitingRoom(maxSeconds = 1) {
    let watchers = 0;
    let queries = 0;
    const { db, notifications, config } = bench.deps;
    const jobs = createJobs({
      ...bench.deps,
      db: db.withPlugin({
        transformQuery({ node }) {
          queries += 1;
          return node;
        },
        transformResult: async ({ result }) => result,
      }),
      nodes: createKnownNodes({ ...bench.deps, canRent: false }),
      config: { ...config, PREFER_WAIT_MAX_SECONDS: maxSeconds },
      notifications: {
        ...notifications,
        subscribe(...subscription) {
          const unsubscribe = notifications.subscribe(...subscription);
          watchers += 1;
          return () => {
            watchers -= 1;
            unsubscribe();
          };
        },
      },
    });
    const room = await createTestApp({
      routes: [jobRoutes({ jobs, assets: bench.deps.assets })],
    });
    const address = await room.app.listen({ host: '127.0.0.1', port: 0 });
    return { address, close: () => room.app.close(), watchers: () => watchers, queries: () => queries };
  }

  it('answers a look at a job when it has ended', async () => {
    const id = await bench.submit(fresh(emptyImage));
    // However the caller writes the id.
    const answer = call(`/jobs/${id.toUpperCase()}`, waiting(50));
    await bench.run(id);
    const { status, headers, body } = await answer;
    expect([status, headers.get('preference-applied')]).toEqual([200, 'wait=50']);
    expect(body).toMatchObject({ status: 'succeeded', outputs: [{ kind: 'image' }] });
    // It has ended: nothing to wait for.
    expect((await call(`/jobs/${id}`, waiting(50))).body.status).toBe('succeeded');
  });

  it('accepts a job and answers when it has ended', async () => {
    const answer = call('/jobs', {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'respond-async, wait=50' },
      body: JSON.stringify({ workflow: fresh(emptyImage), metadata: { waits: 'yes' } }),
    });
    const accepted = async () => (await call('/jobs?label=waits:yes')).body.items.map(({ id }) => id);
    await expect.poll(accepted).toHaveLength(1);
    const [id = ''] = await accepted();
    await bench.run(id);
    const { status, headers, body } = await answer;
    expect([status, headers.get('preference-applied'), headers.get('location')]).toEqual([
      201,
      'wait=50',
      `/jobs/${id}`,
    ]);
    expect(body).toMatchObject({ id, status: 'succeeded', outputs: [{ kind: 'image' }] });
  });

  it('waits no longer than the setting allows, and says so', async () => {
    const room = await startWaitingRoom();
    const id = await bench.submit(emptyImage);
    const began = performance.now();
    const answer = await fetch(`${room.address}/jobs/${id}`, waiting(500));
    expect(performance.now() - began).toBeGreaterThanOrEqual(999);
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([200, 'wait=1']);
    expect(await answer.json()).toMatchObject({ id, status: 'queued' });
    expect(room.watchers()).toBe(0);
    await room.close();
    await bench.jobs.cancel(id);
  });

  it('looks again when the job has ended, and not at each of its changes', async () => {
    const room = await startWaitingRoom(50);
    const id = await bench.submit(fresh(emptyImage));
    const answer = call(`/jobs/${id}`, waiting(50), room.address);
    await expect.poll(room.watchers).toBe(1);
    for (let change = 0; change < 50; change += 1) await announceJobs(bench.deps.db, [id]);
    await bench.run(id);
    expect((await answer).body.status).toBe('succeeded');
    expect(room.queries()).toBeLessThan(15);
    await room.close();
  });

  it('leaves nothing behind when the caller goes', async () => {
    const room = await startWaitingRoom();
    const id = await bench.submit(emptyImage);
    const leaving = new AbortController();
    const answer = fetch(`${room.address}/jobs/${id}`, { ...waiting(1), signal: leaving.signal });
    await expect.poll(room.watchers).toBe(1);
    const left = performance.now();
    leaving.abort();
    await expect(answer).rejects.toThrow('aborted');
    await expect.poll(room.watchers, { interval: 10 }).toBe(0);
    expect(performance.now() - left).toBeLessThan(800);
    await room.close();
    await bench.jobs.cancel(id);
  });

  it('answers at once when the service stops', async () => {
    const room = await startWaitingRoom();
    const id = await bench.submit(emptyImage);
    const answer = call(`/jobs/${id}`, waiting(1), room.address);
    await expect.poll(room.watchers).toBe(1);
    const stopped = performance.now();
    await room.close();
    const { status, body } = await answer;
    expect(performance.now() - stopped).toBeLessThan(800);
    expect([status, body.status]).toEqual([200, 'queued']);
    await bench.jobs.cancel(id);
  });

  it.each(['wait=soon', 'wait', 'wait="5', 'return=minimal'])('takes no notice of %s', async (prefer) => {
    const id = await bench.submit(emptyImage);
    const answer = await call(`/jobs/${id}`, { headers: { prefer } });
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([200, null]);
    await bench.jobs.cancel(id);
  });

  it('does not hide that there is no such job', async () => {
    const path = '/jobs/0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21';
    expect((await call(path, waiting(50))).body.code).toBe('job_not_found');
  });
});

describe('one job', () => {
  const nobody = '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21';

  it.each([
    ['GET', `/jobs/${nobody}`],
    ['POST', `/jobs/${nobody}/cancel`],
    ['GET', `/jobs/${nobody}/events`],
    ['GET', `/jobs/${nobody}/outputs/x`],
  ])('that does not exist is not found: %s %s', async (method, path) => {
    const answer = await call(path, { method });
    expect(answer).toMatchObject({ status: 404, body: { code: 'job_not_found' } });
  });

  it('is canceled at once while it waits, and canceling it again changes nothing', async () => {
    const id = await bench.submit(emptyImage);
    const first = await post(`/jobs/${id}/cancel`);
    expect(first).toMatchObject({
      status: 200,
      body: { status: 'canceled', finishedAt: expect.any(String) },
    });
    const second = await post(`/jobs/${id}/cancel`);
    expect(second.body.finishedAt).toBe(first.body.finishedAt);
  });

  it('shows what it produced: whole, in part, as an attachment, as text', async () => {
    const text = { '1': { class_type: 'PreviewAny', inputs: { source: 'some words' } } };
    const id = await bench.submit({ ...fresh(emptyImage), '3': text['1'] });
    const job = await bench.run(id);
    const image = job.outputs.find(({ kind }) => kind === 'image');
    const words = job.outputs.find(({ kind }) => kind === 'text');
    const whole = await fetch(url + image?.url);
    expect(whole.headers.get('content-type')).toBe('image/png');
    expect((await whole.arrayBuffer()).byteLength).toBe(image?.sizeBytes);
    const part = await fetch(url + image?.url, { headers: { range: 'bytes=1-3' } });
    expect([part.status, await part.text()]).toEqual([206, 'PNG']);
    const head = await fetch(url + image?.url, { method: 'HEAD' });
    expect(head.headers.get('content-length')).toBe(String(image?.sizeBytes));
    const saved = await fetch(`${url}${image?.url}?download=true`, { method: 'HEAD' });
    expect(saved.headers.get('content-disposition')).toMatch(/^attachment; filename=.*empty_00001_\.png/);
    const read = await fetch(url + words?.url);
    expect([read.headers.get('content-type'), await read.text()]).toEqual([
      'text/plain; charset=utf-8',
      'some words',
    ]);
    expect(await call(`/jobs/${id}/outputs/other.png`)).toMatchObject({
      status: 404,
      body: { code: 'output_not_found' },
    });
  });
});
