// What a node is: its inputs and outputs as object_info describes them, and the function that runs it.
import type { Storage } from '../files/storage.ts';
import type { Preview } from '../frames.ts';
import type { ComfyKnobs } from '../knobs.ts';
import type { Dict, Graph, NodeUi } from '../support/model.ts';
import type { ComfyVersion } from '../versions.ts';

/** `[type | choices, options]`, as in object_info. */
export type InputSpec = readonly [type: string | readonly string[], options?: Dict];

export interface OutputSlot {
  readonly type: string;
  readonly name?: string;
  readonly isList?: boolean;
}

export interface NodeResult {
  /** One value for each slot; a list slot takes an array. */
  readonly values?: readonly unknown[];
  /** What the history shows. */
  readonly ui?: NodeUi;
}

export interface NodeDefinition {
  readonly name: string;
  readonly displayName: string;
  readonly category: string;
  readonly required: Readonly<Record<string, InputSpec>>;
  readonly optional?: Readonly<Record<string, InputSpec>>;
  readonly hidden?: Readonly<Record<string, string>>;
  readonly outputs: readonly OutputSlot[];
  readonly isOutput?: boolean;
  /** Takes whole lists instead of being called for each item. */
  readonly inputIsList?: boolean;
  readonly onlyIn?: ComfyVersion;
  readonly pythonModule?: string;
  /** Inputs that the node checks by itself (VALIDATE_INPUTS): a text names what is wrong. */
  readonly validates?: Readonly<Record<string, (value: unknown, storage: Storage) => string | undefined>>;
  /** Takes part in the cache key (IS_CHANGED), for a result that depends on a file. */
  readonly fingerprint?: (inputs: Dict, storage: Storage) => Promise<string>;
  readonly execute: (inputs: Dict, context: NodeContext) => NodeResult | Promise<NodeResult>;
}

export interface NodeContext {
  readonly nodeId: string;
  readonly promptId: string;
  readonly graph: Graph;
  readonly extraData: Dict;
  readonly storage: Storage;
  readonly knobs: ComfyKnobs;
  /** True when the node should send latent previews: asked for by the prompt or by the knob. */
  readonly wantsPreviews: boolean;
  /** A number in [0, 1), the same sequence for the same seed. */
  readonly random: () => number;
  /** Reports a step; throws when an interrupt was asked for. */
  progress(value: number, max: number, preview?: Preview): void;
  /** Sends a TEXT frame to every socket. */
  text(text: string): void;
  /** Spends time that nothing interrupts. */
  spend(ms: number): Promise<void>;
}

/** A frame of a Python traceback: file, function, source line and its number. */
export type TraceLine = readonly [file: string, name: string, source: string, line?: number];

/** An exception inside a node, with the type name that Python would show. */
export class NodeError extends Error {
  readonly exceptionType: string;
  readonly trace: readonly TraceLine[];

  constructor(exceptionType: string, message: string, trace: readonly TraceLine[]) {
    super(message);
    this.exceptionType = exceptionType;
    this.trace = trace;
  }
}

export const nodeError = (type: string, message: string, trace: readonly TraceLine[] = []): NodeError =>
  new NodeError(type, message, trace);

/** Thrown where the real server throws InterruptProcessingException. */
export class ProcessingInterrupted extends Error {}

/** Ends whatever still runs when the played process is gone. */
export class ProcessEnded extends Error {}

export function numberOf(inputs: Dict, name: string): number {
  const value = inputs[name];
  if (typeof value === 'number') return value;
  throw nodeError('TypeError', `${name} must be a number`);
}

export function textOf(inputs: Dict, name: string): string {
  const value = inputs[name];
  if (typeof value === 'string') return value;
  throw nodeError('TypeError', `expected string or bytes-like object, got '${typeof value}'`);
}

/** PNG previews and results of nodes are pictures of this shape: 8-bit rows, RGB or RGBA. */
export interface ImageBatch {
  readonly kind: 'IMAGE';
  readonly width: number;
  readonly height: number;
  readonly channels: 3 | 4;
  /** Equal frames share one buffer, so that a batch of hundreds costs the memory of one. */
  readonly frames: readonly Buffer[];
}

export interface MaskBatch {
  readonly kind: 'MASK';
  readonly width: number;
  readonly height: number;
  readonly frames: readonly Buffer[];
}

export interface Video {
  readonly kind: 'VIDEO';
  readonly images: ImageBatch;
  readonly framesPerSecond: number;
}

/** An input of a node that takes whole lists. */
export function listOf(inputs: Dict, name: string): readonly unknown[] {
  const value = inputs[name];
  return Array.isArray(value) ? value : [value];
}

export function imagesOf(inputs: Dict, name: string): ImageBatch {
  const value = inputs[name];
  if (isKind<ImageBatch>(value, 'IMAGE')) return value;
  throw nodeError('AttributeError', `'NoneType' object has no attribute 'shape'`);
}

export function videoOf(inputs: Dict, name: string): Video {
  const value = inputs[name];
  if (isKind<Video>(value, 'VIDEO')) return value;
  throw nodeError('AttributeError', `'NoneType' object has no attribute 'get_dimensions'`);
}

export const isKind = <T extends { kind: string }>(value: unknown, kind: T['kind']): value is T =>
  typeof value === 'object' && value !== null && 'kind' in value && value.kind === kind;
