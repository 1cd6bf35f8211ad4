import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { exactLength } from '../../src/assets/exact-length.ts';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import { createAssets, type Assets } from '../../src/assets/service.ts';
import { ServiceError, type ErrorCode } from '../../src/errors.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { sleep } from '../../src/support/sleep.ts';
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

/** What its caller was told while it ran. */
async function logOf(jobId: string): Promise<unknown[]> {
  const lines = await bench.database.db
    .selectFrom('job_events')
    .select('data')
    .where('job_id', '=', jobId)
    .where('type', '=', 'log')
    .orderBy('id')
    .execute();
  return lines.map(({ data }) => ('message' in data ? data.message : data));
}

describe('a result that cannot be stored', () => {
  it.each(['storage_full', 'storage_unavailable'] as const)(
    'is kept at the instance until it can (%s)',
    async (code) => {
      const job = await runWithFailures(code, 3, 60_000);
      expect(job).toMatchObject({ status: 'succeeded', attempt: 1, outputs: [{ contentType: 'image/png' }] });
      const state = code === 'storage_full' ? 'full' : 'out of reach';
      expect(await logOf(job.id)).toContainEqual(
        expect.stringMatching(`could not be stored: the storage for files is ${state}\\. The job waits`),
      );
    },
  );

  it('is kept there by a disk that fails in an odd way, too, and nobody blames the instance', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'odd-disk-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const dir = join(folder, 'assets');
    await writeFile(dir, 'a file where the folder should be');
    const odd = createAssets({ ...bench.deps, store: createLocalDiskStore({ dir }) });
    let saves = 0;
    const save: Assets['save'] = async (stream, options) => {
      saves += 1;
      if (saves === 3) await rm(dir);
      return odd.save(stream, options);
    };
    const job = await runWith(await bench.submit(fresh(emptyImage)), { save });
    expect(job).toMatchObject({ status: 'succeeded', attempt: 1 });
    const told = await logOf(job.id);
    expect(told).toContainEqual(expect.stringContaining('the storage for files is out of reach'));
    expect(told).not.toContainEqual(expect.stringContaining('The instance does not answer'));
  });

  it('is waited for from the first trouble on, however long it took to come', async () => {
    let left = 1;
    const save: Assets['save'] = async (stream, options) => {
      if (left === 0) return bench.deps.assets.save(stream, options);
      left -= 1;
      await sleep(150, signal);
      stream.once('error', () => undefined).destroy();
      throw new ServiceError('storage_unavailable', 'The storage has a problem.');
    };
    expect(await runWith(await bench.submit(fresh(emptyImage)), { save }, 100)).toMatchObject({
      status: 'succeeded',
      attempt: 1,
    });
  });

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

const submitWith = (input: { assetId: string } | { url: string }) =>
  bench.submit(scaledImage, { inputs: [{ node: '1', input: 'image', ...input }] });

/** Runs a job where the assets are different in some way. */
async function runWith(id: string, different: Partial<Assets>, storageMs = 60_000) {
  const assets: Assets = { ...bench.deps.assets, ...different };
  await bench.dispatch();
  const timing = { ...bench.deps.timing, storageMs };
  await runAttempt({ ...bench.deps, assets, timing }, await bench.attemptOf(id), { signal });
  return bench.job(id);
}

const photo = async () => {
  const bytes = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#654321' } })
    .png()
    .toBuffer();
  return bench.addAsset(bytes, 'photo.png');
};

const readAsset: Assets['read'] = (...args) => bench.deps.assets.read(...args);

/** Fails so many times before it does what it should. */
function failing<Args extends unknown[], T>(
  times: number,
  code: ErrorCode,
  work: (...args: Args) => Promise<T>,
): (...args: Args) => Promise<T> {
  let left = times;
  return async (...args) => {
    left -= 1;
    if (left < 0) return work(...args);
    throw new ServiceError(code, 'The storage has a problem.');
  };
}

describe('an input while the storage is out of reach', () => {
  it('is waited for', async () => {
    const { id: assetId } = await photo();
    const read = failing(4, 'storage_unavailable', readAsset);
    const job = await runWith(await submitWith({ assetId }), { read });
    expect(job).toMatchObject({ status: 'succeeded', attempt: 1 });
    expect(await logOf(job.id)).toContain(
      `Asset ${assetId} could not be read: the storage for files is out of reach. The job waits for it and goes on.`,
    );
  });

  it.each(['storage_full', 'storage_unavailable'] as const)(
    'is fetched from its URL until it can be stored (%s)',
    async (code) => {
      const asset = await photo();
      const saveFromUrl = failing(4, code, async () => asset);
      const job = await runWith(await submitWith({ url: 'https://example.com/a.png' }), { saveFromUrl });
      expect(job).toMatchObject({ status: 'succeeded', attempt: 1 });
    },
  );

  it('fails its job in the end, and says why', async () => {
    const { id: assetId } = await photo();
    const read = failing(Infinity, 'storage_unavailable', readAsset);
    expect(await runWith(await submitWith({ assetId }), { read }, 100)).toMatchObject({
      status: 'failed',
      error: {
        code: 'input_unavailable',
        detail: expect.stringMatching(/could not be read for \d+ s\. The storage has a problem\./),
      },
    });
  });

  it('does not keep its job from being canceled', async () => {
    const { id: assetId } = await photo();
    const id = await submitWith({ assetId });
    const read = async () => {
      await bench.jobs.cancel(id);
      throw new ServiceError('storage_unavailable', 'The storage has a problem.');
    };
    expect(await runWith(id, { read })).toMatchObject({ status: 'canceled' });
  });
});

describe('an input that the storage breaks off', () => {
  const itsHalf = async function* (whole: Buffer) {
    yield whole.subarray(0, 50);
  };
  const itsHalfAndAnError = async function* (whole: Buffer) {
    yield* itsHalf(whole);
    throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
  };
  /** Gives this instead of the file so many times. */
  const giving = (part: (whole: Buffer) => AsyncIterable<Buffer>, times: number): Assets['read'] => {
    let left = times;
    return async (id) => {
      left -= 1;
      const whole = await buffer(await readAsset(id));
      return exactLength(Readable.from(left < 0 ? [whole] : part(whole)), whole.length);
    };
  };

  it.each([
    ['which gives no more', itsHalf],
    ['whose disk fails', itsHalfAndAnError],
  ])('%s is sent again, and its instance is not to blame', async (_name, part) => {
    const { id: assetId } = await photo();
    const job = await runWith(await submitWith({ assetId }), { read: giving(part, 3) });
    expect(job).toMatchObject({ status: 'succeeded', attempt: 1 });
    const log = await logOf(job.id);
    expect(log).toContainEqual(expect.stringContaining(`Asset ${assetId} could not be read`));
    expect(log).not.toContainEqual(expect.stringContaining('does not answer'));
  });

  it('fails its job in the end, and says why', async () => {
    const { id: assetId } = await photo();
    const job = await runWith(await submitWith({ assetId }), { read: giving(itsHalf, Infinity) }, 100);
    expect(job).toMatchObject({ status: 'failed', attempt: 1, error: { code: 'input_unavailable' } });
  });
});

describe('an input that the storage has lost', () => {
  it('fails its job at once', async () => {
    const { id: assetId } = await photo();
    const read = failing(1, 'asset_not_found', readAsset);
    expect(await runWith(await submitWith({ assetId }), { read })).toMatchObject({
      status: 'failed',
      error: { code: 'input_unavailable' },
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
