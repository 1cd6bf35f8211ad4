// The settings of the double, read live: each stands for something a real server did. README.md lists the traps.

import { checkKnob, mapOf, oneOf, orNull } from './support/knob-text.ts';

const outputExtensions = ['png', 'mp4'] as const;
const requestMishaps = ['status', 'drop-before', 'drop-after', 'hang'] as const;
const socketKinds = ['open', 'silent', 'dead', 'refused'] as const;

/** A node that would need a GPU or a model: it takes any input, spends time, and gives what is asked of it. */
export interface SimulatedNode {
  /** Time of the whole node in milliseconds, spread over its steps. */
  durationMs: number;
  /** Progress events; an interrupt lands between two steps. 0: one long call that nothing interrupts. */
  steps?: number;
  /** Sends a preview image with each step, as with `extra_data.preview_method`. */
  previews?: boolean;
  /** Types of its output slots. Default: one IMAGE. */
  returns?: readonly string[];
  /** Files that it saves; with one or more it is an output node. */
  outputCount?: number;
  /** Exact size of each file in bytes; by default as large as the content needs. */
  outputBytes?: number;
  outputExtension?: (typeof outputExtensions)[number];
  /** The key of its files in the history, `gifs` for VHS_VideoCombine. Default `images`. */
  outputKey?: string;
  /** Raised after the last step instead of a result. */
  error?: { type: string; message: string };
  /** Named combo inputs with their choices, checked at submit: `{ ckpt_name: ['a.safetensors'] }`. */
  choices?: Readonly<Record<string, readonly string[]>>;
}

/** What happens to requests of one route. */
export interface RequestFault {
  /** Method and path without `/api`, for example `POST /prompt` or `GET /history/{id}`. */
  route: string;
  /**
   * `status`: answers that status and does nothing. `drop-before`: closes the connection and does nothing.
   * `drop-after`: does the work, then closes the connection without an answer. `hang`: never answers.
   */
  how: (typeof requestMishaps)[number];
  /** For `status`; default 500. */
  status?: number;
  /** Requests that it still applies to; counted down. Default: all. */
  times?: number;
}

export interface ComfyKnobs {
  // Speed
  /** Time of every node call in milliseconds; the call is one piece, an interrupt waits for its end. */
  nodeMs: number;
  /** Time of every further item when a node runs over a list (workflow e); an interrupt lands between items. */
  itemMs: number;
  /** Time of every frame of a node that reports progress (workflow f); an interrupt lands between frames. */
  frameMs: number;
  /** Time that each request waits before it is handled: Python holds its lock, validation scans directories. */
  latencyMs: number;
  /** Simulated nodes by class name; `{}` leaves only the nodes that run for real. */
  nodes: Record<string, SimulatedNode>;
  /** Model files by folder, as `/models` shows them. */
  models: Record<string, string[]>;
  /** The GPU that `/system_stats` shows; null is a CPU. */
  gpu: { name: string; vramTotalBytes: number } | null;
  /** Old class name → installed one, replaced before validation in 0.33; without `_meta` that is a 500. */
  nodeReplacements: Record<string, string>;

  // Limits
  /** Largest request body in bytes (`--max-upload-size`); more is a 413. */
  maxUploadBytes: number;
  /** Results kept by 0.33 in bytes of tensors; beyond, those of earlier prompts are dropped (RAM pressure). */
  cacheBytes: number;
  /** History entries kept; the server keeps one more than its limit, because it checks before it adds. */
  maxHistory: number;

  // Events
  /**
   * `open`: as it should be. `silent`: sockets live and answer pings, but no frame arrives (the zombie).
   * `dead`: not even a pong or a closing handshake, and never again. `refused`: the upgrade gets a 503.
   */
  sockets: (typeof socketKinds)[number];
  /** How long after the end of a dead socket the server goes on taking it for open, in milliseconds. */
  deadSocketMs: number;
  /** Closes each socket abruptly after that many frames. */
  dropSocketAfterFrames: number | null;
  /** The real fault: when an old socket with the same clientId closes, the new one is forgotten too. */
  reconnectFault: boolean;
  /** Time between `execution_success` and the history entry, in milliseconds. */
  historyDelayMs: number;

  // Faults
  /** Interrupts and cancels that answer as if they worked and change nothing; counted down. */
  loseInterrupts: number;
  /** The worker stands still: prompts are accepted and never run. */
  wedged: boolean;
  /** Calls of the node with that id do not come back, as on a GPU that hangs, until the knob is turned back. */
  hangingNode: string | null;
  /** Faults of requests, the first that fits is taken. */
  requestFaults: RequestFault[];
  /** Speed at which upload bodies are taken, in bytes per second; null is as fast as they come. */
  uploadBytesPerSecond: number | null;
  /** Speed at which `/view` sends, in bytes per second. */
  downloadBytesPerSecond: number | null;
  /** Cuts a `/view` body after that many bytes and closes the connection. */
  cutDownloadAfterBytes: number | null;
  /** No space left: saving nodes fail with OSError, uploads with 500. */
  diskFull: boolean;
  /** Node calls that run out of GPU memory before they work again; counted down. */
  outOfMemory: number;
  /** The fault before 0.28: a cached run without client_id has no outputs in its history. */
  emptyCachedOutputs: boolean;
  /** Every prompt gets an id of the server's own, as before clients could name one. */
  ownPromptIds: boolean;
  /** Pads error frames and entries by that many bytes, as large tensors do. */
  errorPaddingBytes: number;

  // The command line
  /** Shown in `/system_stats` after its first words; it changes nothing by itself. */
  arguments: string[];
  /** `--disable-metadata` is off: graph and workflow are written into files. */
  embedMetadata: boolean;
  /** `--enable-cors-header` is off: pages of other sites are refused. */
  checksOrigin: boolean;
  /** What `/system_stats` says; null is the version that is played. */
  reportedVersion: string | null;
}

export const defaultKnobs = (): ComfyKnobs => ({
  nodeMs: 0,
  itemMs: 1,
  frameMs: 4,
  latencyMs: 0,
  nodes: {},
  models: { checkpoints: [], loras: [], vae: [], upscale_models: [] },
  gpu: null,
  nodeReplacements: {},
  maxUploadBytes: 100 * 1024 * 1024,
  cacheBytes: 2 * 1024 ** 3,
  maxHistory: 10_000,
  sockets: 'open',
  deadSocketMs: 100,
  dropSocketAfterFrames: null,
  reconnectFault: true,
  historyDelayMs: 0,
  loseInterrupts: 0,
  wedged: false,
  hangingNode: null,
  requestFaults: [],
  uploadBytesPerSecond: null,
  downloadBytesPerSecond: null,
  cutDownloadAfterBytes: null,
  diskFull: false,
  outOfMemory: 0,
  emptyCachedOutputs: false,
  ownPromptIds: false,
  errorPaddingBytes: 0,
  arguments: [],
  embedMetadata: true,
  checksOrigin: true,
  reportedVersion: null,
});

const anyNode: Record<keyof SimulatedNode, unknown> = {
  durationMs: 0,
  steps: 0,
  previews: false,
  returns: [''],
  outputCount: 0,
  outputBytes: 0,
  outputExtension: oneOf(outputExtensions),
  outputKey: '',
  error: { type: '', message: '' },
  choices: mapOf(['']),
};

const anyRequestFault: Record<keyof RequestFault, unknown> = {
  route: '',
  how: oneOf(requestMishaps),
  status: 0,
  times: 0,
};

/** Knobs that were written as JSON. Throws for what is none. */
export function readComfyKnobs(given: unknown): Partial<ComfyKnobs> {
  const example: Record<keyof ComfyKnobs, unknown> = {
    ...defaultKnobs(),
    nodes: mapOf(anyNode),
    models: mapOf(['']),
    gpu: orNull({ name: '', vramTotalBytes: 0 }),
    nodeReplacements: mapOf(''),
    sockets: oneOf(socketKinds),
    requestFaults: [anyRequestFault],
  };
  checkKnob(given, example, 'comfyui');
  return given as Partial<ComfyKnobs>;
}

/** What the double counted since it was started; a restart of the played process keeps the counts. */
export interface ComfyCounters {
  /** POST /prompt that were queued, rejected ones not included. */
  promptsAccepted: number;
  promptsRejected: number;
  executionsStarted: number;
  /** Executions begun by prompt_id: more than one means that a prompt was handed in twice. */
  executionsOf: Record<string, number>;
  executionsFinished: number;
  /** Node calls that really ran, cached ones not included. */
  nodesExecuted: number;
  interruptsReceived: number;
  uploads: number;
  socketsOpened: number;
  /** Sockets open now. */
  socketsOpen: number;
  framesSent: number;
  /** Requests by route, `POST /prompt` as well as `GET /history/{id}`; unknown paths under their own name. */
  requests: Record<string, number>;
}

export const newCounters = (): ComfyCounters => ({
  promptsAccepted: 0,
  promptsRejected: 0,
  executionsStarted: 0,
  executionsOf: {},
  executionsFinished: 0,
  nodesExecuted: 0,
  interruptsReceived: 0,
  uploads: 0,
  socketsOpened: 0,
  socketsOpen: 0,
  framesSent: 0,
  requests: {},
});

/** Takes one from a counted-down knob; false when it is used up. */
export function takeOne(knobs: ComfyKnobs, name: 'loseInterrupts' | 'outOfMemory'): boolean {
  if (knobs[name] <= 0) return false;
  knobs[name] -= 1;
  return true;
}
