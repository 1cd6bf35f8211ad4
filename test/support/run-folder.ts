// What all workers of a test run share: a folder, and work that one of them does for all.
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasErrorCode } from '../../src/errors.ts';

const LIMIT_MS = 60_000;

/** test/support/global-setup.ts makes and removes it. */
export function runFolder(): string {
  const folder = process.env['TEST_RUN_FOLDER'];
  if (folder === undefined) throw new Error('TEST_RUN_FOLDER is not set: run the tests through vitest');
  return folder;
}

/** Resolves when `work` is done: the first worker that asks for it does it, and the others wait. */
export async function onceInRun(name: string, work: () => Promise<void>): Promise<void> {
  const done = join(runFolder(), `${name}-done`);
  if (await isFirst(join(runFolder(), `${name}-begun`))) {
    await work();
    await writeFile(done, '');
  }
  const deadline = Date.now() + LIMIT_MS;
  while (!existsSync(done)) {
    if (Date.now() > deadline) throw new Error(`The worker that began "${name}" did not end it.`);
    await sleep(50);
  }
}

async function isFirst(mark: string): Promise<boolean> {
  try {
    await mkdir(mark);
    return true;
  } catch (error) {
    if (hasErrorCode(error, 'EEXIST')) return false;
    throw error;
  }
}
