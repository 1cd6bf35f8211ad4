// A bench of jobs with one instance, for all tests of a file: each finds the double as it is by default.
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, beforeEach, expect } from 'vitest';
import { busyJobs } from '../../src/jobs/placement.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { defaultKnobs } from '../doubles/comfyui/knobs.ts';
import { createJobBench, type JobBench } from './jobs.ts';

/** Those of the file that runs. */
export let bench: JobBench;
export let instanceId: string;
let before: JobBench['double']['counters'];

/** Called once at the top of a file. After each test, no slot may still be taken. */
export function useOneInstance(settings: Record<string, string> = {}): void {
  beforeAll(async () => {
    bench = await createJobBench(settings);
    instanceId = await bench.addInstance();
  });
  afterAll(() => bench.stop());
  beforeEach(() => {
    before = structuredClone(bench.double.counters);
  });
  afterEach(async () => {
    Object.assign(bench.double.knobs, defaultKnobs());
    const busy = await bench.database.db
      .selectFrom('slots')
      .selectAll()
      .where('job_id', 'is not', null)
      .execute();
    expect(busy).toEqual([]);
  });
}

/** Requests to a route of the double since the test began. */
export const requests = (route: string): number =>
  (bench.double.counters.requests[route] ?? 0) - (before.requests[route] ?? 0);

/** What the double has done since the test began. */
export const counted = (
  name: 'promptsAccepted' | 'executionsStarted' | 'executionsFinished' | 'uploads',
): number => bench.double.counters[name] - before[name];

export const fault = (
  route: string,
  how: 'status' | 'drop-before' | 'drop-after' | 'hang',
  rest: { status?: number; times?: number } = {},
): number => bench.double.knobs.requestFaults.push({ route, how, ...rest });

export const executing = (job: JobView): boolean =>
  job.progress?.phase === 'executing' && job.attempts.at(-1)?.startedAt != null;

export const instanceRow = () =>
  bench.database.db
    .selectFrom('instances')
    .selectAll()
    .select(busyJobs.as('busy'))
    .where('id', '=', instanceId)
    .executeTakeFirstOrThrow();

/** As its check would write it, once ComfyUI works again. */
export async function recover(): Promise<void> {
  await bench.double.restart();
  bench.double.knobs.wedged = false;
  await bench.database.db
    .updateTable('instances')
    .set({ stuck_prompt_id: null, unreachable_since: null })
    .where('id', '=', instanceId)
    .execute();
}

export const png = (): Promise<Buffer> =>
  sharp({ create: { width: 32, height: 24, channels: 3, background: '#c04020' } })
    .png()
    .toBuffer();

export async function readAsset(id: string): Promise<Buffer> {
  const chunks = [];
  for await (const chunk of await bench.deps.assets.read(id)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
