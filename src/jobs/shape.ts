// What a workflow has in common with itself under other values: its nodes and how they are wired.
import { createHash } from 'node:crypto';
import type { Workflow } from './job.ts';

/** The same for workflows with the same nodes and links, whatever their prompts, seeds and sizes. */
export function workflowShape(workflow: Workflow): string {
  const nodes = Object.entries(workflow)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([id, node]) => {
      const links = Object.entries(node.inputs)
        .filter(([, value]) => Array.isArray(value))
        .toSorted(([a], [b]) => (a < b ? -1 : 1));
      return [id, node.class_type, links];
    });
  return createHash('sha256').update(JSON.stringify(nodes)).digest('hex').slice(0, 32);
}
