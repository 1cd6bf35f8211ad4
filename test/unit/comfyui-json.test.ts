// Python's JSON, which is not quite JSON.
import { describe, expect, it } from 'vitest';
import { parseJson } from '../../src/comfyui/json.ts';

describe('parseJson', () => {
  it('reads plain JSON as it is', () => {
    expect(parseJson('{"a":[1,"two",null]}')).toEqual({ a: [1, 'two', null] });
  });

  it('reads bare NaN and infinities as null', () => {
    expect(parseJson('{"number": NaN, "list": [Infinity, -Infinity, -1]}')).toEqual({
      number: null,
      list: [null, null, -1],
    });
  });

  it('leaves the same words alone inside strings and keys', () => {
    const text = String.raw`{"NaN": "say \"NaN\" or -Infinity", "back\\": NaN, "\\\"NaN": "NaN\\"}`;
    expect(parseJson(text)).toEqual({
      NaN: 'say "NaN" or -Infinity',
      'back\\': null,
      '\\"NaN': 'NaN\\',
    });
  });

  it('copes with strings of many megabytes', () => {
    const long = 'x\\"'.repeat(2_000_000);
    expect(parseJson(`{"long": "${long}", "n": NaN}`)).toEqual({ long: 'x"'.repeat(2_000_000), n: null });
  });

  it.each(['', 'NaN NaN', '{"a": nan}', '{"open', '<html>'])(
    'throws on %j, which is no JSON either way',
    (text) => {
      expect(() => parseJson(text)).toThrow(SyntaxError);
    },
  );
});
