// The judgement of a scenario that is about jobs: figures and violations, from the records and from what callers get.
import type { Kysely } from 'kysely';
import type { Tables } from '../../src/database/tables.ts';
import type { ComfyDouble } from '../doubles/comfyui/index.ts';
import { patiently, type Client } from './client.ts';
import { gatherJobEvidence, jobViolations, outputViolations } from './job-invariants.ts';
import type { JobPlan } from './job-plans.ts';
import type { Outcome } from './scenario.ts';
import type { Webhooks } from './webhooks.ts';

/** How long after the last end the last webhook may come: one that was under way when its process died comes again by its claim. */
const ANNOUNCED_WITHIN_MS = 60_000;

export async function judgeJobs(
  db: Kysely<Tables>,
  client: Client,
  {
    plans,
    doubles,
    webhooks,
  }: { plans: readonly JobPlan[]; doubles: readonly ComfyDouble[]; webhooks: Webhooks },
): Promise<Outcome> {
  await announcedOrLate(db, webhooks);
  const evidence = await gatherJobEvidence(db, { plans, doubles, webhooks });
  const outputs = await outputViolations(client, evidence, doubles);
  const ends = Map.groupBy(evidence.jobs, ({ status }) => status);
  const seconds = evidence.jobs.map(
    ({ created_at: from, finished_at: to }) => ((to ?? from).getTime() - from.getTime()) / 1000,
  );
  const received = [...evidence.announced.values()].flat();
  const executions = [...evidence.executions.values()].flatMap((counts) => Object.values(counts));
  return {
    figures: {
      'jobs accepted': evidence.jobs.length,
      'their ends': [...ends].map(([status, jobs]) => `${jobs.length} ${status}`).join(', '),
      attempts: evidence.attempts.length,
      executions: executions.reduce((sum, count) => sum + count, 0),
      'outputs compared': outputs.compared,
      'webhooks received': `${received.length}, ${received.length - new Set(received.map(({ id }) => id)).size} of them again`,
      'slowest job in seconds': Math.round(Math.max(0, ...seconds)),
    },
    violations: [...jobViolations(evidence), ...outputs.violations],
  };
}

/** Waits until every job has been announced. What is late is judged as if it never came. */
async function announcedOrLate(db: Kysely<Tables>, webhooks: Webhooks): Promise<void> {
  const jobs = await db.selectFrom('jobs').select('id').execute();
  await patiently('every job is announced', ANNOUNCED_WITHIN_MS, async () => {
    const announced = webhooks.announced();
    return jobs.every(({ id }) => announced.has(id)) || undefined;
  }).catch(() => undefined);
}
