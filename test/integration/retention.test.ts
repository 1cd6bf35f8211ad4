import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import { createAssets, type Assets } from '../../src/assets/service.ts';
import type { AssetStore } from '../../src/assets/store.ts';
import { loadConfig } from '../../src/config.ts';
import type { Tables } from '../../src/database/tables.ts';
import { messageOf } from '../../src/errors.ts';
import { findOutput } from '../../src/jobs/records.ts';
import { sweepRetention } from '../../src/jobs/retention.ts';
import { createLogger } from '../../src/support/log.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

const config = loadConfig({
  LOG_LEVEL: 'silent',
  RESULT_RETENTION_DAYS: '7',
  ASSET_RETENTION_DAYS: '14',
  JOB_RETENTION_DAYS: '90',
});
const log = createLogger(config);

let dir: string;
let test: TestDatabase;
let db: Kysely<Tables>;
let store: AssetStore;
let assets: Assets;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'retention-'));
  test = await createTestDatabase();
  ({ db } = test.database);
  store = createLocalDiskStore({ dir });
  assets = assetsOf(store);
});

afterAll(async () => {
  await test.stop();
  await rm(dir, { recursive: true });
});

function assetsOf(aStore: AssetStore): Assets {
  return createAssets({ db, store: aStore, config, log });
}

const sweep = (days = 0, through: Assets = assets) => {
  const clock = { now: () => new Date(Date.now() + days * 86_400_000) };
  return sweepRetention({ db, assets: through, config, clock, log });
};

it('goes on where what broken uploads left cannot be seen', async () => {
  const tidy = () => Promise.reject(new Error('AccessDenied'));
  expect(await assetsOf({ ...store, tidy }).sweep(new Date())).toBe(true);
});

it('removes all others where some files can never be removed, says so, and tries those again later', async () => {
  const ids: string[] = [];
  for (let n = 0; n < 12; n += 1) {
    const id = await save(fresh());
    await setBack(id, 60 - n);
    ids.push(id);
  }
  const [stuck, others] = [ids.slice(0, 6), ids.slice(6)];
  for (const id of stuck) await keepFileOf(id);

  const said: unknown = await sweep().catch(messageOf);
  expect(await Promise.all(others.map(filesOf))).toEqual(others.map(() => []));
  expect(said).toMatch(/^6 of 12 stored files could not be removed.*is a directory/s);
  expect(await db.selectFrom('loose_files').select('key').execute()).toHaveLength(6);

  const late = await save(fresh());
  await setBack(late, 60);
  expect(await sweep()).toBe(true);
  expect(await filesOf(late)).toEqual([]);

  for (const id of stuck) await rm(await pathOf(id), { recursive: true });
  await sweep(1);
  expect(await db.selectFrom('loose_files').select('key').execute()).toEqual([]);
});

it('leaves the rest of its work to the next round where the store is slow, and goes on there', async () => {
  for (let n = 0; n < 12; n += 1) await setBack(await save(fresh()), 60);
  vi.useFakeTimers({ toFake: ['performance'] });
  onTestFinished(() => void vi.useRealTimers());
  const slow = assetsOf({
    ...store,
    async remove(key) {
      vi.advanceTimersByTime(4000);
      await store.remove(key);
    },
  });
  const left = async () => (await db.selectFrom('loose_files').select('key').execute()).length;
  expect([await sweep(0, slow), await left()]).toEqual([false, 9]);
  expect([await sweep(), await left()]).toEqual([true, 0]);
});

async function pathOf(id: string): Promise<string> {
  const [name = ''] = await filesOf(id);
  return join(dir, id.slice(0, 2), id.slice(2, 4), name);
}

/** Puts a folder in the place of its file, which no removal of files can remove, whoever asks. */
async function keepFileOf(id: string): Promise<void> {
  const path = await pathOf(id);
  await rm(path);
  await mkdir(path);
}

async function save(bytes: string, options: { isResult?: boolean; through?: Assets } = {}): Promise<string> {
  const { isResult = false, through = assets } = options;
  const given = { fileName: 'a.txt', contentType: 'text/plain', isResult };
  return (await through.save(Readable.from([bytes]), given)).asset.id;
}

/** What can be read of an asset; null when it is gone, row and all. */
async function contentOf(id: string): Promise<string | null> {
  return (await assets.get(id)) === null ? null : text(await assets.read(id));
}

async function setBack(id: string, days: number): Promise<void> {
  await sql`update assets set used_at = now() - make_interval(days => ${days}) where id = ${id}`.execute(db);
}

/** Names of all files of these bytes in the store. */
async function filesOf(id: string): Promise<string[]> {
  const files = await readdir(dir, { recursive: true });
  return files.map((path) => path.split('/').at(-1) ?? '').filter((name) => name.startsWith(id));
}

const fresh = (): string => randomBytes(16).toString('hex');

interface JobFacts {
  status?: 'queued' | 'running' | 'succeeded' | 'failed';
  endedDaysAgo?: number;
  inputs?: string[];
  outputs?: string[];
  instanceId?: string;
}

/** A job with its attempt, its events, and its outputs by asset or as texts. */
async function addJob({ inputs = [], outputs = [], ...facts }: JobFacts): Promise<string> {
  const id = randomUUID();
  const { status = 'succeeded', endedDaysAgo = 0 } = facts;
  const hasEnded = status === 'succeeded' || status === 'failed';
  const instanceId = facts.instanceId ?? (await addInstance('static', 'ready'));
  const given = JSON.stringify(inputs.map((assetId) => ({ node: '1', input: 'image', assetId })));
  await sql`insert into jobs (id, status, workflow, inputs, wait_limit_ms, time_limit_ms, finished_at)
    values (${id}, ${status}, '{}', ${given}, 1, 1,
      case when ${hasEnded}::boolean then now() - make_interval(days => ${endedDaysAgo}) end)`.execute(db);
  await sql`insert into attempts (id, job_id, number, instance_id, slot, status)
    values (${randomUUID()}, ${id}, 1, ${instanceId}, 0, ${hasEnded ? 'ended' : 'staging'})`.execute(db);
  await sql`insert into job_events (job_id, type, data) values (${id}, 'status', '{}')`.execute(db);
  for (const [position, assetId] of outputs.entries()) {
    await sql`insert into outputs
      (job_id, name, position, node_id, kind, temporary, asset_id, content_type, size_bytes, created_at)
      values (${id}, ${`${position}.txt`}, ${position}, '1', 'text', false, ${assetId}, 'text/plain', 32,
        now() - make_interval(days => ${endedDaysAgo}))`.execute(db);
  }
  return id;
}

async function addInstance(provider: 'vast' | 'static', status: 'ready' | 'terminated'): Promise<string> {
  const id = randomUUID();
  await sql`insert into instances (id, provider, status, static_url)
    values (${id}, ${provider}, ${status}, ${`http://instance.invalid/${id}`})`.execute(db);
  return id;
}

const jobExists = async (id: string): Promise<boolean> =>
  (await db.selectFrom('jobs').select('id').where('id', '=', id).executeTakeFirst()) !== undefined;

describe('an uploaded file', () => {
  it('goes after the days of the setting, and not before', async () => {
    const [old, young] = [await save(fresh()), await save(fresh())];
    await setBack(old, 15);
    await setBack(young, 13);
    await sweep();
    expect([await contentOf(old), await filesOf(old)]).toEqual([null, []]);
    expect(await contentOf(young)).not.toBeNull();
  });

  it('that is uploaded again is as good as new', async () => {
    const bytes = fresh();
    const id = await save(bytes);
    await setBack(id, 15);
    await save(bytes);
    await sweep();
    expect(await contentOf(id)).toBe(bytes);
  });

  it('stays while a job that has not ended will read it, however long that waits', async () => {
    const bytes = fresh();
    const id = await save(bytes);
    await setBack(id, 60);
    const job = await addJob({ status: 'queued', inputs: [id] });
    await sweep();
    expect(await contentOf(id)).toBe(bytes);
    // From its end on the days count anew.
    await sql`update jobs set status = 'failed', finished_at = now() where id = ${job}`.execute(db);
    await sweep(13);
    expect(await contentOf(id)).toBe(bytes);
    await sweep(15);
    expect(await contentOf(id)).toBeNull();
  });

  it('stays when a job is about to be accepted that names it', async () => {
    const bytes = fresh();
    const id = await save(bytes);
    await setBack(id, 60);
    await assets.use(id);
    await sweep();
    expect(await contentOf(id)).toBe(bytes);
  });

  it('stays for ever where the setting says so', async () => {
    const forever = { ...config, ASSET_RETENTION_DAYS: 0 };
    const id = await save(fresh());
    await setBack(id, 10_000);
    await createAssets({ db, store, config: forever, log }).sweep(new Date());
    expect(await contentOf(id)).not.toBeNull();
    await sweep();
    expect(await contentOf(id)).toBeNull();
  });
});

describe('a result', () => {
  it('goes after the days of the setting, and says so', async () => {
    const id = await save(fresh(), { isResult: true });
    const job = await addJob({ endedDaysAgo: 8, outputs: [id] });
    await setBack(id, 8);
    expect(await findOutput(db, job, '0.txt')).toMatchObject({ asset_id: id });
    await sweep();
    await expect(findOutput(db, job, '0.txt')).rejects.toMatchObject({
      code: 'output_expired',
      status: 410,
      message: expect.stringContaining('Run the workflow again'),
    });
    expect([await contentOf(id), await filesOf(id)]).toEqual([null, []]);
    const { content_type: type, size_bytes: size } = await db
      .selectFrom('outputs')
      .selectAll()
      .where('job_id', '=', job)
      .executeTakeFirstOrThrow();
    expect([type, size]).toEqual(['text/plain', 32]);
  });

  it('of the same bytes as a younger one stays until that goes', async () => {
    const bytes = fresh();
    const id = await save(bytes, { isResult: true });
    await addJob({ endedDaysAgo: 8, outputs: [id] });
    const younger = await addJob({ endedDaysAgo: 6, outputs: [id] });
    await setBack(id, 6);
    await sweep();
    expect(await contentOf(id)).toBe(bytes);
    expect(await findOutput(db, younger, '0.txt')).toMatchObject({ asset_id: id });
    await sweep(2);
    expect(await contentOf(id)).toBeNull();
  });

  it('of the same bytes as an upload goes, and leaves the upload', async () => {
    const bytes = fresh();
    const id = await save(bytes, { isResult: true });
    await save(bytes);
    await addJob({ endedDaysAgo: 8, outputs: [id] });
    await setBack(id, 8);
    await sweep();
    expect(await contentOf(id)).toBe(bytes);
  });

  it('that is stored, and whose job has not written it down yet, stays', async () => {
    const id = await save(fresh(), { isResult: true });
    await sweep();
    expect(await contentOf(id)).not.toBeNull();
    await sweep(2);
    expect(await contentOf(id)).toBeNull();
  });
});

describe('the record of a job', () => {
  it('goes with all that belongs to it when it is old enough and has no results', async () => {
    const old = await addJob({ status: 'failed', endedDaysAgo: 91 });
    const young = await addJob({ status: 'failed', endedDaysAgo: 89 });
    const live = await addJob({ status: 'queued' });
    await sweep();
    expect([await jobExists(old), await jobExists(young), await jobExists(live)]).toEqual([
      false,
      true,
      true,
    ]);
    for (const table of ['attempts', 'job_events'] as const) {
      expect(await db.selectFrom(table).selectAll().where('job_id', '=', old).execute()).toEqual([]);
    }
  });

  it.each(['job', 'batch'] as const)('takes along the key that the %s was made under', async (kind) => {
    const made = randomUUID();
    if (kind === 'batch') {
      await sql`insert into batches (id, workflow, job_count, created_at)
        values (${made}, '{}', 1, now() - interval '91 days')`.execute(db);
    }
    const job = await addJob({ status: 'failed', endedDaysAgo: 91 });
    const key = { api_key: '', route: 'POST /jobs', fingerprint: 'f', created_at: new Date() };
    const expires_at = new Date(Date.now() + 86_400_000);
    const ofOther = { ...key, key: randomUUID(), made_id: randomUUID(), expires_at };
    const ofThis = { ...key, key: randomUUID(), made_id: kind === 'job' ? job : made, expires_at };
    await db.insertInto('idempotency_keys').values([ofOther, ofThis]).execute();
    await sweep();
    const left = await db
      .selectFrom('idempotency_keys')
      .select('key')
      .where('key', 'in', [ofOther.key, ofThis.key])
      .execute();
    expect(left).toEqual([{ key: ofOther.key }]);
  });

  it('stays while it has results', async () => {
    const id = await save(fresh(), { isResult: true });
    const job = await addJob({ endedDaysAgo: 91, outputs: [id] });
    const clock = { now: () => new Date() };
    await sweepRetention({ db, assets, config: { ...config, RESULT_RETENTION_DAYS: 0 }, clock, log });
    expect(await jobExists(job)).toBe(true);
    await sweep();
    await sweep();
    expect(await jobExists(job)).toBe(false);
  });

  it('stays while its webhook is to be delivered', async () => {
    const job = await addJob({ status: 'failed', endedDaysAgo: 91 });
    await sql`insert into webhook_deliveries (id, job_id, type, url)
      values (${randomUUID()}, ${job}, 'job.failed', 'http://receiver.invalid')`.execute(db);
    await sweep();
    expect(await jobExists(job)).toBe(true);
    await sql`update webhook_deliveries set status = 'delivered' where job_id = ${job}`.execute(db);
    await sweep();
    expect(await jobExists(job)).toBe(false);
  });

  it('of a rented machine goes with those that share its cost, when that is written down', async () => {
    const instanceId = await addInstance('vast', 'terminated');
    await sql`insert into rentals (id, instance_id, number, status, label, offer, machine_id, price_per_hour_usd, secret)
      values (${randomUUID()}, ${instanceId}, 1, 'gone', ${randomUUID()}, '{}', '1', 1, 's')`.execute(db);
    const old = await addJob({ status: 'failed', endedDaysAgo: 95, instanceId });
    const younger = await addJob({ status: 'failed', endedDaysAgo: 85, instanceId });
    const both = async () => [await jobExists(old), await jobExists(younger)];
    await sweep();
    expect(await both()).toEqual([true, true]);
    await sweep(6);
    expect(await both()).toEqual([true, true]);
    await sql`update rentals set recorded_at = now() where instance_id = ${instanceId}`.execute(db);
    await sweep();
    expect(await both()).toEqual([true, true]);
    await sweep(6);
    expect(await both()).toEqual([false, false]);
  });

  it('of a batch goes, and the last one takes the batch along', async () => {
    const batchId = randomUUID();
    await sql`insert into batches (id, workflow, job_count, created_at)
      values (${batchId}, '{}', 1, now() - interval '92 days')`.execute(db);
    const job = await addJob({ status: 'failed', endedDaysAgo: 91 });
    await sql`update jobs set batch_id = ${batchId}, workflow = null where id = ${job}`.execute(db);
    const batches = () => db.selectFrom('batches').select('id').where('id', '=', batchId).execute();
    expect(await batches()).toHaveLength(1);
    await sweep();
    expect([await jobExists(job), await batches()]).toEqual([false, []]);
  });
});

describe('a removal that meets an upload of the same bytes', () => {
  /** The store, with a pause before one of its steps, in which a test does something else. */
  function pausing(step: 'remove' | 'sizeOf' | 'publish' | 'published', meanwhile: () => Promise<unknown>) {
    let isDone = false;
    const pause = async (at: typeof step): Promise<void> => {
      if (at !== step || isDone) return;
      isDone = true;
      await meanwhile();
    };
    return assetsOf({
      ...store,
      receive: (stream, options, use) =>
        store.receive(stream, options, (file) =>
          use({
            ...file,
            async publish(key) {
              await pause('publish');
              await file.publish(key);
              await pause('published');
            },
          }),
        ),
      async remove(key) {
        await pause('remove');
        await store.remove(key);
      },
      async sizeOf(key) {
        await pause('sizeOf');
        return store.sizeOf(key);
      },
    });
  }

  async function oldUpload(): Promise<{ id: string; bytes: string }> {
    const bytes = fresh();
    const id = await save(bytes);
    await setBack(id, 60);
    return { id, bytes };
  }

  it('after it has taken the row, and before it takes the file, leaves the new file', async () => {
    const { id, bytes } = await oldUpload();
    await sweep(
      0,
      pausing('remove', () => save(bytes)),
    );
    expect(await contentOf(id)).toBe(bytes);
    expect(await filesOf(id)).toHaveLength(1);
  });

  it('that has found the asset, and has not looked at the file yet, leaves both', async () => {
    const { id, bytes } = await oldUpload();
    await save(bytes, { through: pausing('sizeOf', () => sweep()) });
    expect(await contentOf(id)).toBe(bytes);
  });

  it.each(['publish', 'published'] as const)('that is about to store them (%s) leaves it', async (step) => {
    const bytes = fresh();
    const id = await save(bytes, { through: pausing(step, () => sweep()) });
    expect(await contentOf(id)).toBe(bytes);
  });

  it('and another upload, all at once and again and again, never loses what was stored', async () => {
    const { id, bytes } = await oldUpload();
    for (let round = 0; round < 25; round += 1) {
      await setBack(id, 60);
      await Promise.all([sweep(), save(bytes), sweep(), save(bytes, { isResult: true }), sweep()]);
      expect(await contentOf(id)).toBe(bytes);
    }
    await sweep();
    await sweep();
    expect(await filesOf(id)).toHaveLength(1);
    expect(await db.selectFrom('loose_files').selectAll().execute()).toEqual([]);
  });

  it('of two at once that store the same bytes keeps one file', async () => {
    const bytes = fresh();
    const other = () => save(bytes);
    const id = await save(bytes, { through: pausing('publish', other) });
    expect(await filesOf(id)).toHaveLength(2);
    await sweep();
    expect(await filesOf(id)).toHaveLength(1);
    expect(await contentOf(id)).toBe(bytes);
  });
});

describe('an upload whose process was killed', () => {
  const killed = new Error('killed');

  it('after it has stored the file leaves nothing for ever, and nothing that is younger than a day is touched', async () => {
    const bytes = fresh();
    const dying = assetsOf({
      ...store,
      receive: (stream, options, use) =>
        store.receive(stream, options, (file) =>
          use({ ...file, publish: (key) => file.publish(key).then(() => Promise.reject(killed)) }),
        ),
    });
    await expect(save(bytes, { through: dying })).rejects.toBe(killed);
    const [row] = await db.selectFrom('loose_files').selectAll().execute();
    expect(row).toMatchObject({ removing: false });
    expect(await store.sizeOf(row?.key ?? '')).toBe(bytes.length);
    await sweep();
    expect(await store.sizeOf(row?.key ?? '')).toBe(bytes.length);
    await sweep(2);
    expect(await store.sizeOf(row?.key ?? '')).toBeNull();
    expect(await db.selectFrom('loose_files').selectAll().execute()).toEqual([]);
  });

  it.each(['is gone', 'is about to go'])(
    'that was only held up until its file %s fails, rather than refer to it',
    async (when) => {
      const bytes = fresh();
      const reached = Promise.withResolvers<void>();
      const release = Promise.withResolvers<void>();
      const removing = assetsOf({
        ...store,
        async remove(key) {
          reached.resolve();
          await release.promise;
          await store.remove(key);
        },
      });
      let swept: Promise<unknown> = Promise.resolve();
      const held = assetsOf({
        ...store,
        receive: (stream, options, use) =>
          store.receive(stream, options, (file) =>
            use({
              ...file,
              async publish(key) {
                await file.publish(key);
                swept = sweep(2, removing);
                if (when === 'is gone') release.resolve();
                await (when === 'is gone' ? swept : reached.promise);
              },
            }),
          ),
      });
      await expect(save(bytes, { through: held })).rejects.toMatchObject({ code: 'storage_unavailable' });
      release.resolve();
      await swept;
      const id = await save(bytes);
      expect(await contentOf(id)).toBe(bytes);
    },
  );
});
