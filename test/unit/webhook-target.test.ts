import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { checkWebhookUrl } from '../../src/webhooks/target.ts';
import { webhookSecret } from '../support/webhook-receiver.ts';

const ready = loadConfig({ WEBHOOK_SECRET: webhookSecret });

describe('the webhookUrl of a job', () => {
  it('needs a secret, and says which setting', () => {
    const check = () => checkWebhookUrl('https://example.com/hook', loadConfig({}));
    expect(check).toThrow(expect.objectContaining({ code: 'webhooks_not_configured', field: 'webhookUrl' }));
    expect(check).toThrow('WEBHOOK_SECRET');
  });

  it('may be absent without one', () => {
    expect(checkWebhookUrl(undefined, loadConfig({}))).toBeNull();
  });

  it('is kept as a database can hold it', () => {
    expect(checkWebhookUrl('https://EXAMPLE.com/h\u{f6}ok?a=\0b', ready)).toBe(
      'https://example.com/h%C3%B6ok?a=%00b',
    );
  });

  it('may not be private', () => {
    expect(() => checkWebhookUrl('https://10.1.2.3/', ready)).toThrow(
      expect.objectContaining({ code: 'invalid_input', field: 'webhookUrl' }),
    );
  });
});
