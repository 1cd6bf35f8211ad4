import { expect, it } from 'vitest';
import { createSilentHosts } from '../../src/webhooks/silent-hosts.ts';

it('knows which hosts did not answer last', () => {
  const hosts = createSilentHosts();
  hosts.note('a', true);
  hosts.note('b', true);
  hosts.note('a', false);
  expect([hosts.has('a'), hosts.has('b'), hosts.has('c')]).toEqual([false, true, false]);
});

it('forgets the one that was tried longest ago, rather than remember more and more', () => {
  const hosts = createSilentHosts(2);
  for (const host of ['a', 'b', 'a', 'c']) hosts.note(host, true);
  expect(['a', 'b', 'c'].map((host) => hosts.has(host))).toEqual([true, false, true]);
});
