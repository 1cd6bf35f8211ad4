// Values that a schema of the API accepts.
import fc from 'fast-check';
import type { Api, Schema } from './api.ts';

/** Stands for an id of something that exists when the request is sent; see `fillIn`. */
export type Kind = 'jobs' | 'instances' | 'assets' | 'batches' | 'deliveries' | 'outputs';

export function idOf(kind: Kind): fc.Arbitrary<string> {
  return fc.nat(999).map((index) => `{{${kind}:${index}}}`);
}

/** The usual five times in six. */
export function rarely<T>(odd: fc.Arbitrary<T>, usual: fc.Arbitrary<NoInfer<T>>): fc.Arbitrary<T> {
  return fc.oneof({ weight: 5, arbitrary: usual }, { weight: 1, arbitrary: odd });
}

/** Values for fields of a certain name, which their schema does not describe well enough. */
export type Special = Readonly<Record<string, fc.Arbitrary<unknown>>>;

/** What `name` may hold; the names of the fields around it do not matter. */
export function valueOf(api: Api, schema: Schema, special: Special, name = ''): fc.Arbitrary<unknown> {
  const own = special[name];
  if (own !== undefined) return own;
  const { $ref, const: only, enum: choices, anyOf, oneOf, type } = schema;
  if ($ref !== undefined) return valueOf(api, api.resolve(schema), special, name);
  if (only !== undefined) return fc.constant(only);
  if (Array.isArray(choices)) return fc.constantFrom<unknown>(...choices);
  const alternatives = listOf(anyOf ?? oneOf);
  if (alternatives.length > 0) {
    return fc.oneof(...alternatives.map((each) => valueOf(api, each, special, name)));
  }
  switch (type) {
    case 'object':
      return objectOf(api, schema, special);
    case 'array':
      return fc.array(valueOf(api, schemaOf(schema['items']), special, name), {
        minLength: numberOf(schema['minItems'], 0),
        maxLength: Math.min(numberOf(schema['maxItems'], 4), 4),
      });
    case 'string':
      return textOf(schema);
    case 'integer':
      return integerOf(schema);
    case 'number':
      return fc.oneof(integerOf(schema), fractionOf(schema));
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    default:
      return fc.jsonValue({ maxDepth: 2 });
  }
}

/** As it stands in a query or a header. */
export function wordOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function objectOf(api: Api, schema: Schema, special: Special): fc.Arbitrary<unknown> {
  const properties = Object.entries(Object(schema['properties']));
  const required = new Set(Array.isArray(schema['required']) ? schema['required'] : []);
  const fields = properties.map(([name, member]) => {
    const value = valueOf(api, schemaOf(member), special, name);
    return [name, required.has(name) ? value : fc.option(value, { freq: 1, nil: undefined })] as const;
  });
  const known = fc.record(Object.fromEntries(fields)).map(withoutAbsent);
  const { additionalProperties } = schema;
  if (properties.length > 0 || additionalProperties === undefined || additionalProperties === false)
    return known;
  return fc.dictionary(
    fc.string({ minLength: 1, maxLength: 20 }),
    valueOf(api, schemaOf(additionalProperties), special),
    {
      maxKeys: 4,
    },
  );
}

function textOf({ format, pattern, minLength, maxLength }: Schema): fc.Arbitrary<string> {
  const times = fc.date({ min: new Date('2020-01-01'), max: new Date('2030-01-01'), noInvalidDate: true });
  switch (format) {
    case 'uuid':
      return fc.uuid();
    case 'date-time':
      return times.map((time) => time.toISOString());
    case 'date':
      return times.map((time) => time.toISOString().slice(0, 10));
    case 'uri':
      return fc.webUrl();
    default:
      if (typeof pattern === 'string') return fc.stringMatching(new RegExp(pattern));
      return fc.string({
        unit: 'grapheme',
        minLength: numberOf(minLength, 0),
        maxLength: Math.min(numberOf(maxLength, 40), 40),
      });
  }
}

function integerOf(schema: Schema): fc.Arbitrary<number> {
  const { min, max } = rangeOf(schema);
  return fc.integer({ min: Math.ceil(min), max: Math.floor(max) });
}

function fractionOf(schema: Schema): fc.Arbitrary<number> {
  const { exclusiveMinimum } = schema;
  return fc.double({ ...rangeOf(schema), noNaN: true, minExcluded: exclusiveMinimum !== undefined });
}

function rangeOf({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Schema): {
  min: number;
  max: number;
} {
  const min = numberOf(minimum ?? exclusiveMinimum, -1000);
  return { min, max: numberOf(maximum ?? exclusiveMaximum, Math.max(1000, min + 1000)) };
}

function withoutAbsent(object: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

function numberOf(value: unknown, otherwise: number): number {
  return typeof value === 'number' && Math.abs(value) < 2 ** 31 ? value : otherwise;
}

function schemaOf(value: unknown): Schema {
  return Object(value) as Schema;
}

function listOf(value: unknown): Schema[] {
  return Array.isArray(value) ? value.map(schemaOf) : [];
}
