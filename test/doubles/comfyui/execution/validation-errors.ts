// The errors of prompt validation, word for word.
import type { Dict } from '../support/model.ts';
import { isObject, pyStr } from '../support/python.ts';
import type { VersionTraits } from '../versions.ts';

export interface PromptError {
  type: string;
  message: string;
  details: string;
  extra_info: Dict;
}

export const promptError = (
  type: string,
  message: string,
  details: string,
  extra: Dict = {},
): PromptError => ({
  type,
  message,
  details,
  extra_info: extra,
});

export const noPromptError = (): PromptError =>
  promptError('no_prompt', 'No prompt provided', 'No prompt provided');

export const noOutputsError = (): PromptError =>
  promptError('prompt_no_outputs', 'Prompt has no outputs', '');

export const invalidPromptIdError = (): PromptError =>
  promptError(
    'invalid_prompt_id',
    'prompt_id must be a valid UUID',
    'prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one',
  );

/** A node without class_type, or with one that is not installed. */
export function missingNodeError(id: string, node: Dict, { namesMissingNodes }: VersionTraits): PromptError {
  const classType = node['class_type'];
  const where = `Node ID '#${id}'`;
  if (!namesMissingNodes) {
    const message =
      classType === undefined
        ? 'Cannot execute because a node is missing the class_type property.'
        : `Cannot execute because node ${pyStr(classType)} does not exist.`;
    return promptError('invalid_prompt', message, where);
  }
  const meta = node['_meta'];
  const title = isObject(meta) && typeof meta['title'] === 'string' ? meta['title'] : null;
  if (classType === undefined) {
    const message = `Node '${title ?? `ID #${id}`}' has no class_type. The workflow may be corrupted or a custom node is missing.`;
    return promptError('missing_node_type', message, where, {
      node_id: id,
      class_type: null,
      node_title: title,
    });
  }
  const name = title ?? pyStr(classType);
  const message = `Node '${name}' not found. The custom node may not be installed.`;
  return promptError('missing_node_type', message, where, {
    node_id: id,
    class_type: classType,
    node_title: name,
  });
}

export const inputMissing = (name: string): PromptError =>
  promptError('required_input_missing', 'Required input is missing', name, { input_name: name });

export const badLink = (name: string, config: unknown, value: unknown): PromptError =>
  promptError(
    'bad_linked_input',
    'Bad linked input, must be a length-2 list of [node_id, slot_index]',
    name,
    {
      input_name: name,
      input_config: config,
      received_value: value,
    },
  );

export const typeMismatch = (
  name: string,
  config: unknown,
  types: { received: string; wanted: string },
  link: unknown,
): PromptError =>
  promptError(
    'return_type_mismatch',
    'Return type mismatch between linked nodes',
    `${name}, received_type(${types.received}) mismatch input_type(${types.wanted})`,
    { input_name: name, input_config: config, received_type: types.received, linked_node: link },
  );

export const notConvertible = (
  name: string,
  config: unknown,
  type: string,
  fault: { value: unknown; shown: string; reason: string },
): PromptError =>
  promptError(
    'invalid_input_type',
    `Failed to convert an input value to a ${type} value`,
    `${name}, ${fault.shown}, ${fault.reason}`,
    { input_name: name, input_config: config, received_value: fault.value, exception_message: fault.reason },
  );

export const outOfRange = (
  name: string,
  config: unknown,
  value: number,
  limit: { kind: 'min' | 'max'; value: number },
): PromptError => {
  const [type, word] =
    limit.kind === 'min' ? ['value_smaller_than_min', 'smaller'] : ['value_bigger_than_max', 'bigger'];
  return promptError(type, `Value ${value} ${word} than ${limit.kind} of ${limit.value}`, name, {
    input_name: name,
    input_config: config,
    received_value: value,
  });
};

/** The choices are not sent back when there are more than twenty. */
export const notInList = (
  name: string,
  config: unknown,
  value: unknown,
  texts: { value: string; list: string; isLong: boolean },
): PromptError =>
  promptError('value_not_in_list', 'Value not in list', `${name}: ${texts.value} not in ${texts.list}`, {
    input_name: name,
    input_config: texts.isLong ? null : config,
    received_value: value,
  });

export const customValidationFailed = (name: string, reason: string): PromptError =>
  promptError('custom_validation_failed', 'Custom validation failed for node', `${name} - ${reason}`, {
    input_name: name,
  });
