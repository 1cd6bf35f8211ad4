// The prompt queue and the history, with the order and the faults of ComfyUI's own.
import { nodeError, ProcessEnded } from './nodes/definition.ts';
import type { HistoryEntry, QueueItem } from './support/model.ts';

export interface PromptQueue {
  /** Adds an item. Throws when it has the number and the id of the item that it is compared with. */
  put(item: QueueItem): void;
  /** Moves the first item to running; undefined when there is none. Throws like `put`. */
  take(): QueueItem | undefined;
  /** Ends a running item and writes its history entry, over an older one with the same id. */
  finish(item: QueueItem, entry: HistoryEntry): void;
  /** Drops the first pending item that matches. Throws like `put`. */
  remove(matches: (item: QueueItem) => boolean): boolean;
  clear(): void;
  readonly running: readonly QueueItem[];
  /** The raw heap, not sorted. */
  readonly pending: readonly QueueItem[];
  readonly remaining: number;
  readonly history: Map<string, HistoryEntry>;
  /** Resolves when something was put; rejects when the signal is aborted. */
  changed(signal: AbortSignal): Promise<void>;
  /** Wakes whoever waits for a change. */
  wake(): void;
}

export function createQueue(onChange: () => void, maxHistory: () => number): PromptQueue {
  let heap: QueueItem[] = [];
  const running: QueueItem[] = [];
  const history = new Map<string, HistoryEntry>();
  let waiters: (() => void)[] = [];

  const wake = (): void => {
    for (const resume of waiters) resume();
    waiters = [];
  };

  return {
    put(item) {
      heap.push(item);
      siftDown(heap, 0, heap.length - 1);
      onChange();
      wake();
    },
    take() {
      const item = popHeap(heap);
      if (item === undefined) return undefined;
      running.push(item);
      onChange();
      return item;
    },
    finish(item, entry) {
      running.splice(running.indexOf(item), 1);
      const oldest = history.keys().next();
      if (history.size > maxHistory() && oldest.done !== true) history.delete(oldest.value);
      history.set(item.promptId, entry);
      onChange();
    },
    remove(matches) {
      const index = heap.findIndex(matches);
      if (index === -1) return false;
      // The real one wipes a queue of one and then announces it again.
      if (heap.length === 1) onChange();
      heap.splice(index, 1);
      for (let from = Math.floor(heap.length / 2) - 1; from >= 0; from -= 1) siftUp(heap, from);
      onChange();
      return true;
    },
    clear() {
      heap = [];
      onChange();
    },
    get running() {
      return running;
    },
    get pending() {
      return heap;
    },
    get remaining() {
      return heap.length + running.length;
    },
    history,
    changed: (signal) =>
      new Promise((resolve, reject) => {
        const onAbort = (): void => reject(new ProcessEnded());
        signal.addEventListener('abort', onAbort, { once: true });
        waiters.push(() => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        });
      }),
    wake,
  };
}

/** Python compares tuples: number, then id, then the graphs, which are dicts and cannot be ordered. */
function comesBefore(a: QueueItem, b: QueueItem): boolean {
  if (a.number !== b.number) return a.number < b.number;
  if (a.promptId !== b.promptId) return a.promptId < b.promptId;
  throw nodeError('TypeError', "'<' not supported between instances of 'dict' and 'dict'");
}

// Below is heapq as Python has it, because `queue_pending` shows the raw array.

function popHeap(heap: QueueItem[]): QueueItem | undefined {
  const last = heap.pop();
  const first = heap[0];
  if (last === undefined || first === undefined) return last;
  heap[0] = last;
  siftUp(heap, 0);
  return first;
}

function siftDown(heap: QueueItem[], start: number, from: number): void {
  const item = itemAt(heap, from);
  let position = from;
  while (position > start) {
    const parentPosition = (position - 1) >> 1;
    const parent = itemAt(heap, parentPosition);
    if (!comesBefore(item, parent)) break;
    heap[position] = parent;
    position = parentPosition;
  }
  heap[position] = item;
}

function siftUp(heap: QueueItem[], from: number): void {
  const end = heap.length;
  const item = itemAt(heap, from);
  let position = from;
  let child = 2 * position + 1;
  while (child < end) {
    const right = child + 1;
    if (right < end && !comesBefore(itemAt(heap, child), itemAt(heap, right))) child = right;
    heap[position] = itemAt(heap, child);
    position = child;
    child = 2 * position + 1;
  }
  heap[position] = item;
  siftDown(heap, from, position);
}

function itemAt(heap: readonly QueueItem[], index: number): QueueItem {
  const item = heap[index];
  if (item === undefined) throw new RangeError(`The heap has no index ${index}.`);
  return item;
}
