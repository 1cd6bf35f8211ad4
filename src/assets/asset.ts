// The asset: a stored file, addressed by its content.
import { z } from 'zod';
import type { LinkTo } from '../http/signed-links.ts';

export interface Asset {
  /** BLAKE3 of the bytes, 64 hexadecimal digits: who knows the file knows its id, and the id never means another file. */
  id: string;
  sizeBytes: number;
  /** Without parameters, such as `image/png`. */
  contentType: string;
  /** As given by whoever uploaded it last; a plain name without folders. */
  fileName: string | null;
  createdAt: Date;
}

const idPattern = /^[0-9a-f]{64}$/;

export const assetIdSchema = z
  .string()
  .regex(idPattern, 'it must be 64 hexadecimal digits, as POST /assets answers them')
  .describe('BLAKE3 of the bytes, 64 hexadecimal digits');

export function isAssetId(text: string): boolean {
  return idPattern.test(text);
}

/** An asset as the API shows it. */
export const assetSchema = z
  .object({
    id: assetIdSchema,
    sizeBytes: z.int(),
    contentType: z.string().describe('Found from the bytes where they tell it'),
    fileName: z.string().nullable().describe('As given with the newest upload that gave one'),
    createdAt: z.iso.datetime().describe('ISO 8601, UTC'),
    url: z
      .string()
      .describe(
        'Where its bytes are, below the address of this service. Where API keys are needed it opens without one for a while, in a browser too; look the file up again for a new one',
      ),
  })
  .meta({ id: 'Asset', description: 'A stored file, addressed by its content' });

export function presentAsset(asset: Asset, linkTo: LinkTo): z.output<typeof assetSchema> {
  return { ...asset, createdAt: asset.createdAt.toISOString(), url: linkTo(contentUrl(asset.id)) };
}

/** The path of the bytes in this API. */
export function contentUrl(id: string): string {
  return `/assets/${id}/content`;
}
