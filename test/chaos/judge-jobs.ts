// The judgement of a scenario that is about jobs: figures and violations, from the records and from what callers get.
import type { Kysely } from 'kysely';
import type { Tables } from '../../src/database/tables.ts';
import type { ComfyDouble } from '../doubles/comfyui/index.ts';
import type { Client } from './client.ts';
import { gatherJobEvidence, jobViolations, outputViolations } from './job-invariants.ts';
import type { JobPlan } from './job-plans.ts';
import type { Outcome } from './scenario.ts';

export async function judgeJobs(
  db: Kysely<Tables>,
  client: Client,
  plans: readonly JobPlan[],
  doubles: readonly ComfyDouble[],
): Promise<Outcome> {
  const evidence = await gatherJobEvidence(db, plans, doubles);
  const outputs = await outputViolations(client, evidence, doubles);
  const ends = Map.groupBy(evidence.jobs, ({ status }) => status);
  const seconds = evidence.jobs.map(
    ({ created_at: from, finished_at: to }) => ((to ?? from).getTime() - from.getTime()) / 1000,
  );
  const executions = [...evidence.executions.values()].flatMap((counts) => Object.values(counts));
  return {
    figures: {
      'jobs accepted': evidence.jobs.length,
      'their ends': [...ends].map(([status, jobs]) => `${jobs.length} ${status}`).join(', '),
      attempts: evidence.attempts.length,
      executions: executions.reduce((sum, count) => sum + count, 0),
      'outputs compared': outputs.compared,
      'slowest job in seconds': Math.round(Math.max(0, ...seconds)),
    },
    violations: [...jobViolations(evidence), ...outputs.violations],
  };
}
