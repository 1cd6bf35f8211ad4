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

/** The state after one more event; events may be lost, repeated, or about nodes that ComfyUI made up while it ran. */
export function withEvent(state: ProgressState, event: PromptEvent): ProgressState {
  switch (event.kind) {
    case 'cached':
      return { ...state, done: new Set([...state.done, ...event.nodes]) };
    case 'executing':
      return enterNode(state, event.node);
    case 'executed':
      return { ...state, done: new Set([...state.done, event.node]) };
    case 'steps':
      return { ...enterNode(state, event.node), step: event.value, steps: event.max };
    case 'progress':
      return withNodes(state, event.nodes);
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
  const nodesDone = [...state.done].filter((id) => nodeOf(workflow, id) !== undefined).length;
  const inCurrent =
    state.current !== null && nodeOf(workflow, state.current) !== undefined && !state.done.has(state.current)
      ? partOf(state.step, state.steps)
      : 0;
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
): ProgressState {
  const entries = Object.entries(nodes);
  const done = new Set(state.done);
  for (const [id, node] of entries) if (node.state === 'finished') done.add(id);
  const running = entries.find(([, node]) => node.state === 'running');
  if (running === undefined) return { ...state, done };
  const [current, { value, max }] = running;
  return { done, current, step: value, steps: max };
}

function partOf(step: number | null, steps: number | null): number {
  if (step === null || steps === null || steps <= 0) return 0;
  return Math.min(1, Math.max(0, step / steps));
}
