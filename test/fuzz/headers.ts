// Headers of the API, and those that proxies, browsers and attackers add.
import fc from 'fast-check';
import type { Api, Operation } from './api.ts';
import { valueOf, wordOf, type Special } from './values.ts';

export function headersOf(
  api: Api,
  { parameters, statuses }: Operation,
  special: Special,
): fc.Arbitrary<[string, string][]> {
  const own = parameters.filter((parameter) => parameter.in === 'header');
  const documented = fc
    .tuple(
      ...own.map(({ name, schema }) =>
        fc.option(valueOf(api, schema, special, name), { freq: 1, nil: undefined }),
      ),
    )
    .map((values) =>
      values.flatMap((value, index): [string, string][] => {
        const name = own[index]?.name;
        return name === undefined || value === undefined ? [] : [[name, headerText(wordOf(value))]];
      }),
    );
  // Bytes are asked for in parts as often as whole.
  return statuses.has(206)
    ? fc.oneof(documented, fc.array(oddHeader('range', 'if-none-match', 'if-range'), { maxLength: 2 }))
    : documented;
}

/** What Node would not even hand to the service is tried apart from this. */
function headerText(text: string): string {
  return text.replaceAll(/[^\t\x20-\x7e]/g, '?');
}

const oddHeaders = {
  range: [
    'bytes=0-0',
    'bytes=-1',
    'bytes=5-',
    'bytes=9-1',
    'bytes=0-0,2-3',
    'bytes=99999999999999999999-',
    'lines=1-2',
    'bytes=',
    `bytes=${'0-1,'.repeat(500)}`,
  ],
  'if-range': ['"x"', 'W/"x"', 'Thu, 01 Jan 1970 00:00:00 GMT', 'x'],
  'if-none-match': ['*', '"x"', 'W/"x"', ',,,', '"'],
  'if-match': ['*', '"x"'],
  'if-modified-since': ['Thu, 01 Jan 1970 00:00:00 GMT', 'never'],
  'last-event-id': ['0', '-1', 'x', '9'.repeat(200), ''],
  'content-type': [
    'application/json',
    'text/plain',
    'application/json; charset=utf-16',
    'multipart/form-data',
    'multipart/form-data; boundary=',
    'application/x-www-form-urlencoded',
    '*/*',
    'x',
    '',
    `a/${'b'.repeat(5000)}`,
  ],
  accept: ['*/*', 'text/html', 'image/png', 'x', '', 'application/json;q=2'],
  prefer: ['wait=0', 'wait=1', 'wait=99999999999', 'wait="1"', ',', 'respond-async, wait=1'],
  'idempotency-key': ['', ' ', 'a', 'x'.repeat(300), '\u00e9', '"quoted"'],
  'content-encoding': ['gzip', 'identity', 'x'],
  expect: ['100-continue', 'x'],
  connection: ['keep-alive', 'upgrade', 'close, te'],
  upgrade: ['websocket', 'h2c'],
  host: ['', 'evil.example', 'a b', '127.0.0.1:99999', '[::1'],
  origin: ['null', 'https://evil.example'],
  'access-control-request-method': ['DELETE'],
  'x-http-method-override': ['DELETE'],
  'x-forwarded-for': ['1.2.3.4', 'x', '1.1.1.1,'.repeat(500)],
  'x-forwarded-host': ['evil.example'],
  'x-request-id': ['abcdefgh', 'a"},{"level":"fatal', '\u00ff'.repeat(20), 'x'.repeat(65)],
  'x-original-url': ['/metrics'],
  cookie: ['a=b; __proto__=c'],
  'x-null': ['a\0b', '\x7f', 'a\tb'],
  'x-long': ['x'.repeat(30_000)],
  'bad name': ['x'],
} satisfies Record<string, string[]>;

/** One of these names, or of all. */
export function oddHeader(...names: (keyof typeof oddHeaders)[]): fc.Arbitrary<[string, string]> {
  const chosen = Object.entries(oddHeaders).filter(
    ([name]) => names.length === 0 || names.some((each) => each === name),
  );
  return fc.oneof(
    ...chosen.map(([name, values]) =>
      fc.constantFrom(...values).map((value): [string, string] => [name, value]),
    ),
  );
}

export const authorizations = fc.constantFrom(
  null,
  '',
  'Bearer',
  'Bearer  ',
  'Basic YTpi',
  'Bearer x',
  `Bearer ${'k'.repeat(5000)}`,
  'Bearer \u00ff\u00fe',
  'bearer a b c',
);
