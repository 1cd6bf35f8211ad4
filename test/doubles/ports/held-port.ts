// Ports that belong to a double for its whole life, also while nothing listens on them.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { closeServer, listen } from './listen.ts';

export interface HeldPort {
  readonly port: number;
  release(): void;
}

export interface PortHolder {
  /** A free port that no one else gets: connections are refused until somebody who knows it listens on it. */
  hold(): Promise<HeldPort>;
  close(): Promise<void>;
}

/**
 * A port is held by a connection that leaves from it: the system gives the port to nobody who asks for a free one, yet lets
 * a server listen on it. Listening and closing again would leave a gap in which another process may take it.
 */
export async function openPortHolder(host: string): Promise<PortHolder> {
  const kept = new Set<Socket>();
  const anchor = createServer((socket) => {
    socket.on('error', () => {});
    socket.resume();
  });
  const anchorPort = await listen(anchor, 0, host);
  return {
    async hold() {
      const socket = connect({ host, port: anchorPort, localAddress: host, localPort: 0 });
      socket.on('error', () => {});
      await once(socket, 'connect');
      kept.add(socket);
      const port = socket.localPort;
      if (port === undefined) throw new Error('The held connection has no local port.');
      return {
        port,
        release: () => {
          kept.delete(socket);
          socket.resetAndDestroy();
        },
      };
    },
    async close() {
      for (const socket of kept) socket.resetAndDestroy();
      await closeServer(anchor);
    },
  };
}

/** The same for who needs a single one. */
export async function holdPort(host: string): Promise<{ port: number; release: () => Promise<void> }> {
  const holder = await openPortHolder(host);
  const { port } = await holder.hold();
  return { port, release: () => holder.close() };
}
