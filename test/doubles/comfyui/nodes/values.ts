// The nodes that carry and change plain values, and the one that shows them.
import { dumpPythonJson, pyStr } from '../support/python.ts';
import { nodeError, textOf, type InputSpec, type NodeDefinition, type TraceLine } from './definition.ts';

const primitive = (
  name: string,
  displayName: string,
  type: string,
  options: InputSpec[1],
): NodeDefinition => ({
  name,
  displayName,
  category: 'utils/primitive',
  pythonModule: 'comfy_extras.nodes_primitive',
  required: { value: [type, options ?? {}] },
  outputs: [{ type }],
  execute: (inputs) => ({ values: [inputs['value']] }),
});

const regexReplace: NodeDefinition = {
  name: 'RegexReplace',
  displayName: 'Replace Text (Regex)',
  category: 'utils/string',
  pythonModule: 'comfy_extras.nodes_string',
  required: {
    string: ['STRING', { multiline: true }],
    regex_pattern: ['STRING', { multiline: true }],
    replace: ['STRING', { multiline: true }],
  },
  optional: {
    case_insensitive: ['BOOLEAN', { default: true }],
    multiline: ['BOOLEAN', { default: false }],
    dotall: ['BOOLEAN', { default: false }],
    count: ['INT', { default: 0, min: 0, max: 100 }],
  },
  outputs: [{ type: 'STRING' }],
  execute: (inputs) => {
    const flags = `gu${inputs['case_insensitive'] === false ? '' : 'i'}${inputs['multiline'] === true ? 'm' : ''}${
      inputs['dotall'] === true ? 's' : ''
    }`;
    const pattern = compile(textOf(inputs, 'regex_pattern'), flags);
    const replacement = textOf(inputs, 'replace')
      .replaceAll('$', '$$$$')
      .replaceAll(/\\(\d+)/gu, '$$$1');
    const limit = typeof inputs['count'] === 'number' && inputs['count'] > 0 ? inputs['count'] : Infinity;
    return { values: [replaceUpTo(textOf(inputs, 'string'), pattern, replacement, limit)] };
  },
};

const previewAny: NodeDefinition = {
  name: 'PreviewAny',
  displayName: 'Preview as Text',
  category: 'utils',
  pythonModule: 'comfy_extras.nodes_preview_any',
  required: { source: ['*', {}] },
  outputs: [{ type: 'STRING' }],
  isOutput: true,
  execute: (inputs) => {
    const value = inputs['source'];
    const text = typeof value === 'object' && value !== null ? dumpPythonJson(value) : pyStr(value);
    return { values: [text], ui: { text: [text] } };
  },
};

export const valueNodes: readonly NodeDefinition[] = [
  primitive('PrimitiveString', 'String', 'STRING', { multiline: false }),
  primitive('PrimitiveStringMultiline', 'String (Multiline)', 'STRING', { multiline: true }),
  primitive('PrimitiveInt', 'Int', 'INT', {
    min: Number.MIN_SAFE_INTEGER,
    max: Number.MAX_SAFE_INTEGER,
    control_after_generate: true,
  }),
  primitive('PrimitiveFloat', 'Float', 'FLOAT', {
    min: Number.MIN_SAFE_INTEGER,
    max: Number.MAX_SAFE_INTEGER,
    step: 0.1,
  }),
  primitive('PrimitiveBoolean', 'Boolean', 'BOOLEAN', {}),
  regexReplace,
  previewAny,
];

function compile(pattern: string, flags: string): RegExp {
  try {
    return new RegExp(pattern, flags);
  } catch {
    throw nodeError('re.error', pythonComplaint(pattern), REGEX_TRACE);
  }
}

/** Python names the place of the fault; these are the faults that its parser finds first. */
function pythonComplaint(pattern: string): string {
  const open: number[] = [];
  for (let at = 0; at < pattern.length; at += 1) {
    const character = pattern.charAt(at);
    if (character === '\\' && at === pattern.length - 1)
      return `bad escape (end of pattern) at position ${at}`;
    if (character === '\\') at += 1;
    else if (character === '[') {
      const end = pattern.indexOf(']', at + 2);
      if (end === -1) return `unterminated character set at position ${at}`;
      at = end;
    } else if (character === '(') open.push(at);
    else if (character === ')' && open.pop() === undefined) return `unbalanced parenthesis at position ${at}`;
    else if ('*+?'.includes(character) && (at === 0 || pattern.charAt(at - 1) === '(')) {
      return `nothing to repeat at position ${at}`;
    }
  }
  const [first] = open;
  return first === undefined
    ? 'bad escape at position 0'
    : `missing ), unterminated subpattern at position ${first}`;
}

const REGEX_TRACE: readonly TraceLine[] = [
  ['comfy_api/internal/__init__.py', 'wrapped_func', 'return method(locked_class, **inputs)'],
  ['comfy_api/latest/_io.py', 'EXECUTE_NORMALIZED', 'to_return = cls.execute(*args, **kwargs)'],
  [
    'comfy_extras/nodes_string.py',
    'execute',
    'result = re.sub(regex_pattern, replace, string, count=count, flags=flags)',
  ],
];

function replaceUpTo(text: string, pattern: RegExp, replacement: string, limit: number): string {
  let done = 0;
  const single = new RegExp(pattern.source, pattern.flags.replace('g', ''));
  return text.replaceAll(pattern, (match) => {
    done += 1;
    return done > limit ? match : match.replace(single, replacement);
  });
}
