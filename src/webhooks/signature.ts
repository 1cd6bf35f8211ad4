// Signs deliveries as Standard Webhooks (standardwebhooks.com) has it.
import { Webhook } from 'standardwebhooks';

export interface Signed {
  /** The same for every try, so that a receiver knows what it has had. */
  id: string;
  /** When this try is made. */
  at: Date;
  body: string;
}

/** The three headers of a try. Each secret signs, so that a receiver may know either while one replaces the other. */
export function signatureHeaders(
  secrets: readonly string[],
  { id, at, body }: Signed,
): Record<string, string> {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': secrets.map((secret) => new Webhook(secret).sign(id, at, body)).join(' '),
  };
}
