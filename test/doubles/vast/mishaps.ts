// What happens to a rental that runs, whether by its fate or by a test's hand.
import { settle } from './billing.ts';
import type { Fate, LifeMishap } from './knobs.ts';
import { lifeMishaps } from './knobs.ts';
import type { Rental } from './rental.ts';
import { isLive } from './rental.ts';
import { endContainer, expectEnd, move, stopRental, takeNewPorts } from './transition.ts';
import type { World } from './world.ts';

/** Whether it befalls a machine by itself; nothing recovers from what never was. */
export function isLifeMishap(fate: Fate): fate is LifeMishap {
  return fate !== 'recovered' && lifeMishaps.some((mishap) => mishap === fate);
}

/** Nothing happens to a rental that has ended. */
export function strike(world: World, rental: Rental, mishap: LifeMishap): void {
  if (!isLive(rental)) return;
  switch (mishap) {
    case 'exited':
      endContainer(world, rental);
      return move(world, rental, { actualStatus: 'exited', statusMessage: 'Exited (137) 1 second ago\n' });
    case 'offline':
      rental.container?.freeze();
      return move(world, rental, { actualStatus: 'offline' });
    case 'unknown':
      return move(world, rental, { actualStatus: 'unknown' });
    case 'outbid':
      // Only a bid can be outbid.
      rental.isBid = true;
      return stopRental(world, rental, 'stopped');
    case 'contract-ended':
      return stopRental(world, rental, 'exited');
    case 'black-holed':
      rental.container?.freeze();
      return world.changed();
    case 'comfyui-gone':
      rental.installation?.exit();
      return world.changed();
    case 'price-raised':
      settle(world, rental);
      rental.gpuPricePerHourUsd *= 2;
      return move(world, rental, {});
    case 'moved':
      return moveAddress(world, rental);
    case 'recovered':
      if (rental.container === null) throw new Error('Only a machine whose container runs can recover.');
      rental.container.thaw();
      return move(world, rental, { actualStatus: 'running' });
  }
}

/** What runs goes on, and those who are connected are cut off. */
function moveAddress(world: World, rental: Rental): void {
  const moving = takeNewPorts(world, rental).then(() => rental.container?.reopen());
  expectEnd(world, moving.then(world.changed));
}
