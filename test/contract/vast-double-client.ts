// What the tests of the vast.ai double share: recipes, calls, and a server that stands in for ComfyUI.
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import { Agent, request } from 'undici';
import { onTestFinished } from 'vitest';
import { WebSocketServer } from 'ws';
import { z } from 'zod';
import { listen } from '../doubles/ports/listen.ts';
import type { RentedComfyUi, VastDouble, VastDoubleOptions } from '../doubles/vast/index.ts';
import { instantPhases, startVastDouble } from '../doubles/vast/index.ts';

export const password = 'Zk3_uJ0b-q7Yt1cXw5Rr8Lm2NaPs4DfGh6JkVe9BoUi';

/** Closed, and it works. */
export const secureRecipe = {
  client_id: 'me',
  image: 'vastai/comfy:v0.35.0-cuda-12.9-py312',
  disk: 60,
  label: 'cfy.test.one',
  runtype: 'ssh_direct',
  onstart: 'entrypoint.sh',
  target_state: 'running',
  cancel_unavail: true,
  env: {
    '-p 8188:8188': '1',
    PORTAL_CONFIG: 'localhost:8188:18188:/:ComfyUI',
    WEB_USERNAME: 'svc',
    WEB_PASSWORD: password,
    ENABLE_HTTPS: 'true',
    COMFYUI_ARGS: '--disable-auto-launch --port 18188 --enable-cors-header',
    DATA_DIRECTORY: '/workspace/',
  },
};

/** The recipe of the original design: it looks open, and nothing of the image ever runs. */
export const originalRecipe = {
  client_id: 'me',
  image: 'vastai/comfy:v0.35.0-cuda-12.9-py312',
  disk: 60,
  label: 'cfy.test.one',
  runtype: 'ssh_direc ssh_proxy',
  onstart: '',
  env: { '-p 8188:8188': '1', WEB_ENABLE_AUTH: 'false' },
};

/** A double without waits and with a stand-in for ComfyUI, stopped when the test ends. */
export async function openDouble(options: VastDoubleOptions = {}): Promise<VastDouble> {
  const vast = await startVastDouble({
    startComfyUi: startStandIn,
    ...options,
    knobs: { phases: instantPhases, ...options.knobs },
  });
  onTestFinished(() => vast.stop());
  return vast;
}

export interface Answer {
  status: number;
  /** The parsed body, or null where it is not JSON. */
  body: unknown;
  text: string;
}

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

/** One call to the API with the right key, or with `key`; null sends none. */
export async function call(
  vast: VastDouble,
  method: Method,
  path: string,
  body?: unknown,
  key: string | null = vast.apiKey,
): Promise<Answer> {
  const answer = await request(`${vast.url}${path}`, {
    method,
    headers: key === null ? {} : { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await answer.body.text();
  return { status: answer.statusCode, text, body: jsonOrNull(text) };
}

const offerSchema = z.looseObject({
  id: z.number(),
  ask_contract_id: z.number(),
  machine_id: z.number(),
  gpu_name: z.string(),
  gpu_ram: z.number(),
  dph_total: z.number(),
  verification: z.string(),
  direct_port_count: z.number(),
});
export type OfferRow = z.infer<typeof offerSchema>;

export async function search(vast: VastDouble, body: object = {}): Promise<OfferRow[]> {
  const answer = await call(vast, 'POST', '/api/v0/bundles/', body);
  return z.object({ offers: z.array(offerSchema) }).parse(answer.body).offers;
}

/** What a careful client asks for. */
export const careful = {
  rentable: { eq: true },
  verification: { eq: 'verified' },
  direct_port_count: { gte: 2 },
  cpu_arch: { eq: 'amd64' },
  cuda_max_good: { gte: 12.8 },
  order: [['dph_total', 'asc']],
};

/** Rents the cheapest careful offer, or the machine that is named, and answers with the rental's id. */
export async function rent(
  vast: VastDouble,
  recipe: object = secureRecipe,
  machineId?: number,
): Promise<number> {
  const filter = machineId === undefined ? {} : { machine_id: { eq: machineId } };
  const [offer] = await search(vast, machineId === undefined ? careful : filter);
  const answer = await call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, recipe);
  return z.object({ new_contract: z.number() }).parse(answer.body).new_contract;
}

const instanceSchema = z.looseObject({
  id: z.number(),
  label: z.string().nullable(),
  actual_status: z.string().nullable(),
  intended_status: z.string(),
  cur_state: z.string(),
  status_msg: z.string().nullable(),
  public_ipaddr: z.string().nullable(),
  jupyter_token: z.string(),
  ports: z.record(z.string(), z.array(z.object({ HostIp: z.string(), HostPort: z.string() }))).nullable(),
});
export type InstanceRow = z.infer<typeof instanceSchema>;

export async function show(vast: VastDouble, id: number): Promise<InstanceRow | null> {
  const answer = await call(vast, 'GET', `/api/v0/instances/${id}/`);
  return z.object({ instances: instanceSchema.nullable() }).parse(answer.body).instances;
}

const listSchema = z.object({
  success: z.boolean(),
  instances_found: z.number(),
  total_instances: z.number(),
  label_counts: z.record(z.string(), z.number()),
  next_token: z.string().nullable(),
  instances: z.array(instanceSchema).nullable(),
});

export async function list(vast: VastDouble, query = ''): Promise<z.infer<typeof listSchema>> {
  return listSchema.parse((await call(vast, 'GET', `/api/v1/instances/${query}`)).body);
}

/** Waits until the ports of a rental are published, and answers with the address of its ComfyUI port, without a scheme. */
export async function publishedAddress(vast: VastDouble, id: number, port = '8188/tcp'): Promise<string> {
  await vast.until(() => vast.state.rentals.get(id)?.arePortsPublished === true);
  const entry = (await show(vast, id))?.ports?.[port]?.find(({ HostIp }) => HostIp === '0.0.0.0');
  if (entry === undefined) throw new Error(`The port ${port} is not mapped.`);
  return `127.0.0.1:${entry.HostPort}`;
}

/** Waits until the rental's proxy passes requests on to its ComfyUI. */
export async function untilReady(
  vast: VastDouble,
  id: number,
  scheme: 'http' | 'https' = 'https',
): Promise<string> {
  const url = `${scheme}://${await publishedAddress(vast, id)}`;
  const bearer = { authorization: `Bearer ${password}` };
  for (;;) {
    const { status } = await get(`${url}/system_stats`, bearer).catch(() => ({ status: 0 }));
    if (status === 200) return url;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface HttpAnswer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

/** Any certificate is accepted; redirects are not followed. */
export const trusting = new Agent({ connect: { rejectUnauthorized: false } });

export async function get(url: string, headers: Record<string, string> = {}): Promise<HttpAnswer> {
  const answer = await request(url, { headers, dispatcher: trusting, signal: AbortSignal.timeout(5000) });
  return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
}

/** The code of the error with which a request fails, or its status. */
export async function outcome(url: string, headers: Record<string, string> = {}): Promise<string | number> {
  try {
    return (await get(url, headers)).status;
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
  }
}

/** Answers what a proxy has to carry: echoes, streams, uploads, breaks and WebSockets. */
export async function startStandIn(): Promise<RentedComfyUi> {
  const server = createServer((incoming, response) => {
    void answerStandIn(incoming, response);
  });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket, incoming) => {
    socket.send(incoming.url ?? '');
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  const port = await listen(server, 0, '127.0.0.1');
  const close = () => {
    for (const socket of sockets.clients) socket.terminate();
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return {
    url: `http://127.0.0.1:${port}`,
    exit: close,
    restart: async () => {
      await listen(server, port, '127.0.0.1');
    },
    stop: close,
  };
}

async function answerStandIn(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname, searchParams } = new URL(incoming.url ?? '/', 'http://stand-in');
  switch (pathname) {
    case '/upload': {
      const hash = createHash('sha256');
      for await (const chunk of incoming as AsyncIterable<Buffer>) hash.update(chunk);
      return void response.end(hash.digest('hex'));
    }
    case '/bytes':
      response.setHeader('content-type', 'video/mp4');
      return void response.end(Buffer.alloc(Number(searchParams.get('count')), 7));
    case '/half':
      response.setHeader('content-type', 'video/mp4');
      return void response.write('first half');
    case '/cut':
      response.setHeader('content-length', 100);
      return void response.write('cut', () => response.destroy());
    default:
      response.setHeader('content-type', 'application/json');
      response.setHeader('x-portal-placeholder', 'forged');
      response.end(JSON.stringify({ system: {}, devices: [], url: incoming.url, headers: incoming.headers }));
  }
}

function jsonOrNull(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
