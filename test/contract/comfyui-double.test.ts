// The traps that the ComfyUI double can play: requests that break a server, and the knobs.
import { randomUUID } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { afterEach, describe, expect, onTestFinished, test } from 'vitest';
import { isEndOf, openSocket, poll, post, send, upload } from '../doubles/comfyui/conformance/client.ts';
import { startComfyDouble, type ComfyDouble, type ComfyDoubleOptions } from '../doubles/comfyui/index.ts';

const running: ComfyDouble[] = [];

afterEach(async () => {
  await Promise.all(running.splice(0).map((double) => double.stop()));
});

async function start(options: ComfyDoubleOptions = {}): Promise<ComfyDouble> {
  const double = await startComfyDouble(options);
  running.push(double);
  return double;
}

const silence = (): Promise<string> => delay(100, 'silence');

let color = 0;

const graph = (prefix = 'double/image') => ({
  '1': { class_type: 'EmptyImage', inputs: { width: 8, height: 8, batch_size: 1, color: (color += 1) } },
  '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: prefix } },
});

const sampling = (extra: object = {}) => ({
  '1': {
    class_type: 'FakeSampler',
    inputs: { seed: (color += 1), filename_prefix: 'double/sampled', ...extra },
  },
});

interface Entry {
  outputs: Record<string, Record<string, { filename: string; subfolder: string }[]>>;
  status: { status_str: string; messages: [string, Record<string, unknown>][] };
}

async function submit({ url }: ComfyDouble, prompt: object, fields: object = {}): Promise<string> {
  const answer = await post(`${url}/prompt`, { prompt, ...fields });
  expect(answer.status).toBe(200);
  const { prompt_id: id }: { prompt_id: string } = JSON.parse(answer.text);
  return id;
}

async function readEntry({ url }: ComfyDouble, id: string): Promise<Entry | undefined> {
  const history: Record<string, Entry> = JSON.parse((await send(`${url}/history/${id}`)).text);
  return history[id];
}

async function finish(double: ComfyDouble, id: string): Promise<Entry> {
  const entry = await poll(
    () => readEntry(double, id),
    (found) => found !== undefined,
    5000,
  );
  if (entry === undefined) throw new Error('No entry.');
  return entry;
}

const run = async (double: ComfyDouble, prompt: object, fields: object = {}): Promise<Entry> =>
  finish(double, await submit(double, prompt, fields));

async function remaining({ url }: ComfyDouble): Promise<number> {
  const info: { exec_info: { queue_remaining: number } } = JSON.parse((await send(`${url}/prompt`)).text);
  return info.exec_info.queue_remaining;
}

const isRefused = ({ port }: ComfyDouble): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', () => resolve(true));
  });

describe('requests that break a server', () => {
  test('a loose node without inputs kills the worker: that job runs forever and nothing else does', async () => {
    const double = await start();
    const id = await submit(double, { ...graph(), '9': { class_type: 'EmptyImage' } });
    const next = await submit(double, graph());
    await post(`${double.url}/interrupt`, '');
    expect(await remaining(double)).toBe(2);
    const { text } = await send(`${double.url}/queue`);
    expect(text).toMatch(new RegExp(`queue_running": \\[\\[0, "${id}"`, 'u'));
    expect(await readEntry(double, next)).toBeUndefined();
    await double.restart();
    expect((await run(double, graph())).status.status_str).toBe('success');
  });

  test.for([
    ['a link that no input declares to a node that does not exist', { extra: ['99', 0] }, {}],
    ['a loose node whose inputs are null', {}, { '9': { class_type: 'EmptyImage', inputs: null } }],
  ] as const)('%s kills the worker', async ([, extra, loose]) => {
    const double = await start();
    const prompt = graph();
    Object.assign(prompt['1'].inputs, extra);
    await submit(double, { ...prompt, ...loose });
    await poll(
      () => Promise.resolve(double.counters.executionsStarted),
      (count) => count === 1,
    );
    const next = await submit(double, graph());
    await delay(50);
    expect([await remaining(double), await readEntry(double, next)]).toEqual([2, undefined]);
    await double.restart();
    expect((await run(double, graph())).status.status_str).toBe('success');
  });

  test('the same number and id as a pending prompt kills the worker when it gets to them', async () => {
    const double = await start({ knobs: { nodeMs: 20 } });
    const [id, first] = [randomUUID(), await submit(double, graph())];
    const fields = { prompt_id: id, number: 7 };
    await submit(double, graph(), { number: 6 });
    await submit(double, graph(), fields);
    await submit(double, graph(), fields);
    await finish(double, first);
    await delay(150);
    expect(await remaining(double)).toBeGreaterThan(0);
    expect((await send(`${double.url}/queue`)).text).toContain('"queue_running": []');
  });

  test('a client id that is no text ends the whole process', async () => {
    const double = await start();
    await submit(double, graph(), { client_id: { no: 'text' } });
    await poll(() => isRefused(double), Boolean, 5000);
    await double.restart();
    expect(await remaining(double)).toBe(0);
  });

  test('extra_pnginfo that is no object breaks the list of jobs until its entry is gone', async () => {
    const double = await start();
    const id = await submit(double, graph(), { extra_data: { extra_pnginfo: [] } });
    await finish(double, id);
    expect((await send(`${double.url}/api/jobs`)).status).toBe(500);
    await post(`${double.url}/history`, { delete: [id] });
    expect((await send(`${double.url}/api/jobs`)).status).toBe(200);
  });

  test('extra_data that is null kills the worker of 0.3.64', async () => {
    const double = await start({ version: '0.3.64' });
    await submit(double, graph(), { extra_data: null });
    const next = await submit(double, graph());
    await delay(50);
    expect(await readEntry(double, next)).toBeUndefined();
  });
});

describe('process', () => {
  test('a restart keeps files and forgets queue, history, counter and cache', async () => {
    const double = await start();
    const prompt = graph('double/kept');
    const entry = await run(double, prompt);
    const filename = entry.outputs['2']?.['images']?.[0]?.filename ?? '';
    await double.restart();
    expect((await send(`${double.url}/history`)).text).toBe('{}');
    expect((await double.readOutput(filename, 'double')).length).toBeGreaterThan(0);
    const again = await run(double, prompt);
    expect(again.status.messages[1]).toMatchObject(['execution_cached', { nodes: [] }]);
    expect(again.outputs['2']?.['images']?.[0]?.filename).not.toBe(filename);
    expect(double.counters).toMatchObject({ promptsAccepted: 2, executionsFinished: 2 });
  });

  test('after an exit the port is refused and sockets are gone', async () => {
    const double = await start({ knobs: { nodes: { FakeSampler: { durationMs: 60_000, outputCount: 1 } } } });
    const socket = await openSocket(double.url, randomUUID());
    await submit(double, sampling());
    await double.exit();
    expect(await isRefused(double)).toBe(true);
    expect(await socket.closed).toBe(1006);
  });

  test('after an exit its port is still its own, until it is stopped: else another double might get it', async () => {
    const sockets: Socket[] = [];
    const note = (message: unknown): void => void sockets.push((message as { socket: Socket }).socket);
    subscribe('net.client.socket', note);
    onTestFinished(() => void unsubscribe('net.client.socket', note));
    const double = await start();
    await double.exit();
    // The system gives no port from which a connection leaves to who asks for any.
    const leaving = sockets.filter(
      ({ localPort, readyState }) => localPort === double.port && readyState === 'open',
    );
    expect(leaving).toHaveLength(1);
    await double.stop();
    expect(leaving.map(({ destroyed }) => destroyed)).toEqual([true]);
  });

  test('a wedged worker accepts and never runs, until the knob is turned back', async () => {
    const double = await start({ knobs: { wedged: true } });
    const id = await submit(double, graph());
    await delay(50);
    expect([await remaining(double), double.counters.executionsStarted]).toEqual([1, 0]);
    double.knobs.wedged = false;
    expect((await finish(double, id)).status.status_str).toBe('success');
  });
});

describe('simulated nodes', () => {
  test('a sampler reports steps with previews and leaves files of the asked size', async () => {
    const double = await start({
      knobs: {
        nodes: {
          FakeSampler: { durationMs: 30, steps: 3, outputCount: 2, outputBytes: 50_000, outputKey: 'gifs' },
        },
      },
    });
    const socket = await openSocket(double.url, 'previewing');
    const id = await submit(double, sampling(), {
      client_id: 'previewing',
      extra_data: { preview_method: 'auto' },
    });
    await socket.waitFor(isEndOf(id));
    expect(socket.frames.filter(({ type }) => type === 'binary')).toHaveLength(3);
    const files = (await finish(double, id)).outputs['1']?.['gifs'] ?? [];
    const sizes = await Promise.all(
      files.map(async ({ filename }) => (await double.readOutput(filename, 'double')).length),
    );
    expect(sizes).toEqual([50_000, 50_000]);
    expect(await sharp(await double.readOutput(files[0]?.filename ?? '', 'double')).metadata()).toMatchObject(
      { format: 'png' },
    );
    await socket.close();
  });

  test('a video of exactly that size is still a video', async () => {
    const double = await start({
      knobs: {
        nodes: {
          FakeSampler: { durationMs: 0, outputCount: 1, outputBytes: 40_000, outputExtension: 'mp4' },
        },
      },
    });
    await run(double, sampling());
    const video = await double.readOutput('sampled_00001_.mp4', 'double');
    expect([video.length, video.toString('latin1', 4, 8)]).toEqual([40_000, 'ftyp']);
  });

  test('choices are checked at submit, as a missing model is', async () => {
    const double = await start({
      knobs: {
        nodes: { FakeSampler: { durationMs: 0, outputCount: 1, choices: { ckpt_name: ['a.safetensors'] } } },
      },
    });
    const answer = await post(`${double.url}/prompt`, { prompt: sampling({ ckpt_name: 'b.safetensors' }) });
    expect([answer.status, answer.text]).toEqual([
      400,
      expect.stringContaining("ckpt_name: 'b.safetensors' not in ['a.safetensors']"),
    ]);
  });

  test.for([
    [
      'a missing model',
      { class_type: 'FakeLoader', inputs: { ckpt_name: 'b.safetensors' } },
      'value_not_in_list',
    ],
    [
      'a missing file',
      { class_type: 'LoadImage', inputs: { image: 'never.png' } },
      'custom_validation_failed',
    ],
    ['a missing node', undefined, 'exception_during_inner_validation'],
    [
      'a missing slot',
      { class_type: 'PrimitiveInt', inputs: { value: 1 } },
      'exception_during_inner_validation',
    ],
    ['a cycle', { class_type: 'FakeSampler', inputs: { image: ['2', 0] } }, 'dependency_cycle'],
  ] as const)('%s behind one is refused at submit', async ([, source, error]) => {
    const double = await start({
      knobs: {
        nodes: {
          FakeSampler: { durationMs: 0, returns: ['IMAGE', 'IMAGE'] },
          FakeLoader: {
            durationMs: 0,
            returns: ['MODEL', 'IMAGE'],
            choices: { ckpt_name: ['a.safetensors'] },
          },
        },
      },
    });
    const prompt = {
      ...(source === undefined ? {} : { '1': source }),
      '2': { class_type: 'FakeSampler', inputs: { seed: 1, image: ['1', 1] } },
      '3': { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: 'x' } },
    };
    const answer = await post(`${double.url}/prompt`, { prompt });
    expect([answer.status, answer.text]).toEqual([400, expect.stringContaining(`"type": "${error}"`)]);
    expect((await run(double, graph())).status.status_str).toBe('success');
  });

  test('one that a knob takes away while its prompt waits fails that prompt alone', async () => {
    const double = await start({
      knobs: { wedged: true, nodes: { FakeSampler: { durationMs: 0, outputCount: 1 } } },
    });
    const id = await submit(double, sampling());
    double.knobs.nodes = {};
    double.knobs.wedged = false;
    expect((await finish(double, id)).status.messages.at(-1)).toMatchObject([
      'execution_error',
      { exception_type: 'KeyError', exception_message: "'FakeSampler'\n" },
    ]);
    expect((await run(double, graph())).status.status_str).toBe('success');
  });

  test('the same seed gives the same bytes', async () => {
    const knobs = { nodes: { FakeSampler: { durationMs: 0, outputCount: 1, outputBytes: 5000 } } };
    const prompt = sampling();
    const outputs = await Promise.all(
      [1, 1, 2].map(async (seed) => {
        const double = await start({ seed, knobs });
        await run(double, prompt);
        return (await double.readOutput('sampled_00001_.png', 'double')).toString('hex');
      }),
    );
    expect([outputs[0] === outputs[1], outputs[0] === outputs[2]]).toEqual([true, false]);
  });
});

describe('faults', () => {
  test('the GPU runs out of memory, and then does not', async () => {
    const double = await start({ knobs: { outOfMemory: 1 } });
    const entry = await run(double, graph());
    const [event, data] = entry.status.messages.at(-1) ?? [];
    expect([event, data?.['exception_type'], data?.['node_id']]).toEqual([
      'execution_error',
      'torch.OutOfMemoryError',
      '1',
    ]);
    expect(data?.['exception_message']).toContain('TIPS');
    expect((await run(double, graph())).status.status_str).toBe('success');
  });

  test('the disk is full for nodes and uploads', async () => {
    const double = await start({ knobs: { diskFull: true } });
    const entry = await run(double, graph());
    expect(entry.status.messages.at(-1)?.[1]).toMatchObject({
      exception_type: 'OSError',
      node_type: 'SaveImage',
    });
    expect((await upload(double.url, { name: 'x.png', bytes: Buffer.from('x') })).status).toBe(500);
  });

  test('the history comes later than the success event', async () => {
    const double = await start({ knobs: { historyDelayMs: 500 } });
    const socket = await openSocket(double.url, 'racing');
    const id = await submit(double, graph(), { client_id: 'racing' });
    await socket.waitFor(({ type }) => type === 'execution_success');
    expect(await readEntry(double, id)).toBeUndefined();
    await socket.waitFor(isEndOf(id));
    expect(await readEntry(double, id)).toBeDefined();
    await socket.close();
  });

  test('an interrupt is lost, and the second one works', async () => {
    const double = await start({
      knobs: { loseInterrupts: 1, nodes: { FakeSampler: { durationMs: 5000, steps: 500, outputCount: 1 } } },
    });
    const id = await submit(double, sampling());
    await poll(
      () => Promise.resolve(double.counters.executionsStarted),
      (count) => count === 1,
    );
    await post(`${double.url}/interrupt`, { prompt_id: id });
    await delay(40);
    expect(await readEntry(double, id)).toBeUndefined();
    await post(`${double.url}/interrupt`, { prompt_id: id });
    expect((await finish(double, id)).status.messages.at(-1)?.[0]).toBe('execution_interrupted');
  });

  test('sockets fall silent, and ping or no ping tells which kind of silence it is', async () => {
    const double = await start();
    const socket = await openSocket(double.url, 'quiet');
    double.knobs.sockets = 'silent';
    await finish(double, await submit(double, graph(), { client_id: 'quiet' }));
    await socket.ping();
    expect(socket.frames).toEqual([]);
    double.knobs.sockets = 'dead';
    expect(await Promise.race([socket.ping(), silence()])).toBe('silence');
    expect(await Promise.race([socket.close(), silence()])).toBe('silence');
    socket.terminate();
  });

  test('sockets are refused, or drop after some frames', async () => {
    const double = await start({ knobs: { sockets: 'refused' } });
    await expect(openSocket(double.url, 'another')).rejects.toThrow('closed');
    double.knobs.sockets = 'open';
    double.knobs.dropSocketAfterFrames = 3;
    const short = await openSocket(double.url, 'short');
    await submit(double, graph(), { client_id: 'short' });
    expect(await short.closed).toBe(1006);
  });

  test('the server learns late of the end of a half-open socket, which then silences a newer one with the same id', async () => {
    const double = await start({ knobs: { deadSocketMs: 500 } });
    const old = await openSocket(double.url, 'same');
    double.knobs.sockets = 'dead';
    expect(await Promise.race([old.ping(), silence()])).toBe('silence');
    old.terminate();
    double.knobs.sockets = 'open';
    const renewed = await openSocket(double.url, 'same');
    const heard = await submit(double, graph(), { client_id: 'same' });
    await renewed.waitFor(isEndOf(heard));
    await poll(
      () => Promise.resolve(double.counters.socketsOpen),
      (count) => count === 1,
      5000,
    );
    renewed.frames.length = 0;
    await finish(double, await submit(double, graph(), { client_id: 'same' }));
    await renewed.ping();
    expect(renewed.frames).toEqual([]);
    await renewed.close();
  });

  test('an old socket that closes leaves the new one alone when the fault is off', async () => {
    const double = await start({ knobs: { reconnectFault: false } });
    const old = await openSocket(double.url, 'same');
    const renewed = await openSocket(double.url, 'same');
    await old.close();
    const id = await submit(double, graph(), { client_id: 'same' });
    expect((await renewed.waitFor(isEndOf(id))).data).toEqual({ node: null, prompt_id: id });
    await renewed.close();
  });

  test('a request does its work and its answer never comes', async () => {
    const double = await start({
      knobs: { requestFaults: [{ route: 'POST /prompt', how: 'drop-after', times: 1 }] },
    });
    const id = randomUUID();
    await expect(post(`${double.url}/prompt`, { prompt: graph(), prompt_id: id })).rejects.toThrow(
      /hang up|reset/u,
    );
    expect((await finish(double, id)).status.status_str).toBe('success');
  });

  test('a request is refused, dropped before its work, or left hanging', async () => {
    const double = await start({
      knobs: {
        requestFaults: [
          { route: 'GET /queue', how: 'status', status: 502, times: 1 },
          { route: 'POST /prompt', how: 'drop-before', times: 1 },
          { route: 'GET /system_stats', how: 'hang' },
        ],
      },
    });
    expect((await send(`${double.url}/api/queue`)).status).toBe(502);
    expect((await send(`${double.url}/queue`)).status).toBe(200);
    await expect(post(`${double.url}/prompt`, { prompt: graph() })).rejects.toThrow(/hang up|reset/u);
    expect(double.counters.promptsAccepted).toBe(0);
    const hanging = send(`${double.url}/system_stats`).then(
      () => 'answered',
      () => 'ended',
    );
    expect(await Promise.race([hanging, delay(40).then(() => 'hangs')])).toBe('hangs');
    expect(double.counters.requests).toMatchObject({
      'GET /queue': 2,
      'POST /prompt': 1,
      'GET /system_stats': 1,
    });
    await double.exit();
    expect(await hanging).toBe('ended');
  });

  test('a download is cut off in the middle', async () => {
    const double = await start({ knobs: { cutDownloadAfterBytes: 20 } });
    await run(double, graph('cut'));
    await expect(send(`${double.url}/view?filename=cut_00001_.png`)).rejects.toThrow(
      /aborted|hang up|reset/u,
    );
  });

  test('a slow upload takes its time', async () => {
    const double = await start({ knobs: { uploadBytesPerSecond: 100_000 } });
    const startedAt = Date.now();
    expect((await upload(double.url, { name: 'slow.bin', bytes: Buffer.alloc(10_000) })).status).toBe(200);
    expect(Date.now() - startedAt).toBeGreaterThan(80);
  });

  test('a cached run without client id has no outputs when the old fault is on', async () => {
    const double = await start({ knobs: { emptyCachedOutputs: true } });
    const prompt = graph();
    await run(double, prompt);
    expect((await run(double, prompt)).outputs).toEqual({});
  });

  test('an error entry can be very large', async () => {
    const double = await start({ knobs: { errorPaddingBytes: 1_000_000 } });
    const socket = await openSocket(double.url, 'large');
    const id = await submit(double, graph('../outside'), { client_id: 'large' });
    await socket.waitFor(isEndOf(id));
    const error = socket.frames.find(({ type }) => type === 'execution_error');
    expect(JSON.stringify(error).length).toBeGreaterThan(1_000_000);
    await socket.close();
  });

  test('an old class is replaced, and stumbles without _meta', async () => {
    const double = await start({ knobs: { nodeReplacements: { OldSave: 'SaveImage' } } });
    const old = { ...graph(), '2': { ...graph()['2'], class_type: 'OldSave' } };
    expect((await post(`${double.url}/prompt`, { prompt: old })).status).toBe(500);
    expect((await run(double, { ...old, '2': { ...old['2'], _meta: {} } })).status.status_str).toBe(
      'success',
    );
  });

  test('a good output runs beside a bad one, and a failed job keeps what was finished before', async () => {
    const double = await start();
    const prompt = {
      ...graph('two/good'),
      '3': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: '../bad' } },
    };
    const entry = await run(double, prompt);
    expect([entry.status.status_str, Object.keys(entry.outputs)]).toEqual(['error', ['2']]);
  });
});

test('it describes its nodes, its device and its models as ComfyUI does', async () => {
  const double = await start({
    knobs: {
      gpu: { name: 'NVIDIA GeForce RTX 4090', vramTotalBytes: 24 * 1024 ** 3 },
      models: { loras: ['x.safetensors'] },
    },
  });
  const info: Record<string, Record<string, unknown>> = JSON.parse(
    (await send(`${double.url}/object_info/ImageScale`)).text,
  );
  expect(info['ImageScale']).toMatchObject({
    output: ['IMAGE'],
    output_node: false,
    input_order: { required: ['image', 'upscale_method', 'width', 'height', 'crop'] },
  });
  const stats: { devices: Record<string, unknown>[] } = JSON.parse(
    (await send(`${double.url}/system_stats`)).text,
  );
  expect(stats.devices[0]).toMatchObject({ type: 'cuda', index: 0, vram_total: 24 * 1024 ** 3 });
  expect((await send(`${double.url}/models/loras`)).text).toBe('["x.safetensors"]');
});

test('a file is served under a name in any script, in the bytes of its UTF-8', async () => {
  const double = await start();
  const { outputs } = await finish(double, await submit(double, graph('画像')));
  const name = outputs['2']?.['images']?.[0]?.filename ?? '';
  const answer = await fetch(`${double.url}/view?filename=${encodeURIComponent(name)}`);
  expect(answer.status).toBe(200);
  const header = answer.headers.get('content-disposition') ?? '';
  expect(Buffer.from(header, 'latin1').toString('utf8')).toContain('画像_00001_.png');
});
