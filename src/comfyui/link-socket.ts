// A WebSocket over a link: undici's, with the connection in our hands, since undici cannot cut one off.
import type { Socket } from 'node:net';
import { Client, ping, WebSocket, type buildConnector, type Dispatcher } from 'undici';
import { type LinkError, linkErrorFrom } from './link-error.ts';

export interface SocketHandlers {
  opened?(): void;
  message(data: string | Uint8Array): void;
  /** Comes exactly once, last. The error is null where the server closed, or refused the upgrade. */
  closed(error: LinkError | null): void;
}

export interface LinkSocket {
  /** Sends one text message; does nothing unless open. */
  send(text: string): void;
  /** Asks the server for a sign of life; it shows in `bytesRead`. */
  ping(): void;
  /** Bytes that have arrived so far. */
  bytesRead(): number;
  /** Cuts the connection at once, without waiting for the other side. */
  terminate(): void;
}

interface SocketOptions {
  url: URL;
  headers: Record<string, string>;
  connect: buildConnector.connector;
  openTimeoutMs: number;
}

/**
 * ComfyUI 0.33 sets no limit to the messages it sends: full-size images and errors with every input may come. A larger one ends the
 * connection: one of 250 MB, which may be a thousandth of that on its way, takes 850 MB of memory until it is read.
 */
const maxMessageBytes = 64 * 1024 * 1024;

/** A client of its own for each socket tells which TCP connection belongs to it. */
export function openLinkSocket(options: SocketOptions, handlers: SocketHandlers): LinkSocket {
  let connection: Socket | null = null;
  let failure: LinkError | null = null;
  const client = new Client(options.url.origin, {
    allowH2: false,
    headersTimeout: options.openTimeoutMs,
    webSocket: { maxPayloadSize: maxMessageBytes },
    connect: (target, callback) =>
      options.connect(target, (error, socket) => {
        connection = socket;
        if (socket !== null) return callback(null, socket);
        failure = linkErrorFrom(error);
        callback(failure, null);
      }),
  });
  const address = new URL(options.url);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(address, {
    dispatcher: client.compose(withoutBrowserHeaders),
    headers: options.headers,
  });
  socket.binaryType = 'arraybuffer';
  socket.addEventListener('open', () => handlers.opened?.());
  socket.addEventListener('message', ({ data }: { data: unknown }) => {
    if (typeof data === 'string') handlers.message(data);
    else if (data instanceof ArrayBuffer) handlers.message(new Uint8Array(data));
  });
  socket.addEventListener('close', () => {
    void client.destroy();
    connection?.destroy();
    handlers.closed(failure);
  });

  return {
    send: (text) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    },
    ping: () => ping(socket),
    bytesRead: () => connection?.bytesRead ?? 0,
    terminate: () => {
      socket.close();
      connection?.destroy();
    },
  };
}

/** ComfyUI answers 403 to requests that look as if they came from a page of another site; undici 8 adds Sec-Fetch-Mode. */
const withoutBrowserHeaders: Dispatcher.DispatcherComposeInterceptor = (dispatch) => (options, handler) => {
  const kept = Object.entries(options.headers ?? {}).filter(
    ([name]) => !/^(origin|sec-fetch-.*)$/i.test(name),
  );
  return dispatch({ ...options, headers: Object.fromEntries(kept) }, handler);
};
