// What kind of file an asset is, and whether a browser may show it.
import { fileTypeFromBuffer } from 'file-type';
import { lookup } from 'mime-types';

export const unknownType = 'application/octet-stream';
/** What clients claim when they do not know; the second is what curl claims of any file. */
const emptyClaims = new Set([unknownType, 'application/x-www-form-urlencoded', 'binary/octet-stream']);

/** The type that the first bytes show, else the one claimed, else the one of the file name. Without parameters. */
export async function detectContentType(
  head: Buffer,
  { claimed, fileName }: { claimed: string | null; fileName: string | null },
): Promise<string> {
  const detected = await fileTypeFromBuffer(head);
  if (detected !== undefined) return plainType(detected.mime) ?? unknownType;
  const claim = plainType(claimed);
  if (claim !== null && !emptyClaims.has(claim)) return claim;
  const named = fileName === null ? false : lookup(fileName);
  return named === false ? unknownType : named;
}

/**
 * Whether a browser shows this type without running anything in it. A list of what is harmless, because the other list
 * (HTML, SVG, XML, scripts, and whatever browsers learn next) is never complete.
 */
export function isSafeToShow(contentType: string): boolean {
  if (/^(video|audio)\//.test(contentType)) return true;
  if (contentType.startsWith('image/')) return !contentType.includes('svg') && !contentType.endsWith('xml');
  return contentType === 'text/plain' || contentType === 'application/json';
}

function plainType(text: string | null): string | null {
  const type = text?.split(';')[0]?.trim().toLowerCase() ?? '';
  return type.length <= 127 && /^[a-z0-9][\w!#$&^.+-]*\/[a-z0-9][\w!#$&^.+-]*$/.test(type) ? type : null;
}
