// What the client makes of answers, the recorded ones and those that should not be.
import type { RequestListener } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { Readable } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { createComfyClient, type ComfyClient } from '../../src/comfyui/client.ts';
import { ComfyError } from '../../src/comfyui/errors.ts';
import { openLink } from '../../src/comfyui/link.ts';
import { readEdges } from '../doubles/comfyui/conformance/recordings.ts';
import type { ComfyVersion } from '../doubles/comfyui/versions.ts';
import { always, startTinyServer } from '../support/tiny-server.ts';

const promptId = '6d0dd7f4-2b0f-4f0e-9a56-0d5c5a4f7a11';
const request = { promptId, clientId: 'a-client', workflow: { '1': { class_type: 'X', inputs: {} } } };
const accepted = { prompt_id: promptId, number: 3, node_errors: {} };
const placeholder = { 'x-portal-placeholder': 'true' };
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const clean of cleanups.splice(0).toReversed()) await clean();
});

/** What a server does with a request; what it returns does not matter. */
type Answer = (...exchange: Parameters<RequestListener>) => unknown;

async function clientOf(answer: Answer, options?: { answerMs: number }): Promise<ComfyClient> {
  const server = await startTinyServer((...exchange) => void answer(...exchange));
  const link = openLink({ baseUrl: server.url, token: 'a-secret', certificateFingerprint: null });
  cleanups.push(server.close, () => link.close());
  return createComfyClient(link, options);
}

async function clientOfNothing(): Promise<ComfyClient> {
  const server = await startTinyServer(always(200, ''));
  await server.close();
  const link = openLink({ baseUrl: server.url, token: null, certificateFingerprint: null });
  cleanups.push(() => link.close());
  return createComfyClient(link);
}

async function errorOf(failing: Promise<unknown>): Promise<ComfyError> {
  const error = await failing.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof ComfyError)) throw error;
  return error;
}

function recordedEdge(version: ComfyVersion, name: string): [status: number, body: string] {
  const edge = readEdges(version)[name];
  if (edge === undefined) throw new Error(`no recording named ${name}`);
  return [edge[0], edge[2]];
}

describe('a submit', () => {
  it('is accepted', async () => {
    const client = await clientOf(always(200, accepted));
    expect(await client.submit(request)).toEqual({ number: 3, nodeErrors: {} });
  });

  it('sends no number, which could stop the server for good, and _meta, without which it stumbles', async () => {
    let body = '';
    const client = await clientOf((message, response) => {
      message.on('data', (chunk: Buffer) => (body += chunk.toString()));
      message.on('end', () => response.end(JSON.stringify(accepted)));
    });
    await client.submit(request);
    expect(JSON.parse(body)).toEqual({
      prompt: { '1': { ...request.workflow['1'], _meta: {} } },
      prompt_id: promptId,
      client_id: 'a-client',
    });
  });

  it('is accepted although parts were dropped, and although the number is none', async () => {
    const nodeErrors = { '4': { class_type: 'Y', dependent_outputs: ['5'], errors: [{ type: 't' }] } };
    const body = JSON.stringify({ ...accepted, node_errors: nodeErrors }).replace('3', 'NaN');
    const submitted = await (await clientOf(always(200, body))).submit(request);
    expect(submitted.number).toBeNaN();
    expect(submitted.nodeErrors).toEqual({
      '4': {
        class_type: 'Y',
        dependent_outputs: ['5'],
        errors: [{ type: 't', message: '', details: '' }],
      },
    });
  });

  it.each(['0.33.0', '0.3.64'] as const)(
    'of a bad input is rejected with its findings (%s)',
    async (version) => {
      const [status, body] = recordedEdge(version, 'prompt_bad_int');
      const error = await errorOf((await clientOf(always(status, body))).submit(request));
      expect(error).toMatchObject({
        kind: 'rejected',
        status: 400,
        type: 'prompt_outputs_failed_validation',
      });
      const findings = Object.values(error.nodeErrors);
      expect(findings).toHaveLength(1);
      expect(findings[0]).toMatchObject({ class_type: 'EmptyImage', errors: [{ input_name: 'width' }] });
    },
  );

  it.each([
    ['0.33.0', 'prompt_unknown_class', 'missing_node_type'],
    ['0.3.64', 'prompt_unknown_class', 'invalid_prompt'],
    ['0.33.0', 'prompt_id_bad', 'invalid_prompt_id'],
    ['0.33.0', 'prompt_empty_obj', 'prompt_no_outputs'],
  ] as const)('is rejected as ComfyUI %s says for %s', async (version, name, type) => {
    const [status, body] = recordedEdge(version, name);
    expect(await errorOf((await clientOf(always(status, body))).submit(request))).toMatchObject({
      kind: 'rejected',
      type,
    });
  });

  it('shows no traceback and no path of the machine in its findings', async () => {
    const [status, body] = recordedEdge('0.33.0', 'prompt_inner_link_missing_node');
    expect(body).toContain('traceback');
    const error = await errorOf((await clientOf(always(status, body))).submit(request));
    expect(error.kind).toBe('rejected');
    expect(JSON.stringify(error.nodeErrors)).not.toMatch(/traceback|ComfyUI\//);
  });

  it.each([
    ['nodes', 2000, 1],
    ['findings of one node', 1, 2000],
  ])('keeps of a great many %s as many as can be shown', async (_name, nodes, findings) => {
    const fault = { type: 'value_not_in_list', message: 'x'.repeat(1000), extra_info: { input_name: 'a' } };
    const node = {
      class_type: 'X',
      dependent_outputs: [],
      errors: Array.from({ length: findings }, () => fault),
    };
    const answer = {
      error: { type: 'prompt_outputs_failed_validation', message: 'no' },
      node_errors: Object.fromEntries(Array.from({ length: nodes }, (_node, id) => [`${id}`, node])),
    };
    const error = await errorOf((await clientOf(always(400, answer))).submit(request));
    expect(error.nodeErrors['0']?.errors[0]).toMatchObject({ message: fault.message, input_name: 'a' });
    expect(JSON.stringify(error.nodeErrors).length).toBeLessThan(150_000);
  });

  it.each<[string, Answer]>([
    ['a broken connection', (message) => message.socket.destroy()],
    ['an error of the server', always(500, 'Server got itself in trouble')],
    ['an error of the proxy', always(502, '', placeholder)],
    ['a placeholder', always(200, '<html>', placeholder)],
    ['something that is no answer', always(200, 'OK')],
    ['half an answer', always(200, accepted, { 'content-length': '1000', connection: 'close' })],
  ])('answered by %s is ambiguous', async (_, answer) => {
    expect((await errorOf((await clientOf(answer)).submit(request))).kind).toBe('ambiguous');
  });

  it('that never left is no more than unavailable', async () => {
    expect((await errorOf((await clientOfNothing()).submit(request))).kind).toBe('unavailable');
  });

  it('is stopped, and an error of its own, when the server gives the prompt another id', async () => {
    const asked: (string | undefined)[] = [];
    const client = await clientOf((message, response) => {
      asked.push(message.url);
      always(200, { ...accepted, prompt_id: 'its-own' })(message, response);
    });
    expect((await errorOf(client.submit(request))).kind).toBe('foreign_id');
    expect(asked).toEqual(['/prompt', '/api/jobs/its-own/cancel']);
  });

  it.each([
    [413, 'too_large'],
    [401, 'unauthorized'],
    [302, 'unauthorized'],
    [405, 'not_found'],
    [400, 'protocol'],
  ])('answered with status %i is %s', async (status, kind) => {
    const client = await clientOf(always(status, ''));
    expect(await errorOf(client.submit(request))).toMatchObject({ kind, status });
  });
});

describe('the queue', () => {
  it('is in the order in which it will run, not in that of the heap', async () => {
    const item = (number: unknown, id: string) => [number, id, {}, {}, []];
    const body = JSON.stringify({
      queue_running: [item(0, 'now')],
      queue_pending: [item(-3, 'b'), item('NaN', 'e'), item(2, 'd'), item(-1000, 'a'), item(0.5, 'c')],
    }).replace('"NaN"', 'NaN');
    const client = await clientOf(always(200, body));
    expect(await client.queue()).toEqual({ running: ['now'], pending: ['a', 'b', 'c', 'd', 'e'] });
  });

  it.each<[string, Answer, string]>([
    ['is unavailable', always(503, '', placeholder), 'unavailable'],
    ['is a placeholder', always(200, '{"queue_running":[],"queue_pending":[]}', placeholder), 'unavailable'],
    ['breaks off', (message) => message.socket.destroy(), 'unavailable'],
    ['is no queue', always(200, {}), 'protocol'],
    ['is a page', always(200, '<html>'), 'protocol'],
  ])('that %s is never an empty one', async (_, answer, kind) => {
    expect((await errorOf((await clientOf(answer)).queue())).kind).toBe(kind);
  });
});

describe('locating a prompt', () => {
  it('finds one that ends between the two looks', async () => {
    let looks = 0;
    const client = await clientOf((message, response) => {
      if (message.url === '/queue') return response.end('{"queue_running":[],"queue_pending":[]}');
      looks += 1;
      return response.end(looks === 1 ? '{}' : JSON.stringify({ [promptId]: { outputs: {}, status: null } }));
    });
    expect(await client.locate(promptId)).toMatchObject({ kind: 'finished', entry: { promptId } });
  });

  it('does not call it absent when one of the looks fails', async () => {
    let looks = 0;
    const client = await clientOf((message, response) => {
      looks += 1;
      if (looks === 3) return message.socket.destroy();
      return response.end(message.url === '/queue' ? '{"queue_running":[],"queue_pending":[]}' : '{}');
    });
    expect((await errorOf(client.locate(promptId))).kind).toBe('unavailable');
  });
});

describe('an upload', () => {
  const stored = { name: 'a (1).png', subfolder: '', type: 'input' };

  function file(content: Buffer, sizeBytes = content.length) {
    return { name: 'a "b".png', contentType: 'image/png', sizeBytes, stream: () => Readable.from([content]) };
  }

  it('is sent as a form with its length, and named as the server says', async () => {
    let body = Buffer.alloc(0);
    let length: string | undefined;
    const client = await clientOf(async (message, response) => {
      length = message.headers['content-length'];
      body = await buffer(message);
      response.end(JSON.stringify({ ...stored, subfolder: 'job' }));
    });
    expect(await client.upload(file(Buffer.from('pixels')))).toBe('job/a (1).png');
    expect(Number(length)).toBe(body.length);
    expect(body.toString()).toMatch(/name="type"\r\n\r\ninput\r\n/);
    expect(body.toString()).toMatch(
      /name="image"; filename="a %22b%22.png"\r\nContent-Type: image\/png\r\n\r\npixels\r\n/,
    );
  });

  it('fails when the file is shorter than it was said to be', async () => {
    const client = await clientOf(always(200, stored));
    expect((await errorOf(client.upload(file(Buffer.from('short'), 50)))).kind).toBe('unavailable');
  });

  it('closes its file when it is aborted', async () => {
    const abort = new AbortController();
    const client = await clientOf((message) => message.once('data', () => abort.abort(new Error('enough'))));
    const source = new Readable({ read: () => undefined });
    source.push('first');
    const closed = new Promise((resolve) => source.once('close', resolve));
    const upload = { name: 'a', contentType: 'image/png', sizeBytes: 10, stream: () => source };
    await expect(client.upload(upload, abort.signal)).rejects.toThrow('enough');
    await closed;
  });

  it('closes its file when nobody is there to take it', async () => {
    const source = new Readable({ read: () => undefined });
    const closed = new Promise((resolve) => source.once('close', resolve));
    const upload = { name: 'a', contentType: 'image/png', sizeBytes: 10, stream: () => source };
    expect((await errorOf((await clientOfNothing()).upload(upload))).kind).toBe('unavailable');
    await closed;
  });
});

it('takes a limit that is no whole number of milliseconds', async () => {
  const client = await clientOf(always(200, { queue_running: [], queue_pending: [] }), {
    answerMs: 8.05 * 1000,
  });
  expect(await client.queue()).toEqual({ running: [], pending: [] });
});

describe('a download', () => {
  const file = { filename: 'a b&c.png', subfolder: 'x/y', type: 'output' } as const;

  it('streams the file that was asked for', async () => {
    let asked: string | undefined;
    const client = await clientOf((message, response) => {
      asked = message.url;
      response.writeHead(200, { 'content-type': 'image/png', 'content-length': '6' });
      response.end('pixels');
    });
    const { stream, ...about } = await client.download(file);
    expect(about).toEqual({ contentType: 'image/png', sizeBytes: 6 });
    expect((await buffer(stream)).toString()).toBe('pixels');
    const query = new URL(asked ?? '', 'http://x').searchParams;
    expect(Object.fromEntries(query)).toEqual(file);
  });

  it('fails rather than ends when the connection breaks in the middle', async () => {
    const client = await clientOf((message, response) => {
      response.writeHead(200, { 'content-length': '1000' });
      response.write('half', () => message.socket.destroy());
    });
    const { stream } = await client.download(file);
    await expect(buffer(stream)).rejects.toMatchObject({ code: 'UND_ERR_SOCKET' });
  });

  it.each([
    [404, 'not_found'],
    [403, 'unauthorized'],
    [500, 'unavailable'],
  ])('of status %i is %s', async (status, kind) => {
    expect((await errorOf((await clientOf(always(status, ''))).download(file))).kind).toBe(kind);
  });

  it('of a placeholder is unavailable', async () => {
    const client = await clientOf(always(200, '<html>', placeholder));
    expect((await errorOf(client.download(file))).kind).toBe('unavailable');
  });
});
