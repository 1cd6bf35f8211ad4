// What vast.ai's refusals mean, answer by answer.
import { describe, expect, it } from 'vitest';
import { refusalError, refusalIn, saysGone } from '../../src/vast/errors.ts';
import type { Answer } from '../../src/vast/transport.ts';

const secrets = ['account-key-0123456789'];

function answer(status: number, body: unknown): Answer {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return { status, text, json: typeof body === 'string' ? undefined : body, retryAfterMs: null };
}

function refusalOf(status: number, body: unknown) {
  const refusal = refusalIn(answer(status, body));
  if (refusal === null) throw new Error('it was a success');
  return refusal;
}

function kindOf(status: number, body: unknown, rents: boolean) {
  return refusalError('Trying', refusalOf(status, body), { rents, secrets }).kind;
}

const invalidKey = { success: false, error: 'auth_error', msg: 'Invalid user key' };

describe('an answer about the key', () => {
  it.each([
    [404, invalidKey],
    [401, invalidKey],
    [403, { success: false, error: 'auth_error', msg: 'This action requires login.' }],
    [404, { success: false, error: 'auth_error', msg: 'Session expired. Please log in again.' }],
    [404, { msg: 'Invalid user key' }],
    [403, { success: false, error: 'forbidden', msg: 'The key has no permission instance_write' }],
  ])('is unauthorized and never "gone" (%i %o)', (status, body) => {
    expect(kindOf(status, body, true)).toBe('unauthorized');
    expect(kindOf(status, body, false)).toBe('unauthorized');
    expect(saysGone(refusalOf(404, invalidKey))).toBe(false);
  });
});

describe('a refused create', () => {
  it.each([
    [400, { success: false, error: 'no_such_ask', msg: 'stale' }, 'offer_gone'],
    [
      404,
      { error: 'invalid_args', msg: 'error 404/3603: no_such_ask Instance type by id 7 is not available.' },
      'offer_gone',
    ],
    [
      410,
      { error: 'no_such_ask', msg: 'error 410/3907: no_such_ask Instance type 7 is no longer available.' },
      'offer_gone',
    ],
    [403, { error: 'invalid_args', msg: 'error 403/3586: Offer 7 is not your own' }, 'offer_gone'],
    [200, { success: false, msg: 'Something went wrong.' }, 'offer_gone'],
    [
      400,
      { error: 'insufficient_credit', msg: 'Your account lacks credit; see the billing page.' },
      'no_credit',
    ],
    [200, { success: false, error: 'spend_rate_limit' }, 'no_credit'],
    [400, { success: false, error: 'missing_billing' }, 'no_credit'],
    [400, { success: false, error: 'invalid_args', msg: 'error 400/3467: Invalid args: disk' }, 'invalid'],
    [400, { success: false, error: 'invalid_price' }, 'invalid'],
    [429, 'API requests too frequent', 'rate_limited'],
    [429, { detail: 'API requests too frequent endpoint threshold=4.5' }, 'rate_limited'],
    [429, { success: false, error: 'rate_limit_exceeded', msg: 'slow' }, 'rate_limited'],
  ])('%i %o is %s', (status, body, kind) => {
    expect(kindOf(status, body, true)).toBe(kind);
  });

  it.each([
    [500, { success: false, error: 'server_error' }],
    [503, 'Service Unavailable'],
    [503, { success: false, error: 'no_such_ask' }],
    [502, '<html>Bad Gateway</html>'],
    [408, { error: 'timeout', msg: 'Request timeout' }],
    [403, '<html>Blocked</html>'],
    [404, { detail: 'Not Found' }],
    [308, ''],
  ])('%i %o may have rented all the same', (status, body) => {
    expect(kindOf(status, body, true)).toBe('ambiguous');
    expect(kindOf(status, body, false)).toBe('unavailable');
  });

  it.each([
    [400, { success: false, error: 'invalid_price', new_contract: 36_717_044 }],
    [503, { new_contract: '36717044' }],
    [200, { success: false, new_contract: 36_717_044 }],
  ])('names the rental that it left behind (%i %o)', (status, body) => {
    expect(refusalError('Renting', refusalOf(status, body), { rents: true, secrets }).leftoverId).toBe(
      '36717044',
    );
  });
});

describe('"gone"', () => {
  it.each([
    [404, { success: false, error: 'not_found', msg: 'Instance not found' }],
    [404, { success: false, error: 'no_such_instance' }],
    [410, { success: false, error: 'no_such_instance' }],
    [404, { error: 'invalid_id', msg: 'Invalid instance id.' }],
    [200, { success: false, error: 'no_such_instance' }],
  ])("is vast.ai's own word (%i %o)", (status, body) => {
    expect(saysGone(refusalOf(status, body))).toBe(true);
  });

  it.each([
    [404, '<html>Not Found</html>'],
    [404, { detail: 'Not Found' }],
    [410, { success: false, error: 'deprecated_endpoint', msg: '/api/v0/instances/ is deprecated.' }],
    [404, invalidKey],
    [429, { success: false, error: 'rate_limit_exceeded' }],
    [500, { success: false, error: 'server_error' }],
    [200, { success: false, msg: 'Something went wrong.' }],
  ])('is not read into %i %o', (status, body) => {
    expect(saysGone(refusalOf(status, body))).toBe(false);
  });
});

it('a success is no refusal, whatever else it holds', () => {
  expect(refusalIn(answer(200, { success: true, new_contract: 1, error: '' }))).toBeNull();
  expect(refusalIn(answer(200, { instances: null }))).toBeNull();
});

it('the message says what was tried and what vast.ai answered, briefly and without secrets', () => {
  const body = {
    error: 'invalid_args',
    msg: `bad env WEB_PASSWORD=hunter2hunter2 for ${secrets[0]}\n${'x'.repeat(2000)}`,
  };
  const { message } = refusalError('Renting offer 7', refusalOf(400, body), { rents: true, secrets });
  expect(message).toMatch(/^Renting offer 7: vast\.ai answered 400 \(invalid_args: bad env/);
  expect(message).not.toMatch(/hunter2|account-key/);
  expect(message.length).toBeLessThan(500);
});
