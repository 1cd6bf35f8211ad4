// ComfyUI's protocol where it was measured rather than recorded: queue order, sockets, binary frames, files, limits.
import { randomUUID } from 'node:crypto';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  isEndOf,
  openSocket,
  poll,
  post,
  send,
  untilIdle,
  upload,
  type RawAnswer,
} from '../doubles/comfyui/conformance/client.ts';
import {
  isRealServer,
  startTarget,
  targetVersions,
  type Target,
} from '../doubles/comfyui/conformance/target.ts';

const TIMEOUT_MS = isRealServer ? 120_000 : 10_000;
const versions = await targetVersions();

/** Every run needs a colour of its own, or the cache answers. */
let color = Math.floor(Math.random() * 0xff_0000);

const smallGraph = () => ({
  '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 48, batch_size: 1, color: (color += 1) } },
  '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'protocol/small' } },
});
const slowGraph = () => ({
  '1': { class_type: 'EmptyImage', inputs: { width: 64, height: 64, batch_size: 400, color: (color += 1) } },
  '2': { class_type: 'RebatchImages', inputs: { images: ['1', 0], batch_size: 1 } },
  '3': {
    class_type: 'ImageScale',
    inputs: { image: ['2', 0], upscale_method: 'lanczos', width: 512, height: 512, crop: 'disabled' },
  },
  '4': { class_type: 'ImageFromBatch', inputs: { image: ['3', 0], batch_index: 0, length: 1 } },
  '5': { class_type: 'PreviewImage', inputs: { images: ['4', 0] } },
});

describe.each(versions)('ComfyUI %s', { timeout: TIMEOUT_MS }, (version) => {
  let target: Target;
  let url = '';

  beforeAll(async () => {
    target = await startTarget(version);
    ({ url } = target);
    await untilIdle(url);
    if (target.double !== undefined) target.double.knobs.itemMs = 4;
  });
  afterEach(async () => {
    await post(`${url}/queue`, { clear: true });
    await post(`${url}/interrupt`, '');
    await untilIdle(url);
  });
  afterAll(() => target.stop());

  const submit = async (
    graph: object,
    fields: object = {},
  ): Promise<{ prompt_id: string; number: number }> => {
    const answer = await post(`${url}/prompt`, { prompt: graph, ...fields });
    expect(answer.status).toBe(200);
    return JSON.parse(answer.text);
  };
  const readQueue = async (): Promise<Record<'queue_running' | 'queue_pending', [number, string][]>> =>
    JSON.parse((await send(`${url}/queue`)).text);
  const holdQueue = async (fields: object = {}): Promise<string> => {
    const { prompt_id: id } = await submit(slowGraph(), fields);
    await poll(readQueue, ({ queue_running: running }) => running.some(([, promptId]) => promptId === id));
    return id;
  };
  const isDone = (id: string) =>
    poll(
      async () => (await send(`${url}/history/${id}`)).text,
      (text) => text !== '{}',
    );

  test('pending prompts are shown as the raw heap, not in the order in which they will run', async () => {
    await holdQueue();
    // The ids that were recorded, because equal numbers are ordered by id.
    const first = await submit(smallGraph(), { prompt_id: '2aafab9b-b7a4-4081-8c2e-305f361fa304' });
    await submit(smallGraph(), { prompt_id: '57bc9b8c-2cdf-4411-b123-ef2a1cdca20e' });
    const front = await submit(smallGraph(), {
      prompt_id: 'a3eaab22-d12f-49b4-b30d-88bbd4c58a11',
      front: true,
    });
    expect(front.number).toBe(-(first.number + 2));
    await submit(smallGraph(), { prompt_id: '54430a47-6e9e-4e36-8468-13f895120273', number: 0 });
    await submit(smallGraph(), { prompt_id: 'aceede46-8445-4b2c-85f9-a0920620f36b', number: -1000 });
    await submit(smallGraph(), { prompt_id: '0aa21a5f-194d-4cc9-bf3a-576a0269a2fc', number: 0 });
    const { queue_pending: pending } = await readQueue();
    expect(pending.map(([, id]) => id.slice(0, 8))).toEqual([
      'aceede46',
      'a3eaab22',
      '0aa21a5f',
      '57bc9b8c',
      '54430a47',
      '2aafab9b',
    ]);
    expect((await send(`${url}/queue`)).text).toContain('[-1000.0, "aceede46');
  });

  test('a deleted pending prompt leaves no trace, and a running one cannot be deleted', async () => {
    const running = await holdQueue();
    const { prompt_id: pending } = await submit(smallGraph());
    await post(`${url}/queue`, { delete: [pending, running, 'unknown'] });
    const { queue_running, queue_pending } = await readQueue();
    expect([queue_running.map(([, id]) => id), queue_pending]).toEqual([[running], []]);
    expect((await send(`${url}/history/${pending}`)).text).toBe('{}');
    expect((await send(`${url}/api/jobs/${pending}`)).status).toBe(404);
  });

  test('an interrupt by id spares a prompt that only waits', async () => {
    const running = await holdQueue();
    const { prompt_id: pending } = await submit(smallGraph());
    expect((await post(`${url}/interrupt`, { prompt_id: pending })).status).toBe(200);
    expect((await readQueue()).queue_running.map(([, id]) => id)).toEqual([running]);
    await post(`${url}/interrupt`, { prompt_id: running });
    expect(await isDone(running)).toContain('execution_interrupted');
    expect(await isDone(pending)).toContain('execution_success');
  });

  test.runIf(version === '0.33.0')('cancelling tells whether there was something to cancel', async () => {
    const running = await holdQueue();
    const { prompt_id: pending } = await submit(smallGraph());
    const cancel = async (id: string) => (await post(`${url}/api/jobs/${id}/cancel`, '')).text;
    const jobOf = async (id: string): Promise<{ status: string }> =>
      JSON.parse((await send(`${url}/api/jobs/${id}`)).text);
    expect([(await jobOf(running)).status, (await jobOf(pending)).status]).toEqual([
      'in_progress',
      'pending',
    ]);
    expect(await cancel(pending)).toBe('{"cancelled": true}');
    expect(await cancel(pending)).toBe('{"cancelled": false}');
    expect((await post(`${url}/api/jobs/cancel`, { job_ids: [running, pending] })).text).toBe(
      '{"cancelled": true}',
    );
    await isDone(running);
    expect((await jobOf(running)).status).toBe('cancelled');
  });

  test('not a number comes back as bare NaN, which is no JSON', async () => {
    const { text } = await post(
      `${url}/prompt`,
      `{"prompt": ${JSON.stringify(smallGraph())}, "number": NaN}`,
    );
    expect(text).toContain('"number": NaN');
    expect(() => JSON.parse(text) as unknown).toThrow(SyntaxError);
  });

  test('the same id runs twice when it brings no number, and the later run overwrites the history', async () => {
    await holdQueue();
    const id = randomUUID();
    const [first, second] = [
      await submit(smallGraph(), { prompt_id: id }),
      await submit(smallGraph(), { prompt_id: id }),
    ];
    expect((await readQueue()).queue_pending).toHaveLength(2);
    await post(`${url}/interrupt`, '');
    await poll(
      async () => (await send(`${url}/history/${id}`)).text,
      (text) => text.includes(`"prompt": [${second.number},`),
    );
    expect(second.number).toBe(first.number + 1);
  });

  describe('sockets', () => {
    test('feature flags are answered when they are the first object, and previews then carry their node', async (context) => {
      context.skip(
        (await send(`${url}/object_info/SaveImageWebsocket`)).text === '{}',
        'The server runs without SaveImageWebsocket, which is in its folder of custom nodes.',
      );
      const [flagged, plain] = [randomUUID(), randomUUID()];
      const preview = {
        '1': smallGraph()['1'],
        '2': { class_type: 'SaveImageWebsocket', inputs: { images: ['1', 0] } },
      };
      const withFlags = await openSocket(url, flagged);
      withFlags.send('garbage');
      withFlags.send('{"type": "feature_flags", "data": {"supports_preview_metadata": true}}');
      const { data } = await withFlags.waitFor(({ type }) => type === 'feature_flags');
      expect(data).toMatchObject({ supports_preview_metadata: true, max_upload_size: 104_857_600 });
      const { prompt_id: id } = await submit(preview, { client_id: flagged });
      await withFlags.waitFor(isEndOf(id));
      const bytes = binaryFrame(withFlags.frames);
      expect(bytes.readUInt32BE(0)).toBe(4);
      const length = bytes.readUInt32BE(4);
      expect(JSON.parse(bytes.toString('utf8', 8, 8 + length))).toMatchObject({
        node_id: '2',
        prompt_id: id,
        image_type: 'image/png',
      });
      expect(bytes.toString('hex', 8 + length, 12 + length)).toBe('89504e47');

      const withoutFlags = await openSocket(url, plain);
      withoutFlags.send('{"type": "anything"}');
      withoutFlags.send('{"type": "feature_flags", "data": {"supports_preview_metadata": true}}');
      const { prompt_id: second } = await submit(
        { ...preview, '1': smallGraph()['1'] },
        { client_id: plain },
      );
      await withoutFlags.waitFor(isEndOf(second));
      const legacy = binaryFrame(withoutFlags.frames);
      expect([legacy.readUInt32BE(0), legacy.readUInt32BE(4), legacy.toString('hex', 8, 12)]).toEqual([
        1,
        2,
        '89504e47',
      ]);
      expect(withoutFlags.frames.some(({ type }) => type === 'feature_flags')).toBe(false);
      await Promise.all([withFlags.close(), withoutFlags.close()]);
    });

    test('texts go to everybody, whoever asked', async () => {
      const clientId = randomUUID();
      const sockets = [await openSocket(url, clientId), await openSocket(url, randomUUID())];
      const sizes = {
        '1': smallGraph()['1'],
        '2': { class_type: 'GetImageSize', inputs: { image: ['1', 0] } },
        '3': { class_type: 'PreviewAny', inputs: { source: ['2', 0] } },
      };
      await submit(sizes, { client_id: clientId });
      for (const socket of sockets) {
        await socket.waitFor(({ type }) => type === 'binary');
        const bytes = binaryFrame(socket.frames);
        const idLength = bytes.readUInt32BE(4);
        expect([bytes.readUInt32BE(0), bytes.toString('utf8', 8, 8 + idLength)]).toEqual([3, '2']);
        expect(bytes.toString('utf8', 8 + idLength)).toBe('width: 64, height: 48\n batch size: 1');
      }
      await Promise.all(sockets.map((socket) => socket.close()));
    });

    test('a returning client is told the running node, and nothing of what it missed', async () => {
      const clientId = randomUUID();
      const before = await openSocket(url, clientId);
      const { prompt_id: id } = await submit(slowGraph(), { client_id: clientId });
      await before.waitFor(({ data }) => data['node'] === '3');
      await before.close();
      const after = await openSocket(url, clientId);
      expect((await after.waitFor(({ type }) => type === 'executing')).data).toEqual({ node: '3' });
      await post(`${url}/interrupt`, { prompt_id: id });
      await after.waitFor(isEndOf(id));
      expect(after.frames.some(({ type }) => type === 'execution_start')).toBe(false);
      await after.close();
    });

    test('when an old socket with the same id closes, the new one never hears again', async () => {
      const clientId = randomUUID();
      const old = await openSocket(url, clientId);
      const renewed = await openSocket(url, clientId);
      await old.close();
      const other = await openSocket(url, randomUUID());
      const { prompt_id: id } = await submit(smallGraph(), { client_id: clientId });
      await isDone(id);
      await other.waitFor(({ data }) => JSON.stringify(data).includes('"queue_remaining":0'));
      expect(renewed.frames).toEqual([]);
      await Promise.all([renewed.close(), other.close()]);
    });
  });

  describe('files', () => {
    let item: { filename: string; subfolder: string };
    let whole: RawAnswer;
    const view = (headers: Record<string, string> = {}, method = 'GET') =>
      send(`${url}/view?${new URLSearchParams({ ...item, type: 'output' }).toString()}`, { method, headers });

    beforeAll(async () => {
      const { prompt_id: id } = await submit(smallGraph());
      const history: Record<string, { outputs: Record<string, { images: (typeof item)[] }> }> = JSON.parse(
        await isDone(id),
      );
      const found = history[id]?.outputs['2']?.images[0];
      if (found === undefined) throw new Error('The small prompt has no image.');
      item = found;
      whole = await view();
    });

    test('an image is a real one, with its graph in it', async () => {
      expect(await sharp(whole.bytes).metadata()).toMatchObject({ format: 'png', width: 64, height: 48 });
      expect(whole.text).toContain('EmptyImage');
      expect(whole.headers['content-disposition']).toBe(`filename="${item.filename}"`);
      expect(whole.headers['x-content-type-options']).toBe(version === '0.33.0' ? 'nosniff' : undefined);
    });

    test('ranges and validators work as in aiohttp', async () => {
      const size = whole.bytes.length;
      const part = await view({ range: 'bytes=2-5' });
      expect([part.status, part.headers['content-range'], part.bytes]).toEqual([
        206,
        `bytes 2-5/${size}`,
        whole.bytes.subarray(2, 6),
      ]);
      expect((await view({ range: `bytes=${size}-` })).status).toBe(416);
      expect((await view({ range: 'bytes=-4' })).bytes).toEqual(whole.bytes.subarray(-4));
      const etag = whole.headers.etag ?? '';
      expect(etag).toMatch(/^"[0-9a-f]+-[0-9a-f]+"$/u);
      expect((await view({ 'if-none-match': etag })).status).toBe(304);
      expect((await view({ range: 'bytes=0-1', 'if-range': '"another"' })).status).toBe(206);
      expect((await view({ range: 'bytes=0-1', 'if-range': 'Thu, 01 Jan 1970 00:00:00 GMT' })).status).toBe(
        200,
      );
      const head = await view({}, 'HEAD');
      expect([head.status, head.headers['content-length'], head.text]).toEqual([200, String(size), '']);
    });

    test.for([
      ['', 404],
      ['filename=', 400],
      ['filename=/etc/passwd', 400],
      ['filename=..%2Fx.png', 400],
      ['filename=x.png&type=nowhere', 400],
      ['filename=x.png&subfolder=..%2F..', 403],
      ['filename=missing.png', 404],
    ] as const)('/view?%s is answered %d', async ([query, status]) => {
      const answer = await send(`${url}/view?${query}`);
      expect([answer.status, answer.text]).toEqual([status, '']);
    });

    test('a preview is encoded anew, and fails on what is no picture', async () => {
      const preview = await send(
        `${url}/view?${new URLSearchParams({ ...item, preview: 'webp;60' }).toString()}`,
      );
      expect([preview.status, preview.headers['content-type']]).toEqual([200, 'image/webp']);
      await upload(url, { name: 'text.mp4', bytes: Buffer.from('no film') }, { overwrite: 'true' });
      expect((await send(`${url}/view?filename=text.mp4&type=input&preview=webp`)).status).toBe(500);
    });
  });

  test('a node is described by its inputs and outputs, to its last field', async () => {
    const { text } = await send(`${url}/object_info/EmptyImage`);
    expect(JSON.parse(text)).toEqual({
      EmptyImage: {
        input: {
          required: {
            width: ['INT', { default: 512, min: 1, max: 16_384, step: 1 }],
            height: ['INT', { default: 512, min: 1, max: 16_384, step: 1 }],
            batch_size: ['INT', { default: 1, min: 1, max: 4096 }],
            color: ['INT', { default: 0, min: 0, max: 0xff_ffff, step: 1, display: 'color' }],
          },
        },
        input_order: { required: ['width', 'height', 'batch_size', 'color'] },
        ...(version === '0.33.0' ? { is_input_list: false } : {}),
        output: ['IMAGE'],
        output_is_list: [false],
        output_name: ['IMAGE'],
        name: 'EmptyImage',
        display_name: version === '0.33.0' ? expect.any(String) : 'EmptyImage',
        description: '',
        python_module: 'nodes',
        category: 'image',
        output_node: false,
        ...(version === '0.33.0'
          ? { has_intermediate_output: false, search_aliases: expect.any(Array) }
          : {}),
      },
    });
  });

  test.for([
    ['PUT', '/prompt', 'GET,HEAD,POST'],
    ['DELETE', '/api/queue', 'GET,HEAD,POST'],
    ['POST', '/view', 'GET,HEAD'],
    ['POST', '/nothing', 'GET,HEAD'],
  ] as const)('%s %s is refused, and Allow names what is not', async ([method, path, allowed]) => {
    const { status, headers } = await send(url + path, { method });
    expect([status, headers.allow]).toEqual([405, allowed]);
  });

  test.for([
    ['/ws', { origin: 'http://elsewhere.example' }, 403],
    ['/nothing', {}, 404],
    ['/queue', {}, 200],
  ] as const)(
    'an upgrade at %s with %o is answered as a plain request, with %d',
    async ([path, headers, status]) => {
      const upgrade = {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'c29ja2V0cyBhcmUgZnVuIQ==',
      };
      expect((await send(url + path, { headers: { ...upgrade, ...headers } })).status).toBe(status);
    },
  );

  test('a body over the limit is refused, wherever it goes', async () => {
    const limit = target.double === undefined ? 100 * 1024 * 1024 : 10_000;
    if (target.double !== undefined) target.double.knobs.maxUploadBytes = limit;
    const answer = await post(`${url}/prompt`, 'x'.repeat(limit + 1));
    if (target.double !== undefined) target.double.knobs.maxUploadBytes = 100 * 1024 * 1024;
    expect([answer.status, answer.text]).toEqual([413, `Maximum request body size ${limit} exceeded.`]);
  });
});

function binaryFrame(frames: readonly { type: string; data: Record<string, unknown> }[]): Buffer {
  const bytes = frames.find(({ type }) => type === 'binary')?.data['bytes'];
  if (!Buffer.isBuffer(bytes)) throw new Error('No binary frame came.');
  return bytes;
}
