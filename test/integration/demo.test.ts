import { expect, it, onTestFinished } from 'vitest';
import { startChild } from '../support/child.ts';

it('a demo that is told to end on its way leaves no service behind', async () => {
  const demo = startChild(new URL('../../scripts/demo.ts', import.meta.url));
  onTestFinished(() => demo.kill());
  const line = await demo.says(/Comfyfleet is up/);
  const docs = /http:\S+/.exec(line)?.[0] ?? '';
  await demo.kill('SIGINT');
  expect(demo.process.exitCode).toBe(1);
  await expect(fetch(docs)).rejects.toThrow('fetch failed');
});
