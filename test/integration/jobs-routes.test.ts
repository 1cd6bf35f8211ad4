import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { App } from '../../src/http/server.ts';
import { jobRoutes } from '../../src/jobs/routes.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { createTestApp } from '../support/http.ts';
import { createJobBench, fresh, type JobBench } from '../support/jobs.ts';
import { emptyImage, scaledImage, slowFrames } from '../support/workflows.ts';

let bench: JobBench;
let app: App;
let url: string;

beforeAll(async () => {
  bench = await createJobBench();
  await bench.addInstance();
  ({ app } = await createTestApp({ routes: [jobRoutes({ jobs: bench.jobs, assets: bench.deps.assets })] }));
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
): Promise<{ status: number; headers: Headers; body: Body }> {
  const answer = await fetch(url + path, init);
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
    const { job } = await bench.jobs.get(body.id);
    const assetId = job.inputs[0]?.assetId ?? '';
    expect(job.inputs).toEqual([{ node: '1', input: 'image', assetId }]);
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

describe('GET /jobs/:id/events', () => {
  it('tells everything from the first moment to the last, and ends', async () => {
    bench.double.knobs.frameMs = 5;
    const id = await bench.submit(fresh(slowFrames));
    const stream = await openEvents(id);
    const first = await stream.next();
    expect(first).toMatchObject({ type: 'status', data: { status: 'queued' }, id: expect.any(Number) });
    await bench.run(id);
    const rest = await stream.rest();
    const statuses = rest.flatMap(({ type, data }) => (type === 'status' ? [data['status']] : []));
    expect(statuses).toEqual(['running', 'succeeded']);
    const progress = rest.filter(({ type }) => type === 'progress');
    expect(progress.length).toBeGreaterThan(2);
    expect(progress.every((event) => event.id === null)).toBe(true);
    expect(rest.find(({ type }) => type === 'output')?.data).toMatchObject({
      url: expect.stringContaining(`/jobs/${id}/outputs/`),
    });
    const ids = [first, ...rest].flatMap((event) => event?.id ?? []);
    expect(ids).toEqual(ids.toSorted((a, b) => a - b));
  });

  it('begins after the last event that the caller has seen', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const queued = await (await openEvents(id)).next();
    await bench.run(id);
    const missed = await (await openEvents(id, queued?.id)).rest();
    expect(missed.map(({ type, data }) => data['status'] ?? type)).toEqual([
      'running',
      'output',
      'succeeded',
    ]);
    const last = await fetch(`${url}/jobs/${id}/events`, {
      headers: { 'last-event-id': String(missed.at(-1)?.id) },
    });
    expect(last.status).toBe(204);
  });

  it('gives who comes late the whole state and ends', async () => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.run(id);
    const events = await (await openEvents(id)).rest();
    expect(events.map(({ type, data }) => data['status'] ?? data['name'] ?? type)).toEqual([
      'empty_00001_.png',
      'succeeded',
    ]);
  });

  it('shows what a job waits for when that changes', async () => {
    const id = await bench.submit(emptyImage, { requirements: { gpuNames: ['H200'] } });
    const stream = await openEvents(id);
    await stream.next();
    await bench.dispatch();
    expect(await stream.next()).toMatchObject({
      type: 'status',
      data: { status: 'queued', waitingFor: expect.stringContaining('No ready instance') },
      id: null,
    });
    await bench.jobs.cancel(id);
    expect(await stream.rest()).toMatchObject([{ data: { status: 'canceled' } }]);
  });

  it('ends when the service stops', async () => {
    const other = await createTestApp({
      routes: [jobRoutes({ jobs: bench.jobs, assets: bench.deps.assets })],
    });
    const address = await other.app.listen({ host: '127.0.0.1', port: 0 });
    const id = await bench.submit(emptyImage, { requirements: { gpuNames: ['H200'] } });
    const answer = await fetch(`${address}/jobs/${id}/events`);
    const text = answer.text();
    await other.app.close();
    expect(await text).toContain('"status":"queued"');
    await bench.jobs.cancel(id);
  });

  it('leaves nothing behind when the caller goes', async () => {
    const id = await bench.submit(emptyImage, { requirements: { gpuNames: ['H200'] } });
    const leaving = new AbortController();
    const answer = await fetch(`${url}/jobs/${id}/events`, { signal: leaving.signal });
    expect(answer.status).toBe(200);
    const connections = () =>
      new Promise<number>((resolve) => app.server.getConnections((_error, count) => resolve(count)));
    const before = await connections();
    leaving.abort();
    await expect.poll(connections).toBeLessThan(before);
    await bench.jobs.cancel(id);
  });
});

interface SentEvent {
  id: number | null;
  type: string;
  data: Record<string, unknown>;
}

interface EventReader {
  next(): Promise<SentEvent | null>;
  rest(): Promise<SentEvent[]>;
}

async function openEvents(id: string, lastId?: number | null): Promise<EventReader> {
  const headers: Record<string, string> = lastId == null ? {} : { 'last-event-id': String(lastId) };
  const answer = await fetch(`${url}/jobs/${id}/events`, { headers });
  expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  const events = readEvents(answer);
  return {
    next: async () => (await events.next()).value ?? null,
    async rest() {
      const rest: SentEvent[] = [];
      for await (const event of events) rest.push(event);
      return rest;
    },
  };
}

async function* readEvents(answer: Response): AsyncGenerator<SentEvent, undefined> {
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of answer.body ?? []) {
    text += decoder.decode(chunk as Uint8Array, { stream: true });
    const frames = text.split('\n\n');
    text = frames.pop() ?? '';
    for (const frame of frames) {
      const fields = new Map(
        frame.split('\n').map((line) => [line.split(': ', 1)[0], line.slice(line.indexOf(': ') + 2)]),
      );
      const data = fields.get('data');
      if (data === undefined) continue;
      const id = fields.get('id');
      yield {
        id: id === undefined ? null : Number(id),
        type: fields.get('event') ?? '',
        data: JSON.parse(data) as Record<string, unknown>,
      };
    }
  }
}
