// A receiver of webhooks on loopback: checks each with the library that receivers are told to use, and answers as a test wants.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';
import { createWake } from '../../src/support/wake.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { startTinyServer } from './tiny-server.ts';

export const webhookSecret = 'whsec_dGhlIHNlY3JldCBvZiB0aGUgdGVzdHMsIG5vdCBvdXJz';

export interface ReceivedEvent {
  path: string;
  /** The header `webhook-id`. */
  id: string;
  body: string;
  event: { type: string; timestamp: string; data: JobView };
}

export interface WebhookReceiver {
  readonly url: string;
  /** As the settings name it. */
  readonly host: string;
  /** All that came and was signed as it should be. */
  readonly received: ReceivedEvent[];
  /** Most requests that were unanswered at once. */
  mostAtOnce(): number;
  /** Resolves when `count` events have come to a path; rejects after 30 s. */
  got(count: number, path?: string): Promise<ReceivedEvent[]>;
  close(): Promise<void>;
}

/** `answer` gets every event with how many there were before it on its path; it may leave it unanswered. */
export async function startWebhookReceiver(
  answer: (response: ServerResponse, path: string, before: number) => void = (response) =>
    void response.end(),
): Promise<WebhookReceiver> {
  const received: ReceivedEvent[] = [];
  const wake = createWake();
  let open = 0;
  let mostAtOnce = 0;
  const take = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await text(request);
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    const path = request.url ?? '';
    const event = new Webhook(webhookSecret).verify(body, headers) as ReceivedEvent['event'];
    const before = received.filter((earlier) => earlier.path === path).length;
    received.push({ path, id: headers['webhook-id'] ?? '', body, event });
    answer(response, path, before);
    wake.now();
  };
  const server = await startTinyServer((request, response) => {
    open += 1;
    mostAtOnce = Math.max(mostAtOnce, open);
    response.on('close', () => (open -= 1));
    take(request, response).catch(() => response.writeHead(401).end());
  });
  return {
    url: server.url,
    host: new URL(server.url).host,
    received,
    mostAtOnce: () => mostAtOnce,
    async got(count, path) {
      const limit = AbortSignal.timeout(30_000);
      for (;;) {
        const found = received.filter((one) => path === undefined || one.path === path);
        if (found.length >= count) return found;
        await wake.wait(1000, limit);
      }
    },
    close: server.close,
  };
}
