// How the length of a body is told, truly or not, and how much of it comes.
import type { WireRequest } from './wire.ts';

type Whole = Omit<WireRequest, 'ending'>;
type Told = Partial<Pick<WireRequest, 'headers' | 'body' | 'ending'>>;

const ways = {
  length: (whole: Whole) => (whole.body === null ? {} : withLength(whole, String(sizeOf(whole)))),
  chunked: (whole: Whole) => ({
    ...withCoding(whole, 'chunked'),
    body: Buffer.concat([chunkOf(whole), Buffer.from('0\r\n\r\n')]),
  }),
  none: () => ({}),
  tooShort: (whole: Whole) => withLength(whole, String(Math.max(0, sizeOf(whole) - 3))),
  tooLongStalled: (whole: Whole) => ({ ...tooLong(whole), ending: 'stalled' }),
  tooLongCut: (whole: Whole) => ({ ...tooLong(whole), ending: 'cut' }),
  negative: (whole: Whole) => withLength(whole, '-5'),
  words: (whole: Whole) => withLength(whole, 'many'),
  both: (whole: Whole) => {
    const { headers } = withLength(whole, String(sizeOf(whole)));
    return withCoding({ ...whole, headers }, 'chunked');
  },
  badChunk: (whole: Whole) => ({
    ...withCoding(whole, 'chunked'),
    body: Buffer.from('zz\r\nhello\r\n0\r\n\r\n'),
  }),
  chunkStalled: (whole: Whole) => ({
    ...withCoding(whole, 'chunked'),
    body: chunkOf(whole),
    ending: 'stalled',
  }),
  unknownCoding: (whole: Whole) => ({ ...withCoding(whole, 'gzip'), ending: 'stalled' }),
} satisfies Record<string, (whole: Whole) => Told>;

export type Framing = keyof typeof ways;
export const oddFramings = Object.keys(ways).filter((way): way is Framing => way !== 'length');

/** The request with what `framing` says of the length of its body, and with so much of it. */
export function framed(whole: Whole, framing: Framing): WireRequest {
  const told: Told = ways[framing](whole);
  return { ...whole, ending: 'complete', ...told };
}

function sizeOf({ body }: Whole): number {
  return body?.length ?? 0;
}

function tooLong(whole: Whole) {
  return withLength(whole, String(sizeOf(whole) + 100));
}

function withLength({ headers }: Whole, length: string) {
  return { headers: [...headers, ['content-length', length]] satisfies WireRequest['headers'] };
}

function withCoding({ headers }: Whole, coding: string) {
  return { headers: [...headers, ['transfer-encoding', coding]] satisfies WireRequest['headers'] };
}

function chunkOf(whole: Whole): Buffer {
  if (whole.body === null || whole.body.length === 0) return Buffer.alloc(0);
  return Buffer.concat([Buffer.from(`${sizeOf(whole).toString(16)}\r\n`), whole.body, Buffer.from('\r\n')]);
}
