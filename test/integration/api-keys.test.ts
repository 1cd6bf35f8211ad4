import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createApiKeys, type ApiKeys } from '../../src/http/api-keys.ts';
import { bareEnvironment } from '../support/child.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let testDatabase: TestDatabase;
let apiKeys: ApiKeys;

beforeAll(async () => {
  testDatabase = await createTestDatabase();
});
afterAll(() => testDatabase.stop());

beforeEach(async () => {
  await testDatabase.database.db.deleteFrom('api_keys').execute();
  apiKeys = createApiKeys(testDatabase.database.db);
});

const alice = { name: 'alice', key: 'alices-key-alices-key-alices-key-1' };
const bob = { name: 'bob', key: 'bobs-key-bobs-key-bobs-key-bobs-2' };

/** The names of the active keys. */
async function activeNames(): Promise<string[]> {
  return (await apiKeys.list()).filter(({ revokedAt }) => revokedAt === null).map(({ name }) => name);
}

describe('a key that is made by command', () => {
  it('is known by its name, and kept as a hash only', async () => {
    const { key } = await apiKeys.create('frontend');
    expect(key).toMatch(/^cfy_[\w-]{43}$/);
    expect(await apiKeys.verify(key)).toBe('frontend');
    const rows = await testDatabase.database.db.selectFrom('api_keys').selectAll().execute();
    expect(JSON.stringify(rows)).not.toContain(key.slice(4));
  });

  it('is unlike every other', async () => {
    const [first, second] = [await apiKeys.create('first'), await apiKeys.create('second')];
    expect(first.key).not.toBe(second.key);
    expect(await apiKeys.verify(second.key)).toBe('second');
  });

  it.each(['', 'x', 'cfy_', '\u0000'])('is not %j', async (guess) => {
    await apiKeys.create('frontend');
    expect(await apiKeys.verify(guess)).toBeNull();
  });

  it('has a name of its own, which is free again once it is revoked', async () => {
    const { key: first } = await apiKeys.create('frontend');
    await expect(apiKeys.create('frontend')).rejects.toMatchObject({ code: 'conflict' });
    await apiKeys.revoke('frontend');
    const { key: second } = await apiKeys.create('frontend');
    expect(await apiKeys.verify(first)).toBeNull();
    expect(await apiKeys.verify(second)).toBe('frontend');
  });

  it('gets one name only once when two ask at the same time', async () => {
    const tries = await Promise.allSettled([1, 2, 3, 4].map(() => apiKeys.create('frontend')));
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(await activeNames()).toEqual(['frontend']);
  });

  it('must have a name that fits into logs', async () => {
    await expect(apiKeys.create('a b')).rejects.toMatchObject({ code: 'invalid_request', field: 'name' });
  });

  it('cannot be revoked when there is none', async () => {
    await expect(apiKeys.revoke('nobody')).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('the memory of keys', () => {
  it('spares the database a query for each request', async () => {
    const { key } = await apiKeys.create('frontend');
    await apiKeys.verify(key);
    await testDatabase.database.db.deleteFrom('api_keys').execute();
    expect(await apiKeys.verify(key)).toBe('frontend');
    expect(await apiKeys.any()).toBe(true);
  });

  it('hears of what other processes do when it is old', async () => {
    const elsewhere = createApiKeys(testDatabase.database.db);
    const forgetful = createApiKeys(testDatabase.database.db, { cacheMs: 0 });
    expect(await forgetful.any()).toBe(false);
    const { key } = await elsewhere.create('frontend');
    expect(await forgetful.verify(key)).toBe('frontend');
    await elsewhere.revoke('frontend');
    expect(await forgetful.verify(key)).toBeNull();
    expect(await forgetful.any()).toBe(false);
  });

  it('knows at once what it did itself, also while it was asking', async () => {
    const { key } = await apiKeys.create('frontend');
    const meanwhile = apiKeys.verify(key);
    await apiKeys.revoke('frontend');
    await meanwhile;
    expect(await apiKeys.verify(key)).toBeNull();
  });
});

describe('the keys of the settings', () => {
  it('are made, kept, and revoked when they are gone', async () => {
    await apiKeys.adoptSettings([alice, bob]);
    await apiKeys.adoptSettings([alice, bob]);
    expect(await apiKeys.verify(alice.key)).toBe('alice');
    await apiKeys.adoptSettings([bob]);
    expect(await apiKeys.verify(alice.key)).toBeNull();
    expect(await apiKeys.verify(bob.key)).toBe('bob');
    await apiKeys.adoptSettings([]);
    expect(await apiKeys.any()).toBe(false);
    await apiKeys.adoptSettings([alice]);
    expect(await apiKeys.verify(alice.key)).toBe('alice');
  });

  it('may be exchanged, renamed and swapped', async () => {
    await apiKeys.adoptSettings([alice, bob]);
    await apiKeys.adoptSettings([
      { ...alice, key: bob.key },
      { ...bob, key: alice.key },
    ]);
    expect(await apiKeys.verify(alice.key)).toBe('bob');
    expect(await apiKeys.verify(bob.key)).toBe('alice');
    await apiKeys.adoptSettings([{ name: 'carol', key: alice.key }]);
    expect(await apiKeys.verify(alice.key)).toBe('carol');
    expect(await activeNames()).toEqual(['carol']);
  });

  it('leave those alone that were made by command', async () => {
    const { key } = await apiKeys.create('frontend');
    await apiKeys.adoptSettings([alice]);
    await apiKeys.adoptSettings([]);
    expect(await apiKeys.verify(key)).toBe('frontend');
  });

  it('must not take over a name or a key of these, nor share one key', async () => {
    const { key } = await apiKeys.create('frontend');
    const conflict = { code: 'conflict', message: expect.stringMatching(/^API_KEYS: /) };
    await expect(apiKeys.adoptSettings([{ name: 'frontend', key: alice.key }])).rejects.toMatchObject(
      conflict,
    );
    await expect(apiKeys.adoptSettings([{ name: 'other', key }])).rejects.toMatchObject(conflict);
    await expect(apiKeys.adoptSettings([alice, { ...bob, key: alice.key }])).rejects.toMatchObject(conflict);
    expect(await activeNames()).toEqual(['frontend']);
  });

  it('are the same for replicas that start together', async () => {
    await Promise.all(
      [1, 2, 3, 4].map(() => createApiKeys(testDatabase.database.db).adoptSettings([alice, bob])),
    );
    expect(await activeNames()).toEqual(['alice', 'bob']);
  });

  it('are revoked in the settings and not by command', async () => {
    await apiKeys.adoptSettings([alice]);
    await expect(apiKeys.revoke('alice')).rejects.toMatchObject({ code: 'conflict' });
    expect(await apiKeys.verify(alice.key)).toBe('alice');
  });
});

describe('the command line', () => {
  const run = (...words: string[]) =>
    promisify(execFile)(process.execPath, ['scripts/api-keys.ts', ...words], {
      env: { ...bareEnvironment(), DATABASE_URL: testDatabase.url },
    });

  it('makes a key that the service accepts, revokes another, and lists both', async () => {
    const { key: older } = await apiKeys.create('backend');
    const { stdout } = await run('create', 'frontend');
    await run('revoke', 'backend');
    const keys = createApiKeys(testDatabase.database.db);
    expect(await keys.verify(stdout.trim())).toBe('frontend');
    expect(await keys.verify(older)).toBeNull();
    const lines = (await run('list')).stdout.split('\n');
    expect(lines.toSorted()).toEqual([
      '',
      expect.stringMatching(/^backend\tcommand\tcreated \S+\trevoked \S+$/),
      expect.stringMatching(/^frontend\tcommand\tcreated \S+\tactive$/),
    ]);
    await expect(run('revoke', 'backend')).rejects.toMatchObject({
      code: 1,
      stderr: 'There is no active API key named backend.\n',
    });
  });

  it('explains itself', async () => {
    await expect(run('help')).rejects.toMatchObject({ code: 2, stderr: expect.stringMatching(/^Usage: /) });
  });
});
