import { createHmac, randomBytes } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { describe, expect, it } from 'vitest';
import { ConfigError, loadConfig } from '../../src/config.ts';
import { createLogger } from '../../src/support/log.ts';
import { signatureHeaders } from '../../src/webhooks/signature.ts';

const secret = `whsec_${randomBytes(32).toString('base64')}`;
const older = `whsec_${randomBytes(24).toString('base64')}`;
const body = '{"type":"job.succeeded","data":{"name":"Größe 🎬"}}';

describe('the signature of a webhook', () => {
  it('is the HMAC of id, time and body that Standard Webhooks describes', () => {
    const headers = signatureHeaders([secret], { id: 'one', at: new Date(1_700_000_000_999), body });
    const key = Buffer.from(secret.slice('whsec_'.length), 'base64');
    const expected = createHmac('sha256', key).update(`one.1700000000.${body}`).digest('base64');
    expect(headers).toEqual({
      'webhook-id': 'one',
      'webhook-timestamp': '1700000000',
      'webhook-signature': `v1,${expected}`,
    });
  });

  it.each([
    ['the new secret', secret],
    ['the old one', older],
  ])('is good for a receiver that knows only %s while both sign', (_name, known) => {
    const headers = signatureHeaders([secret, older], { id: 'one', at: new Date(), body });
    expect(new Webhook(known).verify(body, headers)).toEqual(JSON.parse(body));
  });

  it('is not good for another body, another id or another secret', () => {
    const headers = signatureHeaders([secret], { id: 'one', at: new Date(), body });
    expect(() => new Webhook(secret).verify(`${body} `, headers)).toThrow('No matching signature');
    expect(() => new Webhook(secret).verify(body, { ...headers, 'webhook-id': 'two' })).toThrow(
      'No matching',
    );
    expect(() => new Webhook(older).verify(body, headers)).toThrow('No matching');
  });

  it('is refused by a receiver when it is old', () => {
    const headers = signatureHeaders([secret], { id: 'one', at: new Date(Date.now() - 600_000), body });
    expect(() => new Webhook(secret).verify(body, headers)).toThrow('too old');
  });
});

describe('WEBHOOK_SECRET', () => {
  it('takes one secret or two', () => {
    expect(loadConfig({}).WEBHOOK_SECRET).toEqual([]);
    expect(loadConfig({ WEBHOOK_SECRET: secret }).WEBHOOK_SECRET).toEqual([secret]);
    expect(loadConfig({ WEBHOOK_SECRET: `${secret}, ${older}` }).WEBHOOK_SECRET).toEqual([secret, older]);
  });

  it.each([
    ['without its prefix', randomBytes(32).toString('base64')],
    ['that is too short', `whsec_${randomBytes(23).toString('base64')}`],
    ['that is too long', `whsec_${randomBytes(65).toString('base64')}`],
    ['that is not base64', `whsec_${'é'.repeat(40)}`],
  ])('refuses a secret %s, and does not repeat it', (_name, bad) => {
    try {
      loadConfig({ WEBHOOK_SECRET: bad });
      expect.unreachable();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      expect(error.message).toContain('WEBHOOK_SECRET');
      expect(error.message).not.toContain(bad);
    }
  });

  it('is hidden in the log, each of the two', () => {
    const lines: string[] = [];
    const config = loadConfig({ WEBHOOK_SECRET: `${secret},${older}` });
    createLogger(config, { write: (line) => lines.push(line) }).info({ odd: [secret, older] }, `x ${older}`);
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain(secret);
    expect(lines[0]).not.toContain(older);
  });
});
