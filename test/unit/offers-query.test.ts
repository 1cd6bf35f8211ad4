import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openApiDocument } from '../../src/app.ts';
import type { App } from '../../src/http/server.ts';
import { requirementsSchema, type RequestedRequirements } from '../../src/instances/requirements.ts';
import { instanceRoutes } from '../../src/instances/routes.ts';
import type { Instances } from '../../src/instances/service.ts';
import { systemClock } from '../../src/support/clock.ts';
import { createTestApp } from '../support/http.ts';

const unused = async () => {
  throw new Error('Only offers are asked for.');
};
let asked: RequestedRequirements | null = null;
const instances: Instances = {
  async offers(requested) {
    asked = requested;
    return { offers: [], rejected: [] };
  },
  request: unused,
  list: unused,
  get: unused,
  end: unused,
};

describe('the query of GET /offers', () => {
  let app: App;
  beforeAll(async () => {
    ({ app } = await createTestApp({ routes: [instanceRoutes(instances, systemClock)] }));
  });
  afterAll(() => app.close());

  it.each([
    ['', {}],
    ['gpuName=RTX+4090&region=DE', { gpuNames: ['RTX 4090'], regions: ['DE'] }],
    ['region=DE&region=FR', { regions: ['DE', 'FR'] }],
    ['minVramGb=24&maxPricePerHourUsd=0.5', { minVramGb: 24, maxPricePerHourUsd: 0.5 }],
    ['minReliability=0&verifiedOnly=false', { minReliability: 0, verifiedOnly: false }],
    ['verifiedOnly=1', { verifiedOnly: true }],
  ])('asks with "%s" for what a body would', async (query, body) => {
    expect((await app.inject(`/offers?${query}`)).statusCode).toBe(200);
    expect(asked).toEqual(requirementsSchema.parse(body));
  });

  it.each([
    ['region=de', 'region', 'two capital letters, such as "DE".'],
    ['region=DE&region=de', 'region[1]', 'two capital letters, such as "DE".'],
    ['gpuName=', 'gpuName', 'it must have at least 1 character.'],
    ['minReliability=', 'minReliability', 'it must be a number.'],
    ['minReliability=+', 'minReliability', 'it must be a number.'],
    ['minVramGb=much', 'minVramGb', 'it must be a number.'],
    ['minVramGb=-4', 'minVramGb', 'it must be at least 1.'],
    ['gpuCount=1.5', 'gpuCount', 'it must be a whole number.'],
    ['diskGb=80&diskGb=90', 'diskGb', 'it must be a number.'],
    ['verifiedOnly=', 'verifiedOnly', 'it must be true or false.'],
  ])('is refused with "%s", by the name that it has there', async (query, field, phrase) => {
    const answer = await app.inject(`/offers?${query}`);
    expect(answer.json()).toMatchObject({
      status: 400,
      field,
      detail: `"${field}" is not valid: ${phrase}`,
    });
  });
});

it('describes the parameters of GET /offers as it does the fields of requirements', async () => {
  const document: Document = Object(await openApiDocument());
  const {
    gpuNames: _names,
    regions: _regions,
    ...fields
  } = document.components.schemas.Requirements.properties;
  const parameters = document.paths['/offers'].get.parameters.filter(({ name }) => name in fields);
  const described = parameters.map(({ name, description, schema }) => [name, { ...schema, description }]);
  expect(Object.fromEntries(described)).toEqual(fields);
});

interface Document {
  paths: {
    '/offers': { get: { parameters: { name: string; description?: string; schema: object }[] } };
  };
  components: { schemas: { Requirements: { properties: Record<string, object> } } };
}
