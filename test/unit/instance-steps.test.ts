// Which step an instance needs, and which status may follow which.
import { describe, expect, it } from 'vitest';
import {
  instanceStatuses,
  instanceStatusesBefore,
  instanceTransitions,
  rentalStatuses,
} from '../../src/instances/instance.ts';
import { nextStep } from '../../src/instances/steps.ts';

const rented = (
  status: (typeof instanceStatuses)[number],
  phase: 'searching' | 'renting' | 'loading' | 'starting' | null,
) => ({
  status,
  phase,
  provider: 'vast' as const,
});

describe('the next step of an instance', () => {
  it('begins what was requested', () => {
    expect(nextStep(rented('requested', null), null)).toBe('begin');
  });

  it('searches while there is no rental, also after one has gone', () => {
    expect(nextStep(rented('provisioning', 'searching'), null)).toBe('search');
    expect(nextStep(rented('provisioning', 'searching'), { status: 'gone' })).toBe('search');
  });

  it('asks for a rental once, and then only settles what became of it', () => {
    expect(nextStep(rented('provisioning', 'renting'), { status: 'intended' })).toBe('launch');
    expect(nextStep(rented('provisioning', 'renting'), { status: 'creating' })).toBe('settle');
    expect(nextStep(rented('terminating', null), { status: 'creating' })).toBe('settle');
  });

  it('never rents for an instance that is being ended', () => {
    for (const status of rentalStatuses) {
      const step = nextStep(rented('terminating', null), { status });
      expect(['launch', 'search', 'load', 'start']).not.toContain(step);
    }
  });

  it('destroys a failed rental before anything else, whatever the instance is doing', () => {
    for (const status of instanceStatuses.filter((candidate) => candidate !== 'terminated')) {
      expect(nextStep(rented(status, 'loading'), { status: 'destroying' })).toBe('destroy');
    }
  });

  it('writes the end only when no rental is left', () => {
    expect(nextStep(rented('terminating', null), null)).toBe('terminate');
    expect(nextStep(rented('terminating', null), { status: 'gone' })).toBe('terminate');
    expect(nextStep(rented('terminating', null), { status: 'active' })).toBe('destroy');
  });

  it('waits for a static server without renting', () => {
    expect(nextStep({ status: 'provisioning', phase: 'starting', provider: 'static' }, null)).toBe(
      'startStatic',
    );
    expect(nextStep({ status: 'ready', phase: null, provider: 'static' }, null)).toBe('check');
  });

  it('has nothing to do after the end', () => {
    expect(nextStep(rented('terminated', null), { status: 'gone' })).toBe('none');
  });
});

describe('the statuses of an instance', () => {
  it('lead to terminated from everywhere and to nothing from there', () => {
    expect(instanceTransitions.terminated).toEqual([]);
    expect(instanceStatusesBefore('terminated')).toEqual(
      instanceStatuses.filter((status) => status !== 'terminated'),
    );
  });

  it('never lead back from terminating to use', () => {
    expect(instanceTransitions.terminating).toEqual(['terminated']);
  });
});
