// Conditional and partial requests, with the answers of aiohttp's FileResponse.
import type { IncomingHttpHeaders } from 'node:http';

export interface FileFacts {
  readonly size: number;
  readonly modifiedMs: number;
}

export interface Condition {
  readonly status: 200 | 304 | 412;
  readonly etag: string;
  readonly lastModified: string;
}

export function conditionOf(headers: IncomingHttpHeaders, facts: FileFacts): Condition {
  // aiohttp: mtime in nanoseconds and size, both hexadecimal.
  const nanoseconds = BigInt(Math.round(facts.modifiedMs * 1000)) * 1000n;
  const etag = `"${nanoseconds.toString(16)}-${facts.size.toString(16)}"`;
  const lastModified = new Date(facts.modifiedMs).toUTCString();
  const answer = (status: Condition['status']): Condition => ({ status, etag, lastModified });

  const [ifMatch, ifNoneMatch] = [headers['if-match'], headers['if-none-match']];
  if (ifMatch !== undefined && !matches(ifMatch, etag, false)) return answer(412);
  if (ifMatch === undefined && isBefore(headers['if-unmodified-since'], facts)) return answer(412);
  if (ifNoneMatch !== undefined) return answer(matches(ifNoneMatch, etag, true) ? 304 : 200);
  const since = dateOf(headers['if-modified-since']);
  return answer(since !== undefined && seconds(facts.modifiedMs) <= since ? 304 : 200);
}

/** Undefined: the whole file. If-Range counts only as a date; an ETag in it is passed over, as in aiohttp. */
export function rangeOf(
  headers: IncomingHttpHeaders,
  { size, modifiedMs }: FileFacts,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const header = headers.range;
  if (header === undefined) return undefined;
  const ifRange = dateOf(typeof headers['if-range'] === 'string' ? headers['if-range'] : undefined);
  if (ifRange !== undefined && seconds(modifiedMs) > ifRange) return undefined;

  const found = /^bytes=(?<first>\d*)-(?<last>\d*)$/u.exec(header)?.groups;
  const [first = '', last = ''] = [found?.['first'], found?.['last']];
  if (found === undefined || (first === '' && last === '')) return 'unsatisfiable';
  if (first === '')
    return last === '0' ? 'unsatisfiable' : { start: Math.max(0, size - Number(last)), end: size - 1 };
  const start = Number(first);
  const end = last === '' ? size - 1 : Math.min(size - 1, Number(last));
  return start >= size || end < start ? 'unsatisfiable' : { start, end };
}

function matches(header: string, etag: string, isWeak: boolean): boolean {
  if (header.trim() === '*') return true;
  return header
    .split(',')
    .map((tag) => tag.trim())
    .some((tag) => (isWeak ? tag.replace(/^W\//u, '') : tag) === etag);
}

const isBefore = (header: string | undefined, { modifiedMs }: FileFacts): boolean => {
  const date = dateOf(header);
  return date !== undefined && seconds(modifiedMs) > date;
};

/** A date in seconds; undefined for anything that is none. */
function dateOf(header: string | undefined): number | undefined {
  const time = header === undefined || header.startsWith('"') ? Number.NaN : Date.parse(header);
  return Number.isNaN(time) ? undefined : seconds(time);
}

const seconds = (ms: number): number => Math.floor(ms / 1000);
