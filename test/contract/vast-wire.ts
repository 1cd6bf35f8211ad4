// A proxy in front of the vast.ai double that writes down every call and its answer.
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { request } from 'undici';
import { closeServer, listen } from '../doubles/ports/listen.ts';
import type { Exchange } from './vast-openapi-pages.ts';

export interface Wire {
  readonly url: string;
  readonly exchanges: Exchange[];
  stop(): Promise<void>;
}

export async function tapWire(target: string): Promise<Wire> {
  const exchanges: Exchange[] = [];
  const server = createServer((incoming, outgoing) => {
    pass(incoming, outgoing, { target, url }, exchanges).catch(() => outgoing.destroy());
  });
  const url = `http://127.0.0.1:${await listen(server, 0, '127.0.0.1')}`;
  return {
    url,
    exchanges,
    async stop() {
      server.closeAllConnections();
      await closeServer(server);
    },
  };
}

async function pass(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { target, url: ownUrl }: { target: string; url: string },
  exchanges: Exchange[],
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const { method = 'GET', url = '/' } = incoming;
  const { authorization } = incoming.headers;
  const answer = await request(target + url, {
    method: method as 'GET',
    headers: authorization === undefined ? {} : { authorization },
    ...(body.length === 0 ? {} : { body }),
  });
  // An answer that names another address of the double names the proxy's, so that nothing gets round it.
  const text = (await answer.body.text()).replaceAll(target, ownUrl);
  const [path = ''] = url.split('?', 1);
  if (path.startsWith('/api/')) {
    exchanges.push({
      method,
      path,
      request: body.length === 0 ? undefined : readJson(body.toString('utf8')),
      status: answer.statusCode,
      answer: readJson(text),
    });
  }
  outgoing.writeHead(answer.statusCode, { 'content-type': String(answer.headers['content-type']) });
  outgoing.end(text);
  if (!outgoing.writableFinished) await once(outgoing, 'close');
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
