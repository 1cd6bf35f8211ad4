// Validates the inputs of one node and, through its links, of everything that it depends on.
import { nodeError, NodeError, type InputSpec, type NodeDefinition } from '../nodes/definition.ts';
import type { Dict, Graph } from '../support/model.ts';
import { isObject, isTruthy, pyRepr, pyStr, pyTypeName } from '../support/python.ts';
import { traceback } from './traceback.ts';
import type { ValidationTools } from './validation.ts';
import {
  badLink,
  customValidationFailed,
  inputMissing,
  notConvertible,
  notInList,
  outOfRange,
  promptError,
  typeMismatch,
  type PromptError,
} from './validation-errors.ts';

export interface NodeVerdict {
  readonly isValid: boolean;
  /** Its own errors only; a node that is invalid through another has none. */
  readonly errors: readonly PromptError[];
}

export interface ValidationRun {
  readonly graph: Graph;
  readonly verdicts: Map<string, NodeVerdict>;
  /** The nodes between the output and this one, to find cycles. */
  readonly visiting: readonly string[];
  readonly tools: ValidationTools;
}

const VALID: NodeVerdict = { isValid: true, errors: [] };
const MAX_LISTED_CHOICES = 20;
const ANYTHING: InputSpec = ['*'];

/** Throws a node error where Python raises: a missing `inputs`, a link to nowhere, a slot that does not exist. */
export function validateNode(id: string, run: ValidationRun): NodeVerdict {
  const known = run.verdicts.get(id);
  if (known !== undefined) return known;
  if (run.visiting.includes(id)) return cycleVerdict(id, run);

  const inputs: unknown = run.graph[id]?.inputs;
  if (!isObject(inputs)) throw inputsError(inputs, run.tools.traits.lines.nodeInputs);
  const definition = definitionOf(id, run);
  const errors: PromptError[] = [];
  let isValid = true;
  for (const [name, spec] of Object.entries(specsOf(definition, inputs))) {
    const value = inputs[name];
    if (value === undefined) {
      if (Object.hasOwn(definition.required, name)) errors.push(inputMissing(name));
      continue;
    }
    if (!Array.isArray(value)) {
      const error = checkValue(inputs, name, spec, definition, run.tools);
      if (error !== undefined) errors.push(error);
      continue;
    }
    const link = checkLink(value, name, spec, { ...run, visiting: [...run.visiting, id] });
    if (link === 'upstream') isValid = false;
    else if (link !== undefined) errors.push(link);
  }
  // A cycle that was found on the way has already judged this node.
  const judged = run.verdicts.get(id);
  if (judged !== undefined) return judged;
  const verdict: NodeVerdict = errors.length === 0 && isValid ? VALID : { isValid: false, errors };
  run.verdicts.set(id, verdict);
  return verdict;
}

/** A simulated node stands for any: what it is linked to is all that it declares beside its choices. */
function specsOf({ required, optional, category }: NodeDefinition, inputs: Dict): Record<string, InputSpec> {
  const linked =
    category === 'simulated' ? Object.keys(inputs).filter((name) => Array.isArray(inputs[name])) : [];
  return { ...Object.fromEntries(linked.map((name) => [name, ANYTHING])), ...required, ...optional };
}

/** Undefined: fine. `upstream`: the fault is another node's and is noted there. */
function checkLink(
  value: readonly unknown[],
  name: string,
  spec: InputSpec,
  run: ValidationRun,
): PromptError | 'upstream' | undefined {
  if (value.length !== 2) return badLink(name, spec, value);
  const [source, slot] = value;
  const received = linkedType(source, slot, run);
  const wanted = typeof spec[0] === 'string' ? spec[0] : 'COMBO';
  if (!accepts(received, wanted)) return typeMismatch(name, spec, { received, wanted }, value);
  const sourceId = String(source);
  try {
    return validateNode(sourceId, run).isValid ? undefined : 'upstream';
  } catch (error) {
    if (!(error instanceof NodeError)) throw error;
    run.verdicts.set(sourceId, { isValid: false, errors: [innerError(error, name, spec, value, run)] });
    return 'upstream';
  }
}

function linkedType(source: unknown, slot: unknown, run: ValidationRun): string {
  const { linkedClass, linkedType: typeLine } = run.tools.traits.lines;
  if (typeof source !== 'string' || run.graph[source] === undefined) {
    throw nodeError('KeyError', pyRepr(source), [
      ['execution.py', 'validate_inputs', "o_class_type = prompt[o_id]['class_type']", linkedClass],
    ]);
  }
  const { outputs } = definitionOf(source, run);
  if (typeof slot !== 'number' || !Number.isInteger(slot)) {
    throw nodeError('TypeError', `tuple indices must be integers or slices, not ${pyTypeName(slot)}`);
  }
  const found = outputs.at(slot);
  if (found !== undefined) return found.type;
  throw nodeError('IndexError', 'tuple index out of range', [
    ['execution.py', 'validate_inputs', 'received_type = r[val[1]]', typeLine],
  ]);
}

const accepts = (received: string, wanted: string): boolean =>
  received === wanted || wanted === '*' || received === '*' || wanted.split(',').includes(received);

function innerError(
  error: NodeError,
  name: string,
  spec: InputSpec,
  link: readonly unknown[],
  { tools }: ValidationRun,
): PromptError {
  const call = tools.traits.findsCycles ? 'o_id, validated, visiting' : 'o_id, validated';
  const source = `r = await validate_inputs(prompt_id, prompt, ${call})`;
  const line = tools.traits.lines.innerValidation;
  return promptError(
    'exception_during_inner_validation',
    'Exception when validating inner node',
    error.message,
    {
      input_name: name,
      input_config: spec,
      exception_message: error.message,
      exception_type: error.exceptionType,
      traceback: traceback([['execution.py', 'validate_inputs', source, line], ...error.trace]),
      linked_node: link,
    },
  );
}

/** Every node of the cycle gets the same error; before 0.20 the run just fails without a word. */
function cycleVerdict(id: string, { graph, verdicts, visiting, tools }: ValidationRun): NodeVerdict {
  const cycle = visiting.slice(visiting.indexOf(id));
  const named = (node: string): string => `${node} (${graph[node]?.class_type ?? ''})`;
  const details = [...cycle, id].map(named).join(' -> ');
  for (const node of cycle) {
    const errors = tools.traits.findsCycles
      ? [
          promptError('dependency_cycle', 'Dependency cycle detected', details, {
            node_id: node,
            cycle_nodes: cycle,
          }),
        ]
      : [];
    verdicts.set(node, { isValid: false, errors });
  }
  return { isValid: false, errors: [] };
}

/** Converts the value in place, then checks it against its limits or choices. */
function checkValue(
  inputs: Dict,
  name: string,
  spec: InputSpec,
  definition: NodeDefinition,
  { storage, traits }: ValidationTools,
): PromptError | undefined {
  const [type, options = {}] = spec;
  const raw = inputs[name];
  const value = isObject(raw) && '__value__' in raw ? raw['__value__'] : raw;
  const converted = typeof type === 'string' ? convert(type, value) : { value };
  if ('reason' in converted) {
    return notConvertible(name, spec, String(type), { value, shown: pyStr(value), reason: converted.reason });
  }
  inputs[name] = converted.value;
  const custom = definition.validates?.[name];
  if (custom !== undefined) {
    const complaint = custom(converted.value, storage);
    return complaint === undefined ? undefined : customValidationFailed(name, complaint);
  }
  return (
    checkLimits(name, spec, converted.value, options) ??
    checkChoice(name, spec, converted.value, traits.findsCycles)
  );
}

function checkLimits(name: string, spec: InputSpec, value: unknown, options: Dict): PromptError | undefined {
  if (typeof value !== 'number') return undefined;
  const { min, max } = options;
  if (typeof min === 'number' && value < min)
    return outOfRange(name, spec, value, { kind: 'min', value: min });
  if (typeof max === 'number' && value > max)
    return outOfRange(name, spec, value, { kind: 'max', value: max });
  return undefined;
}

function checkChoice(
  name: string,
  spec: InputSpec,
  value: unknown,
  showsRepr: boolean,
): PromptError | undefined {
  const choices = Array.isArray(spec[0]) ? spec[0] : spec[1]?.['options'];
  if (!Array.isArray(choices) || choices.includes(value)) return undefined;
  const isLong = choices.length > MAX_LISTED_CHOICES;
  return notInList(name, spec, value, {
    value: showsRepr ? pyRepr(value) : `'${pyStr(value)}'`,
    list: isLong ? `(list of length ${choices.length})` : pyRepr(choices),
    isLong,
  });
}

/** Python's int(), float(), str() and bool(). */
function convert(type: string, value: unknown): { value: unknown } | { reason: string } {
  if (type === 'STRING') return { value: pyStr(value) };
  if (type === 'BOOLEAN') return { value: isTruthy(value) };
  if (type !== 'INT' && type !== 'FLOAT') return { value };
  if (typeof value === 'boolean') return { value: Number(value) };
  if (typeof value === 'number') return convertNumber(type, value);
  if (typeof value !== 'string') {
    const call =
      type === 'INT'
        ? 'int() argument must be a string, a bytes-like object'
        : 'float() argument must be a string';
    return { reason: `${call} or a real number, not '${pyTypeName(value)}'` };
  }
  if (type === 'INT') {
    if (/^\s*[+-]?\d+(?:_\d+)*\s*$/u.test(value)) return { value: Number(value.replaceAll('_', '')) };
    return { reason: `invalid literal for int() with base 10: ${pyRepr(value)}` };
  }
  const number = Number(
    value
      .trim()
      .toLowerCase()
      .replace(/^([+-]?)inf(?:inity)?$/u, '$1Infinity'),
  );
  if (value.trim() !== '' && (!Number.isNaN(number) || /^[+-]?nan$/iu.test(value.trim())))
    return { value: number };
  return { reason: `could not convert string to float: ${pyRepr(value)}` };
}

function convertNumber(type: string, value: number): { value: number } | { reason: string } {
  if (type === 'FLOAT') return { value };
  if (Number.isNaN(value)) return { reason: 'cannot convert float NaN to integer' };
  if (!Number.isFinite(value)) return { reason: 'cannot convert float infinity to integer' };
  return { value: Math.trunc(value) };
}

function definitionOf(id: string, { graph, tools }: ValidationRun): NodeDefinition {
  const definition = tools.registry.find(graph[id]?.class_type);
  if (definition === undefined) throw nodeError('KeyError', pyRepr(graph[id]?.class_type));
  return definition;
}

const inputsError = (inputs: unknown, line: number): Error =>
  inputs === undefined
    ? nodeError('KeyError', "'inputs'", [
        ['execution.py', 'validate_inputs', "inputs = prompt[unique_id]['inputs']", line],
      ])
    : nodeError('TypeError', `'${pyTypeName(inputs)}' object is not subscriptable`);
