// What must be true of every job, judged from the records, from what the doubles ran and wrote, and from what callers get.
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Kysely } from 'kysely';
import sharp from 'sharp';
import type { AttemptRow, JobRow, Tables } from '../../src/database/tables.ts';
import { isFinal, type JobStatus } from '../../src/jobs/job.ts';
import type { ComfyDouble } from '../doubles/comfyui/index.ts';
import { patiently, type Client } from './client.ts';
import { rightEnds, type JobPlan } from './job-plans.ts';
import type { Announcement, Webhooks } from './webhooks.ts';

/** Everything that is judged, once all jobs have ended. */
export interface JobEvidence {
  plans: readonly JobPlan[];
  jobs: JobRow[];
  attempts: AttemptRow[];
  /** The statuses that callers were told of, by job, in their order. */
  told: ReadonlyMap<string, JobStatus[]>;
  /** What each instance ran: how often, by prompt id, which is the attempt's. */
  executions: ReadonlyMap<string, Record<string, number>>;
  /** The webhooks that came, by job. */
  announced: ReadonlyMap<string, readonly Announcement[]>;
  /** Slots that still hold a job. */
  heldSlots: number;
}

const DOWNLOAD_LIMIT_MS = 30_000;

export async function gatherJobEvidence(
  db: Kysely<Tables>,
  {
    plans,
    doubles,
    webhooks,
  }: { plans: readonly JobPlan[]; doubles: readonly ComfyDouble[]; webhooks: Webhooks },
): Promise<JobEvidence> {
  const instances = await db.selectFrom('instances').select(['id', 'static_url']).execute();
  const events = await db
    .selectFrom('job_events')
    .select(['job_id', 'data'])
    .where('type', '=', 'status')
    .orderBy('id')
    .execute();
  const told = Map.groupBy(events, ({ job_id: jobId }) => jobId);
  const held = await db.selectFrom('slots').select('slot').where('job_id', 'is not', null).execute();
  return {
    plans,
    jobs: await db.selectFrom('jobs').selectAll().execute(),
    attempts: await db.selectFrom('attempts').selectAll().orderBy('number').execute(),
    told: new Map(
      [...told].map(([id, rows]) => [id, rows.map(({ data }) => (data as { status: JobStatus }).status)]),
    ),
    executions: new Map(
      instances.flatMap(({ id, static_url: url }) => {
        const double = doubles.find((candidate) => candidate.url === url);
        return double === undefined ? [] : [[id, double.counters.executionsOf] as const];
      }),
    ),
    announced: webhooks.announced(),
    heldSlots: held.length,
  };
}

/** Every accepted job is there and has one end, the right one; no attempt was executed twice or anywhere else than recorded. */
export function jobViolations(evidence: JobEvidence): string[] {
  const { plans, jobs, heldSlots } = evidence;
  const byId = new Map(jobs.map((job) => [job.id, job]));
  const lost = plans.flatMap(({ name, jobId }) =>
    jobId !== null && byId.has(jobId) ? [] : [`lost: ${name} was accepted as ${jobId}, which is unknown`],
  );
  const held = heldSlots === 0 ? [] : [`slots: ${heldSlots} still hold a job although all have ended`];
  return [
    ...lost,
    ...jobs.flatMap((job) => [...endViolations(job, evidence), ...announcementViolations(job, evidence)]),
    ...executed(evidence),
    ...held,
  ];
}

/** A webhook may come again, under the same id; there is one for each job, and it tells how the job ended. */
function announcementViolations({ id, status }: JobRow, { announced }: JobEvidence): string[] {
  const came = announced.get(id) ?? [];
  const ids = new Set(came.map((each) => each.id)).size;
  if (ids === 1 && came.every(({ type }) => type === `job.${status}`)) return [];
  const types = came.map(({ type }) => type).join(', ');
  return [`announced: job ${id} is ${status}, and ${ids} webhooks tell of it: ${types || 'none'}`];
}

function endViolations({ id, status, metadata, attempt }: JobRow, evidence: JobEvidence): string[] {
  const plan = evidence.plans.find(({ name }) => name === metadata['chaos']);
  const found: string[] = [];
  if (!isFinal(status)) found.push(`job ${id} is ${status}`);
  else if (plan !== undefined && !rightEnds[plan.kind].includes(status)) {
    found.push(`job ${id} ${plan.kind} and is ${status}`);
  }
  const finals = (evidence.told.get(id) ?? []).filter(isFinal);
  if (finals.length !== 1 || finals[0] !== status || evidence.told.get(id)?.at(-1) !== status) {
    found.push(`job ${id} is ${status}, and callers were told ${evidence.told.get(id)?.join(', ')}`);
  }
  const attempts = evidence.attempts.filter(({ job_id: jobId }) => jobId === id);
  const numbers = attempts.map(({ number }) => number).join();
  if (numbers !== Array.from({ length: attempt }, (_, at) => at + 1).join()) {
    found.push(`job ${id} is in attempt ${attempt} and has the attempts ${numbers}`);
  }
  const succeeded = attempts.filter(({ outcome }) => outcome === 'succeeded').length;
  if (succeeded !== (status === 'succeeded' ? 1 : 0)) {
    found.push(`job ${id} is ${status} with ${succeeded} attempts that succeeded`);
  }
  return found.map((line) => `end: ${line}`);
}

function executed({ attempts, executions }: JobEvidence): string[] {
  const byId = new Map(attempts.map((attempt) => [attempt.id, attempt]));
  const found = attempts.flatMap(({ id, status, outcome, instance_id: instanceId }) => {
    const times = executions.get(instanceId)?.[id] ?? 0;
    if (status !== 'ended') return [`attempt ${id} is ${status}`];
    return outcome === 'succeeded' && times !== 1
      ? [`attempt ${id} succeeded and was executed ${times} times`]
      : [];
  });
  for (const [instanceId, counts] of executions) {
    for (const [promptId, times] of Object.entries(counts)) {
      if (times > 1) found.push(`attempt ${promptId} was executed ${times} times on ${instanceId}`);
      if (byId.get(promptId)?.instance_id !== instanceId) {
        found.push(`${promptId} was executed on ${instanceId}, where no attempt of that id belongs`);
      }
    }
  }
  return found.map((line) => `executed: ${line}`);
}

/** Downloads every result and compares it with what the double wrote for that very attempt, and with the picture that was asked for. */
export async function outputViolations(
  client: Client,
  { jobs, attempts, plans }: JobEvidence,
  doubles: readonly ComfyDouble[],
): Promise<{ compared: number; violations: string[] }> {
  const written = await filesOf(doubles);
  const violations: string[] = [];
  let compared = 0;
  for (const { id, status, metadata } of jobs) {
    const plan = plans.find(({ name }) => name === metadata['chaos']);
    if (status !== 'succeeded' || plan === undefined) continue;
    const attempt = attempts.find((row) => row.job_id === id && row.outcome === 'succeeded');
    const { outputs } = await patiently(`job ${id} is shown`, DOWNLOAD_LIMIT_MS, () =>
      client.call<{ outputs: { url: string }[] }>(`/jobs/${id}`),
    );
    const [output] = outputs;
    if (output === undefined || outputs.length !== 1 || attempt === undefined) {
      violations.push(`output: job ${id} has ${outputs.length} outputs`);
      continue;
    }
    const bytes = await patiently(`the output of ${id} arrives`, DOWNLOAD_LIMIT_MS, () =>
      client.bytes(output.url),
    );
    const original = written.get(`${plan.name}-${attempt.id.slice(-8)}_00001_.png`);
    if (original === undefined || hashOf(original) !== hashOf(bytes)) {
      violations.push(`output: the file of job ${id} is not what its attempt wrote`);
    }
    if ((await colorOf(bytes)) !== plan.color)
      violations.push(`output: job ${id} has the picture of another job`);
    compared += 1;
  }
  return { compared, violations };
}

async function filesOf(doubles: readonly ComfyDouble[]): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for (const double of doubles) {
    for (const name of await readdir(join(double.dataDir, 'output'))) {
      if (name.endsWith('.png')) files.set(name, await double.readOutput(name));
    }
  }
  return files;
}

function hashOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Of the first pixel, as ComfyUI's EmptyImage takes it. */
async function colorOf(png: Buffer): Promise<number> {
  const data = await sharp(png).removeAlpha().raw().toBuffer();
  return ((data[0] ?? 0) << 16) | ((data[1] ?? 0) << 8) | (data[2] ?? 0);
}
