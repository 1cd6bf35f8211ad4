// The API-format workflow: what is checked before anything is spent, and what is changed before it is sent.
import { ServiceError } from '../errors.ts';
import { checkJsonValue, isPlainObject } from './json-value.ts';
import type { Workflow, WorkflowNode } from './job.ts';

const UI_EXPORT_HELP =
  'This is the graph as the ComfyUI editor saves it, not the API format. In ComfyUI choose Workflow > Export (API) and send that file.';

/**
 * A workflow that ComfyUI can be trusted with. Throws `workflow_format_ui` or `invalid_workflow` with the field at fault.
 * ComfyUI 0.33 and 0.3.64: a node without `inputs` is accepted with 200 and then ends the thread that runs the queue, for ever.
 */
export function checkWorkflow(value: unknown, maxNodes: number): Workflow {
  if (!isPlainObject(value)) throw invalid('A workflow is an object of nodes by their ids.', 'workflow');
  refuseOtherFormats(value);
  const entries = Object.entries(value);
  if (entries.length === 0) throw invalid('The workflow has no nodes.', 'workflow');
  if (entries.length > maxNodes) {
    throw invalid(`The workflow has ${entries.length} nodes; at most ${maxNodes} are allowed.`, 'workflow');
  }
  const workflow: Workflow = Object.fromEntries(entries.map(([id, node]) => [id, checkNode(id, node)]));
  checkJson(workflow);
  checkLinks(workflow);
  checkCycles(workflow);
  return workflow;
}

/** The workflow with values put into inputs of nodes; neither argument is changed. */
export function applyInputs(
  workflow: Workflow,
  inputs: readonly { node: string; input: string; value: unknown }[],
): Workflow {
  // Each node is copied once, however many of its inputs are given: it may have thousands.
  const byNode = Map.groupBy(inputs, ({ node }) => node);
  return Object.fromEntries(
    Object.entries(workflow).map(([id, node]) => {
      const given = byNode.get(id);
      if (given === undefined) return [id, node];
      const values = Object.fromEntries(given.map(({ input, value }) => [input, value]));
      return [id, { ...node, inputs: { ...node.inputs, ...values } }];
    }),
  );
}

/**
 * The workflow with a mark of the attempt at the end of every file name that it saves under. Without it, a repeated run is answered
 * from ComfyUI's cache with the name of an older file, which may be gone. Appended, so that a path keeps its meaning.
 */
export function withOutputPrefix(workflow: Workflow, attemptId: string): Workflow {
  return Object.fromEntries(
    Object.entries(workflow).map(([id, node]) => {
      const prefix = node.inputs['filename_prefix'];
      if (typeof prefix !== 'string') return [id, node];
      return [id, { ...node, inputs: { ...node.inputs, filename_prefix: prefix + outputMark(attemptId) } }];
    }),
  );
}

/** A file name without the mark of the attempt. */
export function withoutOutputPrefix(fileName: string, attemptId: string): string {
  return fileName.replaceAll(outputMark(attemptId), '');
}

/** The node of that id; names such as "constructor" are no nodes. */
export function nodeOf(workflow: Workflow, id: string): WorkflowNode | undefined {
  return Object.hasOwn(workflow, id) ? workflow[id] : undefined;
}

/** The last digits of the id: the first ones of a UUID v7 are a time, and the same for a minute. */
function outputMark(attemptId: string): string {
  return `-${attemptId.replaceAll('-', '').slice(-8)}`;
}

function refuseOtherFormats(value: Record<string, unknown>): void {
  if (Array.isArray(value['nodes']) && 'links' in value) {
    throw new ServiceError('workflow_format_ui', UI_EXPORT_HELP, { field: 'workflow' });
  }
  for (const wrapper of ['prompt', 'workflow']) {
    const inner = value[wrapper];
    if (!isPlainObject(inner) || 'class_type' in inner) continue;
    throw invalid(
      `The nodes are wrapped in "${wrapper}". Send the object inside it as the workflow.`,
      `workflow.${wrapper}`,
    );
  }
}

function checkNode(id: string, node: unknown): WorkflowNode {
  const field = `workflow.${id}`;
  if (id === '' || id === '__proto__')
    throw invalid('The id of a node must be a text that is not empty.', field);
  if (!isPlainObject(node)) throw invalid(`Node ${id} must be an object with class_type and inputs.`, field);
  const { class_type: classType, inputs, _meta: meta } = node;
  if (typeof classType !== 'string' || classType.trim() === '') {
    throw invalid(`Node ${id} needs a class_type, the name of the kind of node.`, `${field}.class_type`);
  }
  if (!isPlainObject(inputs)) {
    throw invalid(`Node ${id} needs inputs: an object, empty if the node takes none.`, `${field}.inputs`);
  }
  if (meta !== undefined && !isPlainObject(meta)) {
    throw invalid(`_meta of node ${id} must be an object.`, `${field}._meta`);
  }
  return meta === undefined
    ? { class_type: classType, inputs }
    : { class_type: classType, inputs, _meta: meta };
}

function checkJson(workflow: Workflow): void {
  const fault = checkJsonValue(workflow, 'workflow');
  if (fault !== null) throw invalid(fault.detail, fault.field);
}

function checkLinks(workflow: Workflow): void {
  for (const [id, node] of Object.entries(workflow)) {
    for (const [input, value] of Object.entries(node.inputs)) checkLink(workflow, id, input, value);
  }
}

function checkLink(workflow: Workflow, id: string, input: string, value: unknown): void {
  const field = `workflow.${id}.inputs.${input}`;
  if (!Array.isArray(value) || value.length !== 2) return;
  const [source, slot]: unknown[] = value;
  if (typeof slot !== 'number') return;
  if (typeof source === 'number' && nodeOf(workflow, String(source)) !== undefined) {
    throw invalid(`The link of node ${id} must name its node as a text: ["${source}", ${slot}].`, field);
  }
  if (typeof source !== 'string') return;
  if (nodeOf(workflow, source) === undefined) {
    throw invalid(`Input ${input} of node ${id} is linked to node ${source}, which does not exist.`, field);
  }
  if (!Number.isInteger(slot) || slot < 0) {
    throw invalid(`The link of node ${id} names output ${slot}; outputs are counted from 0.`, field);
  }
}

/** The nodes that a node is linked to; call it on a workflow with sound links. */
function sourcesOf(node: WorkflowNode): string[] {
  return Object.values(node.inputs).flatMap((value) =>
    Array.isArray(value) && value.length === 2 && typeof value[0] === 'string' && typeof value[1] === 'number'
      ? [value[0]]
      : [],
  );
}

/** Takes away nodes whose sources are all gone; what cannot be taken is in a cycle or behind one. */
function checkCycles(workflow: Workflow): void {
  const consumers = new Map<string, string[]>();
  const missing = new Map<string, number>();
  for (const [id, node] of Object.entries(workflow)) {
    const sources = new Set(sourcesOf(node));
    missing.set(id, sources.size);
    for (const source of sources) {
      const known = consumers.get(source);
      if (known === undefined) consumers.set(source, [id]);
      else known.push(id);
    }
  }
  const free = [...missing].filter(([, count]) => count === 0).map(([id]) => id);
  for (let id = free.pop(); id !== undefined; id = free.pop()) {
    missing.delete(id);
    for (const consumer of consumers.get(id) ?? []) {
      const left = (missing.get(consumer) ?? 0) - 1;
      missing.set(consumer, left);
      if (left === 0) free.push(consumer);
    }
  }
  if (missing.size === 0) return;
  const members = cycleAmong(workflow, missing);
  throw invalid(
    `Nodes ${members.join(', ')} are linked in a circle, so none of them can run.`,
    `workflow.${members[0]}`,
  );
}

/** One cycle: among nodes that each have a source left, walking from source to source must come back. */
function cycleAmong(workflow: Workflow, left: ReadonlyMap<string, number>): string[] {
  const path: string[] = [];
  let [at] = left.keys();
  while (at !== undefined && !path.includes(at)) {
    path.push(at);
    const node = nodeOf(workflow, at);
    at = node === undefined ? undefined : sourcesOf(node).find((source) => left.has(source));
  }
  return at === undefined ? path : path.slice(path.indexOf(at));
}

function invalid(detail: string, field: string): ServiceError {
  return new ServiceError('invalid_workflow', detail, { field });
}
