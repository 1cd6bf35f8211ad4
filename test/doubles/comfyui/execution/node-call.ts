// Calls a node once for each item of its input lists, as ComfyUI maps nodes over lists.
import { takeOne, type ComfyKnobs } from '../knobs.ts';
import { nodeError, type NodeContext, type NodeDefinition, type NodeResult } from '../nodes/definition.ts';
import { isLink, type Dict, type GraphNode, type NodeUi } from '../support/model.ts';

export interface CallResult {
  readonly values: readonly (readonly unknown[])[];
  readonly ui: NodeUi | undefined;
}

/** How often a call that hangs looks whether the knob was turned back, in milliseconds. */
const HANG_POLL_MS = 5;

/** Every input as a list: a link brings what its source gave, anything else is a list of one. */
export function gatherInputs(
  node: GraphNode,
  definition: NodeDefinition,
  resultOf: (id: string) => readonly (readonly unknown[])[] | undefined,
): Record<string, readonly unknown[]> {
  const declared = { ...definition.required, ...definition.optional };
  const gathered: Record<string, readonly unknown[]> = {};
  for (const [name, value] of Object.entries(node.inputs)) {
    if (isLink(value)) gathered[name] = resultOf(value[0])?.at(value[1]) ?? [undefined];
    else if (
      Object.hasOwn(declared, name) ||
      Object.keys(declared).length === 0 ||
      definition.category === 'simulated'
    ) {
      gathered[name] = [value];
    }
  }
  return gathered;
}

/** `checkInterrupt` throws where the server would; it is asked before every item. */
export async function callNode(
  definition: NodeDefinition,
  inputs: Readonly<Record<string, readonly unknown[]>>,
  context: NodeContext,
  checkInterrupt: () => void,
): Promise<CallResult> {
  const calls = definition.inputIsList === true ? [inputs] : itemsOf(inputs);
  const values: unknown[][] = definition.outputs.map(() => []);
  let ui: NodeUi | undefined;
  for (const [index, item] of calls.entries()) {
    if (index > 0) await context.spend(context.knobs.itemMs);
    checkInterrupt();
    if (index === 0) await context.spend(context.knobs.nodeMs);
    while (context.knobs.hangingNode === context.nodeId) await context.spend(HANG_POLL_MS);
    failOnMemory(context.knobs);
    const result = await definition.execute(item, context);
    collect(definition, result, values);
    if (result.ui !== undefined) ui = mergeUi(ui ?? {}, result.ui);
  }
  return { values, ui };
}

/** As many calls as the longest list has items; shorter lists repeat their last one. */
function itemsOf(inputs: Readonly<Record<string, readonly unknown[]>>): Dict[] {
  const entries = Object.entries(inputs);
  const count = Math.max(1, ...entries.map(([, list]) => list.length));
  return Array.from({ length: count }, (_, index) =>
    Object.fromEntries(entries.map(([name, list]) => [name, list[Math.min(index, list.length - 1)]])),
  );
}

function collect({ outputs }: NodeDefinition, result: NodeResult, values: unknown[][]): void {
  for (const [slot, { isList }] of outputs.entries()) {
    const value = result.values?.[slot];
    values[slot]?.push(...(isList === true && Array.isArray(value) ? value : [value]));
  }
}

function mergeUi(all: NodeUi, one: NodeUi): NodeUi {
  for (const [key, items] of Object.entries(one)) all[key] = [...(all[key] ?? []), ...items];
  return all;
}

function failOnMemory(knobs: ComfyKnobs): void {
  if (!takeOne(knobs, 'outOfMemory')) return;
  throw nodeError(
    'torch.OutOfMemoryError',
    'Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : 22.41 GiB\n' +
      'Requested               : 1.50 GiB\nDevice limit            : 23.55 GiB\nFree (according to CUDA): 18.31 MiB\n' +
      'PyTorch limit (set by user-supplied memory fraction)\n                        : 17179869184.00 GiB',
    [
      [
        'comfy/ldm/modules/attention.py',
        'attention_pytorch',
        'out = comfy.ops.scaled_dot_product_attention(q, k, v)',
      ],
    ],
  );
}
