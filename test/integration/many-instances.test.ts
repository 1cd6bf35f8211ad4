// One process with more busy instances than most have.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { emptyImage } from '../support/workflows.ts';

const INSTANCES = 33;

let doubles: ComfyDouble[];
let running: TestService;

beforeAll(async () => {
  const held = { knobs: { hangingNode: '1' } };
  doubles = await Promise.all(Array.from({ length: INSTANCES }, () => startComfyDouble(held)));
  running = await startTestService({ comfyUrls: doubles.map(({ url }) => url) });
});

afterAll(async () => {
  await running.stop();
  await Promise.all(doubles.map((double) => double.stop()));
});

it('brings every job that was placed to its instance, however many there are', async () => {
  await running.until<{ items: unknown[] }>(
    '/instances?status=ready&limit=100',
    ({ items }) => items.length === INSTANCES,
  );
  const items = Array.from({ length: 2 * INSTANCES }, (_, color) => ({
    inputs: [{ node: '1', input: 'color', value: color }],
  }));
  const { status } = await running.call('/jobs/batch', {
    method: 'POST',
    json: { workflow: emptyImage, items },
  });
  expect(status).toBe(201);
  const arrived = () => doubles.reduce((sum, { counters }) => sum + counters.promptsAccepted, 0);
  await expect.poll(arrived).toBe(2 * INSTANCES);
});
