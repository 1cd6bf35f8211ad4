// Whose a rental is, from its id, its label and the records alone.
import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ownerOf, type LiveRecord } from '../../src/instances/account.ts';
import { instanceIdIn, labelOf } from '../../src/instances/label.ts';

const prefix = 'cfy.prod';
const instanceId = randomUUID();
const label = labelOf(prefix, instanceId, 2);
const record = (facts: Partial<LiveRecord> = {}): LiveRecord => ({
  instance_id: instanceId,
  label,
  status: 'active',
  provider_instance_id: '7',
  ...facts,
});
const rental = (facts: { providerInstanceId?: string; label?: string | null } = {}) => ({
  providerInstanceId: '7',
  label,
  ...facts,
});
const owner = (seen: ReturnType<typeof rental>, records: LiveRecord[]) => ownerOf(seen, records, prefix);

describe('a rental is', () => {
  it('ours by its id, even under another label', () => {
    expect(owner(rental({ label: 'renamed by hand' }), [record()])).toEqual({
      ownership: 'ours',
      instanceId,
    });
  });

  it.each(['intended', 'creating'] as const)(
    'ours by its label while its record is %s and knows no id',
    (status) => {
      expect(owner(rental(), [record({ status, provider_instance_id: null })]).ownership).toBe('ours');
    },
  );

  it('an orphan when its record has another rental: a create made two', () => {
    expect(owner(rental({ providerInstanceId: '8' }), [record()]).ownership).toBe('orphan');
  });

  it('an orphan when it has a label of this deployment and no record', () => {
    expect(owner(rental(), [])).toEqual({ ownership: 'orphan', instanceId: null });
  });

  it.each([
    null,
    '',
    'cfy.prod',
    'cfy.prod.',
    'cfy.prod.by-hand.1',
    `cfy.prod2.${instanceId}.1`,
    `${label}x`,
    `x${label}`,
  ])('foreign when its label is %s', (other) => {
    expect(owner(rental({ label: other }), []).ownership).toBe('foreign');
  });

  it('foreign under every label of every other deployment', () => {
    const word = fc.stringMatching(/^[a-z0-9-]{1,16}$/);
    fc.assert(
      fc.property(word, word, fc.uuid(), fc.nat(), (first, second, id, number) => {
        fc.pre(`${first}.${second}` !== prefix);
        const seen = rental({ label: labelOf(`${first}.${second}`, id, number) });
        expect(owner(seen, []).ownership).toBe('foreign');
      }),
    );
  });
});

describe('a label', () => {
  it('names its instance', () => {
    expect(instanceIdIn(prefix, label)).toBe(instanceId);
  });
});
