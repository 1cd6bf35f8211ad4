// What a scenario of the benchmark is given, and what it hands back.
import type { Usage } from './usage.ts';

export interface BenchOptions {
  /** Fewer rounds, for a look whether all is well: the figures are coarse. */
  quick: boolean;
  /** For everything that is written. */
  folder: string;
  /** What is to be undone when the scenario ends, or is broken off. */
  stack: AsyncDisposableStack;
  /** Told of every service that is started. */
  watched: (usage: Usage) => void;
  say: (line: string) => void;
}

/** Numbers stay numbers, so that they can be compared between runs; the unit is in the name of the column. */
export interface Table {
  title: string;
  columns: string[];
  rows: (string | number)[][];
}

/** What we want to reach, and whether we did. */
export interface Aim {
  name: string;
  /** In the unit of the name. */
  value: number;
  limit: number;
}

export interface Outcome {
  tables: Table[];
  aims: Aim[];
}

export interface Scenario {
  letter: string;
  name: string;
  about: string;
  run: (options: BenchOptions) => Promise<Outcome>;
}

export function isMet({ value, limit }: Aim): boolean {
  return value <= limit;
}

/** A figure for a table; null is one that cannot be measured here. */
export function shown(figure: number | null | undefined): number | string {
  return figure ?? 'not measured';
}
