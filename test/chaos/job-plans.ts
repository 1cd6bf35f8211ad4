// The jobs of a scenario: what each is to end as, how it is submitted, and waiting for it.
import { setTimeout as sleep } from 'node:timers/promises';
import type { JobStatus, Workflow } from '../../src/jobs/job.ts';
import type { ComfyKnobs } from '../doubles/comfyui/index.ts';
import type { Random } from '../doubles/vast/random.ts';
import { patiently, type Client } from './client.ts';
import { pickWeighted } from './scenario.ts';

type JobKind = 'succeeds' | 'fails' | 'is canceled';

export interface JobPlan {
  /** Sent along, so that a job whose acceptance never reached us is known too. */
  name: string;
  kind: JobKind;
  /** Of its picture: no two jobs have the same. */
  color: number;
  workflow: Workflow;
  /** The job that was accepted and said so. */
  jobId: string | null;
}

/** What a job of that kind may end as. A cancel may come too late. */
export const rightEnds: Record<JobKind, readonly JobStatus[]> = {
  succeeds: ['succeeded'],
  fails: ['failed'],
  'is canceled': ['canceled', 'succeeded'],
};

/** The nodes that the workflows need; they stand for what needs a GPU. */
export const chaosNodes: ComfyKnobs['nodes'] = {
  ChaosShort: { durationMs: 400, steps: 8 },
  ChaosLong: { durationMs: 2_000, steps: 20 },
  ChaosBroken: { durationMs: 200, steps: 2, error: { type: 'RuntimeError', message: 'broken on purpose' } },
};

/** One step of one job, with the service killed meanwhile. */
const JOB_LIMIT_MS = 120_000;

export function planJobs(random: Random, names: string, count: number): JobPlan[] {
  const firstColor = random.integer(1, 0xff_ff_ff - 1_000_000);
  return Array.from({ length: count }, (_, at) => {
    const kind = pickWeighted<JobKind>(random, { succeeds: 8, fails: 1, 'is canceled': 1 });
    const color = firstColor + at * 997;
    const node = kind === 'fails' ? 'ChaosBroken' : random.fraction() < 0.5 ? 'ChaosShort' : 'ChaosLong';
    const name = `${names}-${at}`;
    return { name, kind, color, jobId: null, workflow: workflowOf(name, color, node) };
  });
}

/** Submits all, one after the other, and cancels those that are to be canceled, whatever happens to the service meanwhile. */
export async function submitJobs(
  client: Client,
  random: Random,
  plans: readonly JobPlan[],
  webhookUrl: string,
): Promise<void> {
  const cancels: Promise<unknown>[] = [];
  for (const plan of plans) {
    const { id } = await patiently(`${plan.name} is accepted`, JOB_LIMIT_MS, () =>
      submit(client, plan, webhookUrl),
    );
    plan.jobId = id;
    if (plan.kind === 'is canceled') cancels.push(cancelLater(client, id, random.integer(0, 4_000)));
  }
  await Promise.all(cancels);
}

/** Waits for all jobs, those too whose acceptance was lost, as long as one after the other ends. Resolves with those that do not. */
export async function waitForJobs(client: Client): Promise<string[]> {
  for (let before = Infinity; ;) {
    const left = await leftAfter(client, before);
    if (left.length === 0) return [];
    if (left.length >= before) {
      return left.map(({ id, status, waitingFor }) => `stuck: job ${id} is ${status} (${waitingFor ?? ''})`);
    }
    before = left.length;
  }
}

interface Unended {
  id: string;
  status: JobStatus;
  waitingFor: string | null;
}

/** The jobs that have not ended, once they are fewer than before, or after as long as one may take. Rejects when nobody could be asked. */
async function leftAfter(client: Client, before: number): Promise<Unended[]> {
  const statuses: JobStatus[] = ['queued', 'running', 'canceling'];
  const query = statuses.map((status) => `status=${status}`).join('&');
  let left: Unended[] | undefined;
  try {
    return await patiently('one more job has ended', JOB_LIMIT_MS, async () => {
      left = await allPages<Unended>(client, `/jobs?${query}`);
      return left.length < before ? left : undefined;
    });
  } catch (error) {
    if (left === undefined) throw error;
    return left;
  }
}

async function allPages<T>(client: Client, path: string): Promise<T[]> {
  const items: T[] = [];
  for (let after = ''; ;) {
    const page = await client.call<{ items: T[]; nextCursor: string | null }>(`${path}&limit=100${after}`);
    items.push(...page.items);
    if (page.nextCursor === null) return items;
    after = `&cursor=${page.nextCursor}`;
  }
}

async function submit(
  client: Client,
  { name, workflow }: JobPlan,
  webhookUrl: string,
): Promise<{ id: string }> {
  // A receiver refuses by path, so each has its own.
  const json = { workflow, metadata: { chaos: name }, webhookUrl: `${webhookUrl}/${name}` };
  return client.call('/jobs', { method: 'POST', json });
}

async function cancelLater(client: Client, id: string, afterMs: number): Promise<void> {
  await sleep(afterMs);
  await patiently(`job ${id} is canceled`, JOB_LIMIT_MS, () =>
    client.call(`/jobs/${id}/cancel`, { method: 'POST' }),
  );
}

function workflowOf(name: string, color: number, node: string): Workflow {
  return {
    '1': { class_type: 'EmptyImage', inputs: { width: 32, height: 24, batch_size: 1, color } },
    '2': { class_type: node, inputs: { image: ['1', 0] } },
    '3': { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: name } },
  };
}
