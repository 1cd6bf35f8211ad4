// What is wrong with a workflow, from findings by node, in a sentence.
import type { NodeFindings } from '../comfyui/errors.ts';
import { presentable } from '../comfyui/text.ts';

export interface FirstFinding {
  nodeId: string;
  nodeType: string | null;
  /** The input at fault, where it is one. */
  input: string | undefined;
  /** A sentence, and another where further nodes are at fault. */
  text: string;
}

/** The first finding stands for all; null where there is none. */
export function firstFinding(findings: NodeFindings): FirstFinding | null {
  const [first, ...others] = Object.entries(findings);
  if (first === undefined) return null;
  const [nodeId, { class_type, errors }] = first;
  const nodeType = class_type ?? null;
  const node = `Node ${nodeId}${nodeType === null ? '' : ` (${nodeType})`}`;
  const [error] = errors;
  const what = error?.message.replace(/\.$/, '') || 'it cannot run';
  const details = error?.details ?? '';
  // Some only name the node again.
  const where = details === '' || details.startsWith('Node ID ') ? '' : `: ${details}`;
  const more = others.length === 0 ? '' : ` Further nodes at fault: ${others.length}.`;
  return {
    nodeId,
    nodeType,
    input: error?.input_name,
    text: `${presentable(`${node}: ${what}${where}`)}.${more}`,
  };
}
