import { describe, expect, it } from 'vitest';
import type { PromptEvent } from '../../src/comfyui/session.ts';
import { noProgress, progressOf, withEvent } from '../../src/jobs/progress.ts';
import { slowFrames } from '../support/workflows.ts';

const after = (...events: PromptEvent[]) =>
  events.reduce((state, event) => withEvent(state, event, slowFrames), noProgress);
const shown = (...events: PromptEvent[]) => progressOf(after(...events), slowFrames, 'executing', null);

describe('progress', () => {
  it('begins at nothing', () => {
    expect(progressOf(noProgress, slowFrames, 'staging', null)).toEqual({
      phase: 'staging',
      fraction: 0,
      nodesDone: 0,
      nodesTotal: 5,
      currentNode: null,
      currentNodeType: null,
      step: null,
      steps: null,
    });
  });

  it('counts a node as done when the next one begins', () => {
    expect(shown({ kind: 'executing', node: '1' }, { kind: 'executing', node: '2' })).toMatchObject({
      nodesDone: 1,
      fraction: 0.2,
      currentNode: '2',
      currentNodeType: 'EmptyImage',
    });
  });

  it('counts the steps of the current node as a part of it', () => {
    const progress = shown(
      { kind: 'cached', nodes: ['1', '2'] },
      { kind: 'executing', node: '3' },
      { kind: 'steps', node: '3', value: 75, max: 150 },
    );
    expect(progress).toMatchObject({ nodesDone: 2, fraction: 0.5, step: 75, steps: 150 });
  });

  it('understands snapshots of all nodes', () => {
    const progress = shown({
      kind: 'progress',
      nodes: {
        '1': { value: 1, max: 1, state: 'finished', shownAs: '1' },
        '3': { value: 30, max: 150, state: 'running', shownAs: '3' },
      },
    });
    expect(progress).toMatchObject({ nodesDone: 1, currentNode: '3', step: 30, steps: 150 });
    expect(progress.fraction).toBeCloseTo(0.24);
  });

  it('does not count nodes that ComfyUI made up, such as those of a loop', () => {
    const progress = shown({
      kind: 'progress',
      nodes: { '3.0.0.1': { value: 1, max: 1, state: 'finished', shownAs: '3' } },
    });
    expect(progress).toMatchObject({ nodesDone: 0, fraction: 0 });
  });

  it('shows the node of the workflow that ComfyUI works on by one that it made up', () => {
    const madeUp = { value: 1, max: 4, state: 'running', shownAs: '3' } as const;
    const progress = shown({ kind: 'progress', nodes: { '3.0.0.1': madeUp } });
    expect(progress).toMatchObject({ currentNode: '3', currentNodeType: 'ColorTransfer', step: 1, steps: 4 });
  });

  it('keeps in mind no nodes but those of the workflow, however many others it hears of', () => {
    const state = after(
      { kind: 'executing', node: '3' },
      { kind: 'cached', nodes: ['1', 'x'] },
      ...Array.from({ length: 100 }, (_, index): PromptEvent => ({
        kind: 'executing',
        node: `3.0.${index}`,
      })),
      { kind: 'executed', node: 'y' },
      { kind: 'steps', node: 'z\0', value: 1, max: 2 },
      { kind: 'progress', nodes: { a: { value: 1, max: 1, state: 'finished', shownAs: 'b' } } },
    );
    expect(state).toEqual({ done: new Set(['1']), current: '3', step: null, steps: null });
  });

  it('never goes back, also not for the process that takes over', () => {
    const before = progressOf(
      after({ kind: 'cached', nodes: ['1', '2', '4'] }),
      slowFrames,
      'executing',
      null,
    );
    expect(progressOf(noProgress, slowFrames, 'executing', before).fraction).toBe(0.6);
  });

  it('stays within 0 and 1 when a node counts beyond its end or in nothing', () => {
    expect(shown({ kind: 'steps', node: '3', value: 9, max: 3 }).fraction).toBe(0.2);
    expect(shown({ kind: 'steps', node: '3', value: 9, max: 0 }).fraction).toBe(0);
  });
});
