// Did ComfyUI make anything anew? Judged on what real servers left in their history.
import { describe, expect, it } from 'vitest';
import { readHistoryEntry } from '../../src/comfyui/history.ts';
import { reusesResults } from '../../src/comfyui/reuse.ts';
import { historyEntryOf } from '../../src/comfyui/schemas.ts';
import { readRecording } from '../doubles/comfyui/conformance/recordings.ts';
import type { ComfyVersion } from '../doubles/comfyui/index.ts';

const versions: ComfyVersion[] = ['0.33.0', '0.3.64'];

function isReused(version: ComfyVersion, scenario: string): boolean {
  const { history } = readRecording(version, scenario);
  const [id = ''] = Object.keys(history);
  const entry = historyEntryOf(id).parse(history);
  if (entry === undefined) throw new Error(`${scenario} left no history.`);
  return readHistoryEntry(id, entry).outputsReused;
}

describe.each(versions)('a run of ComfyUI %s', (version) => {
  it.each([
    ['a_success', false],
    ['a_cached', true],
    ['a_cached_prefix_changed', true],
    ['b_success', false],
    ['b_cached', true],
    ['c_video_cached', true],
    ['d_fail', false],
    ['d_fail_again', false],
  ])('of the recording %s reused its results: %s', (scenario, expected) => {
    expect(isReused(version, scenario)).toBe(expected);
  });
});

describe('results', () => {
  const graph = {
    '1': { inputs: {} },
    '2': { inputs: { image: ['1', 0], strength: 1 } },
    '3': { inputs: { images: ['2', 0], filename_prefix: 'x' } },
    '4': { inputs: { images: ['2', 0] } },
  };

  it.each([
    ['were only saved again', ['1', '2'], ['3'], true],
    ['need no more than what they were made from', ['2'], ['3'], true],
    ['were made anew before they were saved', ['1'], ['3'], false],
    ['were made anew by a node that saves under no name', ['1', '2'], ['4'], false],
    ['were reused in part', ['1', '2', '4'], ['3', '4'], true],
    ['are none', ['1', '2', '3'], [], false],
  ])('that %s', (_what, cached, outputs, expected) => {
    expect(reusesResults(graph, cached, outputs)).toBe(expected);
  });

  it('of a history without a graph count as new', () => {
    expect(reusesResults(undefined, ['1'], ['2'])).toBe(false);
  });
});
