// Values that have broken services before, and what becomes of a good value when one of them gets into it.
import fc from 'fast-check';

const texts = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  'x\udfff',
  '\u{1f469}\u{200d}\u{1f680}',
  '\u202egnp.exe',
  '\r\nSet-Cookie: a=b',
  '../../../../etc/passwd',
  '..\\..\\windows\\win.ini',
  '/proc/self/environ',
  'file:///etc/passwd',
  'http://127.0.0.1:1/',
  'http://169.254.169.254/latest/meta-data',
  'http://[::ffff:127.0.0.1]/',
  'http://user:pass@example.invalid/',
  "'; drop table jobs; --",
  '${jndi:ldap://example.invalid}',
  '{{7*7}}',
  '<script>alert(1)</script>',
  '%00%0a%s%n',
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  'NaN',
  'null',
  '-1',
  '1e999',
  '0x10',
  '2026-13-45T99:99:99Z',
  '+275760-09-13T00:00:00.001Z',
  '00000000-0000-0000-0000-000000000000',
  'ffffffff-ffff-ffff-ffff-ffffffffffff',
];

const firstSurrogate = 0xd800;
const surrogates = 0x800;

/** What the unit `binary` is, whose table of all characters takes a second to make. It is told both ways: then strings that are dangerous in JavaScript are among them. */
const codePoint = fc.nat({ max: 0x10_ffff - surrogates }).map(
  (index) => String.fromCodePoint(index < firstSurrogate ? index : index + surrogates),
  (character) => {
    const [point = 0, ...more] = Array.from(String(character), (each) => each.codePointAt(0) ?? 0);
    const isHalf = point >= firstSurrogate && point < firstSurrogate + surrogates;
    if (character === '' || more.length > 0 || isHalf) throw new Error('This is not one character.');
    return point < firstSurrogate ? point : point - surrogates;
  },
);

export const nastyText: fc.Arbitrary<string> = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...texts) },
  { weight: 3, arbitrary: fc.string({ unit: codePoint, maxLength: 40 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 20_000 }).map((length) => 'x'.repeat(length)) },
);

const numbers = [-1, 0, -0, 0.1, 1.5, 1e-320, 1e21, 1e308, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 63), 9e15];

/** Objects are written out, because JSON may hold what a literal does not. */
const objects = [
  '{}',
  '[]',
  '[[]]',
  '[null]',
  '{"":null}',
  '{"__proto__":{"admin":true}}',
  '{"constructor":{"prototype":{"admin":true}}}',
  '{"constructor":1,"toString":2,"then":3,"length":-1}',
  '{"toJSON":1,"valueOf":null,"hasOwnProperty":false}',
  '{"\\u0000":"\\u0000"}',
  '{"\\ud800":"\\udc00"}',
  '{"a":{"b":{"c":{"d":{}}}}}',
];

const nastyValue: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 4, arbitrary: nastyText },
  { weight: 2, arbitrary: fc.constantFrom<unknown>(null, true, false) },
  { weight: 3, arbitrary: fc.constantFrom<unknown>(...numbers) },
  { weight: 4, arbitrary: fc.constantFrom(...objects).map((text): unknown => JSON.parse(text)) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 3000 }).map(nested) },
  {
    weight: 1,
    arbitrary: fc.integer({ min: 1, max: 20_000 }).map((length) => Array<null>(length).fill(null)),
  },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 3000 }).map(manyFields) },
  { weight: 2, arbitrary: fc.jsonValue({ maxDepth: 4 }) },
);

export interface Change {
  /** Which part of the value, counted through all of it and from the start again. */
  place: number;
  kind: 'replace' | 'remove' | 'add';
  name: string;
  value: unknown;
}

export const change: fc.Arbitrary<Change> = fc.record({
  place: fc.nat(200),
  kind: fc.constantFrom('replace', 'replace', 'remove', 'add'),
  name: nastyText,
  value: nastyValue,
});

/** The value with one part of it changed. */
export function changed(value: unknown, { place, kind, name, value: other }: Change): unknown {
  const places = placesOf(value);
  const path = places[place % places.length] ?? [];
  return at(value, path, (part) => {
    if (kind === 'add') return isObject(part) ? withField(part, name, other) : other;
    return kind === 'remove' ? undefined : other;
  });
}

/** JSON that is spoiled as text. */
export const spoiledJson: fc.Arbitrary<(text: string) => Buffer> = fc.oneof(
  fc.double({ min: 0, max: 1, noNaN: true }).map((share) => (text: string) => cut(text, share)),
  fc.constantFrom(...rawBodies()).map((bytes) => () => bytes),
  fc
    .constantFrom('\u{feff}', ' '.repeat(5000), '/**/', ")]}'\n")
    .map((start) => (text: string) => Buffer.from(start + text)),
  fc.constantFrom('\0', '}', '{}', ',', '\u2028').map((end) => (text: string) => Buffer.from(text + end)),
  fc
    .constantFrom('{"a":1,', '{"__proto__":1,', '{"\\u005f_proto__":{},')
    .map((start) => (text: string) => Buffer.from(text.replace('{', start))),
);

function rawBodies(): Buffer[] {
  const written = [
    '',
    ' ',
    'null',
    'true',
    '0',
    '-0',
    '1e999',
    '""',
    '[]',
    '{',
    '[1,]',
    'NaN',
    "{'a':1}",
    '{"a":1,"a":2}',
  ];
  return [
    ...written.map((text) => Buffer.from(text)),
    Buffer.from('['.repeat(50_000)),
    Buffer.from('{"a":'.repeat(20_000)),
    Buffer.from([0xff, 0xfe, 0x7b, 0x00]),
    Buffer.from([0x22, 0xc0, 0xaf, 0x22]),
    Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]),
  ];
}

function cut(text: string, share: number): Buffer {
  const bytes = Buffer.from(text);
  return bytes.subarray(0, Math.floor(bytes.length * share));
}

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let level = 0; level < depth; level += 1) value = level % 2 === 0 ? [value] : { a: value };
  return value;
}

function manyFields(count: number): unknown {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`f${index}`, index]));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Also where the name is `__proto__`. */
function withField(object: Record<string, unknown>, name: string, value: unknown): unknown {
  const copy = { ...object };
  Object.defineProperty(copy, name, { value, enumerable: true, configurable: true, writable: true });
  return copy;
}

function placesOf(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null || path.length > 6) return [path];
  return [path, ...Object.entries(value).flatMap(([key, member]) => placesOf(member, [...path, key]))];
}

function at(value: unknown, [key, ...rest]: string[], make: (part: unknown) => unknown): unknown {
  if (key === undefined) return make(value);
  if (Array.isArray(value)) {
    return value.map((member: unknown, index) => (String(index) === key ? at(member, rest, make) : member));
  }
  return isObject(value) ? withField(value, key, at(value[key], rest, make)) : value;
}
