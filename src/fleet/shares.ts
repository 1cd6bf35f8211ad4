// Each job's share of what an instance has cost: pure, and to the millionth of a dollar.
import { rentalCost, sumOf, type BilledRental, type Micros, type Period } from '../instances/cost.ts';

/** One try of a job on the instance. */
export interface Work {
  jobId: string;
  /** When it had the GPU; null when it never came to that. */
  onGpu: Period | null;
}

export interface Share {
  /** The price of the machine while the job had the GPU. */
  workMicros: Micros;
  gpuMs: number;
  /** Its part of the time before the machines were ready, those that never were included. */
  bootMicros: Micros;
  /** Its part of the time in which no job had the GPU, until the machine was confirmed gone. */
  idleMicros: Micros;
}

export type SharedRental = BilledRental & { ready_at: Date | null };

/**
 * The shares of all jobs that an instance was given; together they are its cost. A job pays for its own time on the GPU; where
 * two overlap, the one that began first pays. Boot and idle time are divided by time on the GPU, or evenly where no job had any.
 * As long as the instance lives, further jobs make the share of each in the boot smaller, and its idle time makes shares larger.
 */
export function shareCosts(
  rentals: readonly SharedRental[],
  works: readonly Work[],
  now: Date,
): Map<string, Share> {
  const shares = new Map<string, Share>(
    works.map(({ jobId }) => [jobId, { workMicros: 0, gpuMs: 0, bootMicros: 0, idleMicros: 0 }]),
  );
  let bootMicros = 0;
  let restMicros = 0;
  for (const rental of rentals) {
    // Another replica's clock may be ahead.
    const readyAt = new Date(Math.min(now.getTime(), (rental.ready_at ?? now).getTime()));
    bootMicros += sumOf(rentalCost(rental, { from: new Date(0), to: readyAt }));
    restMicros += sumOf(rentalCost(rental, { from: readyAt, to: now }));
  }
  for (const { jobId, from, to } of inTurn(works, now)) {
    const share = shares.get(jobId);
    if (share === undefined) continue;
    share.gpuMs += to.getTime() - from.getTime();
    for (const rental of rentals) {
      const begin = new Date(Math.max(from.getTime(), (rental.ready_at ?? now).getTime()));
      if (begin < to) share.workMicros += sumOf(rentalCost(rental, { from: begin, to }));
    }
  }
  const all = [...shares.values()];
  const idleMicros = restMicros - all.reduce((sum, { workMicros }) => sum + workMicros, 0);
  const weights = all.map(({ gpuMs }) => gpuMs);
  const boots = divide(bootMicros, weights);
  const idles = divide(idleMicros, weights);
  for (const [index, share] of all.entries()) {
    share.bootMicros = boots[index] ?? 0;
    share.idleMicros = idles[index] ?? 0;
  }
  return shares;
}

/** Divides an amount by weights, evenly where they are all zero; the parts are whole and add up to the amount. */
export function divide(amount: Micros, weights: readonly number[]): Micros[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const effective = total > 0 ? weights : weights.map(() => 1);
  const whole = total > 0 ? total : weights.length;
  let before = 0;
  let given = 0;
  return effective.map((weight) => {
    before += weight;
    const until = Math.round((amount * before) / whole);
    const part = until - given;
    given = until;
    return part;
  });
}

/** The times on the GPU one after the other: it runs one workflow at a time, whatever the clocks say. */
function inTurn(works: readonly Work[], now: Date): (Period & { jobId: string })[] {
  const sorted = works
    .flatMap(({ jobId, onGpu }) => (onGpu === null ? [] : [{ jobId, ...onGpu }]))
    .toSorted((a, b) => a.from.getTime() - b.from.getTime() || a.jobId.localeCompare(b.jobId));
  let free = new Date(0);
  return sorted.flatMap(({ jobId, from, to: end }) => {
    const begin = new Date(Math.max(from.getTime(), free.getTime()));
    const to = new Date(Math.min(end.getTime(), now.getTime()));
    if (to <= begin) return [];
    free = to;
    return [{ jobId, from: begin, to }];
  });
}
