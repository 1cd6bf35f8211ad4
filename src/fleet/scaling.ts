// What the fleet rents and lets go: pure, so that every rule can be tested by itself.
import { willFit } from '../jobs/matching.ts';
import type { Demand, FleetInstance, FleetPlan, FleetSettings, FleetState, Rent } from './fleet-state.ts';
import { losersOf, oneOfEachRace } from './race.ts';
import { isOver } from '../support/clock.ts';
import { retryAt } from './setbacks.ts';

/** The demand of jobs without requirements, and of the instances that FLEET_MIN keeps. */
const ANY_WISH = 'null';
/** How long an instance has had nothing to do before it gives way to others: longer than between the jobs of somebody who sends the next when one is done. */
const GIVES_WAY_AFTER_MS = 60_000;

/** A place for jobs: an instance, or one that is to be rented. */
interface Place {
  instance: FleetInstance | null;
  covers: (demand: Demand) => boolean;
  room: number;
}

/** What to do now. Rents for a demand only what no instance that is there or coming has room for. */
export function planFleet(state: FleetState, settings: FleetSettings, now: Date): FleetPlan {
  const { instances } = state;
  const lostRaces = losersOf(instances);
  const standing = oneOfEachRace(
    instances.filter((instance) => instance.state !== 'ending' && !lostRaces.includes(instance)),
  );
  const places = standing
    .filter(({ promising }) => promising)
    .toSorted((a, b) => distanceOf(a) - distanceOf(b))
    .map((instance) => placeOf(instance, settings));
  const { uncovered, used } = assign(state.demands, places);
  const wanted = rentFor(uncovered, state, settings, now);
  const rented = standing.filter((instance) => instance.rented);
  const reserve = reserveFor(
    settings.minInstances - rented.length - wanted.rent.length,
    wanted,
    state,
    settings,
    now,
  );
  const { drain, inTheWay, unneeded } = letGo(
    { rented, lostRaces, used, lackRoom: wanted.lackRoom },
    state,
    settings,
    now,
  );
  return {
    rent: [...wanted.rent, ...reserve],
    drain,
    giveWay: inTheWay.filter((each) => idleUntil(each, GIVES_WAY_AFTER_MS, now) === null),
    lostRaces,
    unneeded,
    notes: wanted.notes,
    nextLookAt: nextMoment(state, inTheWay, settings, now),
  };
}

/** What nothing waits for, as far as the least number that is to be kept allows. */
function letGo(
  {
    rented,
    lostRaces,
    used,
    lackRoom,
  }: {
    rented: readonly FleetInstance[];
    lostRaces: readonly FleetInstance[];
    used: ReadonlySet<FleetInstance>;
    lackRoom: number;
  },
  { instances }: FleetState,
  { minInstances }: FleetSettings,
  now: Date,
): { drain: FleetInstance[]; inTheWay: FleetInstance[]; unneeded: FleetInstance[] } {
  // One that is coming may still fail, so it stands for none that is there.
  const spare = Math.max(0, rented.filter(({ state }) => state === 'ready').length - minInstances);
  const idle = idleOf(rented, used);
  const drain = idle.filter((each) => idleUntil(each, each.idleLimitMs, now) === null).slice(0, spare);
  const places = unneededOf(rented, used).slice(0, Math.max(0, rented.length - drain.length - minInstances));
  const unneeded = instances.filter((each) => isMachineless(each) && places.some(isSameAs(each)));
  const ending = instances.filter(({ state }) => state === 'ending');
  const roomToCome = [...ending, ...lostRaces, ...drain, ...unneeded].filter(isOfFleet).length;
  const inTheWay = idle
    .filter((instance) => isOfFleet(instance) && !drain.includes(instance))
    .slice(0, Math.max(0, Math.min(spare - drain.length, lackRoom - roomToCome)));
  return { drain, inTheWay, unneeded };
}

/** How far it is from taking a job: the nearest get theirs first, so that what is left without any is what costs nothing yet. */
function distanceOf({ state, machineKnown }: FleetInstance): number {
  if (state === 'ready') return 0;
  return machineKnown ? 1 : 2;
}

function placeOf(instance: FleetInstance, { jobsPerInstance }: FleetSettings): Place {
  return {
    instance,
    covers: ({ requirements }) => willFit(requirements, instance),
    room: Math.max(0, jobsPerInstance - instance.pinnedJobs),
  };
}

/** Gives the jobs to the places, those with the least choice first. What is left over is in the order of the demands. */
function assign(
  demands: readonly Demand[],
  places: Place[],
): { uncovered: Map<Demand, number>; used: Set<FleetInstance> } {
  const left = new Map(demands.map((demand) => [demand, demand.jobs]));
  const used = new Set<FleetInstance>();
  const choices = new Map(demands.map((demand) => [demand, places.filter(({ covers }) => covers(demand))]));
  const byChoice = demands.toSorted((a, b) => (choices.get(a)?.length ?? 0) - (choices.get(b)?.length ?? 0));
  for (const demand of byChoice) {
    for (const place of choices.get(demand) ?? []) {
      const jobs = fill(place, left.get(demand) ?? 0);
      left.set(demand, (left.get(demand) ?? 0) - jobs);
      if (jobs > 0 && place.instance !== null) used.add(place.instance);
    }
  }
  return { uncovered: new Map([...left].filter(([, jobs]) => jobs > 0)), used };
}

function fill(place: Place, jobs: number): number {
  const taken = Math.min(jobs, place.room);
  place.room -= taken;
  return taken;
}

/** What to rent for jobs that nothing covers, why not more, and for how many instances there is no room alone. */
function rentFor(
  uncovered: ReadonlyMap<Demand, number>,
  state: FleetState,
  settings: FleetSettings,
  now: Date,
): { rent: Rent[]; notes: Map<string, string>; lackRoom: number } {
  const rent: Rent[] = [];
  const notes = new Map<string, string>();
  let lackRoom = 0;
  const planned: Place[] = [];
  for (const [demand, jobs] of uncovered) {
    let left = jobs;
    for (const place of planned.filter(({ covers }) => covers(demand))) left -= fill(place, left);
    while (left > 0) {
      const obstacle = obstacleFor(demand.wish, roomFor(rent, state, settings), state, settings, now);
      if (obstacle !== null) {
        notes.set(demand.wish, obstacle);
        if (obstacleFor(demand.wish, 1, state, settings, now) === null)
          lackRoom += Math.ceil(left / settings.jobsPerInstance);
        break;
      }
      rent.push(rentOf(demand, roomFor(rent, state, settings), settings));
      const place: Place = {
        instance: null,
        covers: (other) => other === demand || promises(demand, other, settings),
        room: settings.jobsPerInstance,
      };
      left -= fill(place, left);
      planned.push(place);
    }
  }
  return { rent, notes, lackRoom };
}

/** Whether what is rented for `demand` will do for `other` too, whatever machine it becomes. */
function promises(demand: Demand, other: Demand, settings: FleetSettings): boolean {
  if (other.requirements === null) return true;
  const wanted = demand.requirements ?? settings.requirements;
  const requirements = { ...wanted, diskGb: wanted.diskGb ?? settings.diskGb };
  const unknown = {
    id: '',
    gpuName: null,
    gpuCount: null,
    vramGb: null,
    ramGb: null,
    diskGb: null,
    cudaVersion: null,
    region: null,
  };
  return willFit(other.requirements, { ...unknown, machineKnown: false, requirements });
}

/** Rents up to `missing` instances that nothing waits for yet. */
function reserveFor(
  missing: number,
  wanted: { rent: Rent[] },
  state: FleetState,
  settings: FleetSettings,
  now: Date,
): Rent[] {
  const reserve: Rent[] = [];
  while (reserve.length < missing) {
    const room = roomFor([...wanted.rent, ...reserve], state, settings);
    if (obstacleFor(ANY_WISH, room, state, settings, now) !== null) break;
    reserve.push({ wish: ANY_WISH, requirements: null, machines: 1 });
  }
  return reserve;
}

function rentOf({ wish, requirements }: Demand, room: number, { race }: FleetSettings): Rent {
  return { wish, requirements, machines: Math.min(race, room) };
}

/** How many more the fleet may rent. Those that end count too: they may bill until they are confirmed gone. */
function roomFor(rent: readonly Rent[], { instances }: FleetState, { maxInstances }: FleetSettings): number {
  const planned = rent.reduce((sum, { machines }) => sum + machines, 0);
  return maxInstances - instances.filter(isOfFleet).length - planned;
}

function obstacleFor(
  wish: string,
  room: number,
  { setbacks }: FleetState,
  { obstacle, maxInstances, retryMs }: FleetSettings,
  now: Date,
): string | null {
  if (obstacle !== null) return obstacle;
  if (maxInstances === 0)
    return 'The fleet rents nothing by itself (FLEET_MAX is 0): rent one with POST /instances.';
  if (room <= 0) return `The fleet rents no more: FLEET_MAX (${maxInstances}) is reached.`;
  const [latest] = setbacks
    .filter((setback) => setback.wish === null || setback.wish === wish)
    .flatMap((setback) => {
      const at = retryAt(setback, retryMs, now);
      return at === null ? [] : [{ ...setback, at }];
    })
    .toSorted((a, b) => b.at.getTime() - a.at.getTime());
  if (latest === undefined) return null;
  const time = latest.at.toISOString().slice(11, 19);
  const which = latest.tries === 1 ? 'The last instance' : `The last ${latest.tries} instances`;
  const whose = latest.wish === null ? 'of the fleet' : 'for it';
  return `${which} ${whose} never got ready. ${latest.text} The fleet tries again at ${time} UTC.`;
}

/** Rented instances that have nothing to do, those first that have had nothing for the longest. */
function idleOf(rented: readonly FleetInstance[], used: ReadonlySet<FleetInstance>): FleetInstance[] {
  return rented
    .filter((instance) => !used.has(instance) && isIdle(instance))
    .toSorted((a, b) => (a.idleSince?.getTime() ?? 0) - (b.idleSince?.getTime() ?? 0));
}

/** What the fleet has asked for and nothing waits for any more; the newest first, which are the furthest from a machine. */
function unneededOf(rented: readonly FleetInstance[], used: ReadonlySet<FleetInstance>): FleetInstance[] {
  return rented
    .filter((instance) => !used.has(instance) && isMachineless(instance) && instance.pinnedJobs === 0)
    .toReversed();
}

/** Whether the fleet asked for it and it costs nothing yet: it still looks for an offer. */
function isMachineless(instance: FleetInstance): boolean {
  return instance.state === 'coming' && isOfFleet(instance) && !instance.machineKnown;
}

/** Whether it counts for the most that the fleet may have. */
function isOfFleet({ wish }: FleetInstance): boolean {
  return wish !== null;
}

/** Whether it is the same, or races it. */
function isSameAs(instance: FleetInstance): (other: FleetInstance) => boolean {
  return ({ id, raceId }) => id === instance.id || (raceId !== null && raceId === instance.raceId);
}

function isIdle({ state, rented, busyJobs, pinnedJobs }: FleetInstance): boolean {
  return state === 'ready' && rented && busyJobs === 0 && pinnedJobs === 0;
}

/** When it will have had nothing to do for so long, in milliseconds since 1970; infinite without a limit, null when it has. */
function idleUntil({ idleSince }: FleetInstance, limitMs: number | null, now: Date): number | null {
  if (idleSince === null || limitMs === null) return Infinity;
  return isOver(idleSince, limitMs, now) ? null : idleSince.getTime() + limitMs;
}

function nextMoment(
  { instances, setbacks }: FleetState,
  inTheWay: readonly FleetInstance[],
  { retryMs }: FleetSettings,
  now: Date,
): Date | null {
  const moments = [
    ...instances.filter(isIdle).map((each) => idleUntil(each, each.idleLimitMs, now) ?? Infinity),
    ...inTheWay.map((each) => idleUntil(each, GIVES_WAY_AFTER_MS, now) ?? Infinity),
    ...setbacks.map((setback) => retryAt(setback, retryMs, now)?.getTime() ?? Infinity),
  ].filter(Number.isFinite);
  return moments.length === 0 ? null : new Date(Math.min(...moments));
}
