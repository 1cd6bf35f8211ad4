// The API under requests of every kind, good and bad; `npm run test:fuzz` sends more of them.
import { expect, it } from 'vitest';
import { runCampaign } from '../fuzz/campaign.ts';
import { startWorld } from '../fuzz/world.ts';

const REQUESTS = 300;

it('answers whatever it is asked with what its OpenAPI document says, and tells nothing that is secret', async () => {
  await using stack = new AsyncDisposableStack();
  const world = await startWorld(stack);
  const said: string[] = [];
  const seed = Math.floor(Math.random() * 1e9);
  const report = await runCampaign({ world, requests: REQUESTS, seed, say: (line) => void said.push(line) });
  expect(report.violations, `seed ${seed}`).toEqual([]);
  // Both kinds of requests are among them.
  expect(report.outcomes).toMatchObject({ 200: expect.any(Number), 400: expect.any(Number) });
}, 120_000);
