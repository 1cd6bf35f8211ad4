// Listening, and knowing on which port.
import { once } from 'node:events';
import type { Server } from 'node:net';

/** Resolves to the port, which is a free one for 0. Rejects when the port is taken. */
export async function listen(server: Server, port: number, host: string): Promise<number> {
  server.listen(port, host);
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The server listens on no TCP port.');
  return address.port;
}

/** Resolves when the last connection is gone; the caller has ended them. */
export async function closeServer(server: Server): Promise<void> {
  if (!server.listening) return;
  server.close();
  await once(server, 'close');
}
