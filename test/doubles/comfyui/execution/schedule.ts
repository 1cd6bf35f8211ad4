// Which node runs next. The order is the server's own, because clients see it in the frames.
import { nodeError } from '../nodes/definition.ts';
import { isLink, type Graph, type GraphNode } from '../support/model.ts';

export interface Schedule {
  /** The next node to run, or undefined at the end. */
  next(): string | undefined;
  done(id: string): void;
}

export interface ScheduleOptions {
  isCached: (id: string) => boolean;
  isOutput: (id: string) => boolean;
}

/** Throws where the worker dies: validation follows declared inputs alone, the schedule follows every link. */
export function nodeOf(graph: Graph, id: string): GraphNode {
  const node = Object.hasOwn(graph, id) ? graph[id] : undefined;
  if (node === undefined) throw nodeError('NodeNotFoundError', `Node ${id} not found`);
  return node;
}

/** Cached nodes are not staged, except outputs, whose result is then taken from the cache. */
export function scheduleNodes(
  graph: Graph,
  outputs: readonly string[],
  { isCached, isOutput }: ScheduleOptions,
): Schedule {
  const pending = new Set<string>();
  const waitsFor = new Map<string, Set<string>>();
  const blocks = new Map<string, Set<string>>();

  const stage = (start: string): void => {
    const stack = [start];
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      if (pending.has(id)) continue;
      pending.add(id);
      for (const source of sourcesOf(graph, id)) {
        if (isCached(source)) continue;
        stack.push(source);
        addTo(waitsFor, id, source);
        addTo(blocks, source, id);
      }
    }
  };
  for (const output of outputs) stage(output);

  const blockedBy = (id: string): string[] => [...(blocks.get(id) ?? [])];
  return {
    next() {
      const ready = [...pending].filter((id) => (waitsFor.get(id)?.size ?? 0) === 0);
      // First outputs, then what an output waits for, then what is two steps from one: results show early.
      return (
        ready.find(isOutput) ??
        ready.find((id) => blockedBy(id).some(isOutput)) ??
        ready.find((id) => blockedBy(id).some((blocked) => blockedBy(blocked).some(isOutput))) ??
        ready[0]
      );
    },
    done(id) {
      pending.delete(id);
      for (const blocked of blockedBy(id)) waitsFor.get(blocked)?.delete(id);
    },
  };
}

const sourcesOf = (graph: Graph, id: string): string[] =>
  Object.values(nodeOf(graph, id).inputs).flatMap((value) => (isLink(value) ? [value[0]] : []));

function addTo(map: Map<string, Set<string>>, key: string, value: string): void {
  const set = map.get(key) ?? new Set();
  set.add(value);
  map.set(key, set);
}
