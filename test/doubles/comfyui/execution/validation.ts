// Decides whether a posted graph may run, with the error texts of ComfyUI's `validate_prompt`.
import type { Storage } from '../files/storage.ts';
import { nodeError, NodeError } from '../nodes/definition.ts';
import type { NodeRegistry } from '../nodes/registry.ts';
import type { Dict, Graph } from '../support/model.ts';
import { isObject, pyTypeName } from '../support/python.ts';
import type { VersionTraits } from '../versions.ts';
import { missingNodeError, noOutputsError, type PromptError } from './validation-errors.ts';
import { validateNode, type NodeVerdict } from './node-validation.ts';
import { traceback } from './traceback.ts';

export interface Validation {
  /** Null when the prompt may run, if only with a part of its outputs. */
  readonly error: PromptError | null;
  /** With values converted as the history shows them; empty when refused. */
  readonly graph: Graph;
  /** The output nodes that will run. */
  readonly outputs: string[];
  readonly nodeErrors: Record<string, NodeErrors>;
}

export interface NodeErrors {
  errors: PromptError[];
  dependent_outputs: string[];
  class_type: string;
}

export interface ValidationTools {
  readonly registry: NodeRegistry;
  readonly storage: Storage;
  readonly traits: VersionTraits;
  readonly replacements: Readonly<Record<string, string>>;
}

/** Throws where the real server answers 500. Changes the graph: values are converted and replaced in place. */
export function validatePrompt(prompt: unknown, targets: unknown, tools: ValidationTools): Validation {
  const graph = withReplacements(prompt, tools);
  const missing = findMissingClass(graph, tools);
  if (missing !== undefined) return refusal(missing);
  if (!isGraph(graph)) throw nodeError('TypeError', 'string indices must be integers');

  const outputs = Object.keys(graph).filter(
    (id) =>
      tools.registry.find(graph[id]?.class_type)?.isOutput === true &&
      (!Array.isArray(targets) || targets.includes(id)),
  );
  if (outputs.length === 0) return refusal(noOutputsError());
  return validateOutputs(graph, outputs, tools);
}

const refusal = (error: PromptError): Validation => ({ error, graph: {}, outputs: [], nodeErrors: {} });

const isGraph = (graph: Dict): graph is Graph => Object.values(graph).every(isObject);

function validateOutputs(graph: Graph, outputs: readonly string[], tools: ValidationTools): Validation {
  const verdicts = new Map<string, NodeVerdict>();
  const nodeErrors: Record<string, NodeErrors> = {};
  const good: string[] = [];
  const complaints: string[] = [];
  for (const output of outputs) {
    const verdict = judgeOutput(graph, output, verdicts, tools);
    if (verdict.isValid) {
      good.push(output);
      continue;
    }
    complaints.push(...verdict.errors.map(({ message, details }) => `${message}: ${details}`));
    for (const [id, { isValid, errors }] of verdicts) {
      if (isValid || errors.length === 0) continue;
      const classType = graph[id]?.class_type ?? '';
      const entry = (nodeErrors[id] ??= {
        errors: [...errors],
        dependent_outputs: [],
        class_type: classType,
      });
      entry.dependent_outputs.push(output);
    }
  }
  const error: PromptError | null =
    good.length > 0
      ? null
      : {
          type: 'prompt_outputs_failed_validation',
          message: 'Prompt outputs failed validation',
          details: complaints.join('\n'),
          extra_info: {},
        };
  return { error, graph, outputs: good, nodeErrors };
}

function judgeOutput(
  graph: Graph,
  output: string,
  verdicts: Map<string, NodeVerdict>,
  tools: ValidationTools,
): NodeVerdict {
  try {
    return validateNode(output, { graph, verdicts, visiting: [], tools });
  } catch (error) {
    if (!(error instanceof NodeError)) throw error;
    const call = 'm = await validate_inputs(prompt_id, prompt, o, validated)';
    const line = tools.traits.lines.validatePrompt;
    const reason: PromptError = {
      type: 'exception_during_validation',
      message: 'Exception when validating node',
      details: error.message,
      extra_info: {
        exception_type: error.exceptionType,
        traceback: traceback([['execution.py', 'validate_prompt', call, line], ...error.trace]),
      },
    };
    const verdict: NodeVerdict = { isValid: false, errors: [reason] };
    verdicts.set(output, verdict);
    return verdict;
  }
}

/** Replaces old classes and refuses what Python stumbles over: anything that is not a dict of dicts. */
function withReplacements(prompt: unknown, { traits, replacements }: ValidationTools): Dict {
  if (!isObject(prompt)) {
    // An empty list or text has no nodes to stumble over in 0.3.64.
    const isEmpty = (Array.isArray(prompt) || typeof prompt === 'string') && prompt.length === 0;
    if (isEmpty && !traits.replacesNodes) return {};
    throw nodeError('AttributeError', `'${pyTypeName(prompt)}' object has no attribute 'items'`);
  }
  for (const node of Object.values(prompt)) {
    if (!traits.replacesNodes) continue;
    if (!isObject(node))
      throw nodeError('AttributeError', `'${pyTypeName(node)}' object has no attribute 'get'`);
    replaceClass(node, replacements);
  }
  return prompt;
}

function replaceClass(node: Dict, replacements: Readonly<Record<string, string>>): void {
  const old = node['class_type'];
  if (typeof old !== 'string' || !Object.hasOwn(replacements, old)) return;
  if (node['_meta'] === undefined) throw nodeError('KeyError', "'_meta'");
  node['class_type'] = replacements[old];
}

function findMissingClass(graph: Dict, { registry, traits }: ValidationTools): PromptError | undefined {
  for (const [id, node] of Object.entries(graph)) {
    if (typeof node === 'number' || typeof node === 'boolean' || node === null) {
      throw nodeError('TypeError', `argument of type '${pyTypeName(node)}' is not iterable`);
    }
    const classType = isObject(node) ? node['class_type'] : undefined;
    if (classType === undefined || registry.find(classType) === undefined) {
      return missingNodeError(id, isObject(node) ? node : {}, traits);
    }
  }
  return undefined;
}
