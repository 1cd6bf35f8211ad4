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
  region: 'DE',
  reachable: true,
  ...state,
});
const unknown = { gpuName: null, gpuCount: null, vramGb: null, region: null };
const any = { requirements: null, wantedInstanceId: null };
const large = { ...any, requirements: requirementsSchema.parse({ minVramGb: 40 }) };
const pinned = { ...any, wantedInstanceId: 'b' };

describe('what a job waits for', () => {
  it.each([
    [
      'nothing is there',
      any,
      [],
      'No ready instance satisfies the requirements. Rent one with POST /instances.',
    ],
    [
      'nothing fits',
      large,
      [instance()],
      'No ready instance satisfies the requirements. Rent one with POST /instances.',
    ],
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
      'An instance is being prepared: loading.',
    ],
    [
      'one is coming of which nothing is known yet',
      large,
      [instance({ status: 'requested', ...unknown })],
      'An instance is being prepared.',
    ],
    [
      'one is coming that is known not to fit',
      large,
      [instance({ status: 'provisioning', phase: 'loading' })],
      'No ready instance satisfies the requirements. Rent one with POST /instances.',
    ],
    ['its own instance has ended', pinned, [instance()], 'Instance b, which the job asked for, has ended.'],
    [
      'its own instance does not satisfy it',
      { ...large, wantedInstanceId: 'b' },
      [instance({ id: 'b' })],
      'Instance b, which the job asked for, does not satisfy its requirements.',
    ],
  ])('is said when %s', (_name, wishes, instances, text) => {
    expect(waitingText(wishes, instances)).toBe(text);
  });
});
