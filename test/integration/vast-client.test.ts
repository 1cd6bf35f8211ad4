// The provider against a server that answers what it is told to: what the double, which behaves like vast.ai, cannot be made to say.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type { LaunchRequest } from '../../src/instances/provider.ts';
import { noIntervals, type Intervals } from '../../src/vast/endpoints.ts';
import { createVastProvider } from '../../src/vast/provider.ts';

interface Seen {
  method: string;
  url: URL;
  authorization: string | undefined;
  body: string;
}
type Handler = (seen: Seen, response: ServerResponse) => void;

const apiKey = 'vast-account-key-0123456789';
const secret = 'Xk3-9_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789a';

let seen: Seen[] = [];
let handler: Handler = (_, response) => reply(response, 500, {});
let server: ReturnType<typeof createServer>;
let baseUrl = '';
const opened: { close(): Promise<void> }[] = [];

beforeEach(async () => {
  seen = [];
  server = createServer((request, response) => void receive(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  baseUrl = `http://127.0.0.1:${portOf(server.address())}`;
});

afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()));
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(Buffer.from(chunk));
  const call: Seen = {
    method: request.method ?? '',
    url: new URL(request.url ?? '/', baseUrl),
    authorization: request.headers.authorization,
    body: Buffer.concat(chunks).toString(),
  };
  seen.push(call);
  handler(call, response);
}

function portOf(address: AddressInfo | string | null): number {
  if (address === null || typeof address === 'string') throw new Error('not listening');
  return address.port;
}

function reply(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(typeof body === 'string' ? body : JSON.stringify(body));
}

/** Answers the calls one after the other; the last answer stays. */
function answerWith(...answers: [status: number, body: unknown, headers?: Record<string, string>][]) {
  let next = 0;
  handler = (_, response) => {
    const [status, body, headers] = answers[Math.min(next++, answers.length - 1)] ?? [500, {}];
    reply(response, status, body, headers);
  };
}

function provider(intervals: Partial<Intervals> = {}, url = baseUrl) {
  const made = createVastProvider({
    config: loadConfig({ VASTAI_API_KEY: apiKey, VAST_API_URL: url }),
    log: pino({ level: 'silent' }),
    intervals: { ...noIntervals, ...intervals },
  });
  opened.push(made);
  return made;
}

const request: LaunchRequest = {
  offer: {
    offerId: '7',
    machineId: '70',
    gpuName: 'RTX 4090',
    gpuCount: 1,
    vramGb: 24,
    ramGb: 64,
    cpuCores: 16,
    diskGb: 80,
    region: 'US',
    reliability: 0.99,
    downloadMbps: 1000,
    uploadMbps: 1000,
    cudaVersion: 12.8,
    verified: true,
    pricePerHourUsd: 0.35,
    storagePricePerHourUsd: 0.02,
    downloadPricePerGbUsd: 0,
    uploadPricePerGbUsd: 0,
    remainingSeconds: 1_000_000,
  },
  label: 'cfy.test.1',
  secret,
  diskGb: 80,
  deadMan: null,
};

const instance = (id: number, more: object = {}) => ({ id, label: `cfy.test.${id}`, ...more });
const page = (ids: number[], total = ids.length, next_token: string | null = null) => ({
  success: true,
  instances_found: ids.length,
  total_instances: total,
  next_token,
  instances: ids.map((id) => instance(id)),
});

describe('every call', () => {
  it('carries the key in its header and nowhere else, and ends its path in a slash', async () => {
    answerWith([200, { ...page([]), instances: [], offers: [], new_contract: 1, credit: 5 }]);
    const vast = provider();
    await vast.launch(request);
    await vast.listByLabel('cfy.');
    await vast.terminate('1');
    expect(await vast.account()).toEqual({ creditUsd: 5 });
    expect(seen.map(({ method, url }) => `${method} ${url.pathname}`)).toEqual([
      'PUT /api/v0/asks/7/',
      'GET /api/v1/instances/',
      'DELETE /api/v0/instances/1/',
      'GET /api/v0/users/current/',
    ]);
    for (const { authorization, url } of seen) {
      expect(authorization).toBe(`Bearer ${apiKey}`);
      expect(url.href).not.toContain(apiKey);
    }
  });

  it('follows no redirect', async () => {
    answerWith([308, '', { location: `${baseUrl}/elsewhere/` }]);
    await expect(provider().describe('1')).rejects.toMatchObject({ kind: 'unavailable' });
    await expect(provider().launch(request)).rejects.toMatchObject({ kind: 'ambiguous' });
    expect(seen.map(({ url }) => url.pathname)).not.toContain('/elsewhere/');
  });

  it('takes no answer without end', async () => {
    let sentBytes = 0;
    handler = (_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      const more = () => {
        while (!response.destroyed && response.write(' '.repeat(65_536))) sentBytes += 65_536;
        if (!response.destroyed) response.once('drain', more);
      };
      more();
    };
    await expect(provider().listByLabel('cfy.')).rejects.toMatchObject({ kind: 'unavailable' });
    expect(sentBytes).toBeLessThan(32 * 1024 * 1024);
  });

  it('ends in time when no answer comes', async () => {
    handler = () => {};
    const vast = provider({ maxCallMs: 60 });
    await expect(vast.describe('1')).rejects.toMatchObject({ kind: 'unavailable', message: /60 ms/ });
    await expect(vast.launch(request)).rejects.toMatchObject({ kind: 'ambiguous' });
  });

  it('shows no secret in its error', async () => {
    answerWith([400, { error: 'invalid_args', msg: `Bearer ${apiKey} WEB_PASSWORD ${secret} ${apiKey}` }]);
    const error: unknown = await provider()
      .launch(request)
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ kind: 'invalid', message: /^Renting offer 7: vast\.ai answered 400/ });
    expect(String(error)).not.toMatch(new RegExp(`${apiKey}|${secret}`));
  });

  it('is given up when the provider closes', async () => {
    handler = () => {};
    const vast = provider();
    const describing = vast.describe('1');
    const settled = describing.catch((reason: unknown) => reason);
    await expect.poll(() => seen.length).toBe(1);
    await vast.close();
    expect(await settled).toMatchObject({ kind: 'unavailable' });
  });
});

describe('a launch', () => {
  it.each<[string, unknown]>([
    ['does not name the rental', { success: true }],
    ['names it as no id can be', { success: true, new_contract: 'abc' }],
    ['is no JSON', '<!doctype html>'],
    ['is empty', ''],
  ])('whose answer %s may have rented', async (_, body) => {
    answerWith([200, body]);
    await expect(provider().launch(request)).rejects.toMatchObject({ kind: 'ambiguous' });
    expect(seen).toHaveLength(1);
  });

  it('that never left has rented nothing', async () => {
    const elsewhere = createServer();
    await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${portOf(elsewhere.address())}`;
    await new Promise((resolve) => elsewhere.close(resolve));
    await expect(provider({}, url).launch(request)).rejects.toMatchObject({ kind: 'unavailable' });
  });

  it('that is given up before it was sent has rented nothing', async () => {
    const signal = AbortSignal.abort(new Error('stopping'));
    await expect(provider().launch(request, { signal })).rejects.toMatchObject({ kind: 'unavailable' });
    expect(seen).toHaveLength(0);
  });

  it('that is given up under way may have rented', async () => {
    const controller = new AbortController();
    handler = () => controller.abort(new Error('stopping'));
    await expect(provider().launch(request, { signal: controller.signal })).rejects.toMatchObject({
      kind: 'ambiguous',
    });
  });

  it('is not sent again after a 429, and the next one waits for the penalty', async () => {
    answerWith([429, 'API requests too frequent'], [200, { success: true, new_contract: 5 }]);
    const create = { calls: 1, perMs: 0, penaltyMs: 80 };
    const vast = provider({ paces: { ...noIntervals.paces, create } });
    // The penalty counts from the answer, which comes later than this.
    const startedAt = performance.now();
    await expect(vast.launch(request)).rejects.toMatchObject({ kind: 'rate_limited' });
    expect(seen).toHaveLength(1);
    expect(await vast.launch(request)).toEqual({ providerInstanceId: '5' });
    expect(performance.now() - startedAt).toBeGreaterThan(80);
  });
});

describe('a list', () => {
  it.each<[string, [number, unknown]]>([
    ['is null', [200, { ...page([]), instances: null }]],
    ['is shorter than its total', [200, page([1, 2], 3)]],
    ['has no total', [200, { success: true, instances: [] }]],
    ['has a row without an id', [200, { ...page([1]), instances: [{ label: 'cfy.test.1' }] }]],
    ['says that it failed', [200, { ...page([]), success: false }]],
    ['is another thing', [200, { instances: { 1: instance(1) }, total_instances: 0 }]],
    ['is of a version that is gone', [410, { success: false, error: 'deprecated_endpoint', msg: 'gone' }]],
    ['is not found', [404, { success: false, error: 'not_found' }]],
    ['goes in a circle', [200, page([1, 2], 5, 'again')]],
  ])('that %s is an error, never an empty list', async (_, answer) => {
    answerWith(answer);
    await expect(provider().listByLabel('cfy.')).rejects.toMatchObject({ name: 'ProviderError' });
  });

  it('is read to its last page, and only what has the label is given', async () => {
    const last = { ...page([3], 4), instances: [instance(3), { id: 4, label: 'somebody else' }] };
    answerWith([200, page([1, 2], 4, 'token')], [200, last]);
    const found = await provider().listByLabel('cfy.test.');
    expect(found.map(({ providerInstanceId }) => providerInstanceId)).toEqual(['1', '2', '3']);
    expect(seen[1]?.url.searchParams.get('after_token')).toBe('token');
  });
});

describe('the view of one instance', () => {
  it.each<[string, number, unknown]>([
    ['null', 200, { instances: null }],
    ['an empty array', 200, { instances: [] }],
    ["vast.ai's own 404", 404, { success: false, error: 'no_such_instance' }],
  ])('is absent on the word of %s', async (_, status, body) => {
    answerWith([status, body]);
    expect(await provider().describe('1')).toEqual({ kind: 'absent' });
  });

  it.each<[string, number, unknown]>([
    ['a wrong key', 404, { success: false, error: 'auth_error', msg: 'Invalid user key' }],
    ["a proxy's 404", 404, '<html>Not Found</html>'],
    ['no instances at all', 200, {}],
    ['a failure with null', 200, { success: false, instances: null }],
    ['somebody else', 200, { instances: instance(2) }],
    ['two instances', 200, { instances: [instance(1), instance(2)] }],
    ['a broken server', 500, { instances: null }],
  ])('is not absent because of %s', async (_, status, body) => {
    answerWith([status, body]);
    await expect(provider().describe('1')).rejects.toMatchObject({ name: 'ProviderError' });
  });

  it('is present as an object or as an array of one', async () => {
    answerWith([200, { instances: instance(1) }], [200, { instances: [instance(1)] }]);
    const vast = provider();
    expect(await vast.describe('1')).toMatchObject({ kind: 'present' });
    expect(await vast.describe('1')).toMatchObject({ kind: 'present' });
  });

  it('comes from one list for many instances, whose single views would take their turns', async () => {
    handler = (call, response) => {
      const isList = call.url.pathname.startsWith('/api/v1/');
      reply(response, 200, isList ? page([2, 3, 4]) : { instances: instance(1) });
    };
    const paces = { ...noIntervals.paces, show: { calls: 1, perMs: 60_000, penaltyMs: 0 } };
    const vast = provider({ paces: { ...paces, list: { calls: 1, perMs: 150, penaltyMs: 0 } } });
    await vast.listByLabel('cfy.');
    const views = await Promise.all(['1', '2', '3', '4'].map((id) => vast.describe(id)));
    expect(
      views.map((view) => (view.kind === 'present' ? view.instance.providerInstanceId : view.kind)),
    ).toEqual(['1', '2', '3', '4']);
    const asked = seen.slice(1).map(({ url }) => url.searchParams.get('select_filters') ?? url.pathname);
    // On two connections, so either may arrive first.
    expect(asked.toSorted()).toEqual(['/api/v0/instances/1/', '{"id":{"in":[2,3,4]}}']);
    await vast.describe('3');
    expect(seen.at(-1)?.url.searchParams.get('select_filters')).toBe('{"id":{"in":[3]}}');
  });

  it('is asked for singly when the list does not show it, because only that proves absence', async () => {
    handler = (call, response) =>
      reply(response, 200, call.url.pathname.startsWith('/api/v1/') ? page([]) : { instances: null });
    const vast = provider({
      paces: { ...noIntervals.paces, show: { calls: 1, perMs: 40, penaltyMs: 0 } },
    });
    const views = await Promise.all([vast.describe('1'), vast.describe('2')]);
    expect(views).toEqual([{ kind: 'absent' }, { kind: 'absent' }]);
    expect(seen.map(({ url }) => url.pathname)).toEqual([
      '/api/v0/instances/1/',
      '/api/v1/instances/',
      '/api/v0/instances/2/',
    ]);
  });

  it('ends for one caller without ending for the others who share it', async () => {
    const held: ServerResponse[] = [];
    handler = (call, response) => {
      if (call.url.pathname.startsWith('/api/v1/')) held.push(response);
      else reply(response, 200, { instances: instance(1) });
    };
    const paces = { ...noIntervals.paces, show: { calls: 1, perMs: 60_000, penaltyMs: 0 } };
    const vast = provider({ paces });
    const controller = new AbortController();
    await vast.describe('1');
    const [left, stayed] = [vast.describe('2', controller.signal), vast.describe('3')];
    const gone = left.catch((reason: unknown) => reason);
    await expect.poll(() => held.length).toBe(1);
    controller.abort(new Error('stopping'));
    expect(await gone).toMatchObject({ kind: 'unavailable' });
    for (const response of held) reply(response, 200, page([2, 3]));
    expect(await stayed).toMatchObject({ kind: 'present' });
  });
});

describe('a call that changes nothing', () => {
  it('is sent again after a 429', async () => {
    answerWith(
      [429, 'API requests too frequent'],
      [429, { detail: 'API requests too frequent endpoint threshold=2.0' }],
      [200, { instances: null }],
    );
    expect(await provider().describe('1')).toEqual({ kind: 'absent' });
    expect(seen).toHaveLength(3);
  });

  it('is given up after some', async () => {
    answerWith([429, 'API requests too frequent']);
    await expect(provider().terminate('1')).rejects.toMatchObject({ kind: 'rate_limited' });
    expect(seen).toHaveLength(5);
  });
});

describe('a log', () => {
  it('is fetched without our key, when it is there, and loses its secrets', async () => {
    const lines = ['first', `web credentials: Authorization: Bearer ${secret}`, 'ready', ''];
    let misses = 0;
    handler = (call, response) => {
      if (call.method === 'PUT')
        return reply(response, 200, { success: true, result_url: `${baseUrl}/log.txt` });
      misses += 1;
      return misses <= 2 ? reply(response, 403, 'AccessDenied') : reply(response, 200, lines.join('\n'));
    };
    expect(await provider().logs('1', 2)).toBe('web credentials[removed]\nready');
    expect(seen[0]).toMatchObject({ body: '{"tail":"2"}', authorization: `Bearer ${apiKey}` });
    expect(seen.slice(1).map(({ authorization }) => authorization)).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  it.each(['http://127.0.0.1:1/log.txt', 'file:///etc/passwd', 'not an address'])(
    'is not fetched from %s',
    async (result_url) => {
      answerWith([200, { success: true, result_url }]);
      await expect(provider().logs('1', 10)).rejects.toMatchObject({ kind: 'unavailable' });
      expect(seen).toHaveLength(1);
    },
  );

  it('that never appears is given up', async () => {
    handler = (call, response) =>
      call.method === 'PUT'
        ? reply(response, 200, { success: true, result_url: `${baseUrl}/log.txt` })
        : reply(response, 404, '');
    await expect(provider().logs('1', 10)).rejects.toMatchObject({ kind: 'unavailable' });
  });
});
