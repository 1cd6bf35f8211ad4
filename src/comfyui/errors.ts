// How a call to ComfyUI can end without a result.

export type ComfyErrorKind =
  /** ComfyUI checked the workflow and refused it: repeating does not help. */
  | 'rejected'
  /** No usable answer to a call that may be repeated. */
  | 'unavailable'
  /** No usable answer to a submit: the prompt may have been queued. Look it up before another try. */
  | 'ambiguous'
  /** The prompt was queued under another id than ours, which nobody can follow; it was told to stop. */
  | 'foreign_id'
  /** The body is larger than the server takes (`--max-upload-size`, 100 MB by default). */
  | 'too_large'
  | 'not_found'
  /** The proxy in front of ComfyUI does not accept our token. */
  | 'unauthorized'
  /** An answer that ComfyUI should not give. */
  | 'protocol';

/** What the checks of ComfyUI find wrong, by node. */
export type NodeFindings = Record<
  string,
  {
    class_type?: string | null | undefined;
    dependent_outputs: string[];
    errors: { type: string; message: string; details: string; input_name?: string | undefined }[];
  }
>;

export interface ComfyErrorOptions {
  cause?: unknown;
  /** HTTP status, where there was an answer. */
  status?: number;
  /** ComfyUI's name for the fault of a rejected workflow, such as `missing_node_type`. */
  type?: string;
  /** ComfyUI's findings by node, without tracebacks and paths. */
  nodeErrors?: NodeFindings;
}

export class ComfyError extends Error {
  readonly kind: ComfyErrorKind;
  readonly status: number | null;
  readonly type: string | null;
  readonly nodeErrors: NodeFindings;

  constructor(kind: ComfyErrorKind, message: string, options: ComfyErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ComfyError';
    this.kind = kind;
    this.status = options.status ?? null;
    this.type = options.type ?? null;
    this.nodeErrors = options.nodeErrors ?? {};
  }
}
