// The client against the double, in both generations of ComfyUI.
import { randomUUID } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { Readable } from 'node:stream';
import sharp from 'sharp';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { createComfyClient, type ComfyClient, type HistoryEntry } from '../../src/comfyui/client.ts';
import { openLink, type Link } from '../../src/comfyui/link.ts';
import { probe, probeWebSocket, probeWithoutCredentials } from '../../src/comfyui/probe.ts';
import { readRecording } from '../doubles/comfyui/conformance/recordings.ts';
import { defaultKnobs } from '../doubles/comfyui/knobs.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';

const graphSchema = z.record(
  z.string(),
  z.object({ class_type: z.string(), inputs: z.record(z.string(), z.unknown()) }),
);
/** For machines that are busy with other tests. */
const patient = { interval: 5, timeout: 10_000 };

describe.each(['0.33.0', '0.3.64'] as const)('ComfyUI %s', (version) => {
  let double: ComfyDouble;
  let link: Link;
  let client: ComfyClient;
  let color = 1;

  beforeAll(async () => {
    double = await startComfyDouble({ version });
    link = openLink({ baseUrl: double.url, token: null, certificateFingerprint: null });
    client = createComfyClient(link);
  });
  beforeEach(() => void Object.assign(double.knobs, defaultKnobs()));
  afterAll(async () => {
    await link.close();
    await double.stop();
  });

  /** The graph of a recorded scenario, with another colour each time, or the cache would answer. */
  function workflow(scenario: string) {
    const [entry] = Object.values(readRecording(version, scenario).history);
    if (entry === undefined) throw new Error('The recording has no history.');
    const graph = graphSchema.parse(entry.prompt[2]);
    for (const { inputs } of Object.values(graph)) if ('color' in inputs) inputs['color'] = color++;
    return graph;
  }

  async function submit(name: string): Promise<string> {
    const promptId = randomUUID();
    await client.submit({ promptId, clientId: randomUUID(), workflow: workflow(name) });
    return promptId;
  }

  async function finished(promptId: string): Promise<HistoryEntry> {
    await expect.poll(async () => (await client.locate(promptId)).kind, patient).toBe('finished');
    const entry = await client.history(promptId);
    if (entry === null) throw new Error('no history');
    return entry;
  }

  it('is ready, works, and is open to anybody when nothing stands before it', async () => {
    expect(await probe(link)).toMatchObject({ kind: 'ready', version });
    expect(await probeWebSocket(link)).toBe(true);
    expect(await probeWithoutCredentials(link.target)).toBe('open');
  });

  it('runs a workflow, gives its file, and forgets it', async () => {
    const promptId = await submit('a_success');
    const entry = await finished(promptId);
    expect(entry).toMatchObject({ outcome: 'succeeded', error: null });
    const [output] = entry.outputs;
    if (output?.kind !== 'file') throw new Error('no file');
    const { stream, contentType, sizeBytes } = await client.download(output.file);
    const bytes = await buffer(stream);
    expect(contentType).toBe('image/png');
    expect(bytes).toHaveLength(sizeBytes ?? -1);
    expect(bytes).toEqual(await double.readOutput(output.file.filename, output.file.subfolder));
    await client.forget(promptId);
    expect(await client.locate(promptId)).toEqual({ kind: 'absent' });
  });

  it('uses an uploaded file under the name that it was given', async () => {
    const picture = await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
      .png()
      .toBuffer();
    const file = (content: Buffer) => ({
      name: 'e2e_input.png',
      contentType: 'image/png',
      sizeBytes: content.length,
      stream: () => Readable.from([content]),
    });
    expect(await client.upload(file(picture))).toBe('e2e_input.png');
    expect(await client.upload(file(picture))).toBe('e2e_input.png');
    expect(await client.upload(file(Buffer.from('other')))).toBe('e2e_input (1).png');
    expect(await finished(await submit('b_success'))).toMatchObject({ outcome: 'succeeded' });
  });

  it('tells why a prompt failed', async () => {
    expect(await finished(await submit('d_fail'))).toMatchObject({
      outcome: 'failed',
      error: { nodeId: '2', nodeType: 'SaveImage', outOfMemory: null },
    });
  });

  it('tells a lack of memory', async () => {
    double.knobs.outOfMemory = 1;
    expect(await finished(await submit('a_success'))).toMatchObject({
      outcome: 'failed',
      error: { outOfMemory: 'gpu' },
    });
  });

  it('cancels what runs and what waits, and nothing else', async () => {
    const [running, waiting, other] = [
      await submit('e_interrupt'),
      await submit('a_success'),
      await submit('a_success'),
    ];
    await expect.poll(() => client.locate(running), patient).toEqual({ kind: 'running' });
    expect(await client.locate(waiting)).toEqual({ kind: 'pending', ahead: 1, idle: false });
    expect(await client.locate(other)).toEqual({ kind: 'pending', ahead: 2, idle: false });
    await client.cancel(waiting);
    expect(await client.locate(waiting)).toEqual({ kind: 'absent' });
    expect(await client.locate(running)).toEqual({ kind: 'running' });
    await client.cancel(running);
    expect(await finished(running)).toMatchObject({ outcome: 'interrupted', error: null });
    expect(await finished(other)).toMatchObject({ outcome: 'succeeded' });
    await client.cancel(randomUUID());
  });

  it('is asked again when an interrupt is lost', async () => {
    double.knobs.loseInterrupts = 1;
    const promptId = await submit('e_interrupt');
    await expect.poll(() => client.locate(promptId), patient).toEqual({ kind: 'running' });
    await client.cancel(promptId);
    expect(await client.locate(promptId)).toEqual({ kind: 'running' });
    await client.cancel(promptId);
    expect((await finished(promptId)).outcome).toBe('interrupted');
  });

  it('finds a prompt whose submit got no answer, and does not find one that never arrived', async () => {
    const request = { promptId: randomUUID(), clientId: 'x', workflow: workflow('a_success') };
    double.knobs.requestFaults = [{ route: 'POST /prompt', how: 'drop-after', times: 1 }];
    await expect(client.submit(request)).rejects.toMatchObject({ kind: 'ambiguous' });
    expect((await finished(request.promptId)).outcome).toBe('succeeded');
    const other = { ...request, promptId: randomUUID() };
    double.knobs.requestFaults = [{ route: 'POST /prompt', how: 'drop-before', times: 1 }];
    await expect(client.submit(other)).rejects.toMatchObject({ kind: 'ambiguous' });
    expect(await client.locate(other.promptId)).toEqual({ kind: 'absent' });
  });

  it('refuses a file that is too large, a full disk, and a file that is gone', async () => {
    const big = {
      name: 'big.png',
      contentType: 'image/png',
      sizeBytes: 300_000,
      stream: () => Readable.from(Array.from({ length: 30 }, () => Buffer.alloc(10_000))),
    };
    double.knobs.maxUploadBytes = 100_000;
    await expect(client.upload(big)).rejects.toMatchObject({ kind: 'too_large' });
    Object.assign(double.knobs, { maxUploadBytes: 1e9, diskFull: true });
    await expect(client.upload(big)).rejects.toMatchObject({ kind: 'unavailable', status: 500 });
    const gone = { filename: 'gone.png', subfolder: '', type: 'output' } as const;
    await expect(client.download(gone)).rejects.toMatchObject({ kind: 'not_found' });
  });

  it('does not pass half a file off as a whole one', async () => {
    const { outputs } = await finished(await submit('a_success'));
    if (outputs[0]?.kind !== 'file') throw new Error('no file');
    double.knobs.cutDownloadAfterBytes = 10;
    const { stream } = await client.download(outputs[0].file);
    await expect(buffer(stream)).rejects.toMatchObject({ code: 'UND_ERR_SOCKET' });
  });

  it('forgets everything in a restart', async () => {
    const promptId = await submit('a_success');
    await finished(promptId);
    await double.restart();
    expect(await client.locate(promptId)).toEqual({ kind: 'absent' });
    await double.exit();
    await expect(client.locate(promptId)).rejects.toMatchObject({ kind: 'unavailable' });
    await double.restart();
  });

  it('frees its memory', async () => {
    await client.freeMemory();
    expect(double.counters.requests['POST /free']).toBe(1);
  });
});
