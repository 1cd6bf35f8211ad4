// Paths and queries, as documented and as nobody would write them.
import fc from 'fast-check';
import type { Api, Operation, Parameter } from './api.ts';
import { nastyText } from './nasty.ts';
import { idOf, rarely, valueOf, wordOf, type Special } from './values.ts';

export function targetOf(api: Api, operation: Operation, special: Special): fc.Arbitrary<string> {
  return fc
    .tuple(
      pathOf(operation, special),
      queryOf(api, operation, special),
      rarely(fc.constantFrom(...ends), fc.constant('')),
    )
    .map(([path, query, end]) => path + end + query);
}

const ends = [
  '/',
  '//',
  '/..',
  '/%2e%2e',
  ';a=b',
  '%00',
  '%',
  '%zz',
  '.json',
  '/../../etc/passwd',
  '/%2e%2e%2fhealth',
  '#x',
];

function pathOf({ path, parameters }: Operation, special: Special): fc.Arbitrary<string> {
  const names = parameters.filter((parameter) => parameter.in === 'path').map(({ name }) => name);
  const usual = path.endsWith('/outputs/{name}') ? idOf('outputs') : fillPath(path, names, special);
  const odd = fc
    .array(fc.oneof(fc.constantFrom(...segments), nastyText.map(encodeLoosely)), {
      minLength: 1,
      maxLength: 3,
    })
    .map((parts) =>
      names.reduce((text, name, index) => text.replace(`{${name}}`, parts[index % parts.length] ?? ''), path),
    );
  return names.length === 0 ? fc.constant(path) : rarely(odd, usual);
}

function fillPath(path: string, names: string[], special: Special): fc.Arbitrary<string> {
  const values = names.map((name) => special[name] ?? nastyText);
  return fc
    .tuple(...values)
    .map((ids) =>
      names.reduce(
        (text, name, index) => text.replace(`{${name}}`, () => encodeLoosely(String(ids[index]))),
        path,
      ),
    );
}

const segments = [
  '',
  '.',
  '..',
  '..%2f..%2f..%2fetc%2fpasswd',
  '%2e%2e%5c%2e%2e',
  '%00',
  '%c0%af',
  '%ff',
  '*',
  '__proto__',
  'constructor',
  '00000000-0000-0000-0000-000000000000',
  'A'.repeat(64),
  'f'.repeat(64),
  'x'.repeat(301),
  'x'.repeat(9000),
];

/** Leaves the marks of ids alone, and makes of everything else what may stand in a path. */
function encodeLoosely(text: string): string {
  if (/^\{\{\w+:\d+\}\}$/.test(text)) return text;
  return encodeURIComponent(text.toWellFormed());
}

function queryOf(api: Api, { parameters }: Operation, special: Special): fc.Arbitrary<string> {
  const own = parameters.filter((parameter) => parameter.in === 'query');
  const usual = fc
    .tuple(
      ...own.map((parameter) =>
        fc.option(valueOf(api, parameter.schema, special, parameter.name), { freq: 1, nil: undefined }),
      ),
    )
    .map((values) => values.flatMap((value, index) => pairsOf(own[index], value)).join('&'));
  const names = [...own.map(({ name }) => name), '__proto__', 'constructor', 'a[b]', 'limit', ''];
  const odd = fc
    .array(fc.tuple(fc.constantFrom(...names), nastyText), { minLength: 1, maxLength: 3 })
    .map((pairs) => pairs.map(([name, value]) => `${name}=${encodeLoosely(value)}`).join('&'));
  const raw = fc.constantFrom(
    '&&&',
    '=',
    '%',
    'a',
    'limit=1&limit=2',
    'limit[]=1',
    'x='.repeat(2000),
    '?',
    '%zz=%zz',
  );
  return rarely(fc.oneof(odd, raw), usual).map((query) => (query === '' ? '' : `?${query}`));
}

function pairsOf(parameter: Parameter | undefined, value: unknown): string[] {
  if (parameter === undefined || value === undefined) return [];
  return [value].flat().map((each) => `${parameter.name}=${encodeLoosely(wordOf(each))}`);
}
