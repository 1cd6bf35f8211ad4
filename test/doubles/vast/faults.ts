// Scripted failures of calls: their names, the queues that hold them, and the answers that every call has in common.
import { oneOf } from '../comfyui/support/knob-text.ts';
import type { Random } from './random.ts';
import type { Reply } from './reply.ts';
import { json, text } from './reply.ts';

/** Played instead of the call: it changes nothing. */
const commonFaults = [
  'rate-limit-text',
  'rate-limit-detail',
  'rate-limit-json',
  'auth-401',
  'auth-403',
  'auth-404',
  'session-expired',
  'success-false',
  '500',
  '502-html',
  '503',
  /** Sent elsewhere, as the host vast.ai does; a client that follows may lose its key or its body. */
  'redirect-308',
  /** 200 with a page instead of JSON. */
  'not-json',
  /** 200 whose body breaks off. */
  'truncated',
  /** The connection is reset. */
  'reset',
  /** No answer ever. */
  'hang',
] as const;

/** What can go wrong with each call. */
export const faultNames = {
  search: [
    ...commonFaults,
    /** vast.ai finds something in the question that it does not take. */
    'bad-request',
  ],
  create: [
    ...commonFaults,
    'no-such-ask-400',
    'no-such-ask-404',
    'no-such-ask-410',
    'not-your-own',
    'invalid-args',
    'invalid-price',
    'insufficient-credit',
    'spend-rate-limit',
    'missing-billing',
    /** The rental is made, stopped and billed for its storage, and the answer is an error that names it. */
    '400-with-new-contract',
    '503-after-create',
    'reset-after-create',
    'hang-after-create',
    'truncated-after-create',
    /** 200 `success:true` that does not say which rental. */
    'no-id-after-create',
    /** 503, and the rental exists only `lateCreateMs` later. */
    '503-and-late',
  ],
  show: [...commonFaults, 'null-instance', 'no-such-instance'],
  list: [
    ...commonFaults,
    'null-list',
    /** An empty list, although there are rentals. */
    'empty-list',
    /** The same `next_token` for ever. */
    'token-loop',
    /** The first page only, without a token, while `total_instances` says more. */
    'lost-pages',
  ],
  manage: commonFaults,
  reboot: commonFaults,
  recycle: commonFaults,
  destroy: [
    ...commonFaults,
    /** 200 `success:true` that destroyed nothing. */
    'noop',
    /** 404, although the rental lives. */
    'lying-404',
    '404-after-destroy',
    '410-after-destroy',
    '503-after-destroy',
    'reset-after-destroy',
    'hang-after-destroy',
  ],
  logs: commonFaults,
  logFile: commonFaults,
  user: commonFaults,
} as const;

type FaultsByOperation = { [O in keyof typeof faultNames]: (typeof faultNames)[O][number] };

export type CommonFault = (typeof commonFaults)[number];
export type SearchFault = FaultsByOperation['search'];
export type CreateFault = FaultsByOperation['create'];
export type ListFault = FaultsByOperation['list'];
export type ShowFault = FaultsByOperation['show'];
export type DestroyFault = FaultsByOperation['destroy'];

export type Operation = keyof FaultsByOperation;
export type Fault = FaultsByOperation[Operation];
export type FaultQueues = { [O in Operation]: FaultsByOperation[O][] };
export type FaultChances = { [O in Operation]?: { fault: FaultsByOperation[O]; chance: number }[] };

export function noFaults(): FaultQueues {
  return {
    search: [],
    create: [],
    show: [],
    list: [],
    manage: [],
    reboot: [],
    recycle: [],
    destroy: [],
    logs: [],
    logFile: [],
    user: [],
  };
}

/** The fault of this call, or none. Throws for one that the call does not know: it would be counted and not played. */
export function takeFault(
  operation: Operation,
  queues: FaultQueues,
  chances: FaultChances,
  random: Random,
): Fault | undefined {
  const fault = pickFault(operation, queues, chances, random);
  if (fault !== undefined) oneOf(faultNames[operation])(fault, `A fault of ${operation}`);
  return fault;
}

/** The next queued one, or one drawn by its chance. */
function pickFault(
  operation: Operation,
  queues: FaultQueues,
  chances: FaultChances,
  random: Random,
): Fault | undefined {
  const queued = queues[operation].shift();
  if (queued !== undefined) return queued;
  const candidates = chances[operation] ?? [];
  if (candidates.length === 0) return undefined;
  let draw = random.fraction();
  for (const { fault, chance } of candidates) {
    if (draw < chance) return fault;
    draw -= chance;
  }
  return undefined;
}

/** The answer of a fault that every call has; undefined for one that only its own call can play. */
export function commonFaultReply(fault: Fault): Reply | undefined {
  switch (fault) {
    case 'rate-limit-text':
      return text(429, 'API requests too frequent');
    case 'rate-limit-detail':
      return json(429, { detail: 'API requests too frequent endpoint threshold=4.5' });
    case 'rate-limit-json':
      return json(429, { success: false, error: 'rate_limit_exceeded', msg: 'API requests too frequent' });
    case 'auth-401':
      return json(401, invalidKey);
    case 'auth-403':
      return json(403, { success: false, error: 'auth_error', msg: 'This action requires login.' });
    case 'auth-404':
      return json(404, invalidKey);
    case 'session-expired':
      return json(404, { success: false, error: 'auth_error', msg: 'Session expired. Please log in again.' });
    case 'success-false':
      return json(200, { success: false, msg: 'Something went wrong.' });
    case '500':
      return json(500, { success: false, error: 'server_error', msg: 'Internal server error' });
    case '502-html':
      return text(502, '<html><body><h1>502 Bad Gateway</h1></body></html>', 'text/html');
    case '503':
      return text(503, 'Service Unavailable');
    case 'not-json':
      return text(200, '<!doctype html><title>Vast.ai</title>', 'text/html');
    case 'truncated':
      return { kind: 'truncated' };
    case 'redirect-308':
      return { kind: 'answer', status: 308, contentType: 'text/plain', body: '', location: '/moved' };
    case 'reset':
      return { kind: 'reset' };
    case 'hang':
      return { kind: 'hang' };
    default:
      return undefined;
  }
}

const invalidKey = { success: false, error: 'auth_error', msg: 'Invalid user key' };
