// Frames of real servers, and frames that no server should send.
import { describe, expect, it } from 'vitest';
import { readFrame, type PromptEvent } from '../../src/comfyui/events.ts';
import { readRecording } from '../doubles/comfyui/conformance/recordings.ts';
import type { ComfyVersion } from '../doubles/comfyui/versions.ts';

const versions = ['0.33.0', '0.3.64'] as const;

/** The events that the submitting client of a recorded scenario is told, for its own prompt. */
function recorded(version: ComfyVersion, scenario: string): PromptEvent[] {
  const { client_events, history } = readRecording(version, scenario);
  return client_events.flatMap(([, message]) => {
    const frame = readFrame(JSON.stringify(message));
    return frame?.kind === 'prompt' && frame.promptId in history ? [frame.event] : [];
  });
}

function kinds(events: PromptEvent[]): string[] {
  return events.map(({ kind }) => kind).filter((kind, at, all) => kind !== all[at - 1]);
}

function text(type: string, data: object): ReturnType<typeof readFrame> {
  return readFrame(JSON.stringify({ type, data }));
}

function binary(event: number, about: unknown, image = 'image'): Uint8Array {
  const json = Buffer.from(JSON.stringify(about));
  const head = Buffer.alloc(8);
  head.writeUInt32BE(event, 0);
  head.writeUInt32BE(json.length, 4);
  return Buffer.concat([head, json, Buffer.from(image)]);
}

describe.each(versions)('the frames recorded from ComfyUI %s', (version) => {
  it('tell a success from start to end', () => {
    const events = recorded(version, 'a_success');
    expect(events[0]).toEqual({ kind: 'started' });
    expect(events.filter(({ kind }) => kind === 'executing')).toEqual([
      { kind: 'executing', node: '1' },
      { kind: 'executing', node: '2' },
    ]);
    expect(events.filter(({ kind }) => kind === 'executed')).toEqual([{ kind: 'executed', node: '2' }]);
    expect(events.findLast(({ kind }) => kind === 'progress')).toEqual({
      kind: 'progress',
      nodes: {
        '1': { value: 1, max: 1, state: 'finished', shownAs: '1' },
        '2': { value: 1, max: 1, state: 'finished', shownAs: '2' },
      },
    });
    expect(kinds(events).at(-1)).toBe('ended');
  });

  it('name the nodes that came from the cache', () => {
    expect(recorded(version, 'a_cached')).toContainEqual({ kind: 'cached', nodes: ['1', '2'] });
  });

  it.each(['d_fail', 'e_interrupt'])('end when the prompt fails or is interrupted (%s)', (scenario) => {
    expect(kinds(recorded(version, scenario)).at(-1)).toBe('ended');
  });
});

it('the frames of a node with steps tell each of them', () => {
  const steps = recorded('0.33.0', 'f_progress').filter((event) => event.kind === 'steps');
  expect(steps.at(-1)).toEqual({ kind: 'steps', node: '3', value: 60, max: 60 });
  expect(steps.length).toBeGreaterThan(10);
});

describe('a text frame', () => {
  it('with the status of the queue belongs to no prompt', () => {
    expect(text('status', { status: { exec_info: { queue_remaining: 1 } }, sid: 'x' })).toEqual({
      kind: 'status',
    });
  });

  it('without a prompt id is dropped, like the one after a reconnection', () => {
    expect(text('executing', { node: '3' })).toBeNull();
    expect(text('progress', { value: 1, max: 2, node: '3', prompt_id: null })).toBeNull();
  });

  it('with an end marker means the end, also after a failure', () => {
    expect(text('executing', { node: null, prompt_id: 'p' })).toMatchObject({ event: { kind: 'ended' } });
  });

  it('about a blocked branch is a warning and no end', () => {
    const blocked = {
      prompt_id: 'p',
      node_id: '7',
      node_type: 'SaveImage',
      exception_type: 'ExecutionBlocked',
      exception_message: 'There is no face in /srv/comfy/input/photo.png\n',
    };
    const message = 'Node 7 (SaveImage) was left out. There is no face in …/photo.png';
    expect(text('execution_error', blocked)).toMatchObject({ event: { kind: 'warning', message } });
    expect(text('execution_error', { ...blocked, exception_type: 'ValueError' })).toMatchObject({
      event: { kind: 'ended' },
    });
  });

  it('that is larger than what tells of progress is dropped, since its parsing would hold up everything else', () => {
    expect(text('executing', { node: '1', prompt_id: 'p', more: 'x'.repeat(1_000_000) })).not.toBeNull();
    expect(text('executing', { node: '1', prompt_id: 'p', more: 'x'.repeat(2_000_000) })).toBeNull();
  });

  it('names the node of the workflow, not the one it was expanded into', () => {
    const data = { node: '5.0.0.1', display_node: '5', prompt_id: 'p' };
    expect(text('executing', data)).toMatchObject({ event: { node: '5' } });
  });

  it('may hold numbers that are none', () => {
    const nodes = {
      '1': { value: 1, max: 2, state: 'running' },
      '2': { value: null, max: 1, state: 'running' },
    };
    const frame = JSON.stringify({ type: 'progress_state', data: { prompt_id: 'p', nodes } }).replace(
      'null',
      'NaN',
    );
    expect(readFrame(frame)).toMatchObject({ event: { nodes: { '1': { value: 1, shownAs: '1' } } } });
    expect(
      readFrame('{"type":"progress","data":{"prompt_id":"p","node":"1","value":NaN,"max":1}}'),
    ).toBeNull();
  });

  it.each([
    'garbage',
    '',
    '[]',
    'null',
    '{"type":7,"data":{}}',
    '{"type":"executing"}',
    '{"type":"execution_cached","data":{"prompt_id":"p","nodes":"all"}}',
    '{"type":"progress_state","data":{"prompt_id":"p","nodes":[]}}',
    '{"type":"crystools.monitor","data":{"prompt_id":"p"}}',
  ])('that makes no sense is dropped (%s)', (frame) => {
    expect(readFrame(frame)).toBeNull();
  });
});

describe('a binary frame', () => {
  const about = { prompt_id: 'p', node_id: '2.0.1', display_node_id: '2', image_type: 'image/png' };

  it('with a preview and its prompt is an event', () => {
    const frame = readFrame(binary(4, about, 'PNG'));
    expect(frame).toMatchObject({
      promptId: 'p',
      event: { kind: 'preview', node: '2', contentType: 'image/png' },
    });
    if (frame?.kind !== 'prompt' || frame.event.kind !== 'preview') throw new Error('no preview');
    expect(Buffer.from(frame.event.image).toString()).toBe('PNG');
  });

  it.each([
    ['an image without its prompt', binary(1, about)],
    ['a text for everybody', binary(3, about)],
    ['an unknown event', binary(99, about)],
    ['a length beyond its end', binary(4, about, '').subarray(0, 20)],
    ['metadata of more than a megabyte', binary(4, { ...about, more: 'x'.repeat(2_000_000) })],
    ['metadata that is no JSON', Buffer.concat([binary(4, about).subarray(0, 8), Buffer.alloc(200, 'x')])],
    ['too few bytes', Buffer.from([0, 0])],
    ['nothing', Buffer.alloc(0)],
  ])('with %s is dropped', (_, frame) => {
    expect(readFrame(frame)).toBeNull();
  });
});
