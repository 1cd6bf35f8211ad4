// What an offer must satisfy before we rent it.
import { z } from 'zod';
import { isStorableText, notStorable } from '../support/storable-text.ts';

/** No machine is dearer, in US dollars per hour. */
export const HIGHEST_PRICE_PER_HOUR_USD = 1000;

/** Shapes accepted by `POST /instances`, `GET /offers` and jobs. Every field has a default, so `{}` is a whole request. */
export const requirementsSchema = z
  .strictObject({
    gpuNames: z
      .array(z.string().min(1).max(64).refine(isStorableText, notStorable))
      .max(20)
      .default([])
      .describe('Accepted GPU models as the provider spells them, such as "RTX 4090"; empty accepts all'),
    gpuCount: z.int().min(1).max(8).default(1).describe('GPUs of the machine'),
    minVramGb: z.number().min(1).max(640).default(16).describe('Memory of one GPU, in GB'),
    minRamGb: z.number().min(0).max(4096).default(16).describe('Share of main memory, in GB'),
    diskGb: z.number().min(8).max(4096).optional().describe('Disk to rent, in GB; the service has a default'),
    regions: z
      .array(z.string().regex(/^[A-Z]{2}$/, 'two capital letters, such as "DE"'))
      .max(50)
      .default([])
      .describe('Accepted countries as ISO 3166 codes; empty accepts all'),
    minReliability: z
      .number()
      .min(0)
      .max(1)
      .default(0.97)
      .describe('Reliability that the provider measured, 0 to 1'),
    minDownloadMbps: z
      .number()
      .min(0)
      .max(100_000)
      .default(500)
      .describe('Advertised download speed, in Mbit/s'),
    minCuda: z
      .number()
      .min(11)
      .max(20)
      .default(12.8)
      .describe('Newest CUDA version that the driver supports'),
    maxPricePerHourUsd: z
      .number()
      .positive()
      .max(HIGHEST_PRICE_PER_HOUR_USD)
      .optional()
      .describe('Highest price per hour, disk included, in US dollars; the service has a limit of its own'),
    verifiedOnly: z.boolean().default(true).describe('Only machines that the provider verified'),
  })
  .meta({ id: 'Requirements', description: 'What a machine must satisfy' });

/** What a caller wrote, with the defaults of the schema filled in. */
export type RequestedRequirements = z.output<typeof requirementsSchema>;

/** Requirements with the service's own limits applied: nothing is left open. */
export interface Requirements extends RequestedRequirements {
  diskGb: number;
  maxPricePerHourUsd: number;
}

/** The caller's wishes within the service's limits: the lower price cap wins, the disk has a default. */
export function completeRequirements(
  requested: RequestedRequirements,
  limits: { diskGb: number; maxPricePerHourUsd: number },
): Requirements {
  return {
    ...requested,
    diskGb: requested.diskGb ?? limits.diskGb,
    maxPricePerHourUsd: Math.min(
      requested.maxPricePerHourUsd ?? limits.maxPricePerHourUsd,
      limits.maxPricePerHourUsd,
    ),
  };
}

/** Memory is sold by its nominal size, and what is usable of it is a little less: 22.5 GB of an L4's 24. */
export const NOMINAL_SHARE = 0.93;

/** Whether memory that a machine shows is what was asked for by its nominal size. */
export function satisfiesVram(
  { minVramGb }: Pick<RequestedRequirements, 'minVramGb'>,
  vramGb: number,
): boolean {
  return vramGb >= minVramGb * NOMINAL_SHARE;
}

/** Whether a GPU, as vast.ai's API calls it, is one that was asked for; an empty list accepts all. */
export function acceptsGpu({ gpuNames }: Pick<RequestedRequirements, 'gpuNames'>, gpuName: string): boolean {
  return gpuNames.length === 0 || gpuNames.map(gpuNameOfApi).includes(gpuName);
}

/** vast.ai's command line writes "RTX_4090" for what its API calls "RTX 4090". */
export function gpuNameOfApi(gpuName: string): string {
  return gpuName.replaceAll('_', ' ');
}
