// Where a job wants to be announced: checked when it is submitted, and again at every try.
import type { Config } from '../config.ts';
import { ServiceError } from '../errors.ts';
import { parsePublicUrl } from '../support/public-url.ts';

/** The URL as it is stored; null for none. Throws `webhooks_not_configured`, or `invalid_input` where it may not be used. */
export function checkWebhookUrl(
  text: string | undefined,
  config: Pick<Config, 'WEBHOOK_SECRET' | 'WEBHOOK_ALLOWED_HOSTS'>,
): string | null {
  if (text === undefined) return null;
  const field = 'webhookUrl';
  if (config.WEBHOOK_SECRET.length === 0) {
    const detail =
      'This service signs its webhooks, and has nothing to sign them with: its setting WEBHOOK_SECRET is not set. Set it, or submit the job without webhookUrl.';
    throw new ServiceError('webhooks_not_configured', detail, { field });
  }
  return parsePublicUrl(text, { allowedHosts: config.WEBHOOK_ALLOWED_HOSTS, field }).href;
}
