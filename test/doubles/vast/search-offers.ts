// `POST /bundles/`, and `PUT /search/asks/` in the form of vast.ai's command line: the search for offers.
import type { Call } from './call.ts';
import { bodyObject, isObject } from './call.ts';
import type { SearchRequest } from './market.ts';
import type { Reply } from './reply.ts';
import { failure, json } from './reply.ts';

/** Fields of the body that are not filters. */
const plainFields = new Set([
  'type',
  'order',
  'limit',
  'allocated_storage',
  'disable_bundling',
  'resource_type',
]);

export function searchOffers(call: Call): Reply {
  const given = bodyObject(call);
  const body = isObject(given?.['q']) ? given['q'] : given;
  if (body === null) return failure(400, 'invalid_request', 'Invalid json body');
  if (call.fault === 'bad-request') return failure(400, 'bad_request', 'q.type: Input should be a type');
  const filters: SearchRequest['filters'] = {};
  for (const [field, condition] of Object.entries(body)) {
    if (plainFields.has(field)) continue;
    if (!isObject(condition)) {
      return failure(
        400,
        'bad_request',
        `q.${field}: Input should be a valid dictionary; got ${typeof condition}`,
      );
    }
    filters[field] = condition;
  }
  const { limit, allocated_storage: storage, type } = body;
  const offers = call.world.market.search({
    filters,
    order: readOrder(body['order']),
    limit: typeof limit === 'number' && limit > 0 ? limit : 64,
    allocatedGb: typeof storage === 'number' ? storage : 8,
  });
  if (type === 'bid')
    for (const offer of offers) Object.assign(offer, { is_bid: true, dph_base: offer['min_bid'] });
  return json(200, { offers });
}

/** Pairs of a field and a direction; without any, the best score first. */
function readOrder(value: unknown): [string, string][] {
  if (!Array.isArray(value) || value.length === 0) return [['score', 'desc']];
  return value.flatMap((pair: unknown) => (Array.isArray(pair) ? [[String(pair[0]), String(pair[1])]] : []));
}
