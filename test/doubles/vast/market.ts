// The machines that are let out, the offer ids under which they are listed, and the search.
import type { DoubleClock } from './clock.ts';
import type { Row } from './filters.ts';
import { passes, sortRows } from './filters.ts';
import type { VastKnobs } from './knobs.ts';
import { offerRow } from './offer-row.ts';
import type { OfferSpec } from './offer-specs.ts';
import type { Random } from './random.ts';

export interface Machine extends Required<OfferSpec> {
  /** When the host stops letting it out, in milliseconds since 1970. */
  contractEndsAtMs: number;
  /** The id under which it is listed now. */
  offerId: number;
  /** Slices that are taken. */
  taken: number;
}

export interface SearchRequest {
  filters: Record<string, Record<string, unknown>>;
  order: [string, string][];
  limit: number;
  /** Gigabytes that the prices include. */
  allocatedGb: number;
}

export interface Market {
  readonly machines: Machine[];
  /** Lists another machine. */
  add(spec: OfferSpec): Machine;
  search(request: SearchRequest): Row[];
  /** The machine behind an offer id that can still be rented. */
  find(offerId: number): Machine | undefined;
  /** Takes a slice of the machine: its offer id is gone. */
  take(machine: Machine): void;
  giveBack(machine: Machine): void;
}

/** The service never answers more, whatever the limit. */
const mostOffers = 64;

export function openMarket(specs: OfferSpec[], knobs: VastKnobs, clock: DoubleClock, random: Random): Market {
  const machines: Machine[] = [];
  /** Offer ids that are no longer listed, with the machine and until when they can be rented. */
  const oldIds = new Map<number, { machine: Machine; untilMs: number }>();
  let lastId = 31_000_000 + random.integer(0, 99_999);

  const nextId = () => (lastId += random.integer(1, 900));
  const isFree = (machine: Machine) => machine.taken < machine.slices;
  const relist = (machine: Machine) => {
    machine.offerId = nextId();
  };
  const add = (spec: OfferSpec) => {
    const machine = completeMachine(spec, nextId(), clock.now(), random);
    machines.push(machine);
    return machine;
  };
  for (const spec of specs) add(spec);

  return {
    machines,
    add,
    search(request) {
      for (const machine of machines) {
        if (!isFree(machine) || random.fraction() >= knobs.search.newOfferIdChance) continue;
        oldIds.set(machine.offerId, { machine, untilMs: clock.now() + knobs.search.oldOfferIdMs });
        relist(machine);
      }
      const rows = machines
        .filter(isFree)
        .map((machine) => offerRow(machine, request.allocatedGb, clock.now()))
        .filter((row) => matches(row, request.filters, knobs.search.unappliedFilters));
      return sortRows(rows, request.order).slice(0, Math.min(request.limit, mostOffers));
    },
    find(offerId) {
      const listed = machines.find((machine) => machine.offerId === offerId && isFree(machine));
      if (listed !== undefined) return listed;
      const old = oldIds.get(offerId);
      return old !== undefined && old.untilMs > clock.now() && isFree(old.machine) ? old.machine : undefined;
    },
    take(machine) {
      machine.taken += 1;
      for (const [id, old] of oldIds) if (old.machine === machine) oldIds.delete(id);
      relist(machine);
    },
    giveBack(machine) {
      machine.taken -= 1;
      relist(machine);
    },
  };
}

function matches(row: Row, filters: SearchRequest['filters'], unapplied: string[]): boolean {
  return Object.entries(filters).every(([field, condition]) => {
    if (unapplied.includes(field)) return true;
    switch (field) {
      case 'id':
        return false;
      case 'verified':
        return passes(row['verification'] !== 'unverified', condition);
      case 'datacenter':
        return passes(row['hosting_type'] === 1, condition);
      case 'geolocation':
        return passes(countryOf(row['geolocation']), condition);
      default:
        return !Object.hasOwn(row, field) || passes(row[field], condition);
    }
  });
}

function countryOf(geolocation: unknown): string | null {
  return typeof geolocation === 'string' ? (/([A-Z]{2})$/.exec(geolocation)?.[1] ?? null) : null;
}

function completeMachine(spec: OfferSpec, offerId: number, nowMs: number, random: Random): Machine {
  const remainingSeconds = spec.remainingSeconds ?? random.integer(20, 90) * 86_400;
  return {
    machineId: random.integer(70_000, 99_999),
    gpuCount: 1,
    vramMb: 24_564,
    ramMb: 257_822,
    gpuFraction: 0.25,
    cpuCores: 64,
    diskGb: 812.4,
    storagePricePerGbMonthUsd: 0.15,
    downloadMbps: 1200,
    uploadMbps: 812,
    downloadPricePerGbUsd: 0.002,
    uploadPricePerGbUsd: 0.004,
    reliability: 0.99,
    verification: 'verified',
    directPorts: 249,
    cudaVersion: 12.8,
    driverVersion: '570.86.15',
    computeCapability: 890,
    cpuArch: 'amd64',
    geolocation: 'Texas, US',
    hostingType: 0,
    staticIp: true,
    rentable: true,
    slices: 1,
    ...spec,
    remainingSeconds,
    contractEndsAtMs: nowMs + remainingSeconds * 1000,
    offerId,
    taken: 0,
  };
}
