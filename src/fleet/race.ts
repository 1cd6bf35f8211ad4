// Races: of the instances that share a race the first to be ready is kept.
import type { FleetInstance } from './fleet-state.ts';

/** Of each race that has a winner, all the others. */
export function losersOf(instances: readonly FleetInstance[]): FleetInstance[] {
  return instances.filter(
    (instance) =>
      instance.raceId !== null &&
      instance.state !== 'ending' &&
      instances.some((other) => other.raceId === instance.raceId && isAhead(other, instance)),
  );
}

/** Instances that race each other end as one, so they count as one. Which one is not known, so only what was asked of both is. */
export function oneOfEachRace(instances: readonly FleetInstance[]): FleetInstance[] {
  const racing = (instance: FleetInstance): boolean =>
    instances.filter(({ raceId }) => raceId !== null && raceId === instance.raceId).length > 1;
  return instances
    .filter(
      ({ raceId }, index) =>
        raceId === null || instances.findIndex((other) => other.raceId === raceId) === index,
    )
    .map((instance) => (racing(instance) ? { ...instance, machineKnown: false } : instance));
}

function isAhead(other: FleetInstance, instance: FleetInstance): boolean {
  if (other.state !== 'ready') return false;
  if (instance.state !== 'ready') return true;
  const lead = (other.readyAt?.getTime() ?? 0) - (instance.readyAt?.getTime() ?? 0);
  return lead < 0 || (lead === 0 && other.id < instance.id);
}
