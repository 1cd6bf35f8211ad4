import { beforeAll, describe, expect, it } from 'vitest';
import { openApiDocument } from '../../src/app.ts';
import { webhookEvents } from '../../src/webhooks/delivery.ts';

interface Document {
  openapi: string;
  webhooks: Record<
    string,
    { post: { operationId: string; parameters: { name: string }[]; requestBody: unknown } }
  >;
  components: { schemas: Record<string, { properties?: Record<string, unknown> }> };
}

let document: Document;

beforeAll(async () => {
  document = (await openApiDocument()) as Document;
});

describe('the OpenAPI document', () => {
  it('describes each event that is sent', () => {
    expect(document.openapi).toBe('3.1.0');
    expect(Object.keys(document.webhooks)).toEqual(webhookEvents);
    for (const { post } of Object.values(document.webhooks)) {
      expect(post.parameters.map(({ name }) => name)).toEqual([
        'webhook-id',
        'webhook-timestamp',
        'webhook-signature',
      ]);
      expect(JSON.stringify(post.requestBody)).toContain('#/components/schemas/WebhookEvent');
    }
  });

  it('has the schema of an event with its job', () => {
    expect(document.components.schemas['WebhookEvent']?.properties).toMatchObject({
      type: { enum: webhookEvents },
      data: { $ref: '#/components/schemas/Job' },
    });
  });
});
