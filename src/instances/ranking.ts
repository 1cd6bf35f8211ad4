// Which offer to take first: the one with the lowest expected cost to get going and work for an hour.
import type { Offer } from './provider.ts';

/** Size of vast.ai's ComfyUI image, compressed, as measured in the field. */
const IMAGE_GB = 9.5;
/** Advertised speeds above this say little: measured hosts delivered 12 to 96 % of them. */
const CREDIBLE_DOWNLOAD_MBPS = 1500;
/** Share of the advertised speed that an image download gets on an ordinary host. */
const DOWNLOAD_SHARE = 0.5;
/** Unpacking the image and starting ComfyUI, whatever the network. */
const FIXED_BOOT_MINUTES = 3;
const UNKNOWN_DOWNLOAD_MBPS = 100;
const UNKNOWN_RELIABILITY = 0.9;

export interface RankedOffer {
  offer: Offer;
  /** 1 is the best. */
  rank: number;
  /** Expected cost of boot and one hour of work in US dollars, failures by unreliability included. */
  expectedCostUsd: number;
  expectedBootMinutes: number;
  /** Why it stands where it stands, for a person. */
  reasons: string[];
}

/** Orders offers by expected cost; the order does not depend on the order given. */
export function rankOffers(offers: Offer[]): RankedOffer[] {
  return offers
    .map((offer) => ({ offer, ...expect(offer) }))
    .sort(
      (a, b) => a.expectedCostUsd - b.expectedCostUsd || a.offer.machineId.localeCompare(b.offer.machineId),
    )
    .map((ranked, index) => ({ ...ranked, rank: index + 1, reasons: explain(ranked) }));
}

/** The id under which an offer is known to callers. It names the machine too, since the provider changes offer ids between searches. */
export function publicOfferId(offer: Offer): string {
  return `${offer.offerId}.${offer.machineId}`;
}

/** The offer that a caller meant, also when the provider lists the machine under a new id by now. */
export function findOffer(offers: Offer[], publicId: string): Offer | undefined {
  const [offerId, machineId] = publicId.split('.');
  return (
    offers.find((offer) => offer.offerId === offerId) ??
    offers.find((offer) => machineId !== undefined && offer.machineId === machineId)
  );
}

type Expectation = Pick<RankedOffer, 'offer' | 'expectedCostUsd' | 'expectedBootMinutes'>;

function expect(offer: Offer): Pick<RankedOffer, 'expectedCostUsd' | 'expectedBootMinutes'> {
  const advertised = Math.max(1, offer.downloadMbps ?? UNKNOWN_DOWNLOAD_MBPS);
  const mbps = Math.min(advertised, CREDIBLE_DOWNLOAD_MBPS) * DOWNLOAD_SHARE;
  const expectedBootMinutes = FIXED_BOOT_MINUTES + (IMAGE_GB * 8000) / mbps / 60;
  const once =
    offer.pricePerHourUsd * (1 + expectedBootMinutes / 60) + offer.downloadPricePerGbUsd * IMAGE_GB;
  const reliability = Math.max(0.1, offer.reliability ?? UNKNOWN_RELIABILITY);
  return { expectedCostUsd: once / reliability, expectedBootMinutes };
}

function explain({ offer, expectedBootMinutes, expectedCostUsd }: Expectation): string[] {
  const reliability =
    offer.reliability === null ? 'unknown reliability' : `reliability ${offer.reliability.toFixed(3)}`;
  const speed =
    offer.downloadMbps === null ? 'unknown download speed' : `${Math.round(offer.downloadMbps)} Mbit/s down`;
  return [
    `about ${expectedCostUsd.toFixed(3)} USD for the first hour of work`,
    `${offer.pricePerHourUsd.toFixed(3)} USD per hour with ${offer.diskGb} GB of disk`,
    `about ${expectedBootMinutes.toFixed(0)} minutes to boot (${speed})`,
    reliability,
  ];
}
