import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Demand, FleetInstance, FleetSettings, FleetState } from '../../src/fleet/fleet-state.ts';
import { oneOfEachRace } from '../../src/fleet/race.ts';
import { planFleet } from '../../src/fleet/scaling.ts';
import { setbacksOf, type Outcome } from '../../src/fleet/setbacks.ts';
import { completeRequirements, requirementsSchema } from '../../src/instances/requirements.ts';
import { willFit } from '../../src/jobs/matching.ts';

const now = new Date('2026-01-01T12:00:00Z');
const agoMs = (ms: number) => new Date(now.getTime() - ms);
const MINUTE = 60_000;

const wishes = (given: object) => requirementsSchema.parse(given);

const defaults: FleetSettings = {
  minInstances: 0,
  maxInstances: 3,
  jobsPerInstance: 4,
  race: 1,
  retryMs: MINUTE,
  obstacle: null,
  requirements: wishes({}),
  diskGb: 80,
};
const asked = (given: object) => completeRequirements(wishes(given), { diskGb: 80, maxPricePerHourUsd: 1 });

const anyJobs = (jobs: number): Demand => ({ wish: 'null', requirements: null, jobs });
const jobsFor = (wish: string, given: object, jobs = 1): Demand => ({
  wish,
  requirements: wishes(given),
  jobs,
});

let lastId = 0;
const ready = (state: Partial<FleetInstance> = {}): FleetInstance => ({
  id: `i${(lastId += 1)}`,
  gpuName: 'RTX 4090',
  gpuCount: 1,
  vramGb: 24,
  ramGb: 64,
  diskGb: 80,
  cudaVersion: 12.9,
  region: 'DE',
  machineKnown: true,
  requirements: asked({}),
  state: 'ready',
  rented: true,
  wish: 'null',
  raceId: null,
  readyAt: agoMs(60 * MINUTE),
  promising: true,
  pinnedJobs: 0,
  busyJobs: 0,
  idleSince: agoMs(MINUTE),
  idleLimitMs: 15 * MINUTE,
  ...state,
});
const coming = (given: object = {}, state: Partial<FleetInstance> = {}): FleetInstance =>
  ready({
    state: 'coming',
    machineKnown: false,
    gpuName: null,
    gpuCount: null,
    vramGb: null,
    region: null,
    readyAt: null,
    idleSince: null,
    requirements: asked(given),
    ...state,
  });
const plan = (
  { demands = [], instances = [], setbacks = [] }: Partial<FleetState>,
  settings: Partial<FleetSettings> = {},
) => planFleet({ demands, instances, setbacks }, { ...defaults, ...settings }, now);

describe('renting', () => {
  it('brings an instance for a job that nothing is there for', () => {
    const { rent, notes } = plan({ demands: [anyJobs(1)] });
    expect(rent).toEqual([{ wish: 'null', requirements: null, machines: 1 }]);
    expect(notes.size).toBe(0);
  });

  it('brings none for jobs that an instance has room for, ready or on its way', () => {
    expect(plan({ demands: [anyJobs(4)], instances: [ready({ busyJobs: 2 })] }).rent).toEqual([]);
    expect(plan({ demands: [anyJobs(4)], instances: [coming()] }).rent).toEqual([]);
    expect(
      plan({ demands: [jobsFor('l', { minVramGb: 40 })], instances: [coming({ minVramGb: 48 })] }).rent,
    ).toEqual([]);
  });

  it('brings one more for each so many queued jobs', () => {
    expect(plan({ demands: [anyJobs(5)], instances: [ready()] }).rent).toHaveLength(1);
    expect(plan({ demands: [anyJobs(9)] }).rent).toHaveLength(3);
  });

  it('rents by the requirements of the job, and nothing else when that will serve others too', () => {
    const demands = [jobsFor('large', { minVramGb: 40 }), anyJobs(3)];
    expect(plan({ demands }).rent).toMatchObject([{ wish: 'large', requirements: { minVramGb: 40 } }]);
  });

  it('rents by the requirements of the settings for jobs without any, and nothing else when that will serve others too', () => {
    const requirements = wishes({ minVramGb: 24 });
    const rented = (other: Demand) =>
      plan({ demands: [anyJobs(1), other] }, { requirements, diskGb: 80 }).rent;
    expect(rented(jobsFor('small', { minVramGb: 16, diskGb: 60 }))).toHaveLength(1);
    expect(rented(jobsFor('roomy', { diskGb: 100 }))).toHaveLength(2);
    expect(rented(jobsFor('large', { minVramGb: 40 }))).toHaveLength(2);
  });

  it('does not rely on a machine that may turn out too small', () => {
    expect(plan({ demands: [jobsFor('l', { minVramGb: 40 })], instances: [coming()] }).rent).toHaveLength(1);
    const known = coming({}, { machineKnown: true, gpuName: 'L40S', gpuCount: 1, vramGb: 48, region: 'DE' });
    expect(plan({ demands: [jobsFor('l', { minVramGb: 40 })], instances: [known] }).rent).toHaveLength(0);
  });

  it.each([
    [{}, 1],
    [{ gpuNames: ['L40S'] }, 0],
    [{ gpuNames: ['L40S', 'H100'] }, 0],
    [{ gpuNames: ['L40S', 'RTX 4090'] }, 1],
  ])('for certain GPUs counts on one that is coming only if it was asked for these: %j', (given, rented) => {
    const picky = jobsFor('picky', { gpuNames: ['L40S', 'H100'], regions: ['DE', 'FR'] });
    const instances = [coming({ ...given, regions: ['DE'] })];
    expect(plan({ demands: [picky], instances }).rent).toHaveLength(rented);
    const elsewhere = [coming({ gpuNames: ['L40S'], regions: ['DE', 'US'] })];
    expect(plan({ demands: [picky], instances: elsewhere }).rent).toHaveLength(1);
  });

  it('leaves room on an instance for jobs that want it', () => {
    const pinned = ready({ pinnedJobs: 3 });
    expect(plan({ demands: [anyJobs(1)], instances: [pinned] }).rent).toHaveLength(0);
    expect(plan({ demands: [anyJobs(2)], instances: [pinned] }).rent).toHaveLength(1);
  });

  it('does not wait for an instance that ends, or for a server that does not answer', () => {
    const instances = [ready({ state: 'ending' }), ready({ rented: false, wish: null, promising: false })];
    expect(plan({ demands: [anyJobs(1)], instances }).rent).toHaveLength(1);
  });

  it('stops at the most that the fleet may have, those that still end included, and says so', () => {
    const { rent, notes } = plan({
      demands: [anyJobs(20)],
      instances: [coming(), ready({ state: 'ending' })],
    });
    expect(rent).toHaveLength(1);
    expect(notes.get('null')).toBe('The fleet rents no more: FLEET_MAX (3) is reached.');
  });

  it('does not count what others asked for', () => {
    const others = Array.from({ length: 3 }, () => ready({ wish: null, pinnedJobs: 4 }));
    expect(plan({ demands: [anyJobs(1)], instances: others }).rent).toHaveLength(1);
  });

  it('is left to people where the fleet may have none, or nobody to rent from', () => {
    const off = plan({ demands: [anyJobs(1)] }, { maxInstances: 0 });
    expect(off.rent).toEqual([]);
    expect(off.notes.get('null')).toMatch(/POST \/instances/);
    const without = plan({ demands: [anyJobs(1)] }, { obstacle: 'There is no key.' });
    expect(without.notes.get('null')).toBe('There is no key.');
  });

  it('keeps the least number although nothing waits', () => {
    expect(plan({}, { minInstances: 2 }).rent).toHaveLength(2);
    expect(plan({ instances: [coming({}, { wish: null })] }, { minInstances: 2 }).rent).toHaveLength(1);
    expect(plan({ demands: [anyJobs(1)] }, { minInstances: 1 }).rent).toHaveLength(1);
    expect(plan({}, { minInstances: 5, maxInstances: 3 }).rent).toHaveLength(3);
  });
});

describe('after instances that were never ready, renting', () => {
  const failed = (ago: number, state: Partial<Outcome> = {}): Outcome => ({
    wish: 'null',
    raceId: null,
    wasReady: false,
    reason: 'no_offer',
    detail: 'Nothing fits.',
    at: agoMs(ago),
    ...state,
  });
  const tried = (...outcomes: Outcome[]) =>
    plan({ demands: [anyJobs(1), jobsFor('l', { minVramGb: 40 })], setbacks: setbacksOf(outcomes) });

  it('waits a minute, then twice as long each time, and says why', () => {
    const once = tried(failed(0.5 * MINUTE));
    expect(once.rent).toMatchObject([{ wish: 'l' }]);
    const thrice = setbacksOf([failed(3 * MINUTE), failed(10 * MINUTE), failed(11 * MINUTE)]);
    const later = plan({ demands: [anyJobs(1)], setbacks: thrice });
    expect(later.rent).toEqual([]);
    expect(later.notes.get('null')).toBe(
      'The last 3 instances for it never got ready. No offer satisfied the requirements in time. Nothing fits. The fleet tries again at 12:01:00 UTC.',
    );
    expect(later.nextLookAt).toEqual(new Date('2026-01-01T12:01:00Z'));
    expect(plan({ demands: [anyJobs(1)], setbacks: setbacksOf([failed(1.1 * MINUTE)]) }).rent).toHaveLength(
      1,
    );
  });

  it('forgets them once one was ready, and does not count ends that were wanted', () => {
    const forgotten = [failed(MINUTE / 2, { wasReady: true, reason: 'idle' }), failed(MINUTE)];
    expect(setbacksOf(forgotten)).toEqual([]);
    expect(setbacksOf([failed(0, { reason: 'lost_race' }), failed(0, { reason: 'requested' })])).toEqual([]);
  });

  it('counts a race that nobody won once, and one that somebody won not at all', () => {
    const racer = (ago: number, raceId: string, state: Partial<Outcome> = {}) =>
      failed(ago, { raceId, ...state });
    const lost = [racer(1000, 'b'), racer(1500, 'b'), racer(2000, 'a'), racer(2500, 'a'), failed(3000)];
    expect(setbacksOf(lost)).toMatchObject([{ wish: 'null', tries: 3 }]);
    expect(setbacksOf([racer(1000, 'a'), racer(2000, 'a', { wasReady: true, reason: null })])).toEqual([]);
  });

  it('are over when they lie in a future that only a clock knew that was set back since', () => {
    expect(tried(failed(-60 * MINUTE)).rent).toHaveLength(2);
    // The clocks of replicas differ.
    expect(tried(failed(-1000)).rent).toMatchObject([{ wish: 'l' }]);
  });

  it('waits for every demand when the account was the reason', () => {
    const { rent, notes } = tried(failed(1000, { reason: 'insufficient_credit' }));
    expect(rent).toEqual([]);
    expect([...notes.keys()]).toEqual(['null', 'l']);
    // None was for this demand.
    expect(notes.get('l')).toMatch(/^The last instance of the fleet never got ready\. The account/);
  });

  it('still waits for every demand when one of them has failed for another reason since', () => {
    const noCredit = (ago: number) => failed(ago, { reason: 'insufficient_credit' });
    const elsewhere = failed(1000, { wish: 'l' });
    expect(tried(elsewhere, noCredit(2000)).rent).toEqual([]);
    expect(setbacksOf([noCredit(1000), failed(2000), noCredit(3000)])).toMatchObject([
      { wish: null, tries: 2 },
      { wish: 'null', tries: 1 },
    ]);
  });
});

describe('letting go', () => {
  const idle = (minutes: number, state: Partial<FleetInstance> = {}) =>
    ready({ idleSince: agoMs(minutes * MINUTE), ...state });

  it('drains what has had nothing to do for its time, whoever asked for it', () => {
    const over = [idle(16), idle(20, { wish: null })];
    const { drain, nextLookAt } = plan({ instances: [...over, idle(14)] });
    expect(new Set(drain)).toEqual(new Set(over));
    expect(nextLookAt).toEqual(new Date(now.getTime() + MINUTE));
  });

  it('drains what has had nothing to do since a future that only a clock knew that was set back since', () => {
    const over = idle(-60);
    const { drain, nextLookAt } = plan({ instances: [over, idle(-0.01)] });
    expect(drain).toEqual([over]);
    expect(nextLookAt?.getTime()).toBeLessThan(now.getTime() + 16 * MINUTE);
  });

  it('spares what works, is wanted, is about to get a job, never ends, or is not rented', () => {
    const instances = [
      idle(60, { busyJobs: 1 }),
      idle(60, { pinnedJobs: 1 }),
      idle(60, { idleLimitMs: null }),
      idle(60, { rented: false, wish: null }),
      coming(),
    ];
    expect(plan({ instances }).drain).toEqual([]);
    expect(plan({ instances: [idle(60)], demands: [anyJobs(1)] }).drain).toEqual([]);
  });

  it('keeps the least number, those that were used last', () => {
    const instances = [idle(20), idle(40), idle(30)];
    expect(plan({ instances }, { minInstances: 1 }).drain).toEqual([instances[1], instances[2]]);
    expect(plan({ instances: [idle(20), coming()] }, { minInstances: 1 }).drain).toEqual([]);
  });
});

describe('giving way to what other jobs need', () => {
  const idle = (minutes: number, state: Partial<FleetInstance> = {}) =>
    ready({ idleSince: agoMs(minutes * MINUTE), ...state });
  const large = jobsFor('large', { minVramGb: 80 });

  it('is for what has had nothing to do for a minute, the longest first, and for no more than is needed', () => {
    const [longer, shorter] = [idle(5), idle(2)];
    const given = { demands: [large], instances: [shorter, longer] };
    expect(plan(given, { maxInstances: 2 })).toMatchObject({ rent: [], drain: [], giveWay: [longer] });
    const two = plan({ ...given, demands: [jobsFor('large', { minVramGb: 80 }, 5)] }, { maxInstances: 2 });
    expect(two.giveWay).toEqual([longer, shorter]);
  });

  it('waits until the minute is over, and looks then', () => {
    const instances = [idle(0.5)];
    const { giveWay, nextLookAt } = plan({ demands: [large], instances }, { maxInstances: 1 });
    expect(giveWay).toEqual([]);
    expect(nextLookAt).toEqual(new Date(now.getTime() + MINUTE / 2));
  });

  it('is not needed where there is room, or where some is on its way', () => {
    expect(plan({ demands: [large], instances: [idle(5)] }, { maxInstances: 2 }).giveWay).toEqual([]);
    const leaving = [ready({ state: 'ending' }), idle(20), coming()];
    for (const other of leaving) {
      const given = { demands: [large], instances: [idle(5), other] };
      expect(plan(given, { maxInstances: 2 }).giveWay).toEqual([]);
    }
  });

  it('does not help where the fleet rents nothing for those jobs anyway', () => {
    const given = { demands: [large], instances: [idle(5)] };
    const tried: Outcome = {
      wish: 'large',
      raceId: null,
      wasReady: false,
      reason: 'no_offer',
      detail: null,
      at: agoMs(1000),
    };
    expect(plan(given, { maxInstances: 1, obstacle: 'No key.' }).giveWay).toEqual([]);
    expect(plan({ ...given, setbacks: setbacksOf([tried]) }, { maxInstances: 1 }).giveWay).toEqual([]);
  });

  it('is not for what works, is wanted, was asked for by somebody, or is to be kept', () => {
    const needed = [
      idle(5, { busyJobs: 1 }),
      idle(5, { pinnedJobs: 1 }),
      idle(5, { wish: null }),
      coming({ minVramGb: 16 }, { machineKnown: true, vramGb: 16, gpuName: 'A', gpuCount: 1, region: 'DE' }),
    ];
    for (const instance of needed)
      expect(plan({ demands: [large], instances: [instance] }, { maxInstances: 1 }).giveWay).toEqual([]);
    const both = { demands: [large, anyJobs(1)], instances: [idle(5)] };
    expect(plan(both, { maxInstances: 1 }).giveWay).toEqual([]);
    const kept = { demands: [large], instances: [idle(5)] };
    expect(plan(kept, { maxInstances: 1, minInstances: 1 }).giveWay).toEqual([]);
  });
});

describe('what the fleet asked for and nothing waits for any more', () => {
  const found = { machineKnown: true, gpuName: 'RTX 4090', gpuCount: 1, vramGb: 24, region: 'DE' };

  it('goes as long as no machine was rented for it, unless somebody asked for it or a job wants it', () => {
    const searching = coming();
    const instances = [
      searching,
      coming({}, found),
      coming({}, { wish: null }),
      coming({}, { pinnedJobs: 1 }),
    ];
    expect(plan({ instances }).unneeded).toEqual([searching]);
    expect(plan({ instances: [searching], demands: [anyJobs(1)] }).unneeded).toEqual([]);
  });

  it('goes where jobs that wait have a nearer one', () => {
    const [searching, loading] = [coming(), coming({}, found)];
    expect(plan({ instances: [searching, loading], demands: [anyJobs(4)] }).unneeded).toEqual([searching]);
    expect(plan({ instances: [searching, loading], demands: [anyJobs(5)] }).unneeded).toEqual([]);
  });

  it('stays as far as the least number needs it, the oldest first', () => {
    const [older, newer] = [coming(), coming()];
    expect(plan({ instances: [older, newer] }, { minInstances: 1 }).unneeded).toEqual([newer]);
    const idle = ready({ idleSince: agoMs(60 * MINUTE) });
    expect(plan({ instances: [idle, older] }, { minInstances: 1 }).unneeded).toEqual([older]);
  });

  it('goes with those that it races', () => {
    const race = [coming({}, { raceId: 'r' }), coming({}, { raceId: 'r' })];
    expect(plan({ instances: race }).unneeded).toEqual(race);
    expect(plan({ instances: race }, { minInstances: 1 }).unneeded).toEqual([]);
  });
});

describe('a race', () => {
  it('is rented for each place, as far as there is room', () => {
    expect(plan({ demands: [anyJobs(1)] }, { race: 2 }).rent).toMatchObject([{ machines: 2 }]);
    expect(plan({ demands: [anyJobs(8)] }, { race: 2 }).rent).toMatchObject([
      { machines: 2 },
      { machines: 1 },
    ]);
  });

  it('counts as one instance while it lasts', () => {
    const racing = [coming({}, { raceId: 'r' }), coming({}, { raceId: 'r' })];
    expect(plan({ demands: [anyJobs(4)], instances: racing }, { maxInstances: 4 }).rent).toEqual([]);
    expect(plan({ demands: [anyJobs(5)], instances: racing }, { maxInstances: 4 }).rent).toHaveLength(1);
  });

  it('is won by the first that is ready', () => {
    const winner = ready({ raceId: 'r', readyAt: agoMs(2000) });
    const late = ready({ raceId: 'r', readyAt: agoMs(1000) });
    const last = coming({}, { raceId: 'r' });
    expect(plan({ instances: [last, late, winner] }).lostRaces).toEqual([last, late]);
    expect(plan({ instances: [coming({}, { raceId: 'q' }), winner] }).lostRaces).toEqual([]);
  });

  it('is over for one that jobs want for itself, which then counts like any other', () => {
    const wanted = coming({}, { raceId: 'r', pinnedJobs: 1 });
    const winner = ready({ raceId: 'r', idleSince: agoMs(MINUTE / 2) });
    const large = jobsFor('l', { minVramGb: 24, gpuNames: ['RTX 4090'] });
    const { lostRaces, rent } = plan({ instances: [wanted, winner], demands: [large] });
    expect([lostRaces, rent]).toEqual([[], []]);
    const done = ready({ raceId: 'r', readyAt: agoMs(1000) });
    expect(plan({ instances: [done, winner] }).lostRaces).toEqual([done]);
  });
});

describe('whatever the state, a plan', () => {
  const vram = fc.constantFrom(16, 24, 48, 80);
  const demand = fc
    .record({ minVramGb: vram, gpu: fc.constantFrom('', 'A', 'B'), jobs: fc.integer({ min: 1, max: 12 }) })
    .map(({ minVramGb, gpu, jobs }) =>
      jobsFor(`${minVramGb}${gpu}`, { minVramGb, gpuNames: gpu === '' ? [] : [gpu] }, jobs),
    );
  const demands = fc.uniqueArray(fc.oneof(demand, fc.integer({ min: 1, max: 12 }).map(anyJobs)), {
    selector: ({ wish }) => wish,
    maxLength: 6,
  });
  const instance = fc
    .record({
      state: fc.constantFrom('coming' as const, 'ready' as const, 'ending' as const),
      machineKnown: fc.boolean(),
      vramGb: vram,
      gpuName: fc.constantFrom('A', 'B', 'C'),
      minVramGb: vram,
      wish: fc.constantFrom(null, 'null'),
      raceId: fc.constantFrom(null, null, 'r1', 'r2'),
      pinnedJobs: fc.integer({ min: 0, max: 5 }),
      busyJobs: fc.integer({ min: 0, max: 2 }),
      idleMinutes: fc.integer({ min: 0, max: 40 }),
      server: fc.constantFrom(null, null, { rented: false, wish: null, raceId: null }),
      promising: fc.boolean(),
    })
    .map(({ minVramGb, idleMinutes, machineKnown, server, promising, ...state }) =>
      ready({
        ...state,
        ...server,
        promising: promising || server === null,
        machineKnown: machineKnown || state.state === 'ready',
        requirements: asked({ minVramGb }),
        idleSince: state.state === 'ready' ? agoMs(idleMinutes * MINUTE) : null,
        readyAt: state.state === 'ready' ? agoMs(idleMinutes * MINUTE) : null,
      }),
    );
  const state = fc.record({ demands, instances: fc.array(instance, { maxLength: 8 }) });
  const limits = fc.record({
    minInstances: fc.integer({ min: 0, max: 4 }),
    maxInstances: fc.integer({ min: 0, max: 8 }),
    jobsPerInstance: fc.integer({ min: 1, max: 5 }),
    race: fc.integer({ min: 1, max: 2 }),
  });
  const check = (
    property: (
      given: { demands: Demand[]; instances: FleetInstance[] },
      limits: Partial<FleetSettings>,
    ) => void,
  ) => fc.assert(fc.property(state, limits, property), { numRuns: 500 });

  it('never exceeds the most that the fleet may have', () => {
    check((given, settings) => {
      const planned = plan(given, settings).rent.reduce((sum, { machines }) => sum + machines, 0);
      const there = given.instances.filter(({ wish }) => wish !== null).length;
      expect(planned === 0 || there + planned <= (settings.maxInstances ?? 0)).toBe(true);
    });
  });

  it('covers every waiting job by something that fits, or says why not', () => {
    check((given, settings) => {
      const { rent, notes, lostRaces } = plan(given, settings);
      const places = [
        ...oneOfEachRace(
          given.instances.filter((each) => each.state !== 'ending' && !lostRaces.includes(each)),
        ).filter(({ promising }) => promising),
        ...rent.map(({ requirements }) => coming(requirements ?? {}, {})),
      ];
      for (const { wish, requirements } of given.demands) {
        const covered = places.some((place) => willFit(requirements, place));
        expect(covered || notes.has(wish)).toBe(true);
      }
    });
  });

  it('rents for no demand that an instance there or on its way has room for all of', () => {
    check((given, settings) => {
      const jobs = given.demands.reduce((sum, each) => sum + each.jobs, 0);
      const { rent } = plan(given, { ...settings, minInstances: 0 });
      for (const { wish } of rent) {
        const requirements = given.demands.find((each) => each.wish === wish)?.requirements ?? null;
        const roomy = given.instances.filter(
          (each) =>
            each.state !== 'ending' &&
            each.promising &&
            each.raceId === null &&
            willFit(requirements, each) &&
            (settings.jobsPerInstance ?? 0) - each.pinnedJobs >= jobs,
        );
        expect(roomy).toEqual([]);
      }
    });
  });

  it('rents nothing for jobs that want a certain instance', () => {
    check(({ instances }, settings) => {
      expect(plan({ instances }, { ...settings, minInstances: 0 }).rent).toEqual([]);
    });
  });

  it('leaves the least number ready where that many are, and drains nothing that is in use', () => {
    check((given, settings) => {
      const { drain: drained, giveWay, lostRaces } = plan(given, settings);
      const drain = [...drained, ...giveWay];
      const before = given.instances.filter(
        (each) => each.state === 'ready' && !lostRaces.includes(each),
      ).length;
      expect(before - drain.length).toBeGreaterThanOrEqual(Math.min(before, settings.minInstances ?? 0));
      expect(drain.every((each) => each.busyJobs === 0 && each.pinnedJobs === 0)).toBe(true);
    });
  });

  it('lets nothing go that has a machine, is wanted, or is to be kept, but what is idle or lost its race', () => {
    check((given, settings) => {
      const { unneeded, drain, giveWay, lostRaces } = plan(given, settings);
      expect(
        unneeded.every((each) => each.state === 'coming' && !each.machineKnown && each.wish !== null),
      ).toBe(true);
      const rented = given.instances.filter(
        (each) => each.rented && each.state !== 'ending' && !lostRaces.includes(each),
      );
      const left = rented.filter((each) => ![...unneeded, ...drain, ...giveWay].includes(each));
      const kept = Math.min(oneOfEachRace(rented).length, settings.minInstances ?? 0);
      expect(oneOfEachRace(left).length).toBeGreaterThanOrEqual(kept);
    });
  });

  it('leads to rest: carried out a few times, it rents nothing more and lets nothing go that was just asked for', () => {
    const carriedOut = (
      given: { demands: Demand[]; instances: FleetInstance[] },
      { rent, unneeded, giveWay }: ReturnType<typeof plan>,
    ) => {
      const made = rent.flatMap(({ wish, requirements, machines }) => {
        const raceId = machines > 1 ? `new${(lastId += 1)}` : null;
        return Array.from({ length: machines }, () => coming(requirements ?? {}, { wish, raceId }));
      });
      const left = given.instances.filter((each) => ![...unneeded, ...giveWay].includes(each));
      return { ...given, instances: [...left, ...made] };
    };
    check((given, settings) => {
      // What is let go makes room for what is rented next, and that may leave something without a job once more, for each place.
      let there = given;
      for (let passes = 0; passes < 10; passes += 1) there = carriedOut(there, plan(there, settings));
      const { rent, unneeded, giveWay } = plan(there, settings);
      expect([rent, unneeded, giveWay]).toEqual([[], [], []]);
    });
  });
});
