// Would ComfyUI refuse this workflow? Its own checks, from a catalog of its node classes. What is not certain is accepted.
import type { NodeCatalog, NodeClass, NodeInput } from '../comfyui/object-info.ts';
import { isPlainObject } from './json-value.ts';
import type { Workflow, WorkflowNode } from './job.ts';
import { pythonEquals, pythonFloat, pythonInt } from './python-value.ts';
import { nodeOf } from './workflow.ts';

/** What ComfyUI would say of one input, in its words. */
export interface NodeFinding {
  type: string;
  message: string;
  details: string;
  input_name?: string;
}

/** Findings by node, in the shape in which ComfyUI gives its own. */
export type NodeErrors = Record<
  string,
  { class_type: string; dependent_outputs: string[]; errors: NodeFinding[] }
>;

export interface CheckOptions {
  /** Inputs that are filled in when the job runs: `inputKey` of each. */
  later: ReadonlySet<string>;
  /** Whether the lists of models and other files are as they will be when the job runs. */
  filesAreKnown: boolean;
}

export function inputKey(node: string, input: string): string {
  return JSON.stringify([node, input]);
}

/** The findings for which ComfyUI would surely refuse the workflow or a part of it; null when there are none. Takes a workflow that `checkWorkflow` has passed. */
export function checkNodes(
  workflow: Workflow,
  catalog: NodeCatalog,
  options: CheckOptions,
): NodeErrors | null {
  const unknown = unknownClasses(workflow, catalog);
  if (unknown !== null) return unknown;
  const check: Check = { workflow, catalog, options };
  const outputs = Object.keys(workflow).filter((id) => classOf(check, id)?.isOutput === true);
  if (outputs.length === 0) return withoutOutputs(check);
  const reached = reachedFrom(check, outputs);
  const faulty = [...reached.keys()].flatMap((id) => {
    const node = nodeOf(workflow, id);
    const errors = node === undefined ? [] : checkNode(check, id, node);
    return node === undefined || errors.length === 0 ? [] : [{ id, class_type: node.class_type, errors }];
  });
  if (faulty.length === 0) return null;
  const consumers = consumersIn(reached);
  return Object.fromEntries(
    faulty.map(({ id, ...found }) => {
      const needing = neededBy(id, consumers);
      return [id, { ...found, dependent_outputs: outputs.filter((output) => needing.has(output)) }];
    }),
  );
}

interface Check {
  workflow: Workflow;
  catalog: NodeCatalog;
  options: CheckOptions;
}

/** ComfyUI looks at the class of every node first, also of those that nothing needs. */
function unknownClasses(workflow: Workflow, { classes, replaced }: NodeCatalog): NodeErrors | null {
  const missing = Object.entries(workflow).filter(
    ([, { class_type: name }]) => !classes.has(name) && !replaced.has(name),
  );
  if (missing.length === 0) return null;
  return Object.fromEntries(
    missing.map(([id, { class_type: name, _meta: meta }]) => {
      const title = typeof meta?.['title'] === 'string' ? meta['title'] : name;
      const message = `Node '${title}' not found. The custom node may not be installed.`;
      const finding = { type: 'missing_node_type', message, details: `Node ID '#${id}'` };
      return [id, { class_type: name, dependent_outputs: [], errors: [finding] }];
    }),
  );
}

/** Found at the nodes that nothing takes from, one of which should be an output. Null where a node may turn out to be one. */
function withoutOutputs({ workflow, catalog }: Check): NodeErrors | null {
  if (Object.values(workflow).some(({ class_type: name }) => !catalog.classes.has(name))) return null;
  const finding = { type: 'prompt_no_outputs', message: 'Prompt has no outputs', details: '' };
  const sources = new Set(
    Object.values(workflow).flatMap(({ inputs }) =>
      Object.values(inputs).map((value) => linkOf(value)?.source),
    ),
  );
  return Object.fromEntries(
    Object.entries(workflow)
      .filter(([id]) => !sources.has(id))
      .map(([id, { class_type: name }]) => [
        id,
        { class_type: name, dependent_outputs: [], errors: [finding] },
      ]),
  );
}

/** The nodes that ComfyUI checks, each with those that it takes from: it follows links of inputs that the class declares. */
function reachedFrom(check: Check, outputs: readonly string[]): Map<string, string[]> {
  const reached = new Map<string, string[]>();
  const waiting = outputs.toReversed();
  for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
    if (reached.has(id)) continue;
    const sources = declaredSources(check, id);
    reached.set(id, sources);
    waiting.push(...sources);
  }
  return reached;
}

/** The other way round: the nodes that take from each. */
function consumersIn(reached: ReadonlyMap<string, string[]>): Map<string, string[]> {
  const consumers = new Map<string, string[]>();
  for (const [id, sources] of reached) {
    for (const source of sources) {
      const known = consumers.get(source);
      if (known === undefined) consumers.set(source, [id]);
      else known.push(id);
    }
  }
  return consumers;
}

/** The node itself and all that comes to nothing without it. */
function neededBy(node: string, consumers: ReadonlyMap<string, string[]>): Set<string> {
  const needing = new Set([node]);
  // Grows while it is walked through.
  for (const id of needing) for (const consumer of consumers.get(id) ?? []) needing.add(consumer);
  return needing;
}

function declaredSources(check: Check, id: string): string[] {
  const node = nodeOf(check.workflow, id);
  const known = classOf(check, id);
  if (node === undefined || known === undefined) return [];
  return Object.keys(known.inputs).flatMap((name) => {
    if (known.inputs[name]?.type === null) return [];
    const link = linkOf(valueOf(check, id, node, name));
    return link === null ? [] : [link.source];
  });
}

function checkNode(check: Check, id: string, node: WorkflowNode): NodeFinding[] {
  const known = classOf(check, id);
  if (known === undefined) return [];
  return Object.entries(known.inputs).flatMap(([name, input]) => {
    // Nobody can tell which inputs of the workflow are meant.
    if (input.type === null || check.options.later.has(inputKey(id, name))) return [];
    const value = valueOf(check, id, node, name);
    const finding = checkInput(check, known, { ...input, name, type: input.type }, value);
    return finding === null ? [] : [{ ...finding, input_name: name }];
  });
}

interface NamedInput extends NodeInput {
  name: string;
  type: string;
}

function checkInput(check: Check, known: NodeClass, input: NamedInput, value: unknown): NodeFinding | null {
  const { name } = input;
  if (value === undefined) {
    if (!input.required) return null;
    return { type: 'required_input_missing', message: 'Required input is missing', details: name };
  }
  if (!Array.isArray(value)) {
    const plain = isPlainObject(value) && '__value__' in value ? value['__value__'] : value;
    return checkValue(check, known, input, plain);
  }
  if (value.length !== 2) {
    const message = 'Bad linked input, must be a length-2 list of [node_id, slot_index]';
    return { type: 'bad_linked_input', message, details: name };
  }
  const link = linkOf(value);
  return link === null ? notALink(name, value) : checkLink(check, known, input, link);
}

function checkLink(
  check: Check,
  known: NodeClass,
  { name, type }: NamedInput,
  link: Link,
): NodeFinding | null {
  const source = classOf(check, link.source);
  // A class of its own may answer to any slot, and its types may be equal to any other.
  if (source === undefined || !source.isCore) return null;
  if (link.slot >= source.outputs.length) {
    return duringValidation(`${name}: node ${link.source} has no output ${link.slot}`);
  }
  const received = source.outputs[link.slot] ?? null;
  if (!known.isCore || known.checksItself || received === null || meet(received, type)) return null;
  const details = `${name}, received_type(${received}) mismatch input_type(${type})`;
  return { type: 'return_type_mismatch', message: 'Return type mismatch between linked nodes', details };
}

/** Lists of types meet in any one of them. What is not certain in every version of ComfyUI meets. */
function meet(received: string, wanted: string): boolean {
  const given = received.split(',').map((type) => type.trim());
  const taken = wanted.split(',').map((type) => type.trim());
  if ([...given, ...taken].some((type) => type === '*' || type.startsWith('COMFY_'))) return true;
  if (given.includes('COMBO') || taken.includes('COMBO')) {
    return [...given, ...taken].every((type) => type === 'COMBO' || plainValues.has(type));
  }
  return given.some((type) => taken.includes(type));
}

const plainValues = new Set(['STRING', 'INT', 'FLOAT', 'BOOLEAN']);

function checkValue(
  { options }: Check,
  { checksItself }: NodeClass,
  { name, type, choices, isFromDisk, min = -Infinity, max = Infinity }: NamedInput,
  value: unknown,
): NodeFinding | null {
  if (type === 'INT' || type === 'FLOAT') {
    const number = type === 'INT' ? pythonInt(value) : pythonFloat(value);
    if (number === null) {
      const message = `Failed to convert an input value to a ${type} value`;
      return { type: 'invalid_input_type', message, details: `${name}, ${shown(value)}` };
    }
    if (number < min && !checksItself) {
      const message = `Value ${number} smaller than min of ${min}`;
      return { type: 'value_smaller_than_min', message, details: name };
    }
    if (number > max && !checksItself) {
      const message = `Value ${number} bigger than max of ${max}`;
      return { type: 'value_bigger_than_max', message, details: name };
    }
    return null;
  }
  if (choices === undefined || (isFromDisk === true && !options.filesAreKnown)) return null;
  if (Array.isArray(value) || choices.some((choice) => pythonEquals(choice, value))) return null;
  const list = choices.length > MAX_LISTED ? `(list of length ${choices.length})` : JSON.stringify(choices);
  return {
    type: 'value_not_in_list',
    message: 'Value not in list',
    details: `${name}: ${shown(value)} not in ${list}`,
  };
}

const MAX_LISTED = 20;
const MAX_SHOWN = 200;

interface Link {
  source: string;
  slot: number;
}

function linkOf(value: unknown): Link | null {
  if (!Array.isArray(value) || value.length !== 2) return null;
  const [source, slot]: unknown[] = value;
  return typeof source === 'string' && typeof slot === 'number' ? { source, slot } : null;
}

/** ComfyUI takes every list of two for a link, and stumbles where it is none. */
function notALink(name: string, value: unknown): NodeFinding {
  return duringValidation(
    `${name}: ${shown(value)} is read as a link. Wrap a list that is a value: {"__value__": [...]}`,
  );
}

function duringValidation(details: string): NodeFinding {
  return { type: 'exception_during_validation', message: 'Exception when validating node', details };
}

function valueOf({ options }: Check, id: string, node: WorkflowNode, name: string): unknown {
  if (options.later.has(inputKey(id, name))) return '';
  return Object.hasOwn(node.inputs, name) ? node.inputs[name] : undefined;
}

function classOf({ workflow, catalog }: Check, id: string): NodeClass | undefined {
  const name = nodeOf(workflow, id)?.class_type;
  // A class that ComfyUI replaces has the inputs of another by the time they are checked.
  return name === undefined || catalog.replaced.has(name) ? undefined : catalog.classes.get(name);
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'null';
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
}
