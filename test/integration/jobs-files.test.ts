import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Assets } from '../../src/assets/service.ts';
import { ServiceError } from '../../src/errors.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { createJobBench, fresh, type JobBench } from '../support/jobs.ts';
import { emptyImage, scaledImage } from '../support/workflows.ts';

const signal = new AbortController().signal;

let bench: JobBench;

beforeAll(async () => {
  bench = await createJobBench();
  await bench.addInstance();
});

afterAll(() => bench.stop());

/** Runs a job whose results meet `failures` failures of the storage. */
async function runWithFailures(
  code: 'storage_full' | 'storage_unavailable',
  failures: number,
  storageMs: number,
) {
  let left = failures;
  const assets: Assets = {
    ...bench.deps.assets,
    async save(stream, options) {
      left -= 1;
      if (left < 0) return bench.deps.assets.save(stream, options);
      stream.once('error', () => undefined).destroy();
      throw new ServiceError(code, 'The storage has a problem.');
    },
  };
  const id = await bench.submit(fresh(emptyImage));
  await bench.dispatch();
  const timing = { ...bench.deps.timing, storageMs };
  await runAttempt({ ...bench.deps, assets, timing }, await bench.attemptOf(id), { signal });
  return bench.job(id);
}

describe('a result that cannot be stored', () => {
  it.each(['storage_full', 'storage_unavailable'] as const)(
    'is kept at the instance until it can (%s)',
    async (code) => {
      const job = await runWithFailures(code, 3, 60_000);
      expect(job).toMatchObject({ status: 'succeeded', attempt: 1, outputs: [{ contentType: 'image/png' }] });
    },
  );

  it('fails its job in the end, and says why', async () => {
    const job = await runWithFailures('storage_full', Infinity, 100);
    expect(job).toMatchObject({
      status: 'failed',
      attempt: 1,
      outputs: [],
      error: {
        code: 'output_unavailable',
        nodeId: '2',
        detail: expect.stringMatching(/could not be stored for \d+ s\. The storage has a problem\./),
      },
    });
  });
});

describe('a file that is called differently by others', () => {
  it('keeps in a job the name that it had when the job was accepted', async () => {
    const bytes = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#123456' } })
      .png()
      .toBuffer();
    const { id: assetId } = await bench.addAsset(bytes, 'mine.png');
    const job = await bench.submit(scaledImage, { inputs: [{ node: '1', input: 'image', assetId }] });
    const { asset } = await bench.deps.assets.save(Readable.from([bytes]), {
      fileName: 'theirs.bin',
      contentType: null,
    });
    expect(asset).toMatchObject({ id: assetId, fileName: 'theirs.bin' });
    expect(await bench.run(job)).toMatchObject({ status: 'succeeded' });
    const uploaded = await readdir(join(bench.double.dataDir, 'input'), { recursive: true });
    expect(uploaded.filter((name) => name.includes(assetId.slice(0, 16)))).toEqual([
      `cf-${assetId.slice(0, 16)}.png`,
    ]);
  });
});
