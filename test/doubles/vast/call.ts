// One call to the API, taken apart, and the reading of its body.
import type { IncomingMessage } from 'node:http';
import type { Fault } from './faults.ts';
import type { World } from './world.ts';

export interface Call {
  world: World;
  /** The id in the path; NaN where the path has none. */
  id: number;
  query: URLSearchParams;
  /** The body as text. */
  body: string;
  /** What is to go wrong, of the faults that only this call can play. */
  fault: Fault | undefined;
}

/** The body as an object, or null. */
export function bodyObject(call: Call): Record<string, unknown> | null {
  return parseObject(call.body);
}

export function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads the body of a request; bodies of this API are small. */
export async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}
