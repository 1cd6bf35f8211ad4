// What every part of the double shares.
import type { DoubleClock, Timer } from './clock.ts';
import type { StartComfyUi } from './installation.ts';
import type { PortHolder } from '../ports/held-port.ts';
import type { Operation } from './faults.ts';
import type { VastKnobs } from './knobs.ts';
import type { Market } from './market.ts';
import type { Random } from './random.ts';
import type { Rental } from './rental.ts';

/** What the double has seen. */
export interface VastCounters {
  /** Calls that arrived, refused ones included. */
  calls: Record<Operation, number>;
  /** Calls to paths that do not exist, and to the list that is gone. */
  unknownCalls: number;
  /** Answers 429. */
  rateLimited: number;
  /** Calls without a good key where one is needed. */
  unauthorized: number;
  /** Calls that carried the key in the URL, where it ends up in logs. */
  keysInUrl: number;
  /** Requests for a file of logs that carried a key, which its store is no more to see than anybody else. */
  keysToLogStore: number;
  /** Faults that were played. */
  faults: number;
  /** Rentals that were made, with or without an answer. */
  created: number;
  destroyed: number;
  /** Of these, machines that destroyed themselves for want of a heartbeat. */
  selfDestroyed: number;
  /** Requests that a machine's proxy refused for their credentials. */
  edgeRefusals: number;
}

export interface World {
  readonly knobs: VastKnobs;
  readonly clock: DoubleClock;
  readonly random: Random;
  readonly apiKey: string;
  readonly market: Market;
  readonly rentals: Map<number, Rental>;
  readonly counters: VastCounters;
  readonly account: { creditUsd: number; exhaustion: Timer | null };
  readonly ports: PortHolder;
  /** Where the API and the machines listen, and the address under which they are published. */
  readonly host: string;
  readonly publicHost: string;
  readonly startComfyUi: StartComfyUi;
  /** Uploaded logs by their name in the URL. */
  readonly logFiles: Map<string, { text: string; misses: number }>;
  /** Things that end by themselves; the double waits for them when it stops. */
  readonly endings: Set<Promise<unknown>>;
  /** Ends a rental as a call to destroy it does. */
  readonly destroy: (rental: Rental) => void;
  /** Nothing new is to begin. */
  isStopped: boolean;
  /** Tells those who wait that something changed. */
  readonly changed: () => void;
}

export function newCounters(): VastCounters {
  return {
    calls: {
      search: 0,
      create: 0,
      show: 0,
      list: 0,
      manage: 0,
      reboot: 0,
      recycle: 0,
      destroy: 0,
      logs: 0,
      logFile: 0,
      user: 0,
    },
    unknownCalls: 0,
    rateLimited: 0,
    unauthorized: 0,
    keysInUrl: 0,
    keysToLogStore: 0,
    faults: 0,
    created: 0,
    destroyed: 0,
    selfDestroyed: 0,
    edgeRefusals: 0,
  };
}
