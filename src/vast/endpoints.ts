// The calls of vast.ai's API that we use: where they are, how long they may take, how often they may be made.

export interface Pace {
  /** Calls that may start within any `perMs` milliseconds. */
  calls: number;
  perMs: number;
  /** How long nothing may be sent after a 429, at least. */
  penaltyMs: number;
}

interface Endpoint {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** `{id}` stands for an offer or an instance. */
  path: string;
  /** From the first byte sent to the last one received. */
  timeoutMs: number;
  /** Costs money, so it is never repeated and an unclear answer is "maybe". */
  rents: boolean;
  pace: Pace;
}

/**
 * Every path ends in a slash, which vast.ai's own client always sends. Paces: the thresholds that vast.ai documents for each
 * endpoint, with a margin for the network; it counts by endpoint and account, not by instance, and states no limit for the user and
 * the logs, which get one second. The list exists in v1 only: v0 answers 410.
 */
export const endpoints = {
  search: {
    method: 'POST',
    path: '/api/v0/bundles/',
    timeoutMs: 30_000,
    rents: false,
    pace: { calls: 10, perMs: 60_500, penaltyMs: 6_000 },
  },
  create: {
    method: 'PUT',
    path: '/api/v0/asks/{id}/',
    timeoutMs: 60_000,
    rents: true,
    pace: { calls: 1, perMs: 4_700, penaltyMs: 12_500 },
  },
  show: {
    method: 'GET',
    path: '/api/v0/instances/{id}/',
    timeoutMs: 20_000,
    rents: false,
    pace: { calls: 1, perMs: 2_200, penaltyMs: 2_200 },
  },
  list: {
    method: 'GET',
    path: '/api/v1/instances/',
    timeoutMs: 20_000,
    rents: false,
    pace: { calls: 1, perMs: 1_200, penaltyMs: 1_200 },
  },
  destroy: {
    method: 'DELETE',
    path: '/api/v0/instances/{id}/',
    timeoutMs: 30_000,
    rents: false,
    pace: { calls: 1, perMs: 3_200, penaltyMs: 3_200 },
  },
  logs: {
    method: 'PUT',
    path: '/api/v0/instances/request_logs/{id}/',
    timeoutMs: 20_000,
    rents: false,
    pace: { calls: 1, perMs: 1_000, penaltyMs: 1_000 },
  },
  user: {
    method: 'GET',
    path: '/api/v0/users/current/',
    timeoutMs: 20_000,
    rents: false,
    pace: { calls: 1, perMs: 1_000, penaltyMs: 1_000 },
  },
} as const satisfies Record<string, Endpoint>;

export type EndpointName = keyof typeof endpoints;

export interface Intervals {
  paces: Record<EndpointName, Pace>;
  /** The waits after one 429, two in a row and so on; never shorter than the penalty of the endpoint. */
  backoff: { baseMs: number; capMs: number };
  /** Between two looks for a log that is being uploaded. */
  logPollMs: number;
  /** No call may take longer, whatever its endpoint allows. */
  maxCallMs: number;
}

/** What the real service asks for. */
export const documentedIntervals: Intervals = {
  paces: pacesOf((endpoint) => endpoint.pace),
  backoff: { baseMs: 2_000, capMs: 30_000 },
  logPollMs: 500,
  maxCallMs: 60_000,
};

/** For a double without rate limits. */
export const noIntervals: Intervals = {
  paces: pacesOf(() => ({ calls: 1, perMs: 0, penaltyMs: 0 })),
  backoff: { baseMs: 4, capMs: 20 },
  logPollMs: 2,
  maxCallMs: 60_000,
};

function pacesOf(pace: (endpoint: Endpoint) => Pace): Record<EndpointName, Pace> {
  return {
    search: pace(endpoints.search),
    create: pace(endpoints.create),
    show: pace(endpoints.show),
    list: pace(endpoints.list),
    destroy: pace(endpoints.destroy),
    logs: pace(endpoints.logs),
    user: pace(endpoints.user),
  };
}
