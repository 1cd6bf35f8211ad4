import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { beforeEach, describe, expect, it } from 'vitest';
import { guardStream, type StreamGuard } from '../../src/support/guarded-stream.ts';

let source: PassThrough;

beforeEach(() => {
  source = new PassThrough();
});

function guarded(options: Partial<StreamGuard> = {}) {
  return guardStream(source, {
    stallMs: 5000,
    failure: (kind, cause) => new Error(kind, { cause }),
    ...options,
  });
}

describe('a guarded stream', () => {
  it('passes everything on', async () => {
    const stream = guarded({ maxBytes: 10 });
    source.write('01234');
    source.end('56789');
    expect(await text(stream)).toBe('0123456789');
  });

  it('holds the source back while nobody reads', async () => {
    guarded();
    const chunk = Buffer.alloc(64_000);
    let accepted = 0;
    while (source.write(chunk)) accepted += 1;
    // What it has room for; the rest waits at the source.
    await new Promise(setImmediate);
    expect(source.writableNeedDrain).toBe(true);
    expect(accepted).toBeLessThan(10);
    source.destroy();
  });

  it('fails when it grows too large, and leaves the source for its owner to drain', async () => {
    const stream = guarded({ maxBytes: 10 });
    source.write('01234567890');
    await expect(buffer(stream)).rejects.toThrow('too_large');
    if (!stream.closed) await once(stream, 'close');
    expect(source.destroyed).toBe(false);
    source.resume().end('more');
    await once(source, 'end');
  });

  it('fails when nothing comes', async () => {
    await expect(buffer(guarded({ stallMs: 20 }))).rejects.toThrow('stalled');
  });

  it('holds no source to be silent that is held back by its reader', async () => {
    const stream = guarded({ stallMs: 20 });
    const chunk = Buffer.alloc(64_000);
    let written = 1;
    while (source.write(chunk)) written += 1;
    source.end();
    // Several times as long.
    const other = guardStream(new PassThrough(), { stallMs: 100, failure: (kind) => new Error(kind) });
    await expect(buffer(other)).rejects.toThrow('stalled');
    expect(await buffer(stream)).toHaveLength(written * chunk.length);
  });

  it('fails when the source does, with its error as the cause', async () => {
    const cause = new Error('reset');
    const stream = guarded();
    source.destroy(cause);
    await expect(buffer(stream)).rejects.toMatchObject({ message: 'broken', cause });
  });

  it('fails when the source ends before it is complete', async () => {
    const stream = guarded();
    source.write('half');
    source.destroy();
    await expect(buffer(stream)).rejects.toThrow('broken');
  });

  it('tells a failure from before the first read', async () => {
    const stream = guarded();
    source.destroy();
    await new Promise((resolve) => stream.once('close', resolve));
    await expect(buffer(stream)).rejects.toThrow('broken');
  });
});
