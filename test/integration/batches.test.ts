// Batches: many jobs of one workflow, accepted together.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { App } from '../../src/http/server.ts';
import { batchRoutes } from '../../src/jobs/batch-routes.ts';
import { createBatches } from '../../src/jobs/batch.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { jobRoutes } from '../../src/jobs/routes.ts';
import { createTestApp } from '../support/http.ts';
import { createJobBench, fresh, type JobBench } from '../support/jobs.ts';
import { emptyImage, scaledImage } from '../support/workflows.ts';

let bench: JobBench;
let app: App;
let url: string;

beforeAll(async () => {
  bench = await createJobBench({ BATCH_MAX_ITEMS: '30' });
  const { deps, jobs } = bench;
  const nodes = createKnownNodes({ ...deps, canRent: false });
  const { assets } = deps;
  ({ app } = await createTestApp({
    routes: [
      jobRoutes({ jobs, assets }),
      batchRoutes({ batches: createBatches({ ...deps, nodes }), assets }),
    ],
  }));
  url = await app.listen({ host: '127.0.0.1', port: 0 });
});
afterAll(async () => {
  await app.close();
  await bench.stop();
});

interface Body {
  batchId: string;
  total: number;
  counts: Record<string, number>;
  finishedAt: string | null;
  jobs: { id: string; url: string }[];
  items: JobView[];
  nextCursor: string | null;
  urls: { self: string; jobs: string; cancel: string };
  code: string;
  field: string;
  detail: string;
}

async function call(path: string, init?: RequestInit) {
  const answer = await fetch(url + path, init);
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Body };
}

const post = (path: string, body: object = {}, headers: Record<string, string> = {}) =>
  call(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });

/** Items that differ in one value, as the usual ones do. */
const seeds = (...values: number[]) =>
  values.map((value) => ({
    inputs: [{ node: '1', input: 'color', value }],
    metadata: { seed: String(value) },
  }));

async function countJobs(): Promise<number> {
  const { count } = await bench.deps.db
    .selectFrom('jobs')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .executeTakeFirstOrThrow();
  return count;
}

describe('POST /jobs/batch', () => {
  it('makes a job of every item, in their order, with what they share', async () => {
    const { status, headers, body } = await post('/jobs/batch', {
      workflow: emptyImage,
      priority: 7,
      timeLimitSeconds: 60,
      metadata: { project: 'x', seed: 'none' },
      items: [...seeds(3, 1, 2), {}],
    });
    expect(status).toBe(201);
    expect(headers.get('location')).toBe(`/batches/${body.batchId}`);
    expect(body).toMatchObject({ total: 4, counts: { queued: 4, succeeded: 0 }, finishedAt: null });
    const shown = await call(body.urls.self);
    expect(shown.body.items.map(({ id }) => id)).toEqual(body.jobs.map(({ id }) => id));
    expect(shown.body.items.map(({ metadata }) => metadata['seed'])).toEqual(['3', '1', '2', 'none']);
    for (const { url: path } of body.jobs) {
      expect((await call(path)).body).toMatchObject({
        batchId: body.batchId,
        priority: 7,
        timeLimitSeconds: 60,
        metadata: { project: 'x' },
      });
    }
    await post(body.urls.cancel);
  });

  it('stores the workflow once, and each job runs it with its own values', async () => {
    await bench.addInstance();
    const { body } = await post('/jobs/batch', { workflow: fresh(emptyImage), items: seeds(11, 12) });
    const stored = await bench.deps.db
      .selectFrom('jobs')
      .select(['workflow', 'workflow_shape'])
      .where('batch_id', '=', body.batchId)
      .execute();
    expect(stored.map(({ workflow }) => workflow)).toEqual([null, null]);
    const results = [];
    for (const { id } of body.jobs) results.push(await bench.run(id));
    expect(results).toMatchObject([{ status: 'succeeded' }, { status: 'succeeded' }]);
    const [first, second] = results.map(({ outputs }) => outputs[0]?.assetId);
    expect(first).not.toBe(second);
    expect((await call(body.urls.self)).body).toMatchObject({
      counts: { queued: 0, succeeded: 2 },
      finishedAt: results[1]?.finishedAt,
    });
  });

  it.each([
    [
      'an input for no node',
      [{}, { inputs: [{ node: '9', input: 'x', value: 1 }] }],
      422,
      'items[1].inputs[0].node',
    ],
    ['a field that there is not', [{}, {}, { seed: 1 }], 400, 'items[2].seed'],
    [
      'an asset that is not stored',
      [{ inputs: [{ node: '1', input: 'x', assetId: 'ab'.repeat(32) }] }],
      422,
      'items[0].inputs[0].assetId',
    ],
    [
      'a value that links a node to itself',
      [{}, { inputs: [{ node: '1', input: 'color', value: ['1', 0] }] }],
      422,
      'items[1].inputs',
    ],
    [
      'too many labels together',
      [{ metadata: Object.fromEntries(Array.from({ length: 32 }, (_, index) => [`label ${index}`, 'x'])) }],
      400,
      'items[0].metadata',
    ],
    ['more items than allowed', Array.from({ length: 31 }, () => ({})), 400, 'items'],
    ['no item', [], 400, 'items'],
  ])('accepts nothing of a batch with %s, and names the item', async (_name, items, status, field) => {
    const before = await countJobs();
    const answer = await post('/jobs/batch', { workflow: emptyImage, metadata: { project: 'x' }, items });
    expect(answer).toMatchObject({ status, body: { field } });
    expect(await countJobs()).toBe(before);
  });

  it('refuses a workflow that cannot run', async () => {
    const answer = await post('/jobs/batch', { workflow: { nodes: [], links: [] }, items: [{}] });
    expect(answer.body).toMatchObject({ code: 'workflow_format_ui', field: 'workflow' });
  });

  it('accepts nothing for an instance that does not exist', async () => {
    const before = await countJobs();
    const instanceId = '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21';
    const answer = await post('/jobs/batch', { workflow: emptyImage, instanceId, items: [{}, {}] });
    expect(answer.body).toMatchObject({ code: 'instance_not_found', field: 'instanceId' });
    expect(await countJobs()).toBe(before);
  });

  it('says where in a form the JSON belongs and where a file that an input names', async () => {
    const form = new FormData();
    const inputs = [{ node: '1', input: 'image', file: 'photo' }];
    form.set('batch', JSON.stringify({ workflow: scaledImage, items: [{}, { inputs }] }));
    const { status, body } = await call('/jobs/batch', { method: 'POST', body: form });
    expect(status).toBe(422);
    expect(body).toMatchObject({
      field: 'items[1].inputs[0].file',
      detail: expect.stringContaining('its JSON in the field "batch"'),
    });
  });

  it('takes a form, in which several items share a file', async () => {
    const inputs = [{ node: '1', input: 'image', file: 'photo' }];
    const form = new FormData();
    form.set('batch', JSON.stringify({ workflow: scaledImage, items: [{ inputs }, { inputs }] }));
    form.set('photo', new Blob(['not really an image']), 'photo.png');
    const { status, body } = await call('/jobs/batch', { method: 'POST', body: form });
    expect(status).toBe(201);
    const assetIds = await Promise.all(
      body.jobs.map(async ({ id }) => (await bench.inputsOf(id))[0]?.assetId),
    );
    expect(assetIds).toEqual([expect.any(String), assetIds[0]]);
    await post(body.urls.cancel);
  });

  it('makes one batch of a request that is repeated with its key', async () => {
    const request = { workflow: emptyImage, items: seeds(1, 2) };
    const headers = { 'idempotency-key': 'a batch' };
    const first = await post('/jobs/batch', request, headers);
    const again = await post('/jobs/batch', request, headers);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.body).toEqual(first.body);
    await post(first.body.urls.cancel);
  });

  it('accepts the example of its own documentation', async () => {
    const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
      components: { schemas: Record<string, { examples?: object[] }> };
    };
    const [example] = document.components.schemas['BatchRequest']?.examples ?? [];
    const { status, body } = await post('/jobs/batch', example);
    expect([status, body.total]).toEqual([201, 3]);
    await post(body.urls.cancel);
  });
});

describe('a batch', () => {
  it('shows its jobs page by page, and lists find them', async () => {
    const { body } = await post('/jobs/batch', { workflow: emptyImage, items: seeds(1, 2, 3, 4, 5) });
    const ids = body.jobs.map(({ id }) => id);
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: { body: Body } = await call(
        `${body.urls.self}?limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`,
      );
      seen.push(...page.body.items.map(({ id }) => id));
      cursor = page.body.nextCursor;
    }
    expect(seen).toEqual(ids);
    expect((await call(body.urls.jobs)).body.items.map(({ id }) => id)).toEqual(ids.toReversed());
    await post(body.urls.cancel);
  });

  it('is canceled with all of its jobs that have not ended, and again without harm', async () => {
    await bench.addInstance();
    const { body } = await post('/jobs/batch', { workflow: fresh(emptyImage), items: seeds(21, 22, 23) });
    const [first, second] = body.jobs;
    await bench.run(first?.id ?? '');
    // By now the second is placed, and nobody works on it.
    expect(await bench.job(second?.id ?? '')).toMatchObject({ status: 'running' });
    const canceled = await post(body.urls.cancel);
    expect(canceled).toMatchObject({
      status: 200,
      body: { counts: { queued: 0, running: 0, succeeded: 1 } },
    });
    expect(canceled.body.items.map(({ status }) => status)).toEqual([
      'succeeded',
      'canceling',
      expect.stringMatching(/^cancel/),
    ]);
    expect((await post(body.urls.cancel)).body.counts).toEqual(canceled.body.counts);
  });

  it.each(['GET /batches/:id', 'POST /batches/:id/cancel'])(
    'that does not exist is not found: %s',
    async (route) => {
      const [method = '', path = ''] = route.split(' ');
      const answer = await call(path.replace(':id', '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21'), { method });
      expect(answer).toMatchObject({ status: 404, body: { code: 'batch_not_found' } });
    },
  );
});
