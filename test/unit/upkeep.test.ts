import { pino } from 'pino';
import { expect, it } from 'vitest';
import { createUpkeep } from '../../src/support/upkeep.ts';

it('goes on with the other parts, and names the one that fails again and again until it succeeds', async () => {
  const upkeep = createUpkeep(pino({ level: 'silent' }));
  const { signal } = new AbortController();
  let done = 0;
  const parts = { ledger: () => Promise.reject(new Error('no')), retention: async () => (done += 1) };
  const failing: string[][] = [];
  for (let round = 0; round < 3; round++) {
    await upkeep.round(parts, signal);
    failing.push(upkeep.failing());
  }
  expect(failing).toEqual([[], [], ['ledger']]);
  expect(done).toBe(3);
  expect(Object.fromEntries(upkeep.failures())).toEqual({ ledger: 3, retention: 0 });
  await upkeep.round({ ledger: async () => undefined }, signal);
  expect(upkeep.failing()).toEqual([]);
});

it('does not count what a stop interrupts', async () => {
  const upkeep = createUpkeep(pino({ level: 'silent' }));
  const stopped = new Error('The service stops');
  const round = upkeep.round({ ledger: () => Promise.reject(stopped) }, AbortSignal.abort());
  await expect(round).rejects.toBe(stopped);
  expect(upkeep.failures().size).toBe(0);
});
