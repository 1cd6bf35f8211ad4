// Reading many instances with few calls: vast.ai allows one single view in two seconds, whichever the instance.
import { ProviderError } from '../instances/provider.ts';
import type { VastClient } from './client.ts';
import type { Pacer } from './rate-limit.ts';
import { orAborted } from './rate-limit.ts';
import type { InstanceRow } from './schemas.ts';

export interface InstanceReader {
  /**
   * One instance; null only on the word of its single view, because a list proves no absence. What the single view does not show, or
   * leaves incomplete, is read once more from the list. Rejects with a `ProviderError`, or with the reason of `signal`.
   */
  read(instanceId: string, signal?: AbortSignal): Promise<InstanceRow | null>;
}

export interface ReaderOptions {
  client: VastClient;
  pacer: Pacer;
  /** Ends the reads that are shared by several callers. */
  closing: AbortSignal;
  /** Whether the row says all that it could: the single view has been seen without the ports that the list shows. */
  isComplete: (row: InstanceRow) => boolean;
}

interface Batch {
  ids: Set<string>;
  rows: Promise<Map<string, InstanceRow>>;
}

/** Keeps the address of the list within what servers accept. */
const MAX_BATCH = 100;

export function createInstanceReader({ client, pacer, closing, isComplete }: ReaderOptions): InstanceReader {
  let open: Batch | undefined;

  function openBatch(): Batch {
    const ids = new Set<string>();
    const filters = () => {
      if (open?.ids === ids) open = undefined;
      return { id: { in: [...ids].map(Number) } };
    };
    const rows = client.list(filters, closing).then((list) => new Map(list.map((row) => [row.id, row])));
    return { ids, rows };
  }

  /** Reads that wait for the list together go out together. */
  async function readFromList(instanceId: string, signal?: AbortSignal): Promise<InstanceRow | null> {
    if (open === undefined || open.ids.size >= MAX_BATCH) open = openBatch();
    const batch = open;
    batch.ids.add(instanceId);
    const rows = await orAborted(batch.rows, signal);
    return rows.get(instanceId) ?? null;
  }

  /** A call that fails for one instance, for ever maybe, hides nothing that the list shows. */
  async function show(instanceId: string, signal?: AbortSignal): Promise<InstanceRow | null> {
    try {
      return await client.show(instanceId, signal);
    } catch (error) {
      if (signal?.aborted === true || isOfKey(error)) throw error;
      const listed = await readFromList(instanceId, signal).catch(() => 'no answer' as const);
      if (listed === 'no answer') throw error;
      if (listed === null) throw unlisted(error);
      return listed;
    }
  }

  return {
    async read(instanceId, signal) {
      const listed = pacer.isFree('show') ? null : await readFromList(instanceId, signal);
      if (listed !== null) return listed;
      const row = await show(instanceId, signal);
      if (row === null || isComplete(row)) return row;
      return (await readFromList(instanceId, signal)) ?? row;
    },
  };
}

/** The same error, which tells that vast.ai answers all the same. */
function unlisted(error: unknown): unknown {
  if (!(error instanceof ProviderError)) return error;
  return new ProviderError(error.kind, error.message, { cause: error, unlisted: true });
}

/** The list would be refused as well. */
function isOfKey(error: unknown): boolean {
  return error instanceof ProviderError && error.kind === 'unauthorized';
}
