// The WebSocket side: who is connected under which client id, and what each of them is sent.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocket, WebSocketServer } from 'ws';
import type { ComfyCounters, ComfyKnobs } from './knobs.ts';
import { dumpPythonJson, isObject, parsePythonJson } from './support/python.ts';

export interface SocketHub {
  /** Takes over an upgrade request to `/ws`. */
  accept(request: IncomingMessage, socket: Duplex, head: Buffer, clientId: string): void;
  /** Sends to one client id, or to everybody when it is null. An unhashable id ends the server process. */
  send(type: string, data: unknown, clientId: unknown): void;
  sendBinary(frame: Buffer, clientId: string | null): void;
  /** True when that client announced `supports_preview_metadata`. */
  supportsPreviewMetadata(clientId: unknown): boolean;
  /** Drops every connection without a closing handshake. */
  drop(): void;
}

export interface HubOptions {
  knobs: ComfyKnobs;
  counters: ComfyCounters;
  /** The `status` and `executing` frames that greet a new socket. */
  greet: (clientId: string) => { type: string; data: unknown }[];
  featureFlags: () => Record<string, unknown>;
  /** Called when the server process would end: a client id that cannot be a key. */
  onFatal: () => void;
}

interface Client {
  readonly socket: WebSocket;
  supportsPreviewMetadata: boolean;
  frames: number;
  /** The network has lost the connection, and the server does not know. */
  isDead: boolean;
}

// ComfyUI: the aiohttp handler is made with max_msg_size 4 MiB for what clients send.
const MAX_INCOMING_BYTES = 4 * 1024 * 1024;

export function openSocketHub({ knobs, counters, greet, featureFlags, onFatal }: HubOptions): SocketHub {
  const server = new WebSocketServer({
    noServer: true,
    autoPong: false,
    perMessageDeflate: true,
    maxPayload: MAX_INCOMING_BYTES,
  });
  const clients = new Map<string, Client>();
  const everySocket = new Set<WebSocket>();

  /** A connection that was dead once stays dead, whatever the knob says later. */
  const isDead = (client: Client): boolean => (client.isDead ||= knobs.sockets === 'dead');

  const write = (client: Client, frame: string | Buffer): void => {
    if (isDead(client) || knobs.sockets !== 'open' || client.socket.readyState !== WebSocket.OPEN) return;
    client.frames += 1;
    counters.framesSent += 1;
    client.socket.send(frame);
    if (knobs.dropSocketAfterFrames !== null && client.frames >= knobs.dropSocketAfterFrames) {
      client.socket.terminate();
    }
  };

  const connect = (socket: WebSocket, clientId: string): void => {
    const client: Client = { socket, supportsPreviewMetadata: false, frames: 0, isDead: false };
    clients.set(clientId, client);
    everySocket.add(socket);
    counters.socketsOpened += 1;
    counters.socketsOpen += 1;
    for (const { type, data } of greet(clientId)) write(client, encode(type, data));
    listenForFlags(client, () => write(client, encode('feature_flags', featureFlags())));
    socket.on('ping', (payload: Buffer) => {
      if (!isDead(client)) socket.pong(payload);
    });
    // What the library calls to answer a closing handshake.
    const close = socket.close.bind(socket);
    socket.close = (code, reason) => {
      if (!isDead(client)) close(code, reason);
    };
    socket.on('error', () => socket.terminate());
    socket.once('close', () => {
      everySocket.delete(socket);
      if (isDead(client)) setTimeout(forget, knobs.deadSocketMs).unref();
      else forget();
    });
    const forget = (): void => {
      counters.socketsOpen -= 1;
      // The real cleanup removes whatever is registered under the id, also a newer socket.
      if (knobs.reconnectFault || clients.get(clientId) === client) clients.delete(clientId);
    };
  };

  const recipients = (clientId: unknown): Client[] => {
    if (clientId === null || clientId === undefined) return [...clients.values()];
    const client = typeof clientId === 'string' ? clients.get(clientId) : undefined;
    return client === undefined ? [] : [client];
  };

  return {
    accept(request, socket, head, clientId) {
      server.handleUpgrade(request, socket, head, (opened) => {
        connect(opened, clientId === '' ? randomUUID().replaceAll('-', '') : clientId);
      });
    },
    send(type, data, clientId) {
      // Python: a dict or list is no dictionary key, the publishing loop dies of it and takes the process along.
      if (typeof clientId === 'object' && clientId !== null) return onFatal();
      const to = recipients(clientId);
      if (to.length === 0) return;
      const frame = encode(type, data);
      for (const client of to) write(client, frame);
    },
    sendBinary(frame, clientId) {
      for (const client of recipients(clientId)) write(client, frame);
    },
    supportsPreviewMetadata: (clientId) =>
      typeof clientId === 'string' && clients.get(clientId)?.supportsPreviewMetadata === true,
    drop() {
      for (const socket of everySocket) socket.terminate();
    },
  };
}

const encode = (type: string, data: unknown): string => dumpPythonJson({ type, data });

/** Only the first message that is a JSON object counts; anything that is not one is passed over. */
function listenForFlags(client: Client, answer: () => void): void {
  const onMessage = (raw: Buffer, isBinary: boolean): void => {
    const message = isBinary ? undefined : readObject(raw.toString('utf8'));
    if (message === undefined) return;
    client.socket.off('message', onMessage);
    if (message['type'] !== 'feature_flags') return;
    const flags = message['data'];
    client.supportsPreviewMetadata = isObject(flags) && flags['supports_preview_metadata'] === true;
    answer();
  };
  client.socket.on('message', onMessage);
}

function readObject(text: string): Record<string, unknown> | undefined {
  try {
    const value = parsePythonJson(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
