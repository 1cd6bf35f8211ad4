// Knobs of the doubles that are written by hand.
import { describe, expect, it } from 'vitest';
import { readComfyKnobs } from '../doubles/comfyui/knobs.ts';
import { readVastKnobs } from '../doubles/vast/knobs.ts';

describe('knobs as JSON', () => {
  it('may be any part of what there is', () => {
    const vast = {
      phases: { loadingMs: 5, queuedStartMs: 7 },
      fates: ['pull-error'],
      faults: { create: ['503-after-create'] },
      imageTags: { 'my/image': ['1'] },
      machineFates: { 33_307: 'offline' },
    };
    expect(readVastKnobs(vast)).toBe(vast);
    const comfyui = {
      frameMs: 1,
      gpu: { name: 'RTX', vramTotalBytes: 1 },
      nodes: { KSampler: { durationMs: 1 } },
    };
    expect(readComfyKnobs(comfyui)).toBe(comfyui);
  });

  it.each([
    [() => readVastKnobs({ fate: [] }), 'There is no vast.fate'],
    [() => readVastKnobs({ phases: { loadMs: 1 } }), 'There is no vast.phases.loadMs'],
    [() => readVastKnobs({ faults: { creates: [] } }), 'There is no vast.faults.creates'],
    [() => readVastKnobs({ phases: { loadingMs: '1' } }), 'vast.phases.loadingMs must be number'],
    [() => readVastKnobs({ fates: 'offline' }), 'vast.fates must be array'],
    [() => readVastKnobs([]), 'vast must be an object'],
    [() => readComfyKnobs({ frameMs: null }), 'comfyui.frameMs must be number'],
  ])('are refused where they are none: %#', (read, message) => {
    expect(read).toThrow(message);
  });
});
