// Everything that can go wrong with vast.ai and its machines, as often as a bad day would have it.
import type { Fate, OfferSpec, VastDouble, VastKnobs } from '../doubles/vast/index.ts';
import type {
  CommonFault,
  CreateFault,
  DestroyFault,
  ListFault,
  SearchFault,
  ShowFault,
} from '../doubles/vast/faults.ts';
import type { Random } from '../doubles/vast/random.ts';
import { pick, pickWeighted } from './scenario.ts';

/** Relative weights; a fault that the double learns later does not compile until it is here. */
const commonFaults: Record<CommonFault, number> = {
  'rate-limit-text': 1,
  'rate-limit-detail': 1,
  'rate-limit-json': 1,
  'auth-401': 0.3,
  'auth-403': 0.3,
  'auth-404': 0.3,
  'session-expired': 0.3,
  'success-false': 1,
  '500': 1,
  '502-html': 1,
  '503': 1,
  'redirect-308': 0.5,
  'not-json': 1,
  truncated: 1,
  reset: 1,
  hang: 0.5,
};
const createFaults: Record<CreateFault, number> = {
  ...commonFaults,
  'no-such-ask-400': 1,
  'no-such-ask-404': 1,
  'no-such-ask-410': 1,
  'not-your-own': 1,
  'invalid-args': 0.5,
  'invalid-price': 0.5,
  'insufficient-credit': 0.3,
  'spend-rate-limit': 0.3,
  'missing-billing': 0.3,
  '400-with-new-contract': 3,
  '503-after-create': 3,
  'reset-after-create': 3,
  'hang-after-create': 1,
  'truncated-after-create': 3,
  'no-id-after-create': 3,
  '503-and-late': 3,
};
const listFaults: Record<ListFault, number> = {
  ...commonFaults,
  'null-list': 2,
  'empty-list': 2,
  'token-loop': 2,
  'lost-pages': 2,
};
const searchFaults: Record<SearchFault, number> = { ...commonFaults, 'bad-request': 1 };
const showFaults: Record<ShowFault, number> = { ...commonFaults, 'null-instance': 2, 'no-such-instance': 2 };
const destroyFaults: Record<DestroyFault, number> = {
  ...commonFaults,
  noop: 3,
  'lying-404': 3,
  '404-after-destroy': 2,
  '410-after-destroy': 2,
  '503-after-destroy': 2,
  'reset-after-destroy': 2,
  'hang-after-destroy': 0.5,
};
const fates: Record<Fate, number> = {
  healthy: 20,
  'loading-forever': 1,
  'pull-error': 1,
  'oci-error': 1,
  'gpu-error': 1,
  'exited-at-start': 1,
  'no-ports': 1,
  'no-address': 1,
  'provisioning-forever': 1,
  'black-holed-from-start': 1,
  exited: 1,
  offline: 1,
  unknown: 1,
  outbid: 1,
  'contract-ended': 1,
  'black-holed': 1,
  'comfyui-gone': 1,
  'price-raised': 1,
  moved: 1,
  // The end of a mishap, so nothing that a machine begins with.
  recovered: 0,
};

/** Chances of a fault for one call. */
const chances = { create: 0.4, destroy: 0.3, list: 0.12, show: 0.12, search: 0.08 };

export function allFaults(): VastKnobs['faultChances'] {
  return {
    create: shares(createFaults, chances.create),
    destroy: shares(destroyFaults, chances.destroy),
    list: shares(listFaults, chances.list),
    show: shares(showFaults, chances.show),
    search: shares(searchFaults, chances.search),
  };
}

/** Names of all faults and fates that can be drawn. */
export const faultKinds = new Set(
  [searchFaults, createFaults, listFaults, showFaults, destroyFaults, fates].flatMap((kinds) =>
    Object.keys(kinds),
  ),
).size;

export function drawFates(random: Random, count: number): Fate[] {
  return Array.from({ length: count }, () => pickWeighted(random, fates));
}

const LISTED_MACHINES = 96;
const MOVING_MACHINES = 1;
const FIRST_MACHINE_ID = 1_000;
/** Callers ask for one each, so that not all of them are after the one cheapest machine. */
export const regions = ['AT', 'BE', 'CA', 'CZ', 'DE', 'DK', 'ES', 'FI', 'FR', 'IT', 'NL', 'NO'] as const;

/** Any number of machines that fit; ids are counted up. */
export function drawOffers(random: Random, count = LISTED_MACHINES, after = FIRST_MACHINE_ID): OfferSpec[] {
  return Array.from({ length: count }, (_, at) => ({
    gpuName: 'RTX 4090',
    machineId: after + at + 1,
    gpuPricePerHourUsd: 0.2 + random.fraction(),
    geolocation: `, ${pick(random, regions)}`,
    vramMb: 24_564,
    cudaVersion: 12.9,
    downloadMbps: 1_000,
  }));
}

/** Machines come and go: the service leaves one that failed alone for a while, and would soon have none left. */
export function moveMarket(vast: VastDouble, random: Random): void {
  const listed = vast.state.offers.filter(({ rentable, taken }) => rentable && taken === 0);
  const lastId = Math.max(...vast.state.offers.map(({ machineId }) => machineId));
  for (const spec of drawOffers(random, MOVING_MACHINES, lastId)) vast.addOffer(spec);
  for (const machine of listed.slice(0, Math.max(0, listed.length + MOVING_MACHINES - LISTED_MACHINES))) {
    machine.rentable = false;
  }
}

/** What may change from one moment to the next: how late the views are, how they are written, who is faster. */
export function changeWeather({ knobs, state }: VastDouble, random: Random): void {
  knobs.readLag = { byIdMs: random.integer(0, 600), listMs: random.integer(0, 1_200) };
  knobs.phases.destroyShownMs = random.integer(0, 1_500);
  knobs.lateCreateMs = random.integer(0, 1_500);
  knobs.latencyMs = random.integer(0, 30);
  knobs.views.unknownId = pick(random, ['null', '404']);
  knobs.views.portsOnlyInList = random.fraction() < 0.2;
  knobs.views.byIdAsArray = random.fraction() < 0.2;
  knobs.edge.httpsFailsOpen = random.fraction() < 0.05;
  knobs.edge.placeholderAs200 = random.fraction() < 0.2;
  knobs.takenMachines = random.fraction() < 0.3 ? [pick(random, state.offers).machineId] : [];
}

/** The provider is itself again; what runs keeps its fate. */
export function clearWeather({ knobs }: VastDouble): void {
  knobs.faultChances = {};
  knobs.fates = [];
  knobs.takenMachines = [];
  knobs.readLag = { byIdMs: 0, listMs: 0 };
  knobs.phases.destroyShownMs = 0;
  knobs.latencyMs = 0;
}

function shares<F extends string>(
  weights: Record<F, number>,
  chance: number,
): { fault: F; chance: number }[] {
  const entries = Object.entries<number>(weights) as [F, number][];
  const total = entries.reduce((sum, [, weight]) => sum + weight, 0);
  return entries.map(([fault, weight]) => ({ fault, chance: (weight / total) * chance }));
}
