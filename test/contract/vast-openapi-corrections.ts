// Where vast.ai's pages are wrong or say less than is known, with what is known instead and from where.
import { fieldsOf, isObject, type Correction, type Json } from './vast-openapi-pages.ts';

const json = ['content', 'application/json', 'schema'];
const numeric: Json = { type: 'number' };
const nullable = (part: Json): Json => ({ ...part, type: [part['type'] ?? 'string', 'null'] });
const plus =
  (fields: Json) =>
  (part: Json): Json => ({ ...part, ...fields });
/** One more possible value of an `enum`. */
const or =
  (...values: string[]) =>
  (part: Json): Json => ({
    ...part,
    enum: [...(Array.isArray(part['enum']) ? part['enum'] : []), ...values],
  });

const operations = {
  search_offers: ['paths', '/api/v0/bundles/', 'post'],
  create_instance: ['paths', '/api/v0/asks/{id}/', 'put'],
  show_instance: ['paths', '/api/v0/instances/{id}/', 'get'],
  show_instances: ['paths', '/api/v1/instances/', 'get'],
  manage_instance: ['paths', '/api/v0/instances/{id}/', 'put'],
  destroy_instance: ['paths', '/api/v0/instances/{id}/', 'delete'],
  reboot_instance: ['paths', '/api/v0/instances/reboot/{id}/', 'put'],
  recycle_instance: ['paths', '/api/v0/instances/recycle/{id}/', 'put'],
  logs: ['paths', '/api/v0/instances/request_logs/{id}', 'put'],
  show_user: ['paths', '/api/v0/users/current/', 'get'],
} as const;
type Page = keyof typeof operations;

const answer = (page: Page, status: number): string[] => [
  ...operations[page],
  'responses',
  String(status),
  ...json,
];
const request = (page: Page): string[] => [...operations[page], 'requestBody', ...json];
const row = {
  show_instance: ['components', 'schemas', 'Instance', 'properties'],
  show_instances: [...answer('show_instances', 200), 'properties', 'instances', 'items', 'properties'],
};

/** The usual form of an error. */
const error = (): Json => ({
  type: 'object',
  properties: {
    success: { type: 'boolean', enum: [false] },
    error: { type: 'string' },
    msg: { type: 'string' },
  },
});

/** Statuses of a refused key that a page has not, or gives another form. */
const refusals: Partial<Record<Page, readonly number[]>> = {
  search_offers: [401, 403, 404],
  show_instance: [403, 404],
  show_instances: [403, 404],
  manage_instance: [401, 403, 404],
  destroy_instance: [401, 403],
  reboot_instance: [403, 404],
  recycle_instance: [403, 404],
  logs: [401, 403, 404],
  show_user: [403, 404],
};

const authentication = Object.entries(refusals).flatMap(([page, statuses]) =>
  statuses.map((status): Correction => ({
    page,
    at: answer(page as Page, status),
    becomes: () => error(),
    reason:
      'Every endpoint answers a missing key with 403, an unknown one with 404, and some with 401, in the usual form of an error: seen by several clients.',
  })),
);

/** The pages that state an interval, and with it an answer 429. */
const limited: readonly Page[] = [
  'create_instance',
  'show_instance',
  'show_instances',
  'manage_instance',
  'destroy_instance',
  'reboot_instance',
  'recycle_instance',
];

const rateLimits = limited.map((page): Correction => ({
  page,
  at: answer(page, 429),
  becomes: () => ({
    anyOf: [
      { type: 'object', properties: { detail: { type: 'string' } } },
      error(),
      { type: 'string', pattern: '^API requests too frequent' },
    ],
  }),
  reason:
    "vast.ai's page on rate limits: the answer is a text, an object with `detail`, or the usual form of an error, whatever the endpoint.",
}));

/** What both views of an instance show beside the fields of the page. */
const mirrored = fieldsOf({
  compute_cap: 890,
  cpu_ghz: 2.9,
  cuda_max_good: 12.8,
  driver_vers: 570_086_015,
  driver_version: '570.86.15',
  gpu_max_power: 450,
  gpu_max_temp: 90,
  gpu_total_ram: 24_564,
  has_avx: 1,
  inet_down: 1699,
  inet_down_cost: 0.002,
  inet_up: 812,
  inet_up_cost: 0.002,
  reliability: 0.9942,
  inet_up_billed: null,
  inet_down_billed: null,
});
const MIRRORED =
  'An instance shows the fields of its offer too, and what traffic was billed: seen in answers.';

export const CORRECTIONS: readonly Correction[] = [
  ...authentication,
  ...rateLimits,

  // Search
  {
    page: 'search_offers',
    at: [...answer('search_offers', 200), 'properties', 'offers', 'items'],
    becomes: (_part, page) => ({ type: 'object', properties: fieldsOf(exampleOffer(page)) }),
    reason: 'The page lists no fields and shows one object as its example: each offer of the array has them.',
  },
  ...['geolocation', 'cpu_cores', 'avail_vol_ask_id', 'avail_vol_dph', 'avail_vol_size'].map(
    (field): Correction => ({
      page: 'search_offers',
      at: [...answer('search_offers', 200), 'properties', 'offers', 'items', 'properties', field],
      becomes: nullable,
      reason: 'Null where the machine has none, or its host does not say.',
    }),
  ),
  {
    page: 'search_offers',
    at: [...request('search_offers'), 'properties'],
    becomes: (fields) =>
      Object.fromEntries(
        Object.entries(fields).map(([name, part]) => [
          name,
          isObject(part) && part['type'] === 'object' ? { type: 'object' } : part,
        ]),
      ),
    reason: 'Every filter takes every operator, as the text of the page says; its schemas name only some.',
  },
  {
    page: 'search_offers',
    at: [...request('search_offers'), 'properties'],
    becomes: plus({ reliability2: { type: 'object' } }),
    reason: "A field of the offers, by which vast.ai's command line and others filter.",
  },
  {
    page: 'search_offers',
    at: [...request('search_offers'), 'properties', 'type'],
    becomes: or('on-demand'),
    reason: "The spelling of the page's own example and of the command line.",
  },
  {
    page: 'search_offers',
    at: [...request('search_offers'), 'properties', 'order'],
    becomes: () => ({
      type: 'array',
      items: { type: 'array', items: { type: 'string' }, minItems: 2, maxItems: 2 },
    }),
    reason: 'Two elements are those of each pair, as the text of the page says, not of the list.',
  },
  {
    page: 'search_offers',
    at: answer('search_offers', 400),
    becomes: () => error(),
    reason: 'The usual form of an error has `success`.',
  },

  // Create
  {
    page: 'create_instance',
    at: [...request('create_instance'), 'properties', 'env'],
    becomes: () => ({ type: 'object', additionalProperties: { type: 'string', maxLength: 256 } }),
    reason: 'The command line, dstack and SkyPilot send an object; the text form belongs to templates.',
  },
  {
    page: 'create_instance',
    at: [...request('create_instance'), 'properties'],
    becomes: plus({ client_id: { type: 'string' } }),
    reason: 'The command line sends "me", and the service accepts it.',
  },
  {
    page: 'create_instance',
    at: [...answer('create_instance', 200), 'properties'],
    becomes: plus({ instance_api_key: { type: 'string' } }),
    reason: 'A key of the instance for itself: seen in answers.',
  },
  {
    page: 'create_instance',
    at: [...answer('create_instance', 400), 'properties', 'error'],
    becomes: or('insufficient_credit', 'no_such_ask', 'spend_rate_limit', 'missing_billing'),
    reason: "Seen in answers, and named by vast.ai's page on troubleshooting.",
  },
  {
    page: 'create_instance',
    at: [...answer('create_instance', 400), 'properties'],
    becomes: plus({ new_contract: { type: 'integer' } }),
    reason: 'A failed create may have made an instance all the same, and names it: dstack destroys it.',
  },

  // Show
  {
    page: 'show_instance',
    at: ['components', 'schemas', 'Instance'],
    becomes: nullable,
    reason: 'Null for an id that does not exist or no longer does: so the command line expects it.',
  },
  {
    page: 'show_instance',
    at: [...row.show_instance, 'ports'],
    becomes: () => ({
      type: 'object',
      nullable: true,
      additionalProperties: {
        type: 'array',
        items: { type: 'object', properties: { HostIp: { type: 'string' }, HostPort: { type: 'string' } } },
      },
    }),
    reason: "A map in Docker's form, as on the page of the list and in every client.",
  },
  {
    page: 'show_instance',
    at: [...row.show_instance, 'extra_env', 'items'],
    becomes: () => ({ type: 'array', items: { type: 'string' } }),
    reason: 'Pairs, as on the page of the list; the command line makes a dictionary of them.',
  },
  { page: 'show_instance', at: row.show_instance, becomes: plus(mirrored), reason: MIRRORED },
  {
    page: 'show_instance',
    at: row.show_instance,
    becomes: plus(fieldsOf({ country_code: null, volume_info: [] })),
    reason: 'On the page of the list; both views show the same row.',
  },
  {
    page: 'show_instance',
    at: [...row.show_instance, 'public_ipaddr'],
    becomes: nullable,
    reason: 'Null until a host is found: seen in answers.',
  },

  // List
  { page: 'show_instances', at: row.show_instances, becomes: plus(mirrored), reason: MIRRORED },
  {
    page: 'show_instances',
    at: row.show_instances,
    becomes: plus(fieldsOf({ bundle_id: 617, hosting_type: 1, logo: '/static/logos/vastai_small2.png' })),
    reason: 'On the page of the single view; both views show the same row.',
  },
  ...['public_ipaddr', 'onstart'].map((field): Correction => ({
    page: 'show_instances',
    at: [...row.show_instances, field],
    becomes: nullable,
    reason: 'Null where there is none: seen in answers, and so on the page of the single view.',
  })),
  {
    page: 'show_instances',
    at: [...answer('show_instances', 200), 'properties', 'label_counts'],
    becomes: () => ({ type: 'object', additionalProperties: { type: 'integer' } }),
    reason: 'The labels of the example are only an example.',
  },
  {
    page: 'show_instances',
    at: [...answer('show_instances', 400), 'properties'],
    becomes: plus({ success: { type: 'boolean' } }),
    reason: 'The usual form of an error has `success`.',
  },

  // Manage, user
  {
    page: 'manage_instance',
    at: [...answer('manage_instance', 200)],
    becomes: () => ({
      anyOf: [
        { type: 'object', properties: { success: { type: 'boolean' } } },
        { type: 'object', properties: { success: { type: 'boolean' }, msg: { type: 'string' } } },
      ],
    }),
    reason:
      'A start that is queued answers 200 with `success: false` and a `msg`: the command line prints it.',
  },
  {
    page: 'show_user',
    at: [...answer('show_user', 200), 'properties'],
    becomes: plus({ credit: numeric, balance_threshold: numeric, username: { type: 'string' } }),
    reason: 'What can be spent is `credit`; these are columns of the command line.',
  },
  {
    page: 'show_user',
    at: [...answer('show_user', 200), 'properties', 'ssh_key'],
    becomes: nullable,
    reason: 'Null for an account without a key.',
  },
];

/** Answers of the pages that the double does not play. */
export const NOT_PLAYED: Readonly<Record<string, string>> = {
  'show_instance 400': 'A path without a number is no call of the double.',
  'destroy_instance 400': 'A path without a number is no call of the double.',
};

function exampleOffer(page: Json): Json {
  const [paths, path, method] = operations.search_offers;
  const content = [
    paths,
    path,
    method,
    'responses',
    '200',
    'content',
    'application/json',
    'example',
    'offers',
  ];
  const found = content.reduce<unknown>((part, name) => (isObject(part) ? part[name] : undefined), page);
  if (!isObject(found)) throw new Error('The page of the search has no example.');
  return found;
}
