// What is wrong with an answer, whatever the request was.
import { errorTable } from '../../src/errors.ts';
import type { Api, Operation } from './api.ts';
import type { Outcome, WireRequest } from './wire.ts';

export interface Violation {
  /** The same for all that one fault brings about. */
  signature: string;
  text: string;
}

export type Answer = Extract<Outcome, { kind: 'answered' }>;

/** Answers of the server to what is not for any route. */
const GENERAL_STATUSES = new Set([400, 404, 405, 408, 413, 414, 415, 417, 431]);
/** The only faults of its own that the service may plead: too much to do, and no room. */
const EXCUSED_STATUSES = new Set([503, 507]);
/** How a stack trace or a file of the service shows. */
const insides =
  /\bat .{0,80}\(?(?:file:\/\/|\/)[^\s)]*:\d+:\d+|node_modules|node:internal|\/src\/[a-z-]+\/|\bselect .{1,80} from "|\binsert into "/;

export function judge(api: Api, request: WireRequest, outcome: Outcome): Violation[] {
  const operation = api.operationOf(methodOf(request), pathOf(request));
  const about = `${methodOf(request)} ${operation?.path ?? '(no route)'}`;
  const violation = (kind: string, text: string): Violation => ({ signature: `${kind} ${about}`, text });
  if (outcome.kind === 'hung') return [violation('hang', 'no whole answer in time')];
  if (outcome.kind === 'closed') {
    // An answer that comes before a large body was read may be lost with the rest of that.
    const mayBeLost = request.ending !== 'complete' || (request.body?.length ?? 0) > 100_000;
    return mayBeLost ? [] : [violation('closed', 'the connection was closed without an answer')];
  }
  if (outcome.kind === 'unanswered') return [];
  const { status, body } = outcome;
  const complaints = [
    ...(status >= 500 && !EXCUSED_STATUSES.has(status) ? [`answered ${status}: ${excerpt(body)}`] : []),
    ...(insides.test(textOf(outcome)) ? [`shows its insides: ${excerpt(body)}`] : []),
    ...(status >= 400
      ? problemComplaints(outcome, request)
      : goodComplaints(api, operation, outcome, request)),
    ...(operation !== null &&
    status >= 400 &&
    !GENERAL_STATUSES.has(status) &&
    !operation.statuses.has(status)
      ? [`the status ${status} is not documented`]
      : []),
  ];
  return complaints.map((text) => violation(String(status), text));
}

/** Which secrets an answer tells. */
export function leaks(outcome: Answer, secrets: ReadonlyMap<string, string>): Violation[] {
  const text = textOf(outcome);
  return [...secrets]
    .filter(([, secret]) => text.includes(secret))
    .map(([what]) => ({ signature: `leak ${what}`, text: `tells ${what}: ${excerpt(outcome.body)}` }));
}

function problemComplaints({ headers, body, status }: Answer, { method }: WireRequest): string[] {
  if (method === 'HEAD') return [];
  if (headers.get('content-type') !== 'application/problem+json') return [`is no problem: ${excerpt(body)}`];
  const problem: Record<string, unknown> = Object(parse(body));
  const { code, detail, title, type } = problem;
  if (typeof code !== 'string' || !Object.hasOwn(errorTable, code))
    return [`has the unknown code ${String(code)}`];
  if (problem['status'] !== status) return [`says ${String(problem['status'])} in its body`];
  const isWhole = [detail, title, type].every((text) => typeof text === 'string' && text !== '');
  return isWhole ? [] : [`lacks a part: ${excerpt(body)}`];
}

function goodComplaints(
  api: Api,
  operation: Operation | null,
  answer: Answer,
  request: WireRequest,
): string[] {
  const { status, headers, body, whole } = answer;
  if (status < 200) return [`answered ${status}`];
  if (!whole && !isEndless(answer)) return ['the answer broke off'];
  if (request.method === 'OPTIONS' && status === 204) return [];
  if (operation === null) {
    const { pathname } = new URL(request.target, 'http://localhost');
    const isOpen = pathname === '/' || pathname.startsWith('/docs') || pathname === '/openapi.json';
    return isOpen ? [] : [`answered ${status} although there is no such route`];
  }
  if (request.method === 'HEAD' || status === 204 || status === 304) return [];
  const contentType = headers.get('content-type')?.split(';')[0] ?? '';
  const content = contentType === 'application/json' ? parse(body) : body.toString('latin1');
  if (content === undefined) return [`is not JSON: ${excerpt(body)}`];
  const complaint = api.complaint(operation, status, contentType, content);
  return complaint === null ? [] : [complaint];
}

export function isEndless({ headers }: Answer): boolean {
  return headers.get('content-type')?.startsWith('text/event-stream') === true;
}

/** A request without content is one for the route of its GET. */
function methodOf({ method }: WireRequest): string {
  return method === 'HEAD' ? 'GET' : method;
}

function pathOf({ target }: WireRequest): string {
  return target.split(/[?#]/, 1)[0] ?? '';
}

/** Files that callers brought are theirs. */
function textOf({ headers, body }: Answer): string {
  const head = [...headers].map(([name, value]) => `${name}: ${value}`).join('\n');
  const isText =
    /json|^text\//.test(headers.get('content-type') ?? '') && !headers.has('content-disposition');
  return isText ? `${head}\n\n${body.toString('utf8')}` : head;
}

export function parse(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch {
    return undefined;
  }
}

function excerpt(body: Buffer): string {
  return body.toString('utf8').slice(0, 300);
}
