// Handing a workflow to ComfyUI, and telling refused, accepted and unknown apart.
import { askComfy, errorBehind, tryParse, type Answer, type AnswerLimits } from './answer.ts';
import { ComfyError, type NodeFindings } from './errors.ts';
import { LinkError, type Link, type LinkRequest } from './link.ts';
import { rejectedSchema, submittedSchema, type NodeErrors } from './schemas.ts';
import { presentable } from './text.ts';

export interface SubmitRequest {
  /** Ours, a lowercase UUID: the prompt can be found by it when the answer is lost. */
  promptId: string;
  clientId: string;
  /** The API-format graph. */
  workflow: Readonly<Record<string, unknown>>;
  /** Whether its samplers make previews, where the server is new enough to be asked; absent leaves it to the server. */
  previews?: boolean;
}

export interface Submitted {
  /** ComfyUI's place in line; NaN when it gave none. */
  number: number;
  /** Findings by node. Not empty although accepted: those parts of the workflow were dropped and will not run. */
  nodeErrors: NodeFindings;
}

interface Accepted extends Submitted {
  /** The id that it has there: ours, unless the server is too old to be told one. */
  promptId: string;
}

// Validation runs node code before the answer: directory scans, lists of models.
const limits: AnswerLimits = { deadlineMs: 120_000, maxBytes: 16 * 1024 * 1024 };

/** Submits once. A rejection of kind `ambiguous` means "maybe queued": look the prompt up. */
export async function submitPrompt(
  link: Link,
  { promptId, clientId, workflow, previews = false }: SubmitRequest,
  signal: AbortSignal | undefined,
): Promise<Accepted> {
  // No `number`: ComfyUI 0.33 stops working for good when a repeated prompt has the same one.
  const body = JSON.stringify({
    prompt: withMeta(workflow),
    prompt_id: promptId,
    client_id: clientId,
    ...(previews ? { extra_data: { preview_method: 'auto' } } : {}),
  });
  const headers = { 'content-type': 'application/json' };
  const answer = await askToSubmit(link, { method: 'POST', path: '/prompt', headers, body, signal });
  return readAccepted(answer);
}

/** ComfyUI 0.33 answers 500 where it replaces the class of a node that has no `_meta`. */
function withMeta(workflow: SubmitRequest['workflow']): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(workflow).map(([id, node]) => [
      id,
      typeof node === 'object' && node !== null ? { _meta: {}, ...node } : node,
    ]),
  );
}

/** A submit that got no answer may have been queued, unless the connection never stood. */
async function askToSubmit(link: Link, request: LinkRequest): Promise<Answer> {
  try {
    return await askComfy(link, request, limits);
  } catch (error) {
    if (!(error instanceof ComfyError)) throw error;
    if (error.cause instanceof LinkError && error.cause.beforeRequest) throw error;
    throw new ComfyError('ambiguous', error.message, { cause: error });
  }
}

function readAccepted(answer: Answer): Accepted {
  const { status, text } = answer;
  const rejected = status === 400 && !answer.isPlaceholder ? tryParse(rejectedSchema, text) : null;
  if (rejected !== null) {
    const { type, message, details } = rejected.error;
    const words = presentable([message, details].filter((part) => part !== '').join(': '));
    throw new ComfyError('rejected', words, {
      status,
      type,
      nodeErrors: readNodeErrors(rejected.node_errors),
    });
  }
  const error = errorBehind(answer);
  if (error?.kind === 'unavailable') throw new ComfyError('ambiguous', error.message, { status });
  if (error !== null) throw error;
  const submitted = tryParse(submittedSchema, text);
  if (submitted === null) {
    throw new ComfyError('ambiguous', 'The answer to the submit is not what ComfyUI gives', { status });
  }
  const { prompt_id: promptId, number, node_errors: nodeErrors } = submitted;
  return { promptId, number, nodeErrors: readNodeErrors(nodeErrors) };
}

/** About as many characters of findings are kept: they are shown wherever the job is. */
const longestFindings = 100_000;
const mostFindingsOfNode = 20;

/** Leaves out tracebacks, inputs and lists of choices, which hold paths and other people's files, and what is too much to be shown. */
function readNodeErrors(nodeErrors: NodeErrors): NodeFindings {
  const kept: [nodeId: string, NodeFindings[string]][] = [];
  let left = longestFindings;
  for (const [nodeId, { class_type, dependent_outputs, errors }] of Object.entries(nodeErrors)) {
    if (left <= 0) break;
    const findings = {
      class_type,
      dependent_outputs: dependent_outputs.slice(0, mostFindingsOfNode),
      errors: errors.slice(0, mostFindingsOfNode).map(({ type, message, details, extra_info }) => ({
        type,
        message: presentable(message),
        details: presentable(details),
        ...extra_info,
      })),
    };
    kept.push([nodeId, findings]);
    left -= JSON.stringify(findings).length;
  }
  return Object.fromEntries(kept);
}
