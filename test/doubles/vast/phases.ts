// How a rental comes up, phase by phase on the double's clock.
import { splitImage } from './boot.ts';
import { startContainer } from './container.ts';
import { isLifeMishap, strike } from './mishaps.ts';
import type { Rental } from './rental.ts';
import { later, move, stopRental } from './transition.ts';
import type { World } from './world.ts';

/** Starts the phases of a rental that was just made; one that is made stopped has none. */
export function beginLife(world: World, rental: Rental): void {
  const { phases } = world.knobs;
  rental.contractEnd = world.clock.schedule(rental.machine.contractEndsAtMs - world.clock.now(), () =>
    stopRental(world, rental),
  );
  move(world, rental, {});
  if (rental.currentState === 'stopped') return;
  later(world, rental, phases.scheduledMs, () => {
    move(world, rental, { actualStatus: 'created' });
    later(world, rental, phases.createdMs, () => create(world, rental));
  });
}

/** A start of a rental that is there already: what never ran meets the same end as at first. */
export function resume(world: World, rental: Rental): void {
  if (hasRun(rental)) run(world, rental);
  else create(world, rental);
}

/** Fetches the image and runs it. */
export function load(world: World, rental: Rental): void {
  const { loadingMs } = world.knobs.phases;
  move(world, rental, { actualStatus: 'loading', statusMessage: `${layers[0]}: Pulling fs layer\n` });
  const { repository, tag } = splitImage(rental.request.image);
  const tags = world.knobs.imageTags[repository];
  if (rental.fate === 'pull-error' || tags === undefined) {
    return later(world, rental, loadingMs, () => failPull(world, rental, repository));
  }
  // A tag that does not exist is never reported: the rental loads for ever.
  const exists = tags.includes(tag) || tag === '@vastai-automatic-tag';
  if (!exists || rental.fate === 'loading-forever') return;
  for (const [at, layer] of layers.entries()) {
    later(world, rental, (loadingMs * (at + 1)) / (layers.length + 1), () =>
      move(world, rental, { statusMessage: `${layer}: Pull complete\n` }),
    );
  }
  later(world, rental, loadingMs, () => run(world, rental));
}

/** Runs the container whose image is there. */
function run(world: World, rental: Rental): void {
  if (rental.fate === 'exited-at-start') {
    return move(world, rental, { actualStatus: 'exited', statusMessage: 'Exited (1) 2 seconds ago\n' });
  }
  const isFirstRun = !hasRun(rental);
  const image = rental.request.image.replace(':', '_');
  rental.runningSinceMs = world.clock.now();
  rental.container = startContainer(world, rental);
  move(world, rental, { actualStatus: 'running', statusMessage: `success, running ${image}/ssh\n` });
  if (rental.fate !== 'no-ports' && rental.machine.directPorts > 0) {
    later(world, rental, world.knobs.phases.portsLateMs, () => {
      rental.arePortsPublished = true;
      world.changed();
    });
  }
  const { fate } = rental;
  if (isFirstRun && isLifeMishap(fate)) {
    later(world, rental, world.knobs.mishapAfterMs, () => strike(world, rental, fate));
  }
}

/** Whether its image was ever there. */
function hasRun(rental: Rental): boolean {
  return rental.history.some((entry) => entry.actualStatus === 'running');
}

function create(world: World, rental: Rental): void {
  if (rental.fate === 'gpu-error') {
    return move(world, rental, { statusMessage: 'Error: GPU error, unable to start instance\n' });
  }
  if (rental.fate === 'oci-error')
    return move(world, rental, { statusMessage: `${ociError('no such device')}\n` });
  if (rental.machine.cpuArch === 'arm64') {
    return move(world, rental, { statusMessage: `${ociError('exec format error')}\n` });
  }
  load(world, rental);
}

function failPull(world: World, rental: Rental, repository: string): void {
  const reason = `pull access denied for ${repository}, repository does not exist or may require 'docker login'`;
  move(world, rental, { statusMessage: `Error response from daemon: ${reason}\n` });
  later(world, rental, world.knobs.phases.pullErrorToStoppedMs, () =>
    move(world, rental, { intendedStatus: 'stopped', currentState: 'stopped', nextState: 'stopped' }),
  );
}

function ociError(reason: string): string {
  return `Error response from daemon: failed to create task for container: OCI runtime create failed: runc create failed: ${reason}`;
}

const layers = ['a1b2c3d4e5f6', '5c0ffee1dea5', '77aa31bd0c42', 'e90f11d2b8aa'];
