import { beforeAll, expect, it } from 'vitest';
import { openApiDocument } from '../../src/app.ts';
import { fileQuerySchema } from '../../src/assets/send.ts';
import { validateRequestPart } from '../../src/http/validation.ts';

interface Document {
  paths: Record<string, Record<string, { parameters?: { name: string; schema: object }[] }>>;
}

let paths: Document['paths'];
beforeAll(async () => {
  ({ paths } = (await openApiDocument()) as Document);
});

it.each(['drain', 'previews', 'download'])(
  'the flag %s is described as one, with what it is when absent',
  (flag) => {
    const operations = Object.values(paths).flatMap((path) => Object.values(path));
    const found = operations.flatMap(({ parameters = [] }) => parameters.filter(({ name }) => name === flag));
    expect(found.length).toBeGreaterThan(0);
    for (const { schema } of found) expect(schema).toEqual({ type: 'boolean', default: false });
  },
);

it.each([
  [{}, false],
  [{ download: 'true' }, true],
  [{ download: '1' }, true],
  [{ download: 'false' }, false],
])('%j is read as %j', (query, download) => {
  expect(fileQuerySchema.parse(query).download).toBe(download);
});

it.each(['maybe', ''])('what is no flag, such as "%s", is told what it must be', (download) => {
  const validate = validateRequestPart({
    schema: fileQuerySchema,
    method: 'GET',
    url: '/',
    httpPart: 'querystring',
  });
  expect(validate({ download })).toMatchObject({
    error: { field: 'download', message: '"download" is not valid: it must be true or false.' },
  });
});
