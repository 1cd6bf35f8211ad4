// `PUT /asks/{id}/`: the call that rents.
import { settleAll } from './billing.ts';
import type { Call } from './call.ts';
import { bodyObject } from './call.ts';
import type { CreateRequest } from './create-request.ts';
import { readCreateRequest } from './create-request.ts';
import type { Fault } from './faults.ts';
import { makeRental } from './lifecycle.ts';
import type { Machine } from './market.ts';
import type { Rental } from './rental.ts';
import type { Reply } from './reply.ts';
import { failure, json, text } from './reply.ts';
import type { World } from './world.ts';

export async function createInstance(call: Call): Promise<Reply> {
  const { world, id: askId, fault } = call;
  const body = bodyObject(call);
  if (body === null) return failure(400, 'invalid_request', 'Invalid json body');
  const request = readCreateRequest(body);
  if ('error' in request) return refuse(request.error, request.message, askId);
  const refusal = fault === undefined ? undefined : refusalOf(fault, askId);
  if (refusal !== undefined) return refusal;
  settleAll(world);
  if (world.account.creditUsd <= 0) return insufficientCredit(askId);
  const machine = world.market.find(askId);
  if (machine === undefined || !machine.rentable) return noSuchAsk(404, askId);
  if (request.diskGb > machine.diskGb) return refuse('invalid_args', 'not enough disk space', askId);
  return rent(call, machine, request);
}

async function rent(call: Call, machine: Machine, request: CreateRequest): Promise<Reply> {
  const { world, id: askId, fault } = call;
  const isTaken = world.knobs.takenMachines.includes(machine.machineId);
  if (isTaken) loseMachine(world, machine);
  if (isTaken && request.cancelUnavailable) return noSuchAsk(410, askId);
  if (fault === '503-and-late') {
    world.clock.schedule(world.knobs.lateCreateMs, () => {
      if (world.isStopped || world.market.find(askId) !== machine) return;
      void makeRental(world, machine, request, false);
    });
    return text(503, 'Service Unavailable');
  }
  const isBelowFloor =
    request.bidPerHourUsd !== null && request.bidPerHourUsd < machine.gpuPricePerHourUsd * 0.55;
  const isStopped = request.startsStopped || isTaken || isBelowFloor || fault === '400-with-new-contract';
  const rental = await makeRental(world, machine, request, isStopped);
  if (isBelowFloor || fault === '400-with-new-contract') {
    return failure(
      400,
      'invalid_price',
      `error 400/3711: the instance was created and could not be started`,
      {
        ask_id: askId,
        new_contract: rental.id,
      },
    );
  }
  return answerAfterCreate(fault, rental, world);
}

function answerAfterCreate(fault: Fault | undefined, rental: Rental, world: World): Reply {
  switch (fault) {
    case '503-after-create':
      return text(503, 'Service Unavailable');
    case 'reset-after-create':
      return { kind: 'reset' };
    case 'hang-after-create':
      return { kind: 'hang' };
    case 'truncated-after-create':
      return { kind: 'truncated' };
    case 'no-id-after-create':
      return json(200, { success: true });
    default:
      return json(200, {
        success: true,
        new_contract: rental.id,
        instance_api_key: world.random.hex(64),
      });
  }
}

/** The refusals that a test can order; nothing is made. */
function refusalOf(fault: Fault, askId: number): Reply | undefined {
  switch (fault) {
    case 'no-such-ask-400':
      return refuse('no_such_ask', `no_such_ask Instance type by id ${askId} is not available.`, askId);
    case 'no-such-ask-404':
      return noSuchAsk(404, askId);
    case 'no-such-ask-410':
      return noSuchAsk(410, askId);
    case 'not-your-own':
      return failure(
        403,
        'invalid_args',
        `error 403/3586: Offer ${askId} is not your own. Hosts can only rent their own machines.`,
        { ask_id: askId },
      );
    case 'invalid-args':
      return refuse('invalid_args', 'Invalid args: scripted', askId);
    case 'invalid-price':
      return refuse('invalid_price', 'Invalid price', askId);
    case 'insufficient-credit':
      return insufficientCredit(askId);
    case 'spend-rate-limit':
      return failure(400, 'spend_rate_limit', 'Your account has reached its spend rate limit.');
    case 'missing-billing':
      return failure(400, 'missing_billing', 'Your account has no billing information.');
    default:
      return undefined;
  }
}

/** Somebody else was faster: all of the machine is gone. */
function loseMachine(world: World, machine: Machine): void {
  world.knobs.takenMachines = world.knobs.takenMachines.filter((id) => id !== machine.machineId);
  machine.taken = machine.slices;
}

function noSuchAsk(status: 404 | 410, askId: number): Reply {
  return status === 404
    ? failure(
        404,
        'invalid_args',
        `error 404/3603: no_such_ask Instance type by id ${askId} is not available.`,
        { ask_id: askId },
      )
    : failure(
        410,
        'no_such_ask',
        `error 410/3907: no_such_ask Instance type ${askId} is no longer available.`,
        { ask_id: askId },
      );
}

function insufficientCredit(askId: number): Reply {
  return failure(400, 'insufficient_credit', 'Your account lacks credit; see the billing page.', {
    ask_id: askId,
  });
}

function refuse(error: string, message: string, askId: number): Reply {
  return failure(400, error, `error 400/3467: Invalid args: ${message}`, { ask_id: askId });
}
