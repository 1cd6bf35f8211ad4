// What a chaos scenario is given, and what it hands back.
import type { Random } from '../doubles/vast/random.ts';

export interface ChaosOptions {
  /** Of everything that is drawn. What the machine's load adds to it is not repeated. */
  seed: number;
  random: Random;
  /** Full length rather than what CI has time for. */
  full: boolean;
  /** For everything that the scenario writes; logs of the services are kept there when something is wrong. */
  folder: string;
  /** What is to be undone when the scenario ends, or is broken off. */
  stack: AsyncDisposableStack;
  say: (line: string) => void;
}

export interface Outcome {
  figures: Record<string, number | string>;
  /** What must not be, one line each; none means that the scenario passed. */
  violations: string[];
}

export interface Scenario {
  name: string;
  about: string;
  run: (options: ChaosOptions) => Promise<Outcome>;
}

/** One of the items. */
export function pick<T>(random: Random, items: readonly T[]): T {
  const item = items[random.integer(0, items.length - 1)];
  if (item === undefined) throw new Error('There is nothing to pick from.');
  return item;
}

/** One of the names, each as often as its weight says. */
export function pickWeighted<K extends string>(random: Random, weights: Record<K, number>): K {
  const entries = Object.entries<number>(weights) as [K, number][];
  let draw = random.fraction() * entries.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [name, weight] of entries) {
    if (draw < weight) return name;
    draw -= weight;
  }
  throw new Error('Every weight is zero.');
}
