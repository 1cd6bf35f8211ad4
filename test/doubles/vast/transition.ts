// Changing a rental: its status, its timers, what runs in it.
import { settle, settleAll, watchCredit } from './billing.ts';
import type { Rental } from './rental.ts';
import { isLive } from './rental.ts';
import type { World } from './world.ts';

export type StatusChange = Partial<
  Pick<Rental, 'actualStatus' | 'intendedStatus' | 'currentState' | 'nextState' | 'statusMessage'>
>;

/** The one place in which a status changes: what it cost so far is charged first. */
export function move(world: World, rental: Rental, change: StatusChange): void {
  settle(world, rental);
  Object.assign(rental, change);
  const { actualStatus, statusMessage: message } = rental;
  const last = rental.history.at(-1);
  if (last === undefined || last.actualStatus !== actualStatus || last.message !== message) {
    rental.history.push({ atMs: world.clock.now(), actualStatus, message });
  }
  refreshCredit(world);
  world.changed();
}

/** To be called whenever the credit or what is spent in an hour changes. */
export function refreshCredit(world: World): void {
  watchCredit(world, () => stopEverything(world));
}

/** Calls `run` after `ms` unless the rental ends or is stopped before. */
export function later(world: World, rental: Rental, ms: number, run: () => void): void {
  if (world.isStopped) return;
  const timer = world.clock.schedule(Math.max(0, ms), () => {
    rental.timers.delete(timer);
    if (isLive(rental)) run();
  });
  rental.timers.add(timer);
}

/** A stop, asked for or not: the GPU is given back, the storage stays and costs. The message stays as it was, as with vast.ai. */
export function stopRental(
  world: World,
  rental: Rental,
  actualStatus: 'exited' | 'stopped' = 'exited',
): void {
  endContainer(world, rental);
  move(world, rental, {
    actualStatus,
    intendedStatus: 'stopped',
    currentState: 'stopped',
    nextState: 'stopped',
  });
}

/** Ends what runs and what was going to happen; the ports are no longer shown, the disk stays. */
export function endContainer(world: World, rental: Rental): void {
  for (const timer of rental.timers) timer.cancel();
  rental.timers.clear();
  rental.arePortsPublished = false;
  rental.runningSinceMs = null;
  rental.installation?.exit();
  const { container } = rental;
  if (container === null) return;
  rental.container = null;
  const { receivedBytes, sentBytes } = container.transferred();
  rental.pastTransfer.receivedBytes += receivedBytes;
  rental.pastTransfer.sentBytes += sentBytes;
  rental.containerEnded = container.stop();
  expectEnd(world, rental.containerEnded);
}

/** The disk is lost, and with it ComfyUI and the certificate; the container has ended before. */
export function loseDisk(world: World, rental: Rental): void {
  if (rental.installation !== null) expectEnd(world, rental.installation.discard());
  rental.installation = null;
  rental.certificate = null;
}

/** The host has given the ports to others. */
export async function takeNewPorts(world: World, rental: Rental): Promise<void> {
  for (const entry of rental.ports) {
    const fresh = await world.ports.hold();
    entry.held.release();
    entry.held = fresh;
  }
}

/** The double waits for it when it stops, and fails then if it failed. */
export function expectEnd(world: World, ending: Promise<void>): void {
  ending.catch(() => {});
  world.endings.add(ending);
}

/** Everything stops, because the account has no credit left. */
function stopEverything(world: World): void {
  settleAll(world);
  for (const rental of world.rentals.values()) {
    if (isLive(rental) && rental.currentState === 'running') stopRental(world, rental);
  }
}
