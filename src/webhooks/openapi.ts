// The events in the OpenAPI document: what a receiver is sent, how it knows that it is ours, what it should answer.
import { webhookEvents, type WebhookEvent } from './delivery.ts';

const summaries: Record<WebhookEvent, string> = {
  'job.succeeded': 'A job succeeded; its outputs are stored',
  'job.failed': 'A job failed, and says why',
  'job.canceled': 'A job was canceled',
  'job.expired': 'A job waited longer for an instance than it was allowed to',
};

const description = `
Sent to the \`webhookUrl\` of a job, signed as [Standard Webhooks](https://www.standardwebhooks.com) has it, with the secret of the setting \`WEBHOOK_SECRET\`.

Verify each request with a [library of Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks/tree/main/libraries) before you believe it: \`webhook-signature\` holds one or more entries \`v1,<base64>\`, separated by spaces, each the HMAC-SHA256 of \`{webhook-id}.{webhook-timestamp}.{body}\`. The key is what follows \`whsec_\` in the secret, base64-decoded; the body is taken to the byte, before it is parsed. Refuse a timestamp more than five minutes from now.

Answer with any 2xx within the time limit. Anything else is tried again for about a day: a redirect is not followed, 410 ends the tries, and \`Retry-After\` of a 429 or 503 is heeded. An event may come more than once, with the same \`webhook-id\`, and events of several jobs come in no order.
`.trim();

const header = (name: string, text: string) => ({
  name,
  in: 'header' as const,
  required: true,
  description: text,
  schema: { type: 'string' as const },
});

/** The `webhooks` of the document. `WebhookEvent` is the component that the schema of that id becomes. */
export const webhookDescriptions = Object.fromEntries(
  webhookEvents.map((event) => [
    event,
    {
      post: {
        operationId: event.replace('.', '_'),
        tags: ['webhooks'],
        summary: summaries[event],
        description,
        security: [],
        parameters: [
          header('webhook-id', 'Id of the delivery; the same for every try'),
          header('webhook-timestamp', 'When this try is made, in seconds since 1970'),
          header('webhook-signature', 'One or more signatures, separated by spaces'),
        ],
        requestBody: {
          required: true,
          content: {
            'application/json': {
              schema: {
                allOf: [
                  { $ref: '#/components/schemas/WebhookEvent' },
                  { type: 'object' as const, properties: { type: { const: event } } },
                ],
              },
            },
          },
        },
        responses: {
          '2XX': { description: 'Received' },
          '410': { description: 'Nobody wants this any more; it is not tried again' },
          default: { description: 'Anything else is tried again later' },
        },
      },
    },
  ]),
);
