import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { validateRequestPart } from '../../src/http/validation.ts';
import { ServiceError } from '../../src/errors.ts';
import { jobQuerySchema, jobRequestSchema } from '../../src/jobs/schemas.ts';
import { formatPath } from '../../src/support/issues.ts';

/** What a caller is told about a body. */
function complaintAbout(schema: z.ZodType, data: unknown): ServiceError {
  const validate = validateRequestPart({ schema, method: 'POST', url: '/', httpPart: 'body' });
  const result: { error?: unknown } = Object(validate(data));
  if (result.error instanceof ServiceError) return result.error;
  throw new Error('The body was accepted.');
}

const job = z.strictObject({
  name: z.string().min(2).max(5).optional(),
  priority: z.int().min(0).max(9).default(0),
  status: z.enum(['on', 'off']).optional(),
  phase: z.union([z.enum(['on', 'off']), z.array(z.enum(['on', 'off']))]).optional(),
  inputs: z
    .array(z.strictObject({ node: z.string(), value: z.union([z.string(), z.number()]).optional() }))
    .max(2)
    .default([]),
  region: z
    .string()
    .regex(/^[A-Z]{2}$/, 'two capital letters, such as "DE"')
    .optional(),
});

describe('a complaint about a request', () => {
  it.each([
    [{ inputs: [{}] }, 'inputs[0].node', 'it is missing and must be text.'],
    [{ priority: '1' }, 'priority', 'it must be a number.'],
    [{ priority: 1.5 }, 'priority', 'it must be a whole number.'],
    [{ priority: -1 }, 'priority', 'it must be at least 0.'],
    [{ name: 'a' }, 'name', 'it must have at least 2 characters.'],
    [{ name: 'abcdef' }, 'name', 'it must have at most 5 characters.'],
    [{ status: 'maybe' }, 'status', 'it must be one of "on", "off".'],
    [{ phase: 'maybe' }, 'phase', 'it must be one of "on", "off".'],
    [{ phase: ['on', 'maybe'] }, 'phase[1]', 'it must be one of "on", "off".'],
    [{ inputs: [{ node: '1' }, { node: '2' }, { node: '3' }] }, 'inputs', 'it must have at most 2 entries.'],
    [{ inputs: [{ node: '1', value: true }] }, 'inputs[0].value', 'it must be text or a number.'],
    [{ inputs: [{ node: '1', seed: 7 }] }, 'inputs[0].seed', 'there is no such field.'],
    [{ region: 'de' }, 'region', 'two capital letters, such as "DE".'],
  ])('about %j names the field and says what it must be', (body, field, phrase) => {
    const error = complaintAbout(job, body);
    expect(error.code).toBe('invalid_request');
    expect(error.field).toBe(field);
    expect(error.message).toBe(`"${field}" is not valid: ${phrase}`);
  });

  it('lists every field at fault and counts those beyond the first', () => {
    const error = complaintAbout(job, { name: 'a', foo: 1, bar: 2 });
    expect(error.message).toMatch(/^"name" is not valid: .* There are 2 more problems; see "errors"\.$/);
    expect(error.extra).toMatchObject({ errors: [{ field: 'name' }, { field: 'foo' }, { field: 'bar' }] });
  });

  it('lists at most twenty, so that a hostile body makes no huge answer', () => {
    const fields = Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`field${index}`, index]));
    const error = complaintAbout(job, fields);
    expect(error.extra?.['errors']).toHaveLength(20);
  });

  it('says that there is no body, unless the schema can do without', () => {
    expect(complaintAbout(job, null).message).toBe('The request has no body. Send a JSON object.');
    const validate = validateRequestPart({
      schema: job.prefault({}),
      method: 'POST',
      url: '/',
      httpPart: 'body',
    });
    expect(validate(null)).toEqual({ value: { priority: 0, inputs: [] } });
  });

  it('speaks of the whole where no field is at fault', () => {
    const error = complaintAbout(job, [1]);
    expect(error.message).toBe('The body is not valid: it must be an object.');
    expect(error.field).toBeUndefined();
  });

  it('complains about the alternative of a union that the caller meant', () => {
    const source = z.union([
      z.strictObject({ url: z.url() }),
      z.strictObject({ asset: z.strictObject({ id: z.uuid() }) }),
    ]);
    expect(complaintAbout(z.object({ source }), { source: { asset: { id: 'x' } } }).field).toBe(
      'source.asset.id',
    );
  });

  it('says of a value that may be anything only that it is missing', () => {
    const { message } = complaintAbout(z.object({ workflow: z.unknown() }), {});
    expect(message).toBe('"workflow" is not valid: it is missing.');
  });

  it('says which URLs a job takes', () => {
    const url = 'ftp://a/x';
    const inputs = [{ node: '1', input: 'image', url }];
    expect(complaintAbout(jobRequestSchema, { workflow: {}, inputs, webhookUrl: url }).extra).toEqual({
      errors: [
        { field: 'inputs[0].url', detail: '"inputs[0].url" is not valid: it must be an http or https URL.' },
        { field: 'webhookUrl', detail: '"webhookUrl" is not valid: it must be an http or https URL.' },
      ],
    });
  });

  it('says what the name of an API key looks like', () => {
    expect(complaintAbout(jobQuerySchema, { apiKey: 'my key' }).message).toBe(
      '"apiKey" is not valid: it must be the name of an API key: 1 to 64 letters, digits, _ . or -.',
    );
  });

  it('complains about the key of a record where the key is at fault', () => {
    const metadata = z.record(z.string().max(3), z.string());
    const error = complaintAbout(z.object({ metadata }), { metadata: { toolong: 'x' } });
    expect(error.field).toBe('metadata.toolong');
    expect(error.message).toContain('at most 3 characters');
  });
});

it('writes a path as a caller would', () => {
  expect(formatPath(['inputs', 0, 'node'])).toBe('inputs[0].node');
  expect(formatPath(['workflow', '3', 'class_type'])).toBe('workflow["3"].class_type');
});
