// What a client can do to a rental: make, start, restart, destroy.
import { settle } from './billing.ts';
import { planBoot } from './boot.ts';
import type { CreateRequest } from './create-request.ts';
import type { Machine } from './market.ts';
import { storagePricePerHourUsd } from './offer-row.ts';
import { beginLife, load, resume } from './phases.ts';
import type { Rental } from './rental.ts';
import { isLive } from './rental.ts';
import { endContainer, later, loseDisk, move, takeNewPorts } from './transition.ts';
import type { World } from './world.ts';

/** Takes the machine and starts the rental's life; `isStopped` makes one that only stores, and is billed for it. */
export async function makeRental(
  world: World,
  machine: Machine,
  request: CreateRequest,
  isStopped: boolean,
): Promise<Rental> {
  world.market.take(machine);
  const rental = newRental(world, machine, request, false);
  if (isStopped) {
    Object.assign(rental, { intendedStatus: 'stopped', currentState: 'stopped', nextState: 'stopped' });
  }
  world.rentals.set(rental.id, rental);
  world.counters.created += 1;
  for (const containerPort of rental.plan.mappedPorts) {
    rental.ports.push({ containerPort, held: await world.ports.hold() });
  }
  beginLife(world, rental);
  return rental;
}

/** A rental that somebody else on the account made: it runs, and none of our calls asked for it. */
export function addForeignRental(world: World, label: string | null): Rental {
  const spec = world.market.machines[0];
  if (spec === undefined) throw new Error('A rental needs a machine: give the double at least one offer.');
  const request: CreateRequest = {
    image: 'pytorch/pytorch:2.7.0-cuda12.8-cudnn9-runtime',
    env: [],
    diskGb: 20,
    label,
    runtype: 'ssh_direct',
    onstart: '',
    args: [],
    bidPerHourUsd: null,
    startsStopped: false,
    cancelUnavailable: true,
    body: {},
  };
  const rental = newRental(world, spec, request, true);
  world.rentals.set(rental.id, rental);
  move(world, rental, { actualStatus: 'running', statusMessage: `success, running ${request.image}/ssh\n` });
  return rental;
}

/** False: its GPU is taken, so the start is queued, and costs as soon as it happens: never once its contract has ended. */
export function startRental(world: World, rental: Rental): boolean {
  if (rental.currentState === 'running') return true;
  const isOver = world.clock.now() >= rental.machine.contractEndsAtMs;
  const start = () => {
    move(world, rental, { intendedStatus: 'running', currentState: 'running', nextState: 'running' });
    void startAgain(world, rental);
  };
  if (!world.knobs.gpuTakenOnStart && !isOver) {
    start();
    return true;
  }
  move(world, rental, { intendedStatus: 'running', nextState: 'running' });
  const { queuedStartMs } = world.knobs.phases;
  if (queuedStartMs !== null && !isOver) later(world, rental, queuedStartMs, start);
  return false;
}

/** Recycling makes the container anew from the image, so its disk and its certificate are lost. */
export function restartRental(world: World, rental: Rental, status: 'rebooting' | 'recycling'): void {
  endContainer(world, rental);
  move(world, rental, { actualStatus: status });
  const { rebootMs } = world.knobs.phases;
  if (status === 'rebooting') return later(world, rental, rebootMs, () => resume(world, rental));
  loseDisk(world, rental);
  later(world, rental, rebootMs, () => load(world, rental));
}

/** The end of the contract: nothing is billed from now on. */
export function destroyRental(world: World, rental: Rental): void {
  if (!isLive(rental)) return;
  settle(world, rental);
  endContainer(world, rental);
  loseDisk(world, rental);
  rental.contractEnd?.cancel();
  rental.endedAtMs = world.clock.now();
  rental.hiddenFromMs = rental.endedAtMs + world.knobs.phases.destroyShownMs;
  for (const { held } of rental.ports) held.release();
  if (!rental.isForeign) world.market.giveBack(rental.machine);
  world.counters.destroyed += 1;
  move(world, rental, {});
}

function withAccountEnv(world: World, request: CreateRequest): CreateRequest {
  return { ...request, env: [...Object.entries(world.knobs.accountEnv), ...request.env] };
}

/** After a stop the host may have given the ports to others. */
async function startAgain(world: World, rental: Rental): Promise<void> {
  if (world.knobs.edge.portsChangeOnRestart && !rental.machine.staticIp) {
    await takeNewPorts(world, rental);
  }
  if (!isLive(rental) || rental.currentState === 'stopped') return;
  move(world, rental, { actualStatus: 'loading' });
  later(world, rental, world.knobs.phases.rebootMs, () => resume(world, rental));
}

function newRental(world: World, machine: Machine, request: CreateRequest, isForeign: boolean): Rental {
  const id = Math.max(36_700_000, ...world.rentals.keys()) + world.random.integer(1, 50);
  const jupyterToken = world.random.hex(64);
  const nowMs = world.clock.now();
  return {
    id,
    request,
    machine,
    isForeign,
    fate: isForeign
      ? 'healthy'
      : (world.knobs.machineFates[machine.machineId] ?? world.knobs.fates.shift() ?? 'healthy'),
    jupyterToken,
    plan: planBoot(withAccountEnv(world, request), { rentalId: id, token: jupyterToken }),
    createdAtMs: nowMs,
    label: request.label,
    actualStatus: null,
    intendedStatus: 'running',
    currentState: 'running',
    nextState: 'running',
    statusMessage: null,
    ports: [],
    arePortsPublished: false,
    runningSinceMs: null,
    endedAtMs: null,
    hiddenFromMs: null,
    isBid: request.bidPerHourUsd !== null,
    gpuPricePerHourUsd: request.bidPerHourUsd ?? machine.gpuPricePerHourUsd,
    storagePricePerHourUsd: storagePricePerHourUsd(machine, request.diskGb),
    billed: { gpuUsd: 0, storageUsd: 0 },
    billedUntilMs: nowMs,
    pastTransfer: { receivedBytes: 0, sentBytes: 0 },
    certificate: null,
    container: null,
    installation: null,
    containerEnded: Promise.resolve(),
    contractEnd: null,
    timers: new Set(),
    history: [],
  };
}
