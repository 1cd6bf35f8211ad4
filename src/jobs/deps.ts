// What the parts of this folder are given.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Assets } from '../assets/service.ts';
import type { Config } from '../config.ts';
import type { Notifications } from '../database/notifications.ts';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import type { Sessions } from '../instances/sessions.ts';
import type { Clock } from '../support/clock.ts';

export interface JobDeps {
  db: Kysely<Tables>;
  queues: Queues;
  notifications: Notifications;
  assets: Assets;
  config: Config;
  clock: Clock;
  log: Logger;
}

export interface RunDeps extends JobDeps {
  sessions: Pick<Sessions, 'get'>;
  /** Only what differs from the settings and the usual; tests are in more of a hurry. */
  timing?: Partial<RunTiming>;
}

/** How long the parts of a run wait, in milliseconds. */
export interface RunTiming {
  /** Between looks at ComfyUI while its events arrive. */
  pollMs: number;
  /** Between looks while no events arrive. */
  blindPollMs: number;
  /** The first wait for a history entry after the event that announces it; doubles up to `blindPollMs`. */
  endedPollMs: number;
  /** Between writes of progress. */
  progressMs: number;
  /** Between looks at whether the job is still ours and still wanted, while something else takes long. */
  guardMs: number;
  /** How long the event stream may take to open before a prompt is sent without it: events are only a hint. */
  streamWaitMs: number;
  /** After a submit without a usable answer: how long the prompt may stay unseen before it counts as not queued. */
  settleMs: number;
  /** How long ComfyUI may take to confirm that it stopped. A node that cannot be interrupted may take minutes. */
  confirmStopMs: number;
  /** How long ComfyUI may have the prompt in its queue while it runs nothing. */
  stalledMs: number;
  /** How long a machine may be out of reach before the attempt is given up. */
  unreachableMs: number;
  /** How long storage may be full or out of reach before a result or an input is given up. */
  storageMs: number;
  /** The first and the longest wait between tries while the machine is out of reach. */
  retryMs: number;
  retryCapMs: number;
}

/** How long the parts of a run wait, by the settings and by what is usual. */
export function timingOf({ config, timing }: Pick<RunDeps, 'config' | 'timing'>): RunTiming {
  return {
    ...usualTiming,
    confirmStopMs: config.STOP_TIMEOUT_SECONDS * 1000,
    stalledMs: config.STALL_TIMEOUT_SECONDS * 1000,
    unreachableMs: config.UNREACHABLE_TIMEOUT_SECONDS * 1000,
    ...timing,
  };
}

const usualTiming = {
  pollMs: 2000,
  blindPollMs: 1000,
  endedPollMs: 50,
  progressMs: 500,
  guardMs: 2000,
  streamWaitMs: 5000,
  settleMs: 20_000,
  storageMs: 600_000,
  retryMs: 250,
  retryCapMs: 5000,
};
