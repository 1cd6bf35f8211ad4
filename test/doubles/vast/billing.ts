// What rentals cost: the GPU by the second while it is held, the storage from creation to the end, the traffic by the byte.
import type { Rental } from './rental.ts';
import { isLive } from './rental.ts';
import type { World } from './world.ts';

export interface RentalBill {
  rentalId: number;
  label: string | null;
  gpuUsd: number;
  storageUsd: number;
  trafficUsd: number;
  totalUsd: number;
}

/** Charges a rental for the time since it was last charged; to be called before anything changes its price. */
export function settle(world: World, rental: Rental): void {
  const nowMs = world.clock.now();
  const hours = (Math.max(0, nowMs - rental.billedUntilMs) / 3_600_000) * world.knobs.money.secondsPerSecond;
  rental.billedUntilMs = nowMs;
  const rates = ratesOf(world, rental);
  const gpuUsd = rates.gpuUsd * hours;
  const storageUsd = rates.storageUsd * hours;
  rental.billed.gpuUsd += gpuUsd;
  rental.billed.storageUsd += storageUsd;
  world.account.creditUsd -= gpuUsd + storageUsd;
}

export function settleAll(world: World): void {
  for (const rental of world.rentals.values()) settle(world, rental);
}

/** What all rentals cost until now, ended ones included. Traffic is shown and not taken from the credit. */
export function billsOf(world: World): RentalBill[] {
  settleAll(world);
  return [...world.rentals.values()].map((rental) => {
    const trafficUsd = trafficOf(rental);
    const { gpuUsd, storageUsd } = rental.billed;
    return {
      rentalId: rental.id,
      label: rental.label,
      gpuUsd,
      storageUsd,
      trafficUsd,
      totalUsd: gpuUsd + storageUsd + trafficUsd,
    };
  });
}

/** Calls `onExhausted` when the credit will have run out at the present rates; to be called whenever they change. */
export function watchCredit(world: World, onExhausted: () => void): void {
  world.account.exhaustion?.cancel();
  world.account.exhaustion = null;
  let usdPerHour = 0;
  for (const rental of world.rentals.values()) {
    const { gpuUsd, storageUsd } = ratesOf(world, rental);
    if (rental.currentState === 'running') usdPerHour += gpuUsd + storageUsd;
  }
  const usdPerMs = (usdPerHour * world.knobs.money.secondsPerSecond) / 3_600_000;
  if (usdPerMs <= 0) return;
  settleAll(world);
  const leftMs = Math.max(0, world.account.creditUsd / usdPerMs);
  world.account.exhaustion = world.clock.schedule(leftMs, onExhausted);
}

/**
 * Dollars for an hour as it is now. The GPU counts from `loading` on and as long as the contract holds it, also while the
 * container has ended; vast.ai's pages do not agree on loading, and the dearer reading is the one to be ready for.
 */
function ratesOf(world: World, rental: Rental): { gpuUsd: number; storageUsd: number } {
  if (!isLive(rental) || rental.actualStatus === 'offline') return { gpuUsd: 0, storageUsd: 0 };
  const isStopped = rental.currentState === 'stopped';
  const holdsGpu = !isStopped && rental.actualStatus !== null && rental.actualStatus !== 'created';
  return {
    gpuUsd: holdsGpu ? rental.gpuPricePerHourUsd : 0,
    storageUsd: rental.storagePricePerHourUsd * (isStopped ? world.knobs.money.stoppedStorageFactor : 1),
  };
}

function trafficOf(rental: Rental): number {
  const present = rental.container?.transferred() ?? { receivedBytes: 0, sentBytes: 0 };
  const { pastTransfer, machine } = rental;
  const receivedGb = (present.receivedBytes + pastTransfer.receivedBytes) / 1e9;
  const sentGb = (present.sentBytes + pastTransfer.sentBytes) / 1e9;
  return receivedGb * machine.downloadPricePerGbUsd + sentGb * machine.uploadPricePerGbUsd;
}
