// The checks checked: each is shown something that must never be, and has to notice it. Without this, "no violations" says little.
import { randomUUID } from 'node:crypto';
import sharp from 'sharp';
import { v7 as uuid } from 'uuid';
import type { AttemptRow, JobRow } from '../../src/database/tables.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { instantPhases, startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { createTestDatabase } from '../support/database.ts';
import { patiently, type Client } from './client.ts';
import { jobViolations, outputViolations, type JobEvidence } from './job-invariants.ts';
import { chaosNodes, planJobs } from './job-plans.ts';
import { foreignState, gatherEvidence, machineViolations } from './machine-invariants.ts';
import { moneyViolations } from './money-invariants.ts';
import type { ChaosOptions, Outcome, Scenario } from './scenario.ts';
import { watchSlots } from './slot-watch.ts';

const WAIT_MS = 10_000;

export const checks: Scenario = {
  name: 'checks',
  about: 'shows the checks what must never be, which they have to notice',
  run,
};

async function run({ random, stack }: ChaosOptions): Promise<Outcome> {
  const vast = await startVastDouble({ knobs: { phases: instantPhases } });
  stack.defer(() => vast.stop());
  const comfy = await startComfyDouble({ knobs: { nodes: chaosNodes, wedged: true } });
  stack.defer(() => comfy.stop());

  const found = {
    ...expected(await brokenMachines(vast, stack), ['orphan', 'unrecorded', 'twice', 'foreign', 'unended']),
    ...expected(await brokenJobs(comfy, random, stack), [
      'lost',
      'end',
      'announced',
      'executed',
      'slots',
      'output',
    ]),
    ...expected(brokenMoney(), ['bill', 'price']),
  };
  const unnoticed = Object.entries(found).filter(([, count]) => count === 0);
  return {
    figures: Object.fromEntries(Object.entries(found).map(([what, count]) => [`noticed: ${what}`, count])),
    violations: unnoticed.map(([what]) => `the check for "${what}" noticed nothing`),
  };
}

/** How many violations there are of each kind. */
function expected(violations: string[], kinds: string[]): Record<string, number> {
  return Object.fromEntries(
    kinds.map((kind) => [kind, violations.filter((line) => line.startsWith(`${kind}:`)).length]),
  );
}

/** Machines rented behind the back of a service that does not even run: one without a record, two for one instance, one of others lost. */
async function brokenMachines(vast: VastDouble, stack: AsyncDisposableStack): Promise<string[]> {
  const { database, stop } = await createTestDatabase();
  stack.defer(stop);
  const labelPrefix = 'cfy.chaos';
  const foreign = vast.addForeignRental('somebody else');
  const foreignBefore = foreignState(vast);
  const twin = randomUUID();
  for (const label of [`${randomUUID()}.1`, `${twin}.1`, `${twin}.2`]) {
    await rent(vast, `${labelPrefix}.${label}`);
  }
  vast.strike(foreign, 'exited');
  await database.db
    .insertInto('instances')
    .values({ id: uuid(), provider: 'vast', status: 'terminating', requirements: null })
    .execute();
  return machineViolations(await gatherEvidence(vast, database.db, { foreignBefore, labelPrefix }));
}

async function rent(vast: VastDouble, label: string): Promise<void> {
  const machine = vast.state.offers.find(({ rentable, taken, slices }) => rentable && taken < slices);
  if (machine === undefined) throw new Error('Every machine is taken.');
  const answer = await fetch(`${vast.url}/api/v0/asks/${machine.offerId}/`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${vast.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ image: 'vastai/comfy:v0.35.0-cuda-12.9-py312', disk: 20, label, env: {} }),
  });
  if (!answer.ok) throw new Error(`The double refuses to rent: ${await answer.text()}`);
}

/** A job that was forgotten, one with two ends and the wrong picture, a prompt handed in twice, and a third one for two slots. */
async function brokenJobs(
  comfy: ComfyDouble,
  random: ChaosOptions['random'],
  stack: AsyncDisposableStack,
): Promise<string[]> {
  const [forgotten, shown] = planJobs(random, 'checks', 2);
  if (forgotten === undefined || shown === undefined) throw new Error('Two jobs were planned.');
  const promptId = uuid();
  const slots = watchSlots([comfy], stack);
  for (const id of [promptId, promptId, uuid()]) await submit(comfy, id, shown.workflow);
  const before = looksAt(comfy);
  await patiently('the queue is looked at', WAIT_MS, async () => looksAt(comfy) > before + 1 || undefined);
  comfy.knobs.wedged = false;
  await patiently(
    'all is executed',
    WAIT_MS,
    async () => comfy.counters.executionsFinished === 3 || undefined,
  );
  const { violations: crowded } = await slots.stop();

  const jobId = uuid();
  const job = {
    id: jobId,
    status: 'succeeded',
    attempt: 1,
    metadata: { chaos: shown.name },
  } as unknown as JobRow;
  const attempt = {
    id: promptId,
    job_id: jobId,
    number: 1,
    instance_id: 'instance',
    status: 'ended',
    outcome: 'succeeded',
  } as AttemptRow;
  const evidence: JobEvidence = {
    plans: [
      { ...forgotten, jobId: uuid() },
      { ...shown, jobId },
    ],
    jobs: [job],
    attempts: [attempt],
    told: new Map([[jobId, ['running', 'failed', 'succeeded']]]),
    executions: new Map([['instance', comfy.counters.executionsOf]]),
    announced: new Map([[jobId, ['one', 'two'].map((id) => ({ id, type: 'job.succeeded' }))]]),
    heldSlots: 0,
  };
  const outputs = await outputViolations(clientWithAnotherPicture(), evidence, [comfy]);
  return [...crowded, ...jobViolations(evidence), ...outputs.violations];
}

function looksAt({ counters }: ComfyDouble): number {
  return counters.requests['GET /queue'] ?? 0;
}

async function submit(comfy: ComfyDouble, promptId: string, workflow: object): Promise<void> {
  const answer = await fetch(`${comfy.url}/prompt`, {
    method: 'POST',
    body: JSON.stringify({ prompt: workflow, prompt_id: promptId, client_id: 'checks' }),
  });
  if (!answer.ok) throw new Error(`The double refuses the workflow: ${await answer.text()}`);
}

function clientWithAnotherPicture(): Client {
  return {
    call: async <T>() => ({ outputs: [{ url: '/picture' }] }) as T,
    bytes: () =>
      sharp({ create: { width: 4, height: 4, channels: 3, background: '#000000' } })
        .png()
        .toBuffer(),
  };
}

function brokenMoney(): string[] {
  const seen = { machines: 2, agreedUsd: 3, raisedUsd: 3, billUsd: 1.1 };
  return moneyViolations(seen, { totalPricePerHourUsd: 2.9, perDayUsd: 1 });
}
