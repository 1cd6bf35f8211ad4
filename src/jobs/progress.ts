// How far an attempt is, computed from ComfyUI's events and from its queue.
import type { PromptEvent } from '../comfyui/session.ts';
import type { JobProgress, Workflow } from './job.ts';
import { nodeOf } from './workflow.ts';

/** What the events of one prompt have told so far. */
export interface ProgressState {
  done: ReadonlySet<string>;
  current: string | null;
  step: number | null;
  steps: number | null;
}

export const noProgress: ProgressState = { done: new Set(), current: null, step: null, steps: null };

/**
 * The state after one more event; events may be lost or repeated. Nodes that are not in the workflow, such as those that ComfyUI makes
 * up for a loop, are not kept in mind: there may be any number of them, with any name.
 */
export function withEvent(state: ProgressState, event: PromptEvent, workflow: Workflow): ProgressState {
  const isOurs = (node: string) => nodeOf(workflow, node) !== undefined;
  switch (event.kind) {
    case 'cached':
      return { ...state, done: new Set([...state.done, ...event.nodes.filter(isOurs)]) };
    case 'executing':
      return isOurs(event.node) ? enterNode(state, event.node) : state;
    case 'executed':
      return isOurs(event.node) ? { ...state, done: new Set([...state.done, event.node]) } : state;
    case 'steps':
      return isOurs(event.node)
        ? { ...enterNode(state, event.node), step: event.value, steps: event.max }
        : state;
    case 'progress':
      return withNodes(state, event.nodes, isOurs);
    default:
      return state;
  }
}

/** The snapshot that callers see. `before` is the last one shown: the fraction never goes back within an attempt. */
export function progressOf(
  state: ProgressState,
  workflow: Workflow,
  phase: JobProgress['phase'],
  before: JobProgress | null,
): JobProgress {
  const nodesTotal = Object.keys(workflow).length;
  const nodesDone = state.done.size;
  const inCurrent =
    state.current === null || state.done.has(state.current) ? 0 : partOf(state.step, state.steps);
  const current = phase === 'executing' ? state.current : null;
  return {
    phase,
    fraction: Math.max(before?.fraction ?? 0, Math.min(1, (nodesDone + inCurrent) / Math.max(1, nodesTotal))),
    nodesDone,
    nodesTotal,
    currentNode: current,
    currentNodeType: current === null ? null : (nodeOf(workflow, current)?.class_type ?? null),
    step: current === null ? null : state.step,
    steps: current === null ? null : state.steps,
  };
}

/** A node begins, so the one before it is done. */
function enterNode(state: ProgressState, node: string): ProgressState {
  if (state.current === node) return state;
  const done = state.current === null ? state.done : new Set([...state.done, state.current]);
  return { done, current: node, step: null, steps: null };
}

function withNodes(
  state: ProgressState,
  nodes: Extract<PromptEvent, { kind: 'progress' }>['nodes'],
  isOurs: (node: string) => boolean,
): ProgressState {
  const entries = Object.entries(nodes);
  const done = new Set(state.done);
  for (const [id, node] of entries) if (node.state === 'finished' && isOurs(id)) done.add(id);
  const running = entries.find(([, node]) => node.state === 'running' && isOurs(node.shownAs))?.[1];
  if (running === undefined) return { ...state, done };
  return { done, current: running.shownAs, step: running.value, steps: running.max };
}

function partOf(step: number | null, steps: number | null): number {
  if (step === null || steps === null || steps <= 0) return 0;
  return Math.min(1, Math.max(0, step / steps));
}
