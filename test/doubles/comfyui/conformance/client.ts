// A plain client for checking a server: raw answers, and every frame of a socket in its order.
import { once } from 'node:events';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { WebSocket } from 'ws';

export interface RawAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly bytes: Buffer;
  readonly text: string;
}

export interface RawRequest {
  method?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
}

export interface Frame {
  readonly type: string;
  readonly data: Record<string, unknown>;
}

export interface Socket {
  /** JSON frames, and binary ones as `{ type: 'binary', data: { bytes } }`. */
  readonly frames: Frame[];
  /** Resolves with the first frame, also a past one, that fits. */
  waitFor(fits: (frame: Frame) => boolean): Promise<Frame>;
  send(text: string): void;
  /** Resolves when the ping is answered. */
  ping(): Promise<void>;
  readonly closed: Promise<number>;
  close(): Promise<void>;
  /** Without a closing handshake. */
  terminate(): void;
}

const REQUEST_TIMEOUT_MS = 60_000;
/** Shorter than that of a test's hook, so that it is this that says why. */
const IDLE_TIMEOUT_MS = 50_000;

/** Sends exactly these headers, which `fetch` would not. */
export function send(
  url: string,
  { method = 'GET', headers = {}, body }: RawRequest = {},
): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { method, headers, timeout: REQUEST_TIMEOUT_MS }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        const bytes = Buffer.concat(chunks);
        const { statusCode: status = 0, headers: received } = response;
        resolve({ status, headers: received, bytes, text: bytes.toString('utf8') });
      });
    });
    request.once('error', reject);
    request.once('timeout', () => request.destroy(new Error(`No answer from ${method} ${url}`)));
    request.end(body);
  });
}

export const post = (url: string, body: unknown): Promise<RawAnswer> =>
  send(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });

export async function upload(
  url: string,
  image: { name: string; bytes: Buffer },
  fields: Record<string, string> = {},
): Promise<RawAnswer> {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  form.set('image', new Blob([Uint8Array.from(image.bytes)]), image.name);
  return sendForm(`${url}/upload/image`, form);
}

export async function sendForm(url: string, form: FormData): Promise<RawAnswer> {
  const encoded = new Response(form);
  const body = Buffer.from(await encoded.arrayBuffer());
  return send(url, {
    method: 'POST',
    headers: { 'content-type': encoded.headers.get('content-type') ?? '' },
    body,
  });
}

/** Connects and waits for the greeting, which is not among the frames. */
export async function openSocket(url: string, clientId: string): Promise<Socket> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws?clientId=${clientId}`, { maxPayload: 0 });
  const frames: Frame[] = [];
  const waiters = new Set<(frame: Frame) => void>();
  socket.on('message', (raw: Buffer, isBinary: boolean) => {
    const frame: Frame = isBinary
      ? { type: 'binary', data: { bytes: raw } }
      : JSON.parse(raw.toString('utf8'));
    frames.push(frame);
    for (const notify of waiters) notify(frame);
  });
  const closed = new Promise<number>((resolve) => {
    socket.once('close', resolve);
  });
  socket.on('error', () => socket.terminate());

  const opened: Socket = {
    frames,
    waitFor: (fits) =>
      new Promise((resolve, reject) => {
        const past = frames.find(fits);
        if (past !== undefined) return resolve(past);
        const notify = (frame: Frame): void => {
          if (!fits(frame)) return;
          waiters.delete(notify);
          resolve(frame);
        };
        waiters.add(notify);
        void closed.then(() => reject(new Error('The socket closed before the frame came.')));
      }),
    send: (text) => socket.send(text),
    async ping() {
      socket.ping();
      await once(socket, 'pong');
    },
    closed,
    async close() {
      socket.close();
      await closed;
    },
    terminate: () => socket.terminate(),
  };
  await opened.waitFor(({ type }) => type === 'status');
  frames.length = 0;
  return opened;
}

/** The end of a prompt as its client sees it: `executing` with node null. */
export const isEndOf = (promptId: string) => (frame: Frame) =>
  frame.type === 'executing' && frame.data['node'] === null && frame.data['prompt_id'] === promptId;

/** A server that is used by others may have prompts in its queue; frames, counters and the cache are compared without them. */
export async function untilIdle(url: string): Promise<void> {
  await poll(
    async () => (await send(`${url}/prompt`)).text,
    (text) => text.includes('"queue_remaining": 0'),
    IDLE_TIMEOUT_MS,
  ).catch((cause: unknown) => {
    throw new Error(`The queue of ${url} does not empty: others use that server.`, { cause });
  });
}

/** Polls until the answer fits; the history is the only sure sign of an end. */
export async function poll<T>(
  ask: () => Promise<T>,
  fits: (answer: T) => boolean,
  timeoutMs = 60_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (fits(answer)) return answer;
    if (Date.now() > deadline) throw new Error('The expected answer did not come.');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
