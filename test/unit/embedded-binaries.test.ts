import { mkdir, mkdtemp, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { restoreSymlinks, spawnOptions } from '../../src/database/embedded-binaries.ts';

test('links that the package could not make when it was installed are made at the start', async () => {
  const root = await mkdtemp(join(tmpdir(), 'comfyfleet-links-'));
  await mkdir(join(root, 'native', 'lib'), { recursive: true });
  await writeFile(join(root, 'native', 'lib', 'libpq.so.5.18'), 'library');
  const links = ['libpq.so', 'libpq.so.5'].map((name) => ({
    source: 'native/lib/libpq.so.5.18',
    target: `native/lib/${name}`,
  }));
  await writeFile(join(root, 'native', 'pg-symlinks.json'), JSON.stringify(links));

  await Promise.all([restoreSymlinks(root), restoreSymlinks(root)]);
  await restoreSymlinks(root);
  expect(await readlink(join(root, 'native', 'lib', 'libpq.so'))).toBe('libpq.so.5.18');
  expect(await readFile(join(root, 'native', 'lib', 'libpq.so.5'), 'utf8')).toBe('library');
  await rm(root, { recursive: true });
});

test('the server does not see settings that are meant for other servers', () => {
  process.env['PGDATA'] = '/elsewhere';
  expect(Object.keys(spawnOptions({ uid: 1, gid: 2 }).env)).toEqual(['PATH', 'LC_ALL', 'TZ']);
  delete process.env['PGDATA'];
});
