// One process with as many jobs on slots as more busy instances have than most will ever rent.
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { emptyImage } from '../support/workflows.ts';

const INSTANCES = 3;
/** In place of the two that each has: what counts is the number of jobs, and an instance costs more than a slot. */
const SLOTS_OF_EACH = 22;
const JOBS = INSTANCES * SLOTS_OF_EACH;

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
  const { items: instances } = await running.until<{ items: { id: string }[] }>(
    '/instances?status=ready',
    ({ items }) => items.length === INSTANCES,
  );
  const { db } = running.service.database;
  await sql`alter table slots drop constraint slots_slot_check`.execute(db);
  const slots = instances.flatMap(({ id }) =>
    Array.from({ length: SLOTS_OF_EACH }, (_, slot) => ({ instance_id: id, slot })),
  );
  await db
    .insertInto('slots')
    .values(slots)
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const items = Array.from({ length: JOBS }, (_, color) => ({
    inputs: [{ node: '1', input: 'color', value: color }],
  }));
  const { status } = await running.call('/jobs/batch', {
    method: 'POST',
    json: { workflow: emptyImage, items },
  });
  expect(status).toBe(201);
  const arrived = () => doubles.map(({ counters }) => counters.promptsAccepted);
  await expect.poll(arrived).toEqual(doubles.map(() => SLOTS_OF_EACH));
});
