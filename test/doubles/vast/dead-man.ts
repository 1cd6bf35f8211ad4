// A machine that destroys itself when nobody renews its heartbeat: plays the loop of the start script, which is not run.
import type { DeadManPlan } from './boot.ts';
import type { Timer } from './clock.ts';
import type { Rental } from './rental.ts';
import { isLive } from './rental.ts';
import type { World } from './world.ts';

const lookEveryMs = 20_000;
/** A look may meet the heartbeat just while it is written, and then hangs: it must not take the time of the switch. */
const answerShare = 0.25;

/** Asks ComfyUI on its own address, as the loop does past the image's proxy, until it is cancelled. */
export function watchHeartbeat(world: World, rental: Rental, plan: DeadManPlan): Timer {
  const everyMs = Math.min(lookEveryMs, plan.limitSeconds * 100);
  const answerLimitMs = plan.limitSeconds * 1000 * answerShare;
  let limitMs = plan.firstSeconds * 1000;
  let sinceMs = world.clock.now();
  let last = '';
  let isCancelled = false;
  let timer = world.clock.schedule(everyMs, look);

  function look(): void {
    const looked = lookOnce();
    world.endings.add(looked);
    void looked.finally(() => world.endings.delete(looked));
  }

  async function lookOnce(): Promise<void> {
    // Looking fails while ComfyUI is not up, which counts as no heartbeat.
    const beat = await readHeartbeat(rental, plan.query, answerLimitMs).catch(() => '');
    if (isCancelled || world.isStopped || !isLive(rental)) return;
    const nowMs = world.clock.now();
    if (beat !== '' && beat !== last) {
      last = beat;
      limitMs = plan.limitSeconds * 1000;
      sinceMs = nowMs;
    }
    // Without a network it cannot ask for its own end, and goes on trying.
    if (nowMs - sinceMs < limitMs || rental.actualStatus === 'offline') {
      timer = world.clock.schedule(everyMs, look);
      return;
    }
    world.counters.selfDestroyed += 1;
    world.destroy(rental);
  }

  return {
    cancel() {
      isCancelled = true;
      timer.cancel();
    },
  };
}

async function readHeartbeat(rental: Rental, query: string, answerLimitMs: number): Promise<string> {
  const url = rental.installation?.running()?.url;
  if (url === undefined) return '';
  const answer = await fetch(`${url}/view?${query}`, { signal: AbortSignal.timeout(answerLimitMs) });
  const text = await answer.text();
  return answer.ok ? text : '';
}
