// Whose turn it is: the API keys whose jobs wait take turns, and each key's own jobs keep their order. Pure.

export interface Waiting {
  apiKey: string | null;
  priority: number;
  createdAt: Date;
}

/** What the jobs of a key have of the instances. */
export interface KeyUse {
  /** Slots that they hold. */
  slots: number;
  /** When the last of them was placed; where none is, when the last one ended. Null: none ever was. */
  servedAt: Date | null;
}

export interface Turns<J extends Waiting> {
  /** The job that comes next, once; null when all have come. */
  next(): J | null;
  /** Notes that a job of this key was placed. */
  serve(apiKey: string | null): void;
}

interface Line<J> {
  jobs: J[];
  use: KeyUse;
}

/**
 * A point of priority is worth a minute of waiting, and a key waits from its job's creation or from when it was last served,
 * whichever is later, as long as it holds no slot. Of keys that are equal in this, the one with the fewest slots comes first, and
 * then the one that was served longest ago. `jobs` come in the order that they have among the jobs of their key.
 */
export function takeTurns<J extends Waiting>(
  jobs: readonly J[],
  uses: ReadonlyMap<string | null, KeyUse>,
  now: Date,
): Turns<J> {
  const lines = new Map<string | null, Line<J>>();
  for (const job of jobs) {
    const line = lines.get(job.apiKey);
    if (line !== undefined) line.jobs.push(job);
    else lines.set(job.apiKey, { jobs: [job], use: uses.get(job.apiKey) ?? { slots: 0, servedAt: null } });
  }

  return {
    next() {
      let first: Line<J> | null = null;
      for (const line of lines.values()) {
        if (line.jobs.length > 0 && (first === null || isBefore(line, first, now))) first = line;
      }
      return first?.jobs.shift() ?? null;
    },
    serve(apiKey) {
      const line = lines.get(apiKey);
      if (line !== undefined) line.use = { slots: line.use.slots + 1, servedAt: now };
    },
  };
}

function isBefore(a: Line<Waiting>, b: Line<Waiting>, now: Date): boolean {
  const [left, right] = [placeOf(a, now), placeOf(b, now)];
  const differing = left.findIndex((value, index) => value !== right[index]);
  return differing !== -1 && (left[differing] ?? 0) < (right[differing] ?? 0);
}

/** What decides, the weightiest first; less is sooner. Times are in milliseconds. */
function placeOf({ jobs, use: { slots, servedAt } }: Line<Waiting>, now: Date): number[] {
  const [head] = jobs;
  if (head === undefined) return [];
  const served = servedAt?.getTime() ?? 0;
  const waitsSince = slots > 0 ? now.getTime() : Math.max(head.createdAt.getTime(), served);
  return [waitsSince - head.priority * 60_000, slots, served, head.createdAt.getTime()];
}
