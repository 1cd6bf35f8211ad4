import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { fits, matchJobs, type FreeInstance, type WaitingJob } from '../../src/jobs/matching.ts';

const job = (id: string, wishes: Partial<WaitingJob> = {}): WaitingJob => ({
  id,
  requirements: null,
  wantedInstanceId: null,
  lastInstanceId: null,
  ...wishes,
});
const instance = (
  id: string,
  freeSlots: number[] = [0, 1],
  facts: Partial<FreeInstance> = {},
): FreeInstance => ({
  id,
  gpuName: 'RTX 4090',
  gpuCount: 1,
  vramGb: 24,
  region: 'DE',
  freeSlots,
  ...facts,
});
const require = (wishes: object) => ({ requirements: requirementsSchema.parse(wishes) });

describe('matching', () => {
  it('gives jobs to idle instances before it stages a second one anywhere', () => {
    const placed = matchJobs([job('1'), job('2'), job('3')], [instance('a'), instance('b')]);
    expect(placed).toEqual([
      { jobId: '1', instanceId: 'a', slot: 0 },
      { jobId: '2', instanceId: 'b', slot: 0 },
      { jobId: '3', instanceId: 'a', slot: 1 },
    ]);
  });

  it('takes memory by its nominal size and GPUs by either spelling, as the search does', () => {
    const shown = instance('a', [0, 1], { gpuName: 'RTX 5090', vramGb: 31.8 });
    expect(fits(job('1', require({ gpuNames: ['RTX_5090'], minVramGb: 32 })), shown)).toBe(true);
    expect(fits(job('1', require({ minVramGb: 40 })), shown)).toBe(false);
  });

  it('prefers an idle instance to the second slot of a busy one', () => {
    expect(matchJobs([job('1')], [instance('a', [1]), instance('b')])).toMatchObject([{ instanceId: 'b' }]);
  });

  it('serves jobs in their order when slots are few', () => {
    expect(matchJobs([job('2'), job('1')], [instance('a', [1])])).toEqual([
      { jobId: '2', instanceId: 'a', slot: 1 },
    ]);
  });

  it('lets a job that fits nowhere hide nobody', () => {
    const picky = job('1', require({ minVramGb: 80 }));
    expect(matchJobs([picky, job('2')], [instance('a')])).toMatchObject([{ jobId: '2' }]);
  });

  it('keeps a job to the instance that it asked for', () => {
    const pinned = job('1', { wantedInstanceId: 'b' });
    expect(matchJobs([pinned], [instance('a'), instance('b', [1])])).toMatchObject([{ instanceId: 'b' }]);
    expect(matchJobs([pinned], [instance('a')])).toEqual([]);
  });

  it('tries a lost job elsewhere first, and on the same instance rather than not at all', () => {
    const lost = job('1', { lastInstanceId: 'a' });
    expect(matchJobs([lost], [instance('a'), instance('b', [1])])).toMatchObject([{ instanceId: 'b' }]);
    expect(matchJobs([lost], [instance('a', [1])])).toMatchObject([{ instanceId: 'a' }]);
  });

  it('never gives a slot or a job twice, whatever there is', () => {
    const slots = fc.subarray([0, 1]);
    fc.assert(
      fc.property(fc.array(slots, { maxLength: 5 }), fc.nat(15), (free, count) => {
        const instances = free.map((freeSlots, index) => instance(String(index), freeSlots));
        const jobs = Array.from({ length: count }, (_, index) => job(String(index)));
        const placed = matchJobs(jobs, instances);
        const taken = placed.map(({ instanceId, slot }) => `${instanceId}/${slot}`);
        expect(new Set(taken).size).toBe(taken.length);
        expect(new Set(placed.map(({ jobId }) => jobId)).size).toBe(placed.length);
        expect(placed).toHaveLength(Math.min(count, free.flat().length));
        for (const { instanceId, slot } of placed) expect(free[Number(instanceId)]).toContain(slot);
      }),
    );
  });
});

describe('an instance', () => {
  it.each([
    ['any, when nothing is asked for', null, {}, true],
    ['one of the named GPUs', { gpuNames: ['RTX 4090', 'RTX 5090'] }, {}, true],
    ['another GPU', { gpuNames: ['RTX 5090'] }, {}, false],
    ['an unknown GPU where a name is asked for', { gpuNames: ['RTX 5090'] }, { gpuName: null }, false],
    ['enough memory', { minVramGb: 24 }, {}, true],
    ['too little memory, also for what is sold as more', { minVramGb: 26 }, {}, false],
    ['unknown memory', { minVramGb: 1 }, { vramGb: null }, false],
    ['more GPUs than needed', { gpuCount: 2 }, { gpuCount: 4 }, true],
    ['fewer GPUs than needed', { gpuCount: 2 }, {}, false],
    ['the right region', { regions: ['US', 'DE'] }, {}, true],
    ['another region', { regions: ['US'] }, {}, false],
    ['any price: it was looked at when it was rented', { maxPricePerHourUsd: 0.01 }, {}, true],
  ])('fits or not: %s', (_name, wishes, facts, expected) => {
    const requirements = wishes === null ? null : requirementsSchema.parse(wishes);
    expect(fits({ requirements, wantedInstanceId: null }, instance('a', [], facts))).toBe(expected);
  });
});
