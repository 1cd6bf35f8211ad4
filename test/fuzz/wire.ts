// One request over a connection of its own, byte for byte as it is given, and whatever comes back.
import { connect } from 'node:net';

export interface WireRequest {
  method: string;
  /** The path with its query. */
  target: string;
  headers: [name: string, value: string][];
  body: Buffer | null;
  /** `stalled`: it says that more is to come, and sends nothing. `cut`: the connection ends in the middle of it. */
  ending: 'complete' | 'stalled' | 'cut';
}

export type Outcome =
  | { kind: 'answered'; status: number; headers: Map<string, string>; body: Buffer; whole: boolean }
  /** The service closed the connection without an answer. */
  | { kind: 'closed' }
  /** No answer to a request that was not complete, until the patience for it ran out. */
  | { kind: 'unanswered' }
  /** No whole answer to a whole request within the limit. */
  | { kind: 'hung' };

export interface ExchangeOptions {
  host: string;
  port: number;
  /** How long a whole request may wait for its whole answer. */
  limitMs: number;
  /** How long one that is not whole is left open, and an answer without end is listened to. */
  patienceMs: number;
}

export function exchange(
  request: WireRequest,
  { host, port, limitMs, patienceMs }: ExchangeOptions,
): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const chunks: Buffer[] = [];
    let timer = setTimeout(() => finish({ kind: 'hung' }), limitMs);

    function finish(outcome: Outcome): void {
      clearTimeout(timer);
      socket.destroy();
      resolve(outcome);
    }

    function look(isOver: boolean): void {
      const answer = parseAnswer(Buffer.concat(chunks), request.method, isOver);
      if (answer === null) {
        if (isOver) finish({ kind: 'closed' });
      } else if (answer.whole || isOver) finish(answer);
      else if (answer.headers.get('content-type')?.startsWith('text/event-stream') === true) {
        clearTimeout(timer);
        timer = setTimeout(() => finish(answer), patienceMs);
      }
    }

    socket.on('data', (chunk) => {
      chunks.push(chunk);
      look(false);
    });
    socket.on('error', () => look(true));
    socket.on('close', () => look(true));
    socket.on('connect', () => {
      socket.write(headOf(request), 'latin1');
      if (request.body !== null) socket.write(request.body);
      if (request.ending === 'cut') socket.end();
      if (request.ending === 'stalled') {
        clearTimeout(timer);
        timer = setTimeout(() => finish({ kind: 'unanswered' }), patienceMs);
      }
    });
  });
}

function headOf({ method, target, headers }: WireRequest): string {
  const lines = headers.map(([name, value]) => `${name}: ${value}`);
  return [`${method} ${target} HTTP/1.1`, ...lines, '', ''].join('\r\n');
}

/** Null until there is a whole head. */
function parseAnswer(
  bytes: Buffer,
  method: string,
  isOver: boolean,
): Extract<Outcome, { kind: 'answered' }> | null {
  const end = bytes.indexOf('\r\n\r\n');
  if (end === -1) return null;
  const [statusLine = '', ...lines] = bytes.subarray(0, end).toString('latin1').split('\r\n');
  const status = Number(statusLine.split(' ')[1]);
  const rest = bytes.subarray(end + 4);
  if (status >= 100 && status < 200 && status !== 101) return parseAnswer(rest, method, isOver);
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const { body, whole } = bodyOf(
    rest,
    headers,
    isOver,
    method === 'HEAD' || status === 204 || status === 304,
  );
  return { kind: 'answered', status, headers, body, whole };
}

function bodyOf(
  rest: Buffer,
  headers: ReadonlyMap<string, string>,
  isOver: boolean,
  isEmpty: boolean,
): { body: Buffer; whole: boolean } {
  if (isEmpty) return { body: Buffer.alloc(0), whole: true };
  if (headers.get('transfer-encoding') === 'chunked') return dechunk(rest);
  const length = headers.get('content-length');
  if (length === undefined) return { body: rest, whole: isOver };
  return { body: rest.subarray(0, Number(length)), whole: rest.length >= Number(length) };
}

function dechunk(bytes: Buffer): { body: Buffer; whole: boolean } {
  const parts: Buffer[] = [];
  for (let at = 0; ;) {
    const line = bytes.indexOf('\r\n', at);
    const size = line === -1 ? Number.NaN : Number.parseInt(bytes.toString('latin1', at, line), 16);
    const begin = line + 2;
    if (size === 0) return { body: Buffer.concat(parts), whole: true };
    if (Number.isNaN(size) || bytes.length < begin + size + 2)
      return { body: Buffer.concat(parts), whole: false };
    parts.push(bytes.subarray(begin, begin + size));
    at = begin + size + 2;
  }
}
