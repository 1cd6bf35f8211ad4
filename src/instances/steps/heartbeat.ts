// Renewing the dead-man switch: a machine that is watched hears of it long before it would destroy itself.
import { ComfyError } from '../../comfyui/errors.ts';
import { sendHeartbeat } from '../../comfyui/heartbeat.ts';
import type { Link } from '../../comfyui/link.ts';
import { isFresh } from '../../support/clock.ts';
import { stillOwned } from '../records.ts';
import type { Step } from './step.ts';

/** Heartbeats within the time after which the machine would destroy itself. */
const BEATS_PER_LIMIT = 10;
/** Without a heartbeat for this share of that time, the machine is given up in good order rather than lost under its jobs. */
const HOPELESS_SHARE = 0.5;

/** When a machine is looked at again: as often as is wanted, and as its switch needs, since heartbeats go with the looks. */
export function untilNextLookMs(
  { deps, rental }: Step,
  wantedMs = deps.config.INSTANCE_CHECK_SECONDS * 1000,
): number {
  const limitSeconds = rental?.dead_man_seconds ?? Infinity;
  return Math.min(wantedMs, (limitSeconds * 1000) / BEATS_PER_LIMIT);
}

/**
 * Sends a heartbeat when one is due. `failing`: the machine did not take it, and there is time for more tries; `hopeless`: it
 * will soon destroy itself. A machine without a switch is always `kept`.
 */
export async function keepAlive(
  { deps, instance, rental, now, log, signal }: Step,
  link: Link,
): Promise<'kept' | 'failing' | 'hopeless'> {
  if (rental === null || rental.dead_man_seconds === null) return 'kept';
  const limitMs = rental.dead_man_seconds * 1000;
  const last = rental.heartbeat_at;
  if (last !== null && isFresh(last, limitMs / BEATS_PER_LIMIT, now)) return 'kept';
  try {
    await sendHeartbeat(link, now.toISOString(), signal);
  } catch (error) {
    if (!(error instanceof ComfyError)) throw error;
    log.warn({ error: error.message, lastHeartbeatAt: last }, 'the machine did not take a heartbeat');
    const isHopeless = last !== null && now.getTime() - last.getTime() >= limitMs * HOPELESS_SHARE;
    return isHopeless ? 'hopeless' : 'failing';
  }
  await deps.db
    .updateTable('rentals')
    .set({ heartbeat_at: now })
    .where('id', '=', rental.id)
    .where(stillOwned(instance))
    .execute();
  return 'kept';
}
