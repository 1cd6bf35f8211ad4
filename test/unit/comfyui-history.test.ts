// History entries of real servers, and some that are stranger.
import { describe, expect, it } from 'vitest';
import { readHistoryEntry, type HistoryEntry } from '../../src/comfyui/history.ts';
import { historyEntryOf, queueSchema } from '../../src/comfyui/schemas.ts';
import { readRecording } from '../doubles/comfyui/conformance/recordings.ts';
import type { ComfyVersion } from '../doubles/comfyui/versions.ts';

const versions = ['0.33.0', '0.3.64'] as const;

function recorded(version: ComfyVersion, scenario: string): HistoryEntry {
  return readOnly(readRecording(version, scenario).history);
}

function made(entry: unknown): HistoryEntry {
  return readOnly({ 'an-id': entry });
}

function readOnly(history: object): HistoryEntry {
  const [id = ''] = Object.keys(history);
  const entry = historyEntryOf(id).parse(history);
  if (entry === undefined) throw new Error('the history is empty');
  return readHistoryEntry(id, entry);
}

function messages(...events: [string, object][]) {
  return { status_str: 'success', completed: true, messages: events };
}

describe.each(versions)('an entry recorded from ComfyUI %s', (version) => {
  it('tells success with its file, and when it ran', () => {
    const entry = recorded(version, 'a_success');
    expect(entry).toMatchObject({ outcome: 'succeeded', error: null, cachedNodes: [] });
    expect(entry.outputs).toEqual([
      {
        kind: 'file',
        nodeId: '2',
        key: 'images',
        file: { filename: 'empty_00001_.png', subfolder: 'e2e', type: 'output' },
        animated: false,
      },
    ]);
    expect(entry.endedAt?.getTime()).toBeGreaterThanOrEqual(entry.startedAt?.getTime() ?? Infinity);
  });

  it('keeps the outputs of a run that came from the cache', () => {
    const entry = recorded(version, 'a_cached');
    expect(entry).toMatchObject({ outcome: 'succeeded', cachedNodes: ['1', '2'] });
    expect(entry.outputs).toHaveLength(1);
  });

  it('marks a video, which ComfyUI lists as an image, as animated', () => {
    expect(recorded(version, 'c_video').outputs).toMatchObject([
      { key: 'images', file: { filename: 'video_00001_.mp4' }, animated: true },
    ]);
  });

  it('tells why it failed, without the paths of the machine', () => {
    const { outcome, error } = recorded(version, 'd_fail');
    expect(outcome).toBe('failed');
    expect(error).toMatchObject({
      nodeId: '2',
      nodeType: 'SaveImage',
      exceptionType: 'Exception',
      outOfMemory: null,
    });
    expect(error?.message).toMatch(
      /^\*\*\*\* ERROR: Saving image outside the output folder is not allowed\./,
    );
    expect(error?.message).not.toContain('/ComfyUI/');
    expect(JSON.stringify(error)).not.toContain('Traceback');
  });

  it.each(['e_interrupt', 'e_interrupt_no_client'])(
    'tells an interruption from a failure (%s)',
    (scenario) => {
      expect(recorded(version, scenario)).toMatchObject({ outcome: 'interrupted', error: null });
    },
  );
});

describe('the outcome', () => {
  it('is a failure when the last message says so, although the status says success', () => {
    const entry = made({
      outputs: {},
      status: messages(['execution_start', { timestamp: 1 }], ['execution_error', { node_id: '3' }]),
    });
    expect(entry).toMatchObject({ outcome: 'failed', error: { nodeId: '3', message: '' } });
  });

  it('is what the status says when there is no last message', () => {
    expect(made({ outputs: {}, status: { status_str: 'error', messages: [] } })).toMatchObject({
      outcome: 'failed',
      error: { message: 'ComfyUI reports a failure without saying which.' },
    });
  });

  it('is success when there is no status at all', () => {
    expect(made({ outputs: {}, status: null }).outcome).toBe('succeeded');
    expect(made({}).outcome).toBe('succeeded');
  });

  it('survives messages that are not what they should be', () => {
    const status = {
      status_str: 'success',
      messages: ['?', ['execution_success'], ['execution_success', {}]],
    };
    expect(made({ status })).toMatchObject({ outcome: 'succeeded', startedAt: null, endedAt: null });
  });

  it.each([
    ['torch.OutOfMemoryError', 'Allocation on device', 'gpu'],
    ['torch.cuda.OutOfMemoryError', 'CUDA out of memory. Tried to allocate 2 GiB', 'gpu'],
    [
      'RuntimeError',
      "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
      'host',
    ],
    ['MemoryError', '', 'host'],
    ['RuntimeError', 'HIP out of memory', 'gpu'],
    ['RuntimeError', 'The sky is falling', null],
  ])('knows whose memory "%s: %s" is about', (exception_type, exception_message, whose) => {
    const status = messages(['execution_error', { exception_type, exception_message }]);
    expect(made({ status }).error?.outOfMemory).toBe(whose);
  });
});

describe('the message of a failure', () => {
  function shown(exception_message: string): string | undefined {
    return made({ status: messages(['execution_error', { exception_message }]) }).error?.message;
  }

  it.each([
    ["No such file: '/workspace/ComfyUI/models/vae/x.safetensors'\n", "No such file: '…/x.safetensors'"],
    [String.raw`cannot open C:\Users\me\ComfyUI\in.png`, 'cannot open …/in.png'],
    ['see https://example.org/a/b for help', 'see https://example.org/a/b for help'],
    ['expected 3/4 and a/b, got 1/2', 'expected 3/4 and a/b, got 1/2'],
  ])('shows %j as %j', (message, expected) => {
    expect(shown(message)).toBe(expected);
  });

  it('is cut when it is endless', () => {
    expect(shown('x'.repeat(100_000))).toHaveLength(2001);
    expect(shown(`x${' '.repeat(100_000)}x`)).toHaveLength(2001);
  });

  it('may be one path of many megabytes', () => {
    expect(shown('/a'.repeat(4_000_000))).toBe('…/a');
  });
});

describe('the outputs', () => {
  it('are every listed file under any key, with texts, and nothing else', () => {
    const item = { filename: 'f', subfolder: '', type: 'output' };
    const entry = made({
      outputs: {
        '1': { text: ['hello'], files: [{ ...item, filename: 'a.txt' }] },
        '2': {
          gifs: [{ ...item, filename: 'b.mp4', fullpath: '/secret/b.mp4' }],
          count: [3],
          note: 'no list',
        },
        '3': { '3d': [{ filename: 'c.glb', subfolder: 'mesh', type: 'output' }] },
        '4': { result: ['mesh/d.glb', { position: 1 }, null] },
        '5': { images: [{ ...item, filename: 'e.png', type: 'temp' }, { subfolder: 'no name' }, null] },
        '6': null,
        '7': { images: [{ filename: 'g.png' }], tags: ['a word'] },
      },
    });
    const short = entry.outputs.map((output) =>
      output.kind === 'text'
        ? [output.nodeId, output.key, output.text]
        : [output.nodeId, output.key, output.file.type, output.file.subfolder, output.file.filename],
    );
    expect(short).toEqual([
      ['1', 'text', 'hello'],
      ['1', 'files', 'output', '', 'a.txt'],
      ['2', 'gifs', 'output', '', 'b.mp4'],
      ['3', '3d', 'output', 'mesh', 'c.glb'],
      ['4', 'result', 'output', 'mesh', 'd.glb'],
      ['5', 'images', 'temp', '', 'e.png'],
      ['7', 'images', 'output', '', 'g.png'],
    ]);
    expect(JSON.stringify(entry)).not.toContain('/secret');
  });
});

describe('an answer of any size', () => {
  const readTooMuch = () => {
    throw new Error('more is read than is used');
  };
  /** A list that must not be read from its 20,000th member on. */
  const longListOf = (value: unknown) => {
    const list = Array.from({ length: 20_001 }, () => value);
    return Object.defineProperty(list, 20_000, { get: readTooMuch });
  };

  it('is read for one prompt alone, however many others it tells of', () => {
    const history = new Proxy({ p: { outputs: {} } }, { ownKeys: readTooMuch });
    expect(historyEntryOf('p').parse(history)).toMatchObject({ outputs: {} });
  });

  it('is read for its outputs only as far as a job can have them', () => {
    expect(made({ outputs: { '1': { text: longListOf('x') } } }).outputs).toHaveLength(10_001);
  });

  it('is not read for messages and cached nodes that no workflow has', () => {
    const cached = messages(['execution_cached', { nodes: longListOf('1') }]);
    expect(made({ status: cached }).cachedNodes).toHaveLength(20_000);
    expect(made({ status: { messages: longListOf(['x', {}]) } }).outcome).toBe('succeeded');
  });

  it('is refused where it tells of more nodes, or prompts in line, than anybody has', () => {
    const nodes = Object.fromEntries(Array.from({ length: 20_001 }, (_, id) => [id, {}]));
    expect(() => made({ outputs: nodes })).toThrow('Invalid input');
    const queue = { queue_running: [], queue_pending: longListOf([1, 'p']) };
    expect(() => queueSchema.parse(queue)).toThrow('expected array');
  });
});
