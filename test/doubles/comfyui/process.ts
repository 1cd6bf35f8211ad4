// One played server process: everything that is in memory only, and gone after a restart.
import { setImmediate, setTimeout as delay } from 'node:timers/promises';
import { listen } from '../ports/listen.ts';
import { createResultCache } from './execution/result-cache.ts';
import { runWorker } from './execution/worker.ts';
import type { InterruptFlag } from './execution/executor.ts';
import type { Storage } from './files/storage.ts';
import { createHttpServer } from './http/server.ts';
import { featureFlags } from './http/introspection-routes.ts';
import type { ComfyCounters, ComfyKnobs } from './knobs.ts';
import { ProcessEnded } from './nodes/definition.ts';
import { nodeRegistry, type NodeRegistry } from './nodes/registry.ts';
import { createQueue, type PromptQueue } from './queue.ts';
import { openSocketHub, type SocketHub } from './sockets.ts';
import type { VersionTraits } from './versions.ts';

/** What the routes work on. */
export interface ComfyProcess {
  readonly traits: VersionTraits;
  readonly knobs: ComfyKnobs;
  readonly counters: ComfyCounters;
  readonly storage: Storage;
  readonly registry: NodeRegistry;
  readonly queue: PromptQueue;
  readonly hub: SocketHub;
  readonly interrupt: InterruptFlag;
  readonly free: { memory: boolean };
  /** The number of the next prompt that brings none. */
  promptCounter: number;
  /** An error that is the double's own fault; it shows in the next `end`. */
  onUnexpected(error: unknown): void;
}

export interface RunningProcess {
  /** Drops every connection, refuses the port and forgets everything. Throws what the double did wrong, if anything. */
  end(): Promise<void>;
  dropSockets(): void;
}

export interface ProcessOptions {
  traits: VersionTraits;
  knobs: ComfyKnobs;
  counters: ComfyCounters;
  storage: Storage;
  host: string;
  port: number;
  random: () => number;
}

const FATAL_DELAY_MS = 10;

export async function startProcess(options: ProcessOptions): Promise<RunningProcess> {
  const { traits, knobs, counters, storage } = options;
  await storage.prepare();
  const ending = new AbortController();
  const unexpected: unknown[] = [];
  const current: { clientId: unknown; nodeId: string | null } = { clientId: null, nodeId: null };
  const sendStatus = (): void => hub.send('status', status(queue), null);
  const queue = createQueue(
    () => sendStatus(),
    () => knobs.maxHistory,
  );
  const hub = openSocketHub({
    knobs,
    counters,
    greet: (clientId) => [
      { type: 'status', data: { ...status(queue), sid: clientId } },
      ...(current.clientId === clientId && current.nodeId !== null
        ? [{ type: 'executing', data: { node: current.nodeId } }]
        : []),
    ],
    featureFlags: () => featureFlags({ knobs, traits }),
    // The request that caused it still gets its answer.
    onFatal: () => void setTimeout(() => void end(), FATAL_DELAY_MS),
  });
  const registry = nodeRegistry(traits.version, knobs);
  const process: ComfyProcess = {
    traits,
    knobs,
    counters,
    storage,
    registry,
    queue,
    hub,
    interrupt: { isSet: false },
    free: { memory: false },
    promptCounter: 0,
    onUnexpected: (error) => void unexpected.push(error),
  };
  const server = createHttpServer(process);
  const worker = runWorker({
    ...process,
    current,
    cache: createResultCache({
      registry,
      storage,
      keepsAll: traits.keepsAllResults,
      maxBytes: () => knobs.cacheBytes,
    }),
    signal: ending.signal,
    random: options.random,
    wait: (ms) => pause(ms, ending.signal),
  }).catch((error: unknown) => void unexpected.push(error));

  let ended: Promise<void> | undefined;
  const end = (): Promise<void> => (ended ??= close());
  const close = async (): Promise<void> => {
    ending.abort();
    hub.drop();
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
    await worker;
  };
  await listen(server, options.port, options.host);
  return {
    dropSockets: () => hub.drop(),
    async end() {
      await end();
      const [error] = unexpected;
      if (error !== undefined) throw new Error('The ComfyUI double failed by itself.', { cause: error });
    },
  };
}

const status = (queue: PromptQueue): object => ({
  status: { exec_info: { queue_remaining: queue.remaining } },
});

/** Always yields, so that requests are answered while a job runs. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    if (ms > 0) await delay(ms, undefined, { signal });
    else await setImmediate(undefined, { signal });
  } catch {
    throw new ProcessEnded();
  }
}
