// The calls on one instance: show, manage, reboot, recycle, destroy.
import { settleAll } from './billing.ts';
import type { Call } from './call.ts';
import { bodyObject } from './call.ts';
import type { Fault } from './faults.ts';
import { instanceRow } from './instance-row.ts';
import { destroyRental, restartRental, startRental } from './lifecycle.ts';
import type { Rental } from './rental.ts';
import { isLive } from './rental.ts';
import type { Reply } from './reply.ts';
import { failure, json, text } from './reply.ts';
import { move, stopRental } from './transition.ts';
import type { World } from './world.ts';

export function showInstance(call: Call): Reply {
  const { world, fault } = call;
  const rental = world.rentals.get(call.id);
  if (fault === 'null-instance') return json(200, { instances: null });
  const isHidden = fault === 'no-such-instance' || rental === undefined || !isVisible(world, rental, 'byId');
  if (isHidden) {
    return world.knobs.views.unknownId === '404' || fault === 'no-such-instance'
      ? failure(404, 'no_such_instance', `Instance ${call.id} not found.`)
      : json(200, { instances: null });
  }
  const row = instanceRow(world, rental, 'byId');
  return json(200, { instances: world.knobs.views.byIdAsArray ? [row] : row });
}

/** Whether a view shows the rental: not yet shortly after its making, and no more some time after its end. */
export function isVisible(world: World, rental: Rental, view: 'byId' | 'list'): boolean {
  const { byIdMs, listMs } = world.knobs.readLag;
  const nowMs = world.clock.now();
  if (rental.hiddenFromMs !== null && nowMs >= rental.hiddenFromMs) return false;
  return rental.isForeign || nowMs - rental.createdAtMs >= (view === 'byId' ? byIdMs : listMs);
}

/** `{state}` starts or stops, `{label}` renames. */
export function manageInstance(call: Call): Reply {
  const { world } = call;
  const rental = liveRental(call);
  if (rental === undefined) return failure(404, 'no_such_instance', `Instance ${call.id} not found.`);
  const { state, label } = bodyObject(call) ?? {};
  if (typeof label === 'string') {
    if (label.length > 1024)
      return failure(400, 'label_too_long', 'The label is longer than 1024 characters.');
    rental.label = label;
    move(world, rental, {});
  }
  if (state === 'stopped') stopRental(world, rental);
  else if (state === 'running') {
    settleAll(world);
    if (world.account.creditUsd <= 0) return failure(400, 'missing_billing', 'Your account lacks credit.');
    if (!startRental(world, rental)) {
      return json(200, {
        success: false,
        msg: 'Required resources are currently unavailable, state change queued.',
      });
    }
  } else if (typeof label !== 'string') return failure(400, 'invalid_args', 'Nothing to change.');
  return json(200, { success: true });
}

export function rebootInstance(call: Call): Reply {
  const rental = liveRental(call);
  if (rental === undefined) return failure(400, 'invalid_args', 'invalid instance_id');
  restartRental(call.world, rental, 'rebooting');
  return json(200, { success: true });
}

export function recycleInstance(call: Call): Reply {
  const rental = liveRental(call);
  if (rental === undefined) return failure(400, 'invalid_id', 'Invalid instance id.');
  restartRental(call.world, rental, 'recycling');
  return json(200, { success: true });
}

export function destroyInstance(call: Call): Reply {
  const { world, fault } = call;
  if (!Number.isInteger(call.id)) return failure(400, 'invalid_args', 'invalid instance_id');
  if (fault === 'lying-404') return notFound();
  if (fault === 'noop') return destroyed();
  const rental = liveRental(call);
  if (rental === undefined) return notFound();
  destroyRental(world, rental);
  return answerAfterDestroy(fault);
}

function answerAfterDestroy(fault: Fault | undefined): Reply {
  switch (fault) {
    case '404-after-destroy':
      return failure(404, 'no_such_instance', 'Instance not found');
    case '410-after-destroy':
      return failure(410, 'no_such_instance', 'Instance is gone');
    case '503-after-destroy':
      return text(503, 'Service Unavailable');
    case 'reset-after-destroy':
      return { kind: 'reset' };
    case 'hang-after-destroy':
      return { kind: 'hang' };
    default:
      return destroyed();
  }
}

function destroyed(): Reply {
  return json(200, { success: true, msg: 'Instance destroyed successfully' });
}

function notFound(): Reply {
  return failure(404, 'not_found', 'Instance not found');
}

function liveRental(call: Call): Rental | undefined {
  const rental = call.world.rentals.get(call.id);
  return rental !== undefined && isLive(rental) ? rental : undefined;
}
