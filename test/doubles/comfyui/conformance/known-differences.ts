// Everything in which the double, or a real server that is checked, is left different from the recordings.
import type { ComfyVersion } from '../versions.ts';

export interface KnownDifference {
  /** Of a difference as `scenario.path` or `request.path`. */
  readonly where: RegExp;
  /** What differs from the recordings: the double, or a real server as the suite treats it. */
  readonly of: 'double' | 'real server';
  readonly only?: ComfyVersion;
  readonly reason: string;
}

const NO_BROKEN_WORKER =
  'The prompt that ends the worker is not sent to a real server, so its counter stands one lower and the prompts after it run.';

const KNOWN_DIFFERENCES: readonly KnownDifference[] = [
  {
    where: /\.traceback(?:\.\d+)?: /u,
    of: 'double',
    reason:
      'Tracebacks have the same form and the same outer frames, but not the source lines of Python code.',
  },
  {
    where: /^prompt_partial_targets\.number: /u,
    of: 'real server',
    only: '0.3.64',
    reason: NO_BROKEN_WORKER,
  },
  { where: /^history_max2\./u, of: 'real server', only: '0.3.64', reason: NO_BROKEN_WORKER },
  {
    where: /^origin_(?:cross_site|ok)\.exec_info\.queue_remaining: /u,
    of: 'real server',
    only: '0.3.64',
    reason: NO_BROKEN_WORKER,
  },
];

export interface DifferenceLedger {
  /** The differences that are not known; those that are, are noted. */
  unknown(name: string, differences: readonly string[]): string[];
  /** Known ones that did not show up: the list is out of date. */
  unseen(): KnownDifference[];
  /** A line for each reason, with the places in which it showed up. */
  report(): string[];
}

export function openLedger(version: ComfyVersion, of: KnownDifference['of']): DifferenceLedger {
  const applicable = KNOWN_DIFFERENCES.filter(
    (known) => known.of === of && (known.only ?? version) === version,
  );
  const seenIn = new Map<KnownDifference, Set<string>>(applicable.map((known) => [known, new Set()]));
  return {
    unknown: (name, differences) =>
      differences.filter((difference) => {
        const known = applicable.find(({ where }) => where.test(`${name}.${difference}`));
        if (known !== undefined) seenIn.get(known)?.add(name);
        return known === undefined;
      }),
    unseen: () => applicable.filter((known) => seenIn.get(known)?.size === 0),
    report() {
      const places = Map.groupBy(seenIn, ([{ reason }]) => reason);
      return [...places].map(([reason, entries]) => {
        const names = entries.flatMap(([, seen]) => [...seen]);
        return `${reason} (${names.length === 0 ? 'not seen' : names.join(', ')})`;
      });
    },
  };
}
