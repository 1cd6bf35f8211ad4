// The things that the server keeps: graphs, queue items, history entries.

export type Dict = Record<string, unknown>;

export interface GraphNode {
  class_type: string;
  inputs: Dict;
  _meta?: { title?: string };
}

export type Graph = Record<string, GraphNode>;

export interface QueueItem {
  readonly number: number;
  /** True when the client named the number: it is then a float, and is written as one. */
  readonly numberIsFloat: boolean;
  readonly promptId: string;
  readonly graph: Graph;
  /** 0.3.64 lets `null` through to the worker, which dies of it. */
  readonly extraData: Dict | null;
  readonly outputs: readonly string[];
}

/** `[event, data]`, as stored in `status.messages` of a history entry. */
export type StatusMessage = readonly [event: string, data: Dict];

/** What one node shows of its result: lists of file items, texts or flags under named keys. */
export type NodeUi = Record<string, unknown[]>;

export interface HistoryEntry {
  readonly item: QueueItem;
  readonly outputs: Readonly<Record<string, NodeUi>>;
  readonly status: {
    status_str: 'success' | 'error';
    completed: boolean;
    messages: readonly StatusMessage[];
  };
  readonly meta: Readonly<Record<string, Dict>>;
}

export interface FileItem {
  filename: string;
  subfolder: string;
  type: 'output' | 'input' | 'temp';
}

/** A link is any two-element list that starts with a node id. ComfyUI: `is_link` also takes float slots. */
export function isLink(value: unknown): value is [string, number] {
  return (
    Array.isArray(value) && value.length === 2 && typeof value[0] === 'string' && typeof value[1] === 'number'
  );
}
