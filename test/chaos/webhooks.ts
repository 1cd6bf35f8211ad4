// The receiver of a scenario's webhooks: what came, from a service that is killed while it delivers, to one that refuses some at first.
import type { Random } from '../doubles/vast/random.ts';
import { startWebhookReceiver, webhookSecret } from '../support/webhook-receiver.ts';

/** One webhook as it came; a repeated one has the id of the first, by which receivers tell. */
export interface Announcement {
  id: string;
  type: string;
}

export interface Webhooks {
  /** Where jobs are to be announced. */
  readonly url: string;
  /** Settings of the service. */
  readonly env: Record<string, string>;
  /** All that came so far, by job. */
  announced(): Map<string, Announcement[]>;
}

/** The share of those that are refused when they come for the first time. */
const REFUSED = 0.1;

export async function receiveWebhooks(random: Random, stack: AsyncDisposableStack): Promise<Webhooks> {
  const receiver = await startWebhookReceiver((response, _path, before) => {
    const isRefused = before === 0 && random.fraction() < REFUSED;
    response.writeHead(isRefused ? 500 : 204).end();
  });
  stack.defer(() => receiver.close());
  return {
    url: `${receiver.url}/ends`,
    env: {
      WEBHOOK_SECRET: webhookSecret,
      WEBHOOK_ALLOWED_HOSTS: receiver.host,
      WEBHOOK_TIMEOUT_SECONDS: '5',
      WEBHOOK_RETRY_SECONDS: Array.from({ length: 20 }, () => '0.5').join(','),
    },
    announced: () =>
      new Map(
        [...Map.groupBy(receiver.received, ({ event }) => event.data.id)].map(([jobId, events]) => [
          jobId,
          events.map(({ id, event }) => ({ id, type: event.type })),
        ]),
      ),
  };
}
