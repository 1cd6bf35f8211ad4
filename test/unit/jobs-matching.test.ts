import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { fits, matchJobs, willFit, type FreeInstance, type WaitingJob } from '../../src/jobs/matching.ts';

const job = (id: string, wishes: Partial<WaitingJob> = {}): WaitingJob => ({
  id,
  requirements: null,
  wantedInstanceId: null,
  lastInstanceId: null,
  shape: null,
  apiKey: null,
  priority: 0,
  createdAt: new Date(0),
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
  ramGb: 64,
  diskGb: 80,
  cudaVersion: 12.9,
  region: 'DE',
  lastShape: null,
  freeSlots,
  ...facts,
});
const match = (jobs: WaitingJob[], instances: FreeInstance[]) =>
  matchJobs(jobs, instances, { uses: new Map(), now: new Date(1000) });
const require = (wishes: object) => ({ requirements: requirementsSchema.parse(wishes) });

describe('matching', () => {
  it('gives jobs to idle instances before it stages a second one anywhere', () => {
    const placed = match([job('1'), job('2'), job('3')], [instance('a'), instance('b')]);
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

  it.each([
    ['main memory', { minRamGb: 64 }, { ramGb: 62 }, { ramGb: 48 }],
    ['disk', { diskGb: 150 }, { diskGb: 150 }, { diskGb: 80 }],
    ['CUDA version', { minCuda: 13 }, { cudaVersion: 13.2 }, { cudaVersion: 12.9 }],
  ])('heeds the %s of a machine where it is known', (_name, wishes, enough, tooLittle) => {
    const wanting = job('1', require(wishes));
    const unknown = { ramGb: null, diskGb: null, cudaVersion: null };
    expect(fits(wanting, instance('a', [0, 1], { ...unknown, ...enough }))).toBe(true);
    expect(fits(wanting, instance('a', [0, 1], { ...unknown, ...tooLittle }))).toBe(false);
    expect(fits(wanting, instance('a', [0, 1], unknown))).toBe(true);
  });

  it.each([
    [{ minRamGb: 32 }, { minRamGb: 16 }],
    [{ diskGb: 150 }, { diskGb: 80 }],
    [{ diskGb: 150 }, {}],
    [{ minCuda: 13 }, { minCuda: 12.8 }],
  ])('does not count on a machine that is yet to be chosen for %j when %j was asked', (wishes, asked) => {
    const coming = { ...instance('a'), machineKnown: false };
    const wanted = requirementsSchema.parse(wishes);
    expect(willFit(wanted, { ...coming, requirements: requirementsSchema.parse(asked) })).toBe(false);
    expect(willFit(wanted, { ...coming, requirements: wanted })).toBe(true);
  });

  it('prefers an idle instance to the second slot of a busy one', () => {
    expect(match([job('1')], [instance('a', [1]), instance('b')])).toMatchObject([{ instanceId: 'b' }]);
  });

  it('serves jobs in their order when slots are few', () => {
    expect(match([job('2'), job('1')], [instance('a', [1])])).toEqual([
      { jobId: '2', instanceId: 'a', slot: 1 },
    ]);
  });

  it('lets a job that fits nowhere hide nobody', () => {
    const picky = job('1', require({ minVramGb: 80 }));
    expect(match([picky, job('2')], [instance('a')])).toMatchObject([{ jobId: '2' }]);
  });

  it('keeps a job to the instance that it asked for', () => {
    const pinned = job('1', { wantedInstanceId: 'b' });
    expect(match([pinned], [instance('a'), instance('b', [1])])).toMatchObject([{ instanceId: 'b' }]);
    expect(match([pinned], [instance('a')])).toEqual([]);
  });

  it('tries a lost job elsewhere first, and on the same instance rather than not at all', () => {
    const lost = job('1', { lastInstanceId: 'a' });
    expect(match([lost], [instance('a'), instance('b', [1])])).toMatchObject([{ instanceId: 'b' }]);
    expect(match([lost], [instance('a', [1])])).toMatchObject([{ instanceId: 'a' }]);
  });

  it('prefers, among instances that are equally free, the one that ran such a workflow last', () => {
    const warm = instance('b', [0, 1], { lastShape: 's' });
    expect(match([job('1', { shape: 's' })], [instance('a'), warm])).toMatchObject([{ instanceId: 'b' }]);
    expect(match([job('1', { shape: 't' })], [instance('a'), warm])).toMatchObject([{ instanceId: 'a' }]);
    expect(match([job('1')], [instance('a'), instance('b')])).toMatchObject([{ instanceId: 'a' }]);
  });

  it('takes an idle instance rather than wait behind another job for loaded models', () => {
    const busy = instance('b', [1], { lastShape: 's' });
    expect(match([job('1', { shape: 's' })], [instance('a'), busy])).toMatchObject([{ instanceId: 'a' }]);
  });

  it('keeps workflows apart that need different models', () => {
    const jobs = [
      job('1', { shape: 's' }),
      job('2', { shape: 't' }),
      job('3', { shape: 's' }),
      job('4', { shape: 't' }),
    ];
    const placed = match(jobs, [instance('a'), instance('b', [0, 1], { lastShape: 's' })]);
    expect(placed.map(({ instanceId }) => instanceId)).toEqual(['b', 'a', 'b', 'a']);
  });

  it('counts no turn of a key whose job fits nowhere', () => {
    const picky = job('1', { ...require({ minVramGb: 80 }), apiKey: 'a' });
    const jobs = [picky, job('2', { apiKey: 'a' }), job('3', { apiKey: 'b', createdAt: new Date(1) })];
    expect(match(jobs, [instance('a', [1])])).toMatchObject([{ jobId: '2' }]);
  });

  it('never gives a slot or a job twice, whatever there is', () => {
    const slots = fc.subarray([0, 1]);
    fc.assert(
      fc.property(fc.array(slots, { maxLength: 5 }), fc.nat(15), (free, count) => {
        const instances = free.map((freeSlots, index) => instance(String(index), freeSlots));
        const jobs = Array.from({ length: count }, (_, index) => job(String(index)));
        const placed = match(jobs, instances);
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
