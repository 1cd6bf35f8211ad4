// Starts a server that plays ComfyUI: for tests, the demo, benchmarks, and by hand.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { holdPort } from '../ports/held-port.ts';
import { openStorage } from './files/storage.ts';
import { defaultKnobs, newCounters, type ComfyCounters, type ComfyKnobs } from './knobs.ts';
import { seededRandom } from './support/random.ts';
import { startProcess, type RunningProcess } from './process.ts';
import { VERSIONS, type ComfyVersion } from './versions.ts';

export type { ComfyCounters, ComfyKnobs, RequestFault, SimulatedNode } from './knobs.ts';
export type { ComfyVersion } from './versions.ts';

export interface ComfyDoubleOptions {
  /** Default 0.33.0. */
  version?: ComfyVersion;
  /** Default 127.0.0.1. */
  host?: string;
  /** Default: a free one, which nobody else gets before `stop`. */
  port?: number;
  /** Of the random names and bytes; the same seed gives the same ones. */
  seed?: number;
  knobs?: Partial<ComfyKnobs>;
  /** Where files are kept; by default a temporary folder, removed by `stop`. */
  dataDir?: string;
}

export interface ComfyDouble {
  readonly url: string;
  readonly port: number;
  /** Changed at any time, read live. */
  readonly knobs: ComfyKnobs;
  readonly counters: ComfyCounters;
  /** Holds the folders output, input and temp. */
  readonly dataDir: string;
  readOutput(name: string, subfolder?: string): Promise<Buffer>;
  /** Drops all WebSockets abruptly; the server goes on. */
  dropSockets(): void;
  /** A new process on the same port: queue, history, counter and cache are gone, files stay, temp is emptied. */
  restart(): Promise<void>;
  /** The process exits: sockets are dropped, the port is refused. `restart` brings it back. */
  exit(): Promise<void>;
  /** Ends it for good and removes its temporary folder. Throws when the double itself failed on the way. */
  stop(): Promise<void>;
}

export async function startComfyDouble(options: ComfyDoubleOptions = {}): Promise<ComfyDouble> {
  const { version = '0.33.0', host = '127.0.0.1', seed = 1 } = options;
  const traits = VERSIONS[version];
  const knobs: ComfyKnobs = { ...defaultKnobs(), ...options.knobs };
  const counters = newCounters();
  const dataDir = options.dataDir ?? (await mkdtemp(path.join(tmpdir(), 'comfyui-double-')));
  const storage = openStorage(dataDir, traits);
  const random = seededRandom(seed);
  const start = (port: number): Promise<RunningProcess> =>
    startProcess({ traits, knobs, counters, storage, host, port, random });

  const { port, release } =
    options.port === undefined ? await holdPort(host) : { port: options.port, release: async () => {} };

  let running = await start(port);
  return {
    url: `http://${host}:${port}`,
    port,
    knobs,
    counters,
    dataDir,
    readOutput: (name, subfolder = '') => readFile(path.join(storage.directory('output'), subfolder, name)),
    dropSockets: () => running.dropSockets(),
    async restart() {
      await running.end();
      running = await start(port);
    },
    exit: () => running.end(),
    async stop() {
      try {
        await running.end();
      } finally {
        await release();
        if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true });
        else await storage.emptyTemp();
      }
    },
  };
}
