import { describe, expect, it } from 'vitest';
import { preferredWaitSeconds } from '../../src/http/prefer.ts';
import { cpuMs } from '../support/cpu-time.ts';

describe('Prefer: wait', () => {
  it.each<[string, string | string[] | undefined, number | null]>([
    ['alone', 'wait=10', 10],
    ['zero', 'wait=0', 0],
    ['in any case and with space', ' WAIT = 7 ', 7],
    ['quoted', 'wait="15"', 15],
    ['with a parameter', 'wait=20; why=not', 20],
    ['among others', 'respond-async, foo="a, wait=1", wait=30', 30],
    ['twice, of which the first counts', 'wait=5, wait=50', 5],
    ['in several headers', ['return=minimal', 'wait=8'], 8],
    ['absent', undefined, null],
    ['of another name', 'waiting=3, xwait=3', null],
    ['without a value', 'wait', null],
    ['without a number', 'wait=soon, wait=5', null],
    ['negative', 'wait=-1', null],
    ['broken', 'wait=1.5', null],
    ['half quoted', 'wait="5', null],
    ['in a header that is not well-formed', 'foo="a, wait=5', null],
    ['beyond all numbers', `wait=${'9'.repeat(30)}`, null],
    ['in a header without end', `${'x,'.repeat(1000)}wait=5`, null],
  ])('%s', (_name, header, seconds) => {
    expect(preferredWaitSeconds(header)).toBe(seconds);
  });

  it('is read in no time, whatever the header', () => {
    const headers = ['"', '"\\"', 'a"', ';', '="', ' ,', '\\'].map((piece) =>
      piece.repeat(1000).slice(0, 1000),
    );
    expect(cpuMs(() => headers.forEach(preferredWaitSeconds))).toBeLessThan(200);
  });
});
