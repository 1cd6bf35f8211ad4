// Bodies: as the schemas have them, changed in places, spoiled as text, as forms, and of the wrong kind altogether.
import fc from 'fast-check';
import type { Api, Operation } from './api.ts';
import { formOf, spoiledForm } from './forms.ts';
import { change, changed, spoiledJson } from './nasty.ts';
import { rarely, valueOf, type Special } from './values.ts';

export interface Payload {
  contentType: string | null;
  bytes: Buffer | null;
}

export function payloadOf(api: Api, operation: Operation, special: Special): fc.Arbitrary<Payload> {
  const { 'application/json': json, 'multipart/form-data': form } = operation.bodies;
  const none: Payload = { contentType: null, bytes: null };
  const kinds: fc.Arbitrary<Payload>[] = [];
  if (json !== undefined) {
    const good = valueOf(api, json, special).map(jsonText);
    const bad = fc
      .tuple(valueOf(api, json, special), fc.array(change, { minLength: 1, maxLength: 2 }))
      .map(([value, changes]) => jsonText(changes.reduce(changed, value)));
    const spoiled = fc
      .tuple(valueOf(api, json, special), spoiledJson)
      .map(([value, spoil]) => spoil(jsonText(value).toString()));
    const bytes = fc.oneof(
      { weight: 5, arbitrary: good },
      { weight: 5, arbitrary: bad },
      { weight: 2, arbitrary: spoiled },
    );
    kinds.push(bytes.map((text) => ({ contentType: 'application/json', bytes: text })));
  }
  if (form !== undefined) {
    const fields =
      json === undefined
        ? fc.constant(null)
        : valueOf(api, json, special).map((value) => jsonText(value).toString());
    const name = Object.keys(Object(form['properties'])).find((field) => field !== 'file') ?? 'file';
    kinds.push(rarely(spoiledForm(name, fields), formOf(name, fields)));
  }
  if (kinds.length === 0) {
    const unasked = fc.constantFrom<Payload>(
      { contentType: 'application/json', bytes: Buffer.alloc(0) },
      { contentType: 'application/json', bytes: Buffer.from('{}') },
      { contentType: 'text/plain', bytes: Buffer.from('hello') },
      { contentType: null, bytes: Buffer.from('hello') },
    );
    return rarely(unasked, fc.constant(none));
  }
  const raw = fc
    .uint8Array({ maxLength: 2000 })
    .map((bytes): Payload => ({ contentType: 'application/octet-stream', bytes: Buffer.from(bytes) }));
  const big = fc.constantFrom<Payload>(
    { contentType: 'application/json', bytes: Buffer.from(`{"workflow":"${'x'.repeat(1_200_000)}"}`) },
    { contentType: 'application/octet-stream', bytes: Buffer.alloc(1_200_000, 1) },
  );
  return fc.oneof(
    { weight: 30, arbitrary: fc.oneof(...kinds) },
    { weight: 3, arbitrary: raw },
    { weight: 1, arbitrary: fc.constant(none) },
    { weight: 1, arbitrary: big },
  );
}

function jsonText(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value) ?? '');
}
