// Races: of the instances that share a race the first to be ready is kept.
import type { FleetInstance } from './fleet-state.ts';

/** Of each race that has a winner, all the others, but for those that jobs want for themselves. */
export function losersOf(instances: readonly FleetInstance[]): FleetInstance[] {
  return instances.filter(
    (instance) =>
      instance.raceId !== null &&
      instance.state !== 'ending' &&
      instance.pinnedJobs === 0 &&
      instances.some((other) => other.raceId === instance.raceId && isAhead(other, instance)),
  );
}

/**
 * Instances that race each other end as one, so they count as one until there is a winner. Which one is not known, so only what was
 * asked of both is.
 */
export function oneOfEachRace(instances: readonly FleetInstance[]): FleetInstance[] {
  const rivalsOf = ({ raceId }: FleetInstance) =>
    raceId === null ? [] : instances.filter((other) => other.raceId === raceId);
  return instances.flatMap((instance) => {
    const rivals = rivalsOf(instance);
    if (rivals.length < 2 || rivals.some(({ state }) => state === 'ready')) return [instance];
    return rivals[0] === instance ? [{ ...instance, machineKnown: false }] : [];
  });
}

function isAhead(other: FleetInstance, instance: FleetInstance): boolean {
  if (other.state !== 'ready') return false;
  if (instance.state !== 'ready') return true;
  const lead = (other.readyAt?.getTime() ?? 0) - (instance.readyAt?.getTime() ?? 0);
  return lead < 0 || (lead === 0 && other.id < instance.id);
}
