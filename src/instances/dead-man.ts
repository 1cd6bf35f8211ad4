// The dead-man switch: a machine whose controller has gone destroys itself. Who has one, and how long it waits.
import type { Config } from '../config.ts';
import type { RentalRow } from '../database/tables.ts';
import type { DeadMan } from './provider.ts';

type SwitchSettings = Pick<
  Config,
  'DEAD_MAN_SWITCH_MINUTES' | 'STARTING_TIMEOUT_SECONDS' | 'VAST_IMAGE_KIND' | 'VAST_RUNTYPE'
>;

/**
 * After how many seconds without a heartbeat a machine rented now destroys itself; null: it gets no switch. The switch is a
 * loop that vast.ai's own image runs from its start script: the run type `args` has none, and of ai-dock's image it is not
 * known how it is built.
 */
export function deadManSeconds(config: SwitchSettings): number | null {
  const isPossible = config.VAST_IMAGE_KIND === 'vast' && config.VAST_RUNTYPE !== 'args';
  if (config.DEAD_MAN_SWITCH_MINUTES === 0 || !isPossible) return null;
  return Math.max(1, Math.round(config.DEAD_MAN_SWITCH_MINUTES * 60));
}

/** Since when a machine has heard of nobody, when that is so long that it may have destroyed itself; otherwise null. */
export function fatalSilenceSince(
  rental: Pick<RentalRow, 'dead_man_seconds' | 'heartbeat_at' | 'running_at'>,
  config: Pick<Config, 'STARTING_TIMEOUT_SECONDS'>,
  now: Date,
): Date | null {
  const deadMan = deadManOf(rental.dead_man_seconds, config);
  const since = rental.heartbeat_at ?? rental.running_at;
  if (deadMan === null || since === null) return null;
  const seconds = rental.heartbeat_at === null ? deadMan.firstSeconds : deadMan.limitSeconds;
  return now.getTime() - since.getTime() > seconds * 1000 ? since : null;
}

/** Until ComfyUI takes the first heartbeat, a machine may take as long as it is given to start. */
export function deadManOf(
  limitSeconds: number | null,
  { STARTING_TIMEOUT_SECONDS }: Pick<Config, 'STARTING_TIMEOUT_SECONDS'>,
): DeadMan | null {
  if (limitSeconds === null) return null;
  return { limitSeconds, firstSeconds: Math.ceil(limitSeconds + STARTING_TIMEOUT_SECONDS) };
}
