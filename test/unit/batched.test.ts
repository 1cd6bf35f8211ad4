import { describe, expect, it } from 'vitest';
import { batched } from '../../src/support/batched.ts';

function recorded(options: { most?: number; fail?: boolean } = {}) {
  const batches: number[][] = [];
  let atWork = 0;
  const ask = batched(
    async (questions: number[]) => {
      batches.push(questions);
      atWork += 1;
      expect(atWork).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      atWork -= 1;
      if (options.fail === true && questions.includes(13)) throw new Error('unlucky');
      return questions.map((question) => question * 2);
    },
    { keyOf: String, ...(options.most === undefined ? {} : { most: options.most }) },
  );
  return { ask, batches };
}

describe('batched', () => {
  it('asks together what is asked at the same time, and the same only once', async () => {
    const { ask, batches } = recorded();
    expect(await Promise.all([ask(1), ask(2), ask(1)])).toEqual([2, 4, 2]);
    expect(batches).toEqual([[1, 2]]);
  });

  it('asks anew what is asked while it is being answered: the answer may be another by now', async () => {
    const { ask, batches } = recorded();
    const first = ask(1);
    while (batches.length === 0) await new Promise((resolve) => setImmediate(resolve));
    const rest = Promise.all([ask(1), ask(2)]);
    expect([await first, ...(await rest)]).toEqual([2, 2, 4]);
    expect(batches).toEqual([[1], [1, 2]]);
  });

  it('asks no more than the most at a time', async () => {
    const { ask, batches } = recorded({ most: 2 });
    expect(await Promise.all([1, 2, 3, 4, 5].map(ask))).toEqual([2, 4, 6, 8, 10]);
    expect(batches).toEqual([[1, 2], [3, 4], [5]]);
  });

  it('fails those that were asked together, and goes on', async () => {
    const { ask, batches } = recorded({ most: 2, fail: true });
    const answers = await Promise.allSettled([1, 13, 3].map(ask));
    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled']);
    expect(await ask(4)).toBe(8);
    expect(batches).toEqual([[1, 13], [3], [4]]);
  });
});
