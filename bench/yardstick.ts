// A fixed piece of work of this process alone: what it takes now tells how much of the machine is ours, and how fast that is.
import { createHash } from 'node:crypto';

export interface Yardstick {
  /** By the clock. Twice the CPU time means that half of the machine was somebody else's. */
  elapsedMs: number;
  cpuMs: number;
}

const rounds = 400;

/** Takes about a fifth of a second of an idle core. */
export function measureYardstick(): Yardstick {
  const block = Buffer.alloc(1_000_000, 'comfyfleet');
  const cpuStart = process.cpuUsage();
  const start = performance.now();
  for (let round = 0; round < rounds; round += 1) createHash('sha256').update(block).digest();
  const elapsedMs = performance.now() - start;
  const { user, system } = process.cpuUsage(cpuStart);
  return { elapsedMs, cpuMs: (user + system) / 1000 };
}

export function yardstickText({ elapsedMs, cpuMs }: Yardstick): string {
  return `SHA-256 of ${rounds} MB takes ${elapsedMs.toFixed(0)} ms, ${cpuMs.toFixed(0)} ms of CPU`;
}
