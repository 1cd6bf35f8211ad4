// The service as a process of its own, started from src/server.ts, that a scenario may kill, pause and start again.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import manifest from '../../package.json' with { type: 'json' };
import { bareEnvironment } from '../support/child.ts';

export interface ServiceProcess {
  readonly name: string;
  /** Base of its API; null while it does not answer. Another one after each start. */
  readonly url: string | null;
  /** Its process id; null while it does not run. */
  readonly pid: number | null;
  readonly starts: number;
  /** Ends that nobody asked for. */
  readonly accidents: readonly string[];
  start(): void;
  /** Resolves when it answers; rejects when it ends before it does. */
  up(): Promise<void>;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
  /** Stands still as a frozen machine does: its connections stay, and nothing comes. */
  pause(): void;
  resume(): void;
  /** SIGTERM; resolves when it has stopped by itself, or was killed after a minute. */
  stop(): Promise<void>;
}

const program = fileURLToPath(new URL('../../src/server.ts', import.meta.url));
/** Those of `npm start`, without its settings from a file. */
const nodeOptions = manifest.scripts.start
  .split(' ')
  .filter((word) => word.startsWith('--') && !word.startsWith('--env-file'));
const keepCompiled = new URL('../support/keep-compiled.ts', import.meta.url).href;
const stopLimitMs = 60_000;

/** The settings of the environment are not passed on; its log goes to `logFile`. `nodeOptions` come on top of those of `npm start`. */
export function serviceProcess(
  name: string,
  {
    env,
    logFile,
    nodeOptions: more = [],
  }: { env: Record<string, string>; logFile: string; nodeOptions?: readonly string[] },
): ServiceProcess {
  const log = createWriteStream(logFile, { flags: 'a' });
  const accidents: string[] = [];
  let child: ChildProcess | null = null;
  let answering = Promise.withResolvers<void>();
  let url: string | null = null;
  let starts = 0;
  let isEndWanted = false;

  function start(): void {
    if (isAlive(child)) throw new Error(`${name} runs already.`);
    starts += 1;
    isEndWanted = false;
    answering = Promise.withResolvers();
    // Whoever does not wait for it does not care.
    answering.promise.catch(() => undefined);
    const started = spawn(process.execPath, [...nodeOptions, `--import=${keepCompiled}`, ...more, program], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...bareEnvironment(),
        PORT: '0',
        LOG_LEVEL: 'info',
        RATE_LIMIT_PER_MINUTE: '1000000',
        ...env,
      },
    });
    child = started;
    const { resolve, reject } = answering;
    started.stderr.pipe(log, { end: false });
    createInterface({ input: started.stdout }).on('line', (line) => {
      log.write(`${line}\n`);
      if (child !== started || !line.includes('"the service is up"')) return;
      url = (JSON.parse(line) as { url: string }).url;
      resolve();
    });
    started.once('exit', (code, signal) => {
      url = null;
      reject(new Error(`${name} ended before it answered.`));
      log.write(`-- ${new Date().toISOString()} ${name} ended: ${signal ?? code}\n`);
      if (!isEndWanted)
        accidents.push(`${name} ended by itself in start ${starts}: ${signal ?? `code ${code}`}`);
    });
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (!isAlive(child)) return;
    isEndWanted = true;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  return {
    name,
    get url() {
      return url;
    },
    get pid() {
      return isAlive(child) ? (child.pid ?? null) : null;
    },
    get starts() {
      return starts;
    },
    accidents,
    start,
    up: () => answering.promise,
    kill: () => end('SIGKILL'),
    pause: () => void child?.kill('SIGSTOP'),
    resume: () => void child?.kill('SIGCONT'),
    async stop() {
      const forced = setTimeout(() => void end('SIGKILL'), stopLimitMs);
      await end('SIGTERM');
      clearTimeout(forced);
      log.end();
    },
  };
}

function isAlive(child: ChildProcess | null): child is ChildProcess {
  return child !== null && child.exitCode === null && child.signalCode === null;
}
