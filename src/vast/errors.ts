// What vast.ai's refusals mean: one table, read from the top.
import type { ProviderErrorKind } from '../instances/provider.ts';
import { ProviderError } from '../instances/provider.ts';
import { briefText } from './redaction.ts';
import type { Answer } from './transport.ts';
import { isRecord } from '../support/is-record.ts';

export interface Refusal {
  status: number;
  /** vast.ai's `error`, such as "no_such_ask". */
  code: string | null;
  message: string | null;
  /** A contract that exists in spite of the refusal. */
  leftoverId: string | null;
  /** vast.ai's own words, rather than the page of some proxy. */
  isVast: boolean;
}

interface Rule {
  kind: ProviderErrorKind;
  codes?: string[];
  statuses?: number[];
  text?: RegExp;
  /** Only for a call that rents. */
  renting?: true;
}

/**
 * The key comes first: vast.ai answers 404 to an unknown key, and who read that as "gone" would lose sight of machines that cost money.
 * Codes are matched within the text too, which may read "error 404/3603: no_such_ask Instance type by id ...".
 */
const rules: Rule[] = [
  {
    kind: 'unauthorized',
    codes: ['auth_error'],
    statuses: [401],
    text: /invalid user key|session expired|requires login/i,
  },
  {
    kind: 'rate_limited',
    codes: ['rate_limit_exceeded'],
    statuses: [429],
    text: /requests too frequent/i,
  },
  {
    kind: 'no_credit',
    codes: ['insufficient_credit', 'spend_rate_limit', 'missing_billing'],
    statuses: [402],
    text: /lacks credit/i,
  },
  {
    kind: 'offer_gone',
    codes: ['no_such_ask'],
    text: /not your own|is not available|no longer available|currently unavailable/i,
    renting: true,
  },
  // The logs of somebody else's instance: the key is good.
  { kind: 'invalid', codes: ['not_authorized'] },
];

/** What the answer says against our call; null when it is a success. A 200 with `success: false` is a refusal. */
export function refusalIn(answer: Answer): Refusal | null {
  const body = isRecord(answer.json) ? answer.json : {};
  const code = textIn(body.error);
  const isSuccess = answer.status >= 200 && answer.status < 300;
  if (isSuccess && body.success !== false && (code === null || body.success === true)) return null;
  const message = textIn(body.msg) ?? textIn(body.message);
  const isPage = answer.text.trimStart().startsWith('<');
  const plain = textIn(body.detail) ?? (isRecord(answer.json) || isPage ? null : answer.text);
  return {
    status: answer.status,
    code,
    message: message ?? plain,
    leftoverId: contractIn(answer),
    isVast: code !== null || message !== null || body.success === false,
  };
}

/** The contract named anywhere in an answer, whatever else it says. */
export function contractIn(answer: Answer): string | null {
  const id = isRecord(answer.json) ? answer.json.new_contract : undefined;
  if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return String(id);
  return typeof id === 'string' && /^\d+$/.test(id) ? id : null;
}

/** Whether vast.ai itself says that it has no such instance. A wrong key, a moved endpoint or a proxy's page say nothing of the kind. */
export function saysGone(refusal: Refusal): boolean {
  if (refusal.status !== 404 && refusal.status !== 410) return refusal.code === 'no_such_instance';
  if (!refusal.isVast || refusal.code === 'deprecated_endpoint') return false;
  return ruleFor(refusal, false) === undefined;
}

export function isRateLimited(answer: Answer): boolean {
  const refusal = refusalIn(answer);
  return refusal !== null && ruleFor(refusal, false)?.kind === 'rate_limited';
}

/** The error for a refusal. `what` says what was tried; `secrets` never show. */
export function refusalError(
  what: string,
  refusal: Refusal,
  { rents, secrets }: { rents: boolean; secrets: readonly string[] },
): ProviderError {
  const code = briefText(refusal.code, secrets, 60);
  const message = briefText(refusal.message, secrets);
  const words = [code, message].filter((part) => part !== null).join(': ');
  return new ProviderError(
    kindOf(refusal, rents),
    `${what}: vast.ai answered ${refusal.status}${words === '' ? '' : ` (${words})`}`,
    refusal.leftoverId === null ? {} : { leftoverId: refusal.leftoverId },
  );
}

function kindOf(refusal: Refusal, rents: boolean): ProviderErrorKind {
  const { status, isVast } = refusal;
  // Whatever the words: behind a server that failed, the rental may have been made.
  if (rents && status >= 500) return 'ambiguous';
  const rule = ruleFor(refusal, rents);
  if (rule !== undefined) return rule.kind;
  // "success: false" without a reason that we know: this offer was refused, another may do.
  if (status < 300) return rents ? 'offer_gone' : 'unavailable';
  const isAnswered = status >= 400 && status < 500 && status !== 408 && isVast;
  if (!isAnswered) return rents ? 'ambiguous' : 'unavailable';
  return status === 403 ? 'unauthorized' : 'invalid';
}

function ruleFor(refusal: Refusal, rents: boolean): Rule | undefined {
  const { status, code, message } = refusal;
  return rules.find((rule) => {
    if (rule.renting === true && !rents) return false;
    if (rule.statuses?.includes(status) === true) return true;
    if (rule.codes?.some((known) => code === known || message?.includes(known) === true) === true)
      return true;
    return message !== null && rule.text?.test(message) === true;
  });
}

function textIn(value: unknown): string | null {
  return typeof value === 'string' && value.trim() !== '' ? value : null;
}
