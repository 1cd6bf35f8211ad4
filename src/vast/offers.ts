// Searching offers: the question in vast.ai's terms and units, and a second look at everything that it answers.
import type { Offer, OfferSearch } from '../instances/provider.ts';
import { ProviderError } from '../instances/provider.ts';
import { acceptsGpu, gpuNameOfApi, NOMINAL_SHARE, type Requirements } from '../instances/requirements.ts';
import type { OfferRow } from './schemas.ts';
import { offerRowSchema } from './schemas.ts';

/** What our recipe needs of a machine, beside what the caller wants. */
export interface RecipeNeeds {
  /** Ports that will be mapped, SSH included. */
  ports: number;
  minCuda: number;
}

/** vast.ai gives no more offers at once, whatever limit is asked for. */
export const PAGE_SIZE = 64;
const MAX_PAGES = 4;
/** Turing, the oldest architecture for which current CUDA images are built. */
const MIN_COMPUTE_CAPABILITY = 750;
/** A host that lets its machine out for less than a day more would end it under our jobs. */
const MIN_REMAINING_SECONDS = 86_400;

export interface OfferQuery {
  requirements: Requirements;
  needs: RecipeNeeds;
  /** The only machine that is asked for, wherever it stands among all others. */
  machineId?: string | undefined;
}

/**
 * All offers up to a bound, cheapest first, sorted into those that fit and those that do not. vast.ai ignores filters that it does
 * not know and some that it does, so every row is checked again.
 */
export async function findOffers(
  search: (body: object) => Promise<unknown[]>,
  query: OfferQuery,
): Promise<OfferSearch> {
  const { requirements, needs } = query;
  const seen = new Set<string>();
  const found: OfferSearch = { offers: [], rejected: [] };
  let priceFloor = 0;
  for (let pages = 1; pages <= MAX_PAGES; pages++) {
    const answered = await search(searchBody(query, priceFloor));
    const page = readable(answered);
    const rows = page.filter((row) => !seen.has(row.id));
    // Who shows again what was seen ignores the price floor.
    const isLast = pages === MAX_PAGES || answered.length < PAGE_SIZE || rows.length < page.length;
    const taken = isLast ? rows : belowHighest(rows);
    for (const row of taken) {
      seen.add(row.id);
      const offer = offerFrom(row, requirements.diskGb);
      const reasons = reasonsAgainst(row, offer, requirements, needs);
      if (reasons.length === 0) found.offers.push(offer);
      else found.rejected.push({ offer, reasons });
    }
    if (isLast) break;
    priceFloor = Math.max(...taken.map((row) => row.dph_total));
  }
  return found;
}

/** The body of POST /bundles/. The disk is part of it, because the price depends on it. */
export function searchBody({ requirements, needs, machineId }: OfferQuery, priceFloor: number): object {
  const { gpuNames, regions, verifiedOnly } = requirements;
  return {
    type: 'on-demand',
    order: [['dph_total', 'asc']],
    limit: PAGE_SIZE,
    allocated_storage: requirements.diskGb,
    rentable: { eq: true },
    rented: { eq: false },
    external: { eq: false },
    ...(machineId === undefined ? {} : { machine_id: { eq: Number(machineId) } }),
    ...(verifiedOnly ? { verified: { eq: true } } : {}),
    num_gpus: { eq: requirements.gpuCount },
    gpu_ram: { gte: Math.floor(megabytes(requirements.minVramGb) * NOMINAL_SHARE) },
    // A filter on the whole machine; our share of it is checked in the rows.
    cpu_ram: { gte: Math.floor(megabytes(requirements.minRamGb) * NOMINAL_SHARE) },
    disk_space: { gte: requirements.diskGb },
    reliability2: { gte: requirements.minReliability },
    inet_down: { gte: requirements.minDownloadMbps },
    cuda_max_good: { gte: Math.max(requirements.minCuda, needs.minCuda) },
    compute_cap: { gte: MIN_COMPUTE_CAPABILITY },
    cpu_arch: { eq: 'amd64' },
    direct_port_count: { gte: needs.ports },
    duration: { gte: MIN_REMAINING_SECONDS },
    dph_total: { lte: requirements.maxPricePerHourUsd, ...(priceFloor > 0 ? { gt: priceFloor } : {}) },
    ...(gpuNames.length > 0 ? { gpu_name: { in: gpuNames.map(gpuNameOfApi) } } : {}),
    ...(regions.length > 0 ? { geolocation: { in: regions } } : {}),
  };
}

/**
 * A full page may end between offers of one price. Those at its end are left to the next page, which begins with all of them;
 * where all have one price, those that are not on the page cannot be had.
 */
function belowHighest(rows: OfferRow[]): OfferRow[] {
  const highest = Math.max(...rows.map((row) => row.dph_total));
  const below = rows.filter((row) => row.dph_total < highest);
  return below.length > 0 ? below : rows;
}

/** The row in our words and units. */
function offerFrom(row: OfferRow, diskGb: number): Offer {
  return {
    offerId: row.id,
    machineId: row.machine_id,
    gpuName: row.gpu_name,
    gpuCount: row.num_gpus,
    vramGb: rounded(row.gpu_ram / 1024),
    // Given for the whole machine, of which the offer is a part.
    ramGb:
      row.cpu_ram === null || row.gpu_frac === null ? null : rounded((row.cpu_ram * row.gpu_frac) / 1024),
    cpuCores: row.cpu_cores_effective,
    diskGb,
    region: /(?:^|[\s,])([A-Z]{2})\s*$/.exec(row.geolocation ?? '')?.[1] ?? null,
    reliability: row.reliability2 ?? row.reliability,
    downloadMbps: row.inet_down,
    uploadMbps: row.inet_up,
    cudaVersion: row.cuda_max_good,
    verified: row.verification === 'verified',
    pricePerHourUsd: row.dph_total,
    storagePricePerHourUsd: row.storage_total_cost ?? 0,
    downloadPricePerGbUsd: row.inet_down_cost ?? 0,
    uploadPricePerGbUsd: row.inet_up_cost ?? 0,
    remainingSeconds: row.duration,
  };
}

/** Everything for which the offer cannot be taken, in words; a fact that is needed and not given counts against it. */
function reasonsAgainst(
  row: OfferRow,
  offer: Offer,
  requirements: Requirements,
  needs: RecipeNeeds,
): string[] {
  const { gpuNames, gpuCount, regions, verifiedOnly, maxPricePerHourUsd } = requirements;
  const isForRent = row.rentable !== false && row.rented !== true && row.external !== true;
  return [
    isForRent ? null : 'It is not for rent now.',
    row.is_bid === true ? 'Its price is a bid, and a higher one would end the rental.' : null,
    verifiedOnly && !offer.verified
      ? `The provider has not verified it (${row.verification ?? 'not given'}).`
      : null,
    !acceptsGpu(requirements, offer.gpuName)
      ? `Its GPU is ${offer.gpuName}, wanted is ${gpuNames.join(' or ')}.`
      : null,
    offer.gpuCount === gpuCount ? null : `It has ${offer.gpuCount} GPUs, wanted are ${gpuCount}.`,
    regions.length > 0 && (offer.region === null || !regions.includes(offer.region))
      ? `Its region is ${offer.region ?? 'not given'}, wanted is ${regions.join(' or ')}.`
      : null,
    offer.pricePerHourUsd > maxPricePerHourUsd
      ? `It costs ${offer.pricePerHourUsd.toFixed(3)} USD per hour, at most ${maxPricePerHourUsd} may be spent.`
      : null,
    // Counted as nothing, it would pass every limit.
    row.inet_down_cost === null ? 'Its download price is not given.' : null,
    row.inet_up_cost === null ? 'Its upload price is not given.' : null,
    row.cpu_arch === 'amd64'
      ? null
      : `Its processor is ${row.cpu_arch ?? 'not given'}, the image needs amd64.`,
    tooLow('GPU memory', offer.vramGb, requirements.minVramGb, 'GB', NOMINAL_SHARE),
    tooLow('main memory', offer.ramGb, requirements.minRamGb, 'GB', NOMINAL_SHARE),
    tooLow('free disk', row.disk_space, requirements.diskGb, 'GB'),
    tooLow('reliability', offer.reliability, requirements.minReliability, ''),
    tooLow('download speed', offer.downloadMbps, requirements.minDownloadMbps, 'Mbit/s'),
    tooLow('CUDA version', offer.cudaVersion, Math.max(requirements.minCuda, needs.minCuda), ''),
    tooLow('compute capability', row.compute_cap, MIN_COMPUTE_CAPABILITY, ''),
    tooLow('number of open ports', row.direct_port_count, needs.ports, ''),
    tooLow('remaining time', offer.remainingSeconds, MIN_REMAINING_SECONDS, 's'),
  ].filter((reason) => reason !== null);
}

function tooLow(what: string, value: number | null, min: number, unit: string, share = 1): string | null {
  if (min <= 0 || (value !== null && value >= min * share)) return null;
  const number = (given: number) => `${rounded(given, 3)}${unit === '' ? '' : ` ${unit}`}`;
  return `Its ${what} is ${value === null ? 'not given' : number(value)}, needed is ${number(min)}.`;
}

/** A row that cannot be read is left out; if none can be, vast.ai has changed and an empty answer would be a lie. */
function readable(rows: unknown[]): OfferRow[] {
  const parsed = rows.map((row) => offerRowSchema.safeParse(row)).filter((result) => result.success);
  if (rows.length > 0 && parsed.length === 0) {
    throw new ProviderError('unavailable', "Searching offers: no row of vast.ai's answer can be read");
  }
  return parsed.map((result) => result.data);
}

function megabytes(gb: number): number {
  return gb * 1024;
}

function rounded(value: number, digits = 1): number {
  return Number(value.toFixed(digits));
}
