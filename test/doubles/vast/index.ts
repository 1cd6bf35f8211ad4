// The vast.ai double: the API, the machines it lets out, and what they cost. It knows nothing of the service that it tests.
import { EventEmitter, once } from 'node:events';
import { networkInterfaces } from 'node:os';
import type { RentalBill } from './billing.ts';
import { billsOf, settleAll } from './billing.ts';
import type { DoubleClock, ManualClock } from './clock.ts';
import { manualClock, systemClock } from './clock.ts';
import type { ComfyDouble, ComfyKnobs } from '../comfyui/index.ts';
import type { ComfyUiDoubles } from './comfyui-doubles.ts';
import { comfyUiDoubles } from './comfyui-doubles.ts';
import { openPortHolder } from '../ports/held-port.ts';
import type { ComfyUiOrder, RentedComfyUi, StartComfyUi } from './installation.ts';
import type { Fate, LifeMishap, PartialKnobs, VastKnobs } from './knobs.ts';
import { completeKnobs, instantPhases } from './knobs.ts';
import { addForeignRental, destroyRental } from './lifecycle.ts';
import type { Machine } from './market.ts';
import { openMarket } from './market.ts';
import { strike } from './mishaps.ts';
import type { OfferSpec } from './offer-specs.ts';
import { defaultOffers } from './offer-specs.ts';
import { seededRandom } from './random.ts';
import type { Rental, RentalView } from './rental.ts';
import { isLive, viewOf } from './rental.ts';
import { openApiServer } from './server.ts';
import { endContainer, loseDisk, refreshCredit } from './transition.ts';
import type { VastCounters, World } from './world.ts';
import { newCounters } from './world.ts';

export { defaultOffers, instantPhases, manualClock };
export type {
  ComfyUiOrder,
  DoubleClock,
  Fate,
  LifeMishap,
  Machine,
  ManualClock,
  OfferSpec,
  PartialKnobs,
  Rental,
  RentalBill,
  RentalView,
  RentedComfyUi,
  StartComfyUi,
  VastCounters,
  VastKnobs,
};

export interface VastDoubleOptions {
  /** The one key that is accepted. */
  apiKey?: string;
  /** Address to listen on, for the API and for the machines; loopback by default. */
  host?: string;
  /** Port of the API; a free one by default. */
  port?: number;
  /** The same seed, the same ids and the same drawn faults. */
  seed?: number;
  knobs?: PartialKnobs;
  /** The machines that are let out; `defaultOffers()` by default. */
  offers?: OfferSpec[];
  clock?: DoubleClock;
  creditUsd?: number;
  /** Knobs of the ComfyUI double behind each machine. */
  comfyKnobs?: Partial<ComfyKnobs>;
  /** Runs ComfyUI behind a machine in place of the double, in a container for example. */
  startComfyUi?: StartComfyUi | undefined;
}

export interface VastDouble {
  /** Base of the API, without a path. */
  readonly url: string;
  readonly apiKey: string;
  /** Read live: a change takes effect at the next call or phase. */
  readonly knobs: VastKnobs;
  readonly counters: VastCounters;
  readonly state: VastState;
  /** What every rental cost until now, ended ones included. */
  bill(): RentalBill[];
  /** Rentals that have not ended, foreign ones included. */
  liveRentals(): RentalView[];
  /** The ComfyUI double behind a rental; undefined while it does not run, and with a `startComfyUi` of your own. */
  comfyOf(rentalId: number): ComfyDouble | undefined;
  /** Lists another machine. */
  addOffer(spec: OfferSpec): Machine;
  /** A rental of somebody else on the same account; its id. */
  addForeignRental(label?: string): number;
  /** Lets something happen to a rental now. Throws for an id that was never given. */
  strike(rentalId: number, mishap: LifeMishap): void;
  /** Waits until the condition holds; it is looked at after every call and every change. Rejects after `timeoutMs`. */
  until(condition: () => boolean, timeoutMs?: number): Promise<void>;
  /** Waits until what it began by itself has come to its end, such as a look of a machine at its heartbeat. */
  settled(): Promise<void>;
  /** Ends everything that it started. Rejects when the double itself, or a ComfyUI behind it, failed on the way. */
  stop(): Promise<void>;
}

export interface VastState {
  readonly offers: Machine[];
  /** By rental id, ended ones included; charged up to now. */
  readonly rentals: ReadonlyMap<number, Rental>;
  /** Dollars of the account; can be set. */
  creditUsd: number;
}

export async function startVastDouble(options: VastDoubleOptions = {}): Promise<VastDouble> {
  const changes = new EventEmitter().setMaxListeners(0);
  const doubles = comfyUiDoubles(options.comfyKnobs ?? {});
  const world = await openWorld(options, doubles, () => changes.emit('change'));
  const server = await openApiServer(world, options.port ?? 0);
  let stopped: Promise<void> | undefined;

  const state: VastState = {
    offers: world.market.machines,
    get rentals() {
      settleAll(world);
      return world.rentals;
    },
    get creditUsd() {
      settleAll(world);
      return world.account.creditUsd;
    },
    set creditUsd(usd) {
      settleAll(world);
      world.account.creditUsd = usd;
      refreshCredit(world);
    },
  };

  return {
    url: server.url,
    apiKey: world.apiKey,
    knobs: world.knobs,
    counters: world.counters,
    state,
    bill: () => billsOf(world),
    liveRentals: () =>
      [...world.rentals.values()].filter(isLive).map((rental) => viewOf(rental, world.publicHost)),
    comfyOf(rentalId) {
      const isRunning = world.rentals.get(rentalId)?.installation?.running() !== undefined;
      return isRunning ? doubles.of(rentalId) : undefined;
    },
    addOffer: (spec) => world.market.add(spec),
    addForeignRental: (label) => addForeignRental(world, label ?? null).id,
    strike(rentalId, mishap) {
      const rental = world.rentals.get(rentalId);
      if (rental === undefined) throw new Error(`There is no rental ${rentalId}.`);
      strike(world, rental, mishap);
    },
    async until(condition, timeoutMs = 10_000) {
      const signal = AbortSignal.timeout(timeoutMs);
      while (!condition()) {
        await once(changes, 'change', { signal }).catch((cause: unknown) => {
          throw new Error(`The condition did not hold within ${timeoutMs} ms.`, { cause });
        });
      }
    },
    async settled() {
      await Promise.allSettled(world.endings);
    },
    stop: () => (stopped ??= stop()),
  };

  async function stop(): Promise<void> {
    world.isStopped = true;
    world.account.exhaustion?.cancel();
    for (const rental of world.rentals.values()) {
      rental.contractEnd?.cancel();
      endContainer(world, rental);
      loseDisk(world, rental);
    }
    await server.close();
    await Promise.all(world.endings);
    await world.ports.close();
  }
}

async function openWorld(
  options: VastDoubleOptions,
  doubles: ComfyUiDoubles,
  changed: () => void,
): Promise<World> {
  const host = options.host ?? '127.0.0.1';
  const knobs = completeKnobs(options.knobs);
  const clock = options.clock ?? systemClock;
  const random = seededRandom(options.seed ?? 1);
  const world: World = {
    knobs,
    clock,
    random,
    apiKey: options.apiKey ?? 'vast-double-key',
    market: openMarket(options.offers ?? defaultOffers(), knobs, clock, random),
    rentals: new Map(),
    counters: newCounters(),
    account: { creditUsd: options.creditUsd ?? 25, exhaustion: null },
    ports: await openPortHolder(host === '0.0.0.0' ? ownAddress() : host),
    host,
    publicHost: host === '0.0.0.0' ? ownAddress() : host,
    startComfyUi: options.startComfyUi ?? doubles.start,
    logFiles: new Map(),
    endings: new Set(),
    isStopped: false,
    destroy: (rental) => destroyRental(world, rental),
    changed,
  };
  return world;
}

/** An address under which others reach this machine. */
function ownAddress(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  return addresses.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1';
}
