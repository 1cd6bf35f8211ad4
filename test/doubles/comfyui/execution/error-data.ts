// What an `execution_error` tells: the exception, its traceback, and what went into the node.
import type { ComfyKnobs } from '../knobs.ts';
import type { NodeDefinition, NodeError } from '../nodes/definition.ts';
import type { Dict, QueueItem } from '../support/model.ts';
import { pyRepr } from '../support/python.ts';
import type { VersionTraits } from '../versions.ts';
import { showInput, traceback } from './traceback.ts';

// ComfyUI appends this to the message when the GPU's memory ran out; otherwise only a line break.
const MEMORY_TIPS =
  'This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have ' +
  'accidentally set the batch_size to a large number.';

/** Holds prompts, paths and tensor texts, as the real one does: a consumer must not pass it on unread. */
export function errorData(
  error: NodeError,
  nodeId: string,
  inputs: Readonly<Record<string, readonly unknown[]>>,
  run: {
    item: QueueItem;
    extraData: Dict;
    definition: NodeDefinition;
    tools: { knobs: ComfyKnobs; traits: VersionTraits };
  },
): Dict {
  const { item, extraData, definition, tools } = run;
  const padding = 'x'.repeat(tools.knobs.errorPaddingBytes);
  const shown = Object.entries(inputs).map(([name, list]) => [name, list.map(showInput)]);
  const hidden = definition.hidden ?? {};
  const info = extraData['extra_pnginfo'];
  return {
    exception_message: `${error.message}\n${isOutOfMemory(error) ? MEMORY_TIPS : ''}`,
    exception_type: error.exceptionType,
    traceback: traceback([...callTrace(tools.traits), ...error.trace]),
    current_inputs: {
      ...Object.fromEntries(shown),
      ...('prompt' in hidden ? { prompt: [pyRepr(item.graph)] } : {}),
      ...('extra_pnginfo' in hidden ? { extra_pnginfo: [info === undefined ? null : pyRepr(info)] } : {}),
      ...('unique_id' in hidden ? { unique_id: [nodeId] } : {}),
      ...(padding === '' ? {} : { padding: [padding] }),
    },
    current_outputs: Object.keys(item.graph),
  };
}

const isOutOfMemory = ({ exceptionType }: NodeError): boolean => exceptionType === 'torch.OutOfMemoryError';

const callTrace = ({ lines }: VersionTraits) =>
  [
    [
      'execution.py',
      'execute',
      'output_data, output_ui, has_subgraph, has_pending_tasks = await get_output_data(prompt_id, unique_id, obj, input_data_all)',
      lines.execute,
    ],
    [
      'execution.py',
      'get_output_data',
      'return_values = await _async_map_node_over_list(prompt_id, unique_id, obj, input_data_all, obj.FUNCTION, allow_interrupt=True)',
      lines.outputData,
    ],
    ['execution.py', '_async_map_node_over_list', 'await process_inputs(input_dict, i)', lines.mapNode],
    ['execution.py', 'process_inputs', 'result = f(**inputs)', lines.processInputs],
  ] as const;
