// Which offer to take first: the one with the lowest expected cost to get going and work for an hour.
import type { z } from 'zod';
import type { MachineRow } from '../database/tables.ts';
import type { HostMemory } from './machines.ts';
import { requirementsSchema, type RequestedRequirements } from './requirements.ts';
import type { Offer } from './provider.ts';

/** Size of vast.ai's ComfyUI image, compressed, as measured in the field. */
export const IMAGE_GB = 9.5;
/** Advertised speeds above this say little: measured hosts delivered 12 to 96 % of them. */
const CREDIBLE_DOWNLOAD_MBPS = 1500;
/** Share of the advertised speed that an image download gets on an ordinary host. */
const DOWNLOAD_SHARE = 0.5;
/** Unpacking the image and starting ComfyUI, whatever the network. */
const FIXED_BOOT_MINUTES = 3;
const UNKNOWN_DOWNLOAD_MBPS = 100;
const UNKNOWN_RELIABILITY = 0.9;

/** Parts of an expected cost, in US dollars. */
export interface ExpectedParts {
  /** The GPU for an hour of work. */
  gpuUsd: number;
  /** The GPU while the machine boots. */
  bootUsd: number;
  /** The disk, boot included. */
  storageUsd: number;
  /** The traffic of the image. */
  downloadUsd: number;
  /** What tries that fail add, by its reliability and its past with us. */
  failuresUsd: number;
}

export interface RankedOffer {
  offer: Offer;
  /** 1 is the best. */
  rank: number;
  /** Expected cost of boot and one hour of work in US dollars, failures by unreliability included. */
  expectedCostUsd: number;
  /** What it is made of; the parts add up to it. */
  expectedParts: ExpectedParts;
  expectedBootMinutes: number;
  /** How long its machine took before, which then is what is expected; null when it never was ready for us. */
  measuredBootMinutes: number | null;
  /** Why it stands where it stands, for a person. */
  reasons: string[];
}

/** Orders offers by expected cost; the order does not depend on the order given. */
export function rankOffers(offers: Offer[], memory: HostMemory = new Map()): RankedOffer[] {
  return offers
    .map((offer) => ({ offer, ...expect(offer, memory.get(offer.machineId)) }))
    .sort(
      (a, b) => a.expectedCostUsd - b.expectedCostUsd || a.offer.machineId.localeCompare(b.offer.machineId),
    )
    .map((ranked, index) => ({ ...ranked, rank: index + 1, reasons: explain(ranked) }));
}

/** The id under which an offer is known to callers. It names the machine too, since the provider changes offer ids between searches. */
export function publicOfferId(offer: Offer): string {
  return `${offer.offerId}.${offer.machineId}.${offer.gpuCount}x${offer.diskGb}`;
}

/** How `publicOfferId` writes: offer, machine, then GPUs and GB of disk. The ids of vast.ai are numbers, and it is asked for them as such. */
export const offerIdPattern = /^(\d{1,20})\.(\d{1,20})\.(\d{1,2})x(\d{1,5}(?:\.\d+)?)$/;

/** The offer that a caller meant, also when the provider lists the machine under a new id by now. */
export function findOffer(offers: Offer[], publicId: string): Offer | undefined {
  const [, offerId, machineId, gpuCount] = offerIdPattern.exec(publicId) ?? [];
  return (
    offers.find((offer) => offer.offerId === offerId) ??
    offers.find((offer) => offer.machineId === machineId && offer.gpuCount === Number(gpuCount))
  );
}

/** The machine of an offer that a caller has chosen. */
export function machineOfOffer(publicId: string): string | undefined {
  return offerIdPattern.exec(publicId)?.[2];
}

/** Whether an id written as `publicOfferId` writes can be that of an offer: requirements allow no 0 GPUs and no 0 GB of disk. */
export function isPossibleOfferId(publicId: string): boolean {
  return requirementsSchema.safeParse(shapeOfOffer(publicId)).success;
}

/** What to search by for a machine that the caller has chosen already: its shape, and nothing that could leave it out. */
export function requirementsOfOffer(publicId: string): RequestedRequirements {
  return requirementsSchema.parse(shapeOfOffer(publicId));
}

function shapeOfOffer(publicId: string): z.input<typeof requirementsSchema> {
  const [, , , gpuCount, diskGb] = offerIdPattern.exec(publicId) ?? [];
  return {
    gpuCount: Number(gpuCount),
    diskGb: Number(diskGb),
    minVramGb: 1,
    minRamGb: 0,
    minReliability: 0,
    minDownloadMbps: 0,
    minCuda: 11,
    verifiedOnly: false,
  };
}

type Expectation = Pick<
  RankedOffer,
  'offer' | 'expectedCostUsd' | 'expectedParts' | 'expectedBootMinutes' | 'measuredBootMinutes'
>;

function expect(offer: Offer, machine: MachineRow | undefined): Omit<Expectation, 'offer'> {
  const advertised = Math.max(1, offer.downloadMbps ?? UNKNOWN_DOWNLOAD_MBPS);
  const mbps = machine?.download_mbps ?? Math.min(advertised, CREDIBLE_DOWNLOAD_MBPS) * DOWNLOAD_SHARE;
  const measuredBootMinutes = machine?.ready_seconds == null ? null : machine.ready_seconds / 60;
  const expectedBootMinutes = measuredBootMinutes ?? FIXED_BOOT_MINUTES + (IMAGE_GB * 8000) / mbps / 60;
  const gpuUsd = Math.max(0, offer.pricePerHourUsd - offer.storagePricePerHourUsd);
  const bootUsd = (gpuUsd * expectedBootMinutes) / 60;
  const storageUsd = (offer.pricePerHourUsd - gpuUsd) * (1 + expectedBootMinutes / 60);
  const downloadUsd = offer.downloadPricePerGbUsd * IMAGE_GB;
  const once = gpuUsd + bootUsd + storageUsd + downloadUsd;
  const reliability = Math.max(0.1, offer.reliability ?? UNKNOWN_RELIABILITY);
  const expectedCostUsd = once / (reliability * successShare(machine));
  return {
    expectedCostUsd,
    expectedParts: { gpuUsd, bootUsd, storageUsd, downloadUsd, failuresUsd: expectedCostUsd - once },
    expectedBootMinutes,
    measuredBootMinutes,
  };
}

/** How often its machine became ready for us, failures and successes counted against two successes that are given in advance. */
function successShare(machine: MachineRow | undefined): number {
  if (machine === undefined) return 1;
  return (machine.successes + 2) / (machine.successes + machine.failures + 2);
}

function explain({
  offer,
  expectedBootMinutes,
  measuredBootMinutes,
  expectedCostUsd,
}: Expectation): string[] {
  const reliability =
    offer.reliability === null ? 'unknown reliability' : `reliability ${offer.reliability.toFixed(3)}`;
  const speed =
    offer.downloadMbps === null ? 'unknown download speed' : `${Math.round(offer.downloadMbps)} Mbit/s down`;
  return [
    `about ${expectedCostUsd.toFixed(3)} USD for the first hour of work`,
    `${offer.pricePerHourUsd.toFixed(3)} USD per hour with ${offer.diskGb} GB of disk`,
    `about ${expectedBootMinutes.toFixed(0)} minutes to boot (${measuredBootMinutes === null ? speed : 'as measured before'})`,
    reliability,
  ];
}
