// Requests for every operation of the API: good ones, and what callers, proxies and attackers make of them.
import fc from 'fast-check';
import type { Api, Operation } from './api.ts';
import { payloadOf } from './bodies.ts';
import { framed, oddFramings, type Framing } from './framing.ts';
import { authorizations, headersOf, oddHeader } from './headers.ts';
import { specialsFor } from './specials.ts';
import { targetOf } from './targets.ts';
import { rarely, type Kind } from './values.ts';
import type { WireRequest } from './wire.ts';

/** A request whose ids are still to be filled in. */
export interface Draft {
  method: string;
  target: string;
  headers: [name: string, value: string][];
  body: Buffer | null;
  framing: Framing;
}

/** Everything that is sent, in the proportions in which it finds most. */
export function drafts(api: Api, apiKey: string): fc.Arbitrary<Draft> {
  return fc.oneof(
    ...api.operations.map((operation) => ({
      weight: Object.keys(operation.bodies).length > 0 ? 4 : 2,
      arbitrary: draftOf(api, operation, apiKey),
    })),
  );
}

/** Ids of what there is, as the answers told. */
export type Pools = Readonly<Record<Kind, readonly string[]>>;

/** The request as it is sent. Where there is nothing of a kind yet, its id is one that nothing has. */
export function fillIn(draft: Draft, pools: Pools): WireRequest {
  const fill = (text: string): string =>
    text.replaceAll(/\{\{(\w+):(\d+)\}\}/g, (whole, kind: string, index: string) => {
      const ids = new Map(Object.entries(pools)).get(kind);
      return ids === undefined ? whole : (ids[Number(index) % ids.length] ?? absentOf(kind));
    });
  // Byte by byte, so that nothing else in it changes.
  const body = draft.body === null ? null : Buffer.from(fill(draft.body.toString('latin1')), 'latin1');
  return framed({ ...draft, target: fill(draft.target), body }, draft.framing);
}

function absentOf(kind: string): string {
  if (kind === 'outputs') return '/jobs/00000000-0000-7000-8000-000000000000/outputs/none';
  return kind === 'assets' ? '0'.repeat(64) : '00000000-0000-7000-8000-000000000000';
}

function draftOf(api: Api, operation: Operation, apiKey: string): fc.Arbitrary<Draft> {
  const special = specialsFor(operation);
  return fc
    .record({
      method: rarely(fc.constantFrom(...methods), fc.constant(operation.method)),
      target: targetOf(api, operation, special),
      authorization: rarely(authorizations, fc.constant(`Bearer ${apiKey}`)),
      own: headersOf(api, operation, special),
      odd: rarely(fc.array(oddHeader(), { minLength: 1, maxLength: 3 }), fc.constant<[string, string][]>([])),
      payload: payloadOf(api, operation, special),
      framing: rarely<Framing>(fc.constantFrom(...oddFramings), fc.constant('length')),
    })
    .map(({ method, target, authorization, own, odd, payload, framing }) => ({
      method,
      target,
      headers: [
        ['host', '127.0.0.1'],
        ['connection', 'close'],
        ...(authorization === null ? [] : [['authorization', authorization] as [string, string]]),
        ...(payload.contentType === null ? [] : [['content-type', payload.contentType] as [string, string]]),
        ...own,
        ...odd,
      ],
      body: payload.bytes,
      framing,
    }));
}

const methods = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'TRACE',
  'QUERY',
  'PROPFIND',
  'BREW',
];
