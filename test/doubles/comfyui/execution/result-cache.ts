// Remembers results of nodes, by what they were computed from and not by node id.
import { createHash } from 'node:crypto';
import type { Storage } from '../files/storage.ts';
import { isKind, nodeError, type ImageBatch } from '../nodes/definition.ts';
import type { NodeRegistry } from '../nodes/registry.ts';
import { isLink, type Dict, type Graph, type NodeUi } from '../support/model.ts';
import { isObject } from '../support/python.ts';

export interface CachedResult {
  /** A list of values for each slot. */
  readonly values: readonly (readonly unknown[])[];
  readonly ui: NodeUi | undefined;
  readonly meta: Dict | undefined;
}

export interface ResultCache {
  /** Computes the keys of a graph. Throws a KeyError where a node has no `inputs`, which ends the worker. */
  enter(graph: Graph): Promise<CacheView>;
  clear(): void;
}

export interface CacheView {
  get(id: string): CachedResult | undefined;
  set(id: string, result: CachedResult): void;
}

export interface CacheOptions {
  registry: NodeRegistry;
  storage: Storage;
  /** False forgets everything that the next prompt does not contain. */
  keepsAll: boolean;
  /** More than that is memory pressure: results of earlier prompts go, the oldest first. */
  maxBytes(): number;
}

export function createResultCache(options: CacheOptions): ResultCache {
  const results = new Map<string, CachedResult>();
  const relieve = (keep: ReadonlySet<string>): void => {
    let bytes = [...results.values()].reduce((sum, result) => sum + weightOf(result), 0);
    for (const [key, result] of results) {
      if (bytes <= options.maxBytes()) return;
      if (keep.has(key)) continue;
      bytes -= weightOf(result);
      results.delete(key);
    }
  };
  return {
    async enter(graph) {
      const keys = await keysOf(graph, options.registry, options.storage);
      const used = new Set(keys.values());
      if (!options.keepsAll) {
        for (const key of results.keys()) if (!used.has(key)) results.delete(key);
      }
      return {
        get: (id) => results.get(keys.get(id) ?? ''),
        set: (id, result) => {
          results.set(keys.get(id) ?? '', result);
          relieve(used);
        },
      };
    },
    clear: () => results.clear(),
  };
}

/** What the pictures would take as float tensors; here equal frames share one buffer. */
function weightOf({ values }: CachedResult): number {
  return values
    .flat()
    .filter((value): value is ImageBatch => isKind<ImageBatch>(value, 'IMAGE'))
    .reduce(
      (sum, { width, height, channels, frames }) => sum + width * height * channels * 4 * frames.length,
      0,
    );
}

async function keysOf(graph: Graph, registry: NodeRegistry, storage: Storage): Promise<Map<string, string>> {
  const keys = new Map<string, string>();
  const keyOf = async (id: string, path: readonly string[]): Promise<string> => {
    const known = keys.get(id);
    if (known !== undefined) return known;
    const node = graph[id];
    if (!isObject(node?.inputs)) throw nodeError('KeyError', "'inputs'");
    const parts: string[] = [node.class_type];
    const definition = registry.find(node.class_type);
    if (definition?.fingerprint !== undefined) {
      // A file that is gone is found out when the node runs.
      parts.push(await definition.fingerprint(node.inputs, storage).catch(() => 'missing'));
    }
    for (const [name, value] of Object.entries(node.inputs).sort(([a], [b]) => (a < b ? -1 : 1))) {
      const isUpstream = isLink(value) && graph[value[0]] !== undefined && !path.includes(value[0]);
      parts.push(
        name,
        isUpstream ? `${await keyOf(value[0], [...path, id])}#${value[1]}` : JSON.stringify(value),
      );
    }
    const key = createHash('sha1').update(JSON.stringify(parts)).digest('hex');
    keys.set(id, key);
    return key;
  };
  for (const id of Object.keys(graph)) await keyOf(id, [id]);
  return keys;
}
