import { describe, expect, it } from 'vitest';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { waitingText, type LiveInstance } from '../../src/jobs/waiting.ts';

const instance = (state: Partial<LiveInstance> = {}): LiveInstance => ({
  id: 'a',
  status: 'ready',
  phase: null,
  gpuName: 'RTX 4090',
  gpuCount: 1,
  vramGb: 24,
  ramGb: 64,
  diskGb: 80,
  cudaVersion: 12.9,
  region: 'DE',
  machineKnown: true,
  requirements: null,
  phaseStartedAt: new Date('2026-01-01T11:57:00Z'),
  reachable: true,
  ...state,
});
const unknown = { machineKnown: false, gpuName: null, gpuCount: null, vramGb: null, region: null };
const now = new Date('2026-01-01T12:00:00Z');
const any = { requirements: null, wantedInstanceId: null };
const large = { ...any, requirements: requirementsSchema.parse({ minVramGb: 40 }) };
const pinned = { ...any, wantedInstanceId: 'b' };

describe('what a job waits for', () => {
  it.each([
    ['nothing is there', any, [], 'No ready instance satisfies the requirements.'],
    ['nothing fits', large, [instance()], 'No ready instance satisfies the requirements.'],
    ['all that fit are busy', any, [instance()], 'Every ready instance that fits is busy.'],
    [
      'the one that fits is silent',
      any,
      [instance({ reachable: false })],
      'The instance that fits does not answer at the moment.',
    ],
    [
      'one is coming',
      any,
      [instance({ status: 'provisioning', phase: 'loading' })],
      'The machine loads its image (3 min).',
    ],
    [
      'one is coming that was asked for as much',
      large,
      [
        instance({
          status: 'requested',
          ...unknown,
          requirements: requirementsSchema.parse({ minVramGb: 48 }),
        }),
      ],
      'An instance has been asked for.',
    ],
    [
      'several are coming, the one that is nearest',
      any,
      [
        instance({ id: 'a', status: 'provisioning', phase: 'searching' }),
        instance({ id: 'b', status: 'provisioning', phase: 'starting', phaseStartedAt: now }),
      ],
      'ComfyUI starts on the machine.',
    ],
    [
      'one is coming that may turn out not to fit',
      large,
      [instance({ status: 'requested', ...unknown, requirements: requirementsSchema.parse({}) })],
      'No ready instance satisfies the requirements.',
    ],
    [
      'its own instance is coming, whatever it will be',
      { ...large, wantedInstanceId: 'a' },
      [instance({ status: 'provisioning', phase: 'searching', ...unknown })],
      'The service looks for a machine to rent (3 min).',
    ],
    [
      'one is coming that is known not to fit',
      large,
      [instance({ status: 'provisioning', phase: 'loading' })],
      'No ready instance satisfies the requirements.',
    ],
    ['its own instance has ended', pinned, [instance()], 'Instance b, which the job asked for, has ended.'],
    [
      'its own instance does not satisfy it',
      { ...large, wantedInstanceId: 'b' },
      [instance({ id: 'b' })],
      'Instance b, which the job asked for, does not satisfy its requirements.',
    ],
  ])('is said when %s', (_name, wishes, instances, text) => {
    expect(waitingText(wishes, instances, { note: null, now })).toBe(text);
  });

  it('includes why the fleet rents no more, unless the job wants a certain instance', () => {
    const note = 'FLEET_MAX (2) is reached.';
    expect(waitingText(any, [], { note, now })).toBe(`No ready instance satisfies the requirements. ${note}`);
    expect(waitingText(any, [instance()], { note, now })).toBe(
      `Every ready instance that fits is busy. ${note}`,
    );
    expect(waitingText({ ...any, wantedInstanceId: 'a' }, [instance()], { note, now })).toBe(
      'Every ready instance that fits is busy.',
    );
  });
});
