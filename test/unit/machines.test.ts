// What counts against a machine, for how long, and what its past does to the ranking of its offers.
import { describe, expect, it } from 'vitest';
import type { MachineRow } from '../../src/database/tables.ts';
import { cooldownSeconds, isMachineFault, withoutCooling } from '../../src/instances/machines.ts';
import { rankOffers } from '../../src/instances/ranking.ts';
import { offer } from '../support/offers.ts';

const now = new Date('2026-03-01T12:00:00Z');

function machine(facts: Partial<MachineRow>): MachineRow {
  return {
    provider: 'vast',
    machine_id: 'a',
    successes: 0,
    failures: 0,
    failures_in_row: 0,
    last_reasons: [],
    cooldown_until: null,
    ready_seconds: null,
    download_mbps: null,
    last_ready_at: null,
    last_failed_at: null,
    ...facts,
  };
}

const never = { ready_at: null };
const once = { ready_at: now };

describe('the cooldown', () => {
  it('is 1 min, 5 min, 15 min, 1 h and 1 day by failures in a row, and then a day each', () => {
    const minutes = [1, 2, 3, 4, 5, 6, 40].map((failures) => cooldownSeconds(failures) / 60);
    expect(minutes).toEqual([1, 5, 15, 60, 1440, 1440, 1440]);
    expect(cooldownSeconds(0)).toBe(0);
  });

  it('moves offers to the rejected ones until it is over', () => {
    const found = { offers: [offer({ machineId: 'a' }), offer({ machineId: 'b' })], rejected: [] };
    const memory = new Map([
      [
        'a',
        machine({
          failures_in_row: 2,
          cooldown_until: new Date(now.getTime() + 1000),
          last_reasons: [{ reason: 'exited', at: now.toISOString() }],
        }),
      ],
    ]);
    const cooled = withoutCooling(found, memory, now);
    expect(cooled.offers.map(({ machineId }) => machineId)).toEqual(['b']);
    expect(cooled.rejected[0]?.reasons).toEqual([
      'Its machine failed 2 times in a row (exited) and is not rented before 2026-03-01T12:00:01.000Z.',
    ]);
    expect(withoutCooling(found, memory, new Date(now.getTime() + 1000)).offers).toHaveLength(2);
  });
});

describe('a failure counts against the machine', () => {
  it.each([
    ['loading_timeout', '', never, false, true],
    ['unreachable', '', never, false, true],
    ['exited', '', once, false, true],
    ['lost', '', once, false, true],
    ['lost', 'It has probably destroyed itself.', once, true, false],
    ['exited', '', once, true, true],
    ['image_pull_failed', 'unexpected EOF', never, false, true],
    ['image_pull_failed', 'no space left on device', never, false, true],
    ['image_pull_failed', 'manifest for vastai/comfy:nope not found: manifest unknown', never, false, false],
    ['image_pull_failed', 'pull access denied for nobody/nothing', never, false, false],
    ['stopped_by_provider', '', never, false, true],
    ['stopped_by_provider', '', once, false, false],
    ['outbid', '', once, false, false],
    ['requested', '', once, false, false],
    ['insufficient_credit', '', never, false, false],
    ['price_raised', '', once, false, false],
    ['idle', '', once, false, false],
  ] as const)(
    '%s (%s): %o, ended by itself: %s → %s',
    (reason, evidence, rental, mayHaveEndedItself, counts) => {
      expect(isMachineFault(reason, evidence, rental, mayHaveEndedItself)).toBe(counts);
    },
  );
});

describe('the ranking', () => {
  it('takes the measured boot, or else the measured speed, in place of the estimate', () => {
    const boot = (facts: Partial<MachineRow>) =>
      rankOffers([offer({ machineId: 'a', downloadMbps: 1000 })], new Map([['a', machine(facts)]]))[0]
        ?.expectedBootMinutes ?? 0;
    const estimated = boot({});
    expect(boot({ ready_seconds: 600 })).toBe(10);
    expect(boot({ download_mbps: 2000 })).toBeLessThan(estimated);
    expect(boot({ download_mbps: 50 })).toBeGreaterThan(20);
  });

  it('prefers the machine that worked to the same one that failed', () => {
    const memory = new Map([
      ['good', machine({ machine_id: 'good', successes: 3 })],
      ['bad', machine({ machine_id: 'bad', failures: 3 })],
    ]);
    const ranked = rankOffers(
      ['bad', 'good'].map((machineId) => offer({ machineId })),
      memory,
    );
    expect(ranked.map((entry) => entry.offer.machineId)).toEqual(['good', 'bad']);
  });
});
