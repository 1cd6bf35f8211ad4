// Knobs of the doubles that are written by hand.
import { describe, expect, it } from 'vitest';
import { readComfyKnobs } from '../doubles/comfyui/knobs.ts';
import { noFaults, takeFault, type FaultChances, type FaultQueues } from '../doubles/vast/faults.ts';
import { readVastKnobs } from '../doubles/vast/knobs.ts';
import { seededRandom } from '../doubles/vast/random.ts';

describe('knobs as JSON', () => {
  it('may be any part of what there is', () => {
    const vast = {
      phases: { loadingMs: 5, queuedStartMs: 7 },
      fates: ['pull-error'],
      faults: { create: ['503-after-create', '503'] },
      faultChances: { list: [{ fault: 'lost-pages', chance: 0.5 }] },
      views: { unknownId: '404' },
      imageTags: { 'my/image': ['1'] },
      machineFates: { 33_307: 'offline' },
    };
    expect(readVastKnobs(vast)).toBe(vast);
    const comfyui = {
      frameMs: 1,
      gpu: { name: 'RTX', vramTotalBytes: 1 },
      nodes: { KSampler: { durationMs: 1, choices: { any: ['a'] }, error: { type: 'E', message: 'no' } } },
      models: { any: ['a'] },
      sockets: 'dead',
      dropSocketAfterFrames: 3,
      requestFaults: [{ route: 'GET /queue', how: 'status', status: 502 }],
    };
    expect(readComfyKnobs(comfyui)).toBe(comfyui);
  });

  it.each([
    [() => readVastKnobs({ fate: [] }), 'There is no vast.fate'],
    [() => readVastKnobs({ phases: { loadMs: 1 } }), 'There is no vast.phases.loadMs'],
    [() => readVastKnobs({ faults: { creates: [] } }), 'There is no vast.faults.creates'],
    [() => readVastKnobs({ phases: { loadingMs: '1' } }), 'vast.phases.loadingMs must be number'],
    [() => readVastKnobs({ fates: 'offline' }), 'vast.fates must be array'],
    [() => readVastKnobs([]), 'vast must be object'],
    [
      () => readVastKnobs({ faults: { user: ['503-after-create'] } }),
      'vast.faults.user.0 cannot be "503-after-create"',
    ],
    [() => readVastKnobs({ faults: { create: ['503-aftr-create'] } }), 'vast.faults.create.0 cannot be'],
    [() => readVastKnobs({ fates: ['healthy', 'pull-eror'] }), 'vast.fates.1 cannot be "pull-eror"'],
    [() => readVastKnobs({ machineFates: { 7: 'ofline' } }), 'vast.machineFates.7 cannot be'],
    [() => readVastKnobs({ views: { unknownId: '405' } }), 'vast.views.unknownId cannot be'],
    [() => readVastKnobs({ faultChances: { creat: [] } }), 'There is no vast.faultChances.creat'],
    [
      () => readVastKnobs({ faultChances: { list: [{ fault: 'no-page' }] } }),
      'vast.faultChances.list.0.fault cannot be',
    ],
    [
      () => readVastKnobs({ faultChances: { list: [{ odds: 1 }] } }),
      'There is no vast.faultChances.list.0.odds',
    ],
    [() => readComfyKnobs({ frameMs: null }), 'comfyui.frameMs must be number'],
    [() => readComfyKnobs({ sockets: 'ded' }), 'comfyui.sockets cannot be "ded"'],
    [
      () => readComfyKnobs({ requestFaults: [{ how: 'drop-befor' }] }),
      'comfyui.requestFaults.0.how cannot be',
    ],
    [() => readComfyKnobs({ requestFaults: [{ path: '/' }] }), 'There is no comfyui.requestFaults.0.path'],
    [
      () => readComfyKnobs({ nodes: { KSampler: { durationMS: 1 } } }),
      'There is no comfyui.nodes.KSampler.durationMS',
    ],
    [
      () => readComfyKnobs({ nodes: { K: { error: { kind: 'E' } } } }),
      'There is no comfyui.nodes.K.error.kind',
    ],
    [
      () => readComfyKnobs({ nodes: { K: { outputExtension: 'gif' } } }),
      'comfyui.nodes.K.outputExtension cannot be',
    ],
    [() => readComfyKnobs({ gpu: { vram: 1 } }), 'There is no comfyui.gpu.vram'],
  ])('are refused where they are none: %#', (read, message) => {
    expect(read).toThrow(message);
  });
});

describe('a fault of vast.ai', () => {
  const random = seededRandom(1);

  it('is taken in its turn', () => {
    const faults = { ...noFaults(), user: ['500' as const, '503' as const] };
    expect([1, 2, 3].map(() => takeFault('user', faults, {}, random))).toEqual(['500', '503', undefined]);
  });

  it('cannot be taken by a call that does not know it, queued or drawn', () => {
    const queued: FaultQueues = JSON.parse(JSON.stringify({ ...noFaults(), user: ['503-after-create'] }));
    expect(() => takeFault('user', queued, {}, random)).toThrow('user cannot be "503-after-create"');
    const drawn: FaultChances = JSON.parse('{ "user": [{ "fault": "50", "chance": 1 }] }');
    expect(() => takeFault('user', noFaults(), drawn, random)).toThrow('user cannot be "50"');
  });
});
