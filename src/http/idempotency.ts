// The header Idempotency-Key, after the draft of IETF's httpapi group: a request that is repeated makes nothing twice.
import { createHash } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { IdempotencyKey } from '../database/once.ts';
import { ServiceError } from '../errors.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Null for a request that came without a key, and on routes that take none. */
    idempotencyKey: IdempotencyKey | null;
  }
}

/** The headers of a route that takes the key. */
export const idempotencyHeadersSchema = z.looseObject({
  'idempotency-key': z
    .string()
    .min(1)
    .max(255)
    .regex(/^[\x20-\x7e]*$/, 'it must be printable ASCII')
    .optional()
    .describe(
      'Any text of your own, a new one for each new request; a UUID is a good one. Repeated with the same key and body, the request makes nothing again: it answers for what it made the first time, as that is now, with `Idempotency-Replayed: true`.',
    ),
});

/** Deeper than any body that is accepted. */
const MAX_DEPTH = 100;

export function acceptIdempotencyKeys(app: FastifyInstance): void {
  app.decorateRequest('idempotencyKey', null);
}

/** The `preValidation` of a route that takes the key. It comes after what makes a body from a form, and before defaults are filled in. */
export async function readIdempotencyKey(request: FastifyRequest): Promise<void> {
  const key = request.headers['idempotency-key'];
  if (typeof key !== 'string') return;
  request.idempotencyKey = {
    apiKey: request.apiKey ?? '',
    route: `${request.method} ${request.routeOptions.url}`,
    key,
    fingerprint: createHash('sha256').update(canonicalJson(request.body)).digest('hex'),
  };
}

/** Tells the caller that this is the answer to an earlier request. */
export function markReplay(reply: FastifyReply, replayed: boolean): void {
  if (replayed) reply.header('idempotency-replayed', 'true');
}

/** The same text for the same JSON value, whatever the order of its fields. */
function canonicalJson(body: unknown): string {
  return JSON.stringify(ordered(body, 0)) ?? 'null';
}

function ordered(value: unknown, depth: number): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= MAX_DEPTH) {
    throw new ServiceError('invalid_request', `The body is nested deeper than ${MAX_DEPTH} levels.`);
  }
  if (Array.isArray(value)) return value.map((member) => ordered(member, depth + 1));
  const fields = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(fields.map(([name, member]) => [name, ordered(member, depth + 1)]));
}
