import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { expect, it } from 'vitest';
import { exactLength } from '../../src/assets/exact-length.ts';

const streamOf = (...texts: string[]) => Readable.from(texts.map((text) => Buffer.from(text)));

const closed = (stream: Readable) => new Promise((resolve) => void stream.once('close', resolve));

it('passes on as many bytes as were announced', async () => {
  expect((await buffer(exactLength(streamOf('ab', 'c'), 3))).toString()).toBe('abc');
  expect(await buffer(exactLength(streamOf(), 0))).toHaveLength(0);
});

it.each([2, 4])('fails where %i were announced and 3 come', async (length) => {
  const source = streamOf('ab', 'c');
  await expect(buffer(exactLength(source, length))).rejects.toMatchObject({ code: 'storage_unavailable' });
  expect(source.destroyed).toBe(true);
});

it('keeps a failure for whoever reads later', async () => {
  const source = new PassThrough();
  const exact = exactLength(source, 3);
  const cause = new Error('the disk is gone');
  source.destroy(cause);
  await closed(exact);
  await expect(buffer(exact)).rejects.toMatchObject({ code: 'storage_unavailable', cause });
});

it('holds a source that closes too early to have failed', async () => {
  const source = new PassThrough();
  const exact = exactLength(source, 3);
  source.destroy();
  await expect(buffer(exact)).rejects.toMatchObject({ code: 'storage_unavailable' });
});

it('leaves its reader his own reason to end', async () => {
  const exact = exactLength(new PassThrough(), 3);
  const reason = new Error('the machine is gone');
  exact.destroy(reason);
  await expect(buffer(exact)).rejects.toBe(reason);
});

it('ends its source with its reader', async () => {
  const source = new PassThrough();
  exactLength(source, 3).destroy();
  await closed(source);
  expect(source.destroyed).toBe(true);
});
