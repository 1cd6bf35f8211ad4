// What a call answers, as data, and how it is put on the wire.
import type { ServerResponse } from 'node:http';

export type Reply =
  | { kind: 'answer'; status: number; contentType: string; body: string; location?: string }
  /** 200 whose body breaks off before its announced length. */
  | { kind: 'truncated' }
  | { kind: 'reset' }
  | { kind: 'hang' };

export function json(status: number, body: unknown): Reply {
  return { kind: 'answer', status, contentType: 'application/json', body: JSON.stringify(body) };
}

export function text(status: number, body: string, contentType = 'text/plain'): Reply {
  return { kind: 'answer', status, contentType, body };
}

/** The usual shape of vast.ai's errors. */
export function failure(
  status: number,
  error: string,
  msg: string,
  more: Record<string, unknown> = {},
): Reply {
  return json(status, { success: false, error, msg, ...more });
}

/** Writes the reply; a `hang` leaves the connection open until the client or the double ends it. */
export function send(response: ServerResponse, reply: Reply): void {
  switch (reply.kind) {
    case 'answer':
      response.writeHead(reply.status, {
        'content-type': reply.contentType,
        'content-length': Buffer.byteLength(reply.body),
        ...(reply.location === undefined ? {} : { location: reply.location }),
      });
      response.end(reply.body);
      return;
    case 'truncated':
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': 4096 });
      response.write('{"success": true, "inst', () => response.destroy());
      return;
    case 'reset':
      response.socket?.resetAndDestroy();
      return;
    case 'hang':
      return;
  }
}
