// Offers and instances as the API shows them.
import { z } from 'zod';
import { flagOfQuery, time } from '../http/schemas.ts';
import type { RentalRow } from '../database/tables.ts';
import { sumOf, totalCost, usdOf } from './cost.ts';
import {
  instancePhases,
  instanceStatuses,
  rentalStatuses,
  terminationReasonCodes,
  terminationReasons,
} from './instance.ts';
import type { Offer, RejectedOffer } from './provider.ts';
import { isPossibleOfferId, offerIdPattern, publicOfferId, type RankedOffer } from './ranking.ts';
import { requirementsSchema, type RequestedRequirements } from './requirements.ts';
import type { InstanceWithRentals } from './service.ts';

const usd = (description: string) => z.number().describe(`${description}, in US dollars`);

const terminationReasonSchema = z.enum(terminationReasonCodes).meta({
  id: 'TerminationReason',
  description: Object.entries(terminationReasons)
    .map(([code, text]) => `\`${code}\`: ${text}`)
    .join('\n'),
});

const offerFields = {
  id: z.string().describe('For `offerId` of `POST /instances`; short-lived'),
  machineId: z.string(),
  gpuName: z.string(),
  gpuCount: z.int(),
  vramGb: z.number().describe('Memory of one GPU, in GB'),
  ramGb: z.number().nullable(),
  cpuCores: z.number().nullable(),
  diskGb: z.number(),
  region: z.string().nullable().describe('ISO 3166 country code'),
  reliability: z.number().nullable(),
  downloadMbps: z.number().nullable(),
  uploadMbps: z.number().nullable(),
  cudaVersion: z.number().nullable(),
  verified: z.boolean(),
  pricePerHourUsd: usd('Price per hour, disk included'),
  storagePricePerHourUsd: usd('The part of the price that is disk'),
  downloadPricePerGbUsd: usd('Price of a GB received'),
  uploadPricePerGbUsd: usd('Price of a GB sent'),
  remainingSeconds: z
    .number()
    .nullable()
    .describe('How long the host still lets the machine out, in seconds'),
};

export const rankedOfferSchema = z
  .object({
    ...offerFields,
    rank: z.int().min(1),
    expectedCostUsd: usd('Expected cost of booting and one hour of work'),
    expectedParts: z
      .object({
        gpuUsd: usd('The GPU for an hour of work'),
        bootUsd: usd('The GPU while the machine boots'),
        storageUsd: usd('The disk, boot included'),
        downloadUsd: usd('The traffic of the image'),
        failuresUsd: usd('What tries that fail add, by its reliability and its past with this service'),
      })
      .describe('What the expected cost is made of'),
    expectedBootMinutes: z.number(),
    measuredBootMinutes: z
      .number()
      .nullable()
      .describe('How long this very machine took before; null when it never was ready for this service'),
    reasons: z.array(z.string()).describe('Why it stands where it stands'),
  })
  .meta({ id: 'Offer', description: 'A machine that can be rented now' });

export const offersSchema = z
  .object({
    items: z.array(rankedOfferSchema).describe('Offers that satisfy the requirements, the best first'),
    rejected: z
      .array(z.object({ ...offerFields, reasons: z.array(z.string()) }))
      .describe('Offers that the provider listed and that do not satisfy them, with reasons'),
  })
  .meta({ id: 'Offers' });

const asked = requirementsSchema.shape;

/** A number of a query. An empty text is none: JavaScript reads it as 0. */
const numberOfQuery = <S extends z.ZodType>(schema: S) =>
  z.preprocess((text) => (typeof text === 'string' && text.trim() !== '' ? Number(text) : text), schema);

/** An entry of a list, or several by repeating. */
const entriesOfQuery = (list: z.ZodDefault<z.ZodArray<z.ZodString>>) =>
  z.union([list.unwrap().element, list.unwrap()]).optional();

/** Requirements as they are written in a query string. */
export const offersQuerySchema = z.strictObject({
  gpuName: entriesOfQuery(asked.gpuNames).describe('Accepted GPU model; may be repeated'),
  region: entriesOfQuery(asked.regions).describe(
    'Accepted country as an ISO 3166 code, such as DE; may be repeated',
  ),
  gpuCount: numberOfQuery(asked.gpuCount),
  minVramGb: numberOfQuery(asked.minVramGb),
  minRamGb: numberOfQuery(asked.minRamGb),
  diskGb: numberOfQuery(asked.diskGb),
  minReliability: numberOfQuery(asked.minReliability),
  minDownloadMbps: numberOfQuery(asked.minDownloadMbps),
  minCuda: numberOfQuery(asked.minCuda),
  maxPricePerHourUsd: numberOfQuery(asked.maxPricePerHourUsd),
  verifiedOnly: flagOfQuery(asked.verifiedOnly),
});

export function requirementsOfQuery({
  gpuName,
  region,
  ...rest
}: z.output<typeof offersQuerySchema>): RequestedRequirements {
  return { ...rest, gpuNames: [gpuName ?? []].flat(), regions: [region ?? []].flat() };
}

export const instanceRequestSchema = z
  .strictObject({
    requirements: requirementsSchema
      .optional()
      .describe('What the machine must satisfy; `{}` takes the defaults'),
    offerId: z
      .string()
      .regex(offerIdPattern, { error: 'it must be an id from GET /offers', abort: true })
      .refine(isPossibleOfferId, 'it must be an id from GET /offers')
      .optional()
      .describe('One certain machine from `GET /offers`; no other is tried when it fails'),
    maxLifetimeHours: z
      .number()
      .min(0.01)
      .max(8760)
      .optional()
      .describe(
        'How long it may live, from now on; then it takes no more jobs and ends. The service has a limit of its own',
      ),
    idleMinutes: z
      .number()
      .min(0)
      .max(10_080)
      .optional()
      .describe(
        'How long it may have nothing to do before it is let go, in minutes; 0 keeps it. The service has a default',
      ),
  })
  .refine(
    (body) =>
      body.offerId === undefined ||
      body.requirements === undefined ||
      body.requirements.gpuNames.length === 0,
    {
      path: ['offerId'],
      message: 'name either an offer or the GPUs that you accept, not both',
    },
  )
  .meta({
    id: 'InstanceRequest',
    examples: [{ requirements: { gpuNames: ['RTX 4090'], minVramGb: 24, maxPricePerHourUsd: 0.6 } }, {}],
  });

const rentalSchema = z
  .object({
    number: z.int().describe('Counted from 1'),
    status: z.enum(rentalStatuses),
    label: z.string(),
    providerInstanceId: z.string().nullable(),
    machineId: z.string(),
    pricePerHourUsd: usd('Price per hour'),
    costUsd: usd('Cost until now, or until it was confirmed gone'),
    createdAt: time('When it was decided on'),
    readyAt: time('When ComfyUI was ready on it').nullable(),
    goneAt: time('When the provider confirmed that it is gone').nullable(),
    endReason: terminationReasonSchema.nullable(),
    endDetail: z.string().nullable().describe('The evidence: what the provider or the machine said'),
  })
  .meta({ id: 'Rental', description: "The provider's paid contract behind an instance" });

export const instanceSchema = z
  .object({
    id: z.uuid(),
    provider: z.enum(['vast', 'static']),
    origin: z
      .enum(['request', 'fleet', 'settings'])
      .describe('Who wanted it: a caller, the fleet for waiting jobs, or COMFYUI_URLS'),
    status: z.enum(instanceStatuses),
    phase: z.enum(instancePhases).nullable().describe('What it is doing while it is not ready'),
    message: z
      .string()
      .nullable()
      .describe("What is going on, in words; the provider's own where it has some"),
    gpuName: z.string().nullable(),
    gpuCount: z.int().nullable(),
    vramGb: z.number().nullable(),
    region: z.string().nullable(),
    comfyuiVersion: z.string().nullable(),
    reachable: z.boolean().describe('Whether a ready instance answered its last check'),
    pricePerHourUsd: usd('Price per hour of the current rental').nullable(),
    costUsd: usd('Cost of all its rentals so far, traffic excluded; `GET /costs` has the parts'),
    phases: z
      .array(
        z.object({
          phase: z.enum(instancePhases),
          rental: z.int(),
          startedAt: z.iso.datetime(),
          endedAt: z.iso.datetime().nullable(),
          seconds: z.number(),
        }),
      )
      .describe('How long each phase took, rental by rental'),
    rentals: z.array(rentalSchema),
    requirements: requirementsSchema.nullable(),
    terminationReason: terminationReasonSchema.nullable(),
    terminationDetail: z.string().nullable(),
    createdAt: z.iso.datetime(),
    expiresAt: time('When it takes no more jobs, and ends').nullable(),
    readyAt: z.iso.datetime().nullable(),
    terminatedAt: z.iso.datetime().nullable(),
  })
  .meta({ id: 'Instance', description: 'One machine running ComfyUI' });

export function presentOffer(ranked: RankedOffer): z.output<typeof rankedOfferSchema> {
  return {
    ...presentFields(ranked.offer),
    rank: ranked.rank,
    expectedCostUsd: round(ranked.expectedCostUsd),
    expectedParts: {
      gpuUsd: round(ranked.expectedParts.gpuUsd),
      bootUsd: round(ranked.expectedParts.bootUsd),
      storageUsd: round(ranked.expectedParts.storageUsd),
      downloadUsd: round(ranked.expectedParts.downloadUsd),
      failuresUsd: round(ranked.expectedParts.failuresUsd),
    },
    expectedBootMinutes: Math.round(ranked.expectedBootMinutes * 10) / 10,
    measuredBootMinutes:
      ranked.measuredBootMinutes === null ? null : Math.round(ranked.measuredBootMinutes * 10) / 10,
    reasons: ranked.reasons,
  };
}

export function presentRejected({ offer, reasons }: RejectedOffer) {
  return { ...presentFields(offer), reasons };
}

export function presentInstance(
  { instance, rentals }: InstanceWithRentals,
  now: Date,
): z.output<typeof instanceSchema> {
  const current = rentals.find((rental) => rental.id === instance.rental_id && rental.status !== 'gone');
  return {
    id: instance.id,
    provider: instance.provider,
    origin: instance.provider === 'static' ? 'settings' : instance.wish === null ? 'request' : 'fleet',
    status: instance.status,
    phase: instance.phase,
    message: instance.message,
    gpuName: instance.gpu_name,
    gpuCount: instance.gpu_count,
    vramGb: instance.vram_gb,
    region: instance.region,
    comfyuiVersion: instance.comfyui_version,
    reachable: instance.status === 'ready' && instance.unreachable_since === null,
    pricePerHourUsd: current?.price_per_hour_usd ?? null,
    costUsd: usdOf(sumOf(totalCost(rentals, now))),
    phases: instance.phases.map((phase) => ({ ...phase, seconds: secondsOf(phase, now) })),
    rentals: rentals.map((rental) => presentRental(rental, now)),
    requirements: instance.requirements,
    terminationReason: instance.termination_reason ?? instance.pending_reason,
    terminationDetail: instance.termination_detail ?? instance.pending_detail,
    createdAt: instance.created_at.toISOString(),
    expiresAt: instance.expires_at?.toISOString() ?? null,
    readyAt: instance.ready_at?.toISOString() ?? null,
    terminatedAt: instance.terminated_at?.toISOString() ?? null,
  };
}

function presentRental(rental: RentalRow, now: Date): z.output<typeof rentalSchema> {
  return {
    number: rental.number,
    status: rental.status,
    label: rental.label,
    providerInstanceId: rental.provider_instance_id,
    machineId: rental.machine_id,
    pricePerHourUsd: rental.price_per_hour_usd,
    costUsd: usdOf(sumOf(totalCost([rental], now))),
    createdAt: rental.created_at.toISOString(),
    readyAt: rental.ready_at?.toISOString() ?? null,
    goneAt: rental.gone_at?.toISOString() ?? null,
    endReason: rental.end_reason,
    endDetail: rental.end_evidence,
  };
}

function presentFields(offer: Offer) {
  const { offerId: _, ...shown } = offer;
  return { id: publicOfferId(offer), ...shown };
}

function secondsOf({ startedAt, endedAt }: { startedAt: string; endedAt: string | null }, now: Date): number {
  const end = endedAt === null ? now.getTime() : Date.parse(endedAt);
  return Math.max(0, Math.round((end - Date.parse(startedAt)) / 100) / 10);
}

/** Money to a millionth of a dollar: short tests cost less than a cent. */
function round(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}
