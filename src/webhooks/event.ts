// What a receiver is sent: the body of an event.
import type { z } from 'zod';
import type { JobView } from '../jobs/presentation.ts';
import type { WebhookEvent } from './delivery.ts';
import type { webhookEventSchema } from './schemas.ts';

/** The job as `GET /jobs/{id}` shows it, at the time of the first try. Its paths become URLs where the service knows its own. */
export function eventBody(
  type: WebhookEvent,
  timestamp: Date,
  job: JobView,
  publicUrl: string | undefined,
): string {
  const absolute = (url: string): string => (url.startsWith('/') ? `${publicUrl ?? ''}${url}` : url);
  const { self, events, cancel } = job.urls;
  const data = {
    ...job,
    outputs: job.outputs.map((output) => ({ ...output, url: absolute(output.url) })),
    urls: { ...job.urls, self: absolute(self), events: absolute(events), cancel: absolute(cancel) },
  };
  const event: z.output<typeof webhookEventSchema> = { type, timestamp: timestamp.toISOString(), data };
  return JSON.stringify(event);
}
