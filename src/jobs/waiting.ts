// What queued jobs wait for, in words.
import type { Transaction } from 'kysely';
import { instancePhases, type InstancePhase, type InstanceStatus } from '../instances/instance.ts';
import type { Tables } from '../database/tables.ts';
import { announceJobs } from './events.ts';
import { expectedFacts, factColumns } from './facts.ts';
import { headsOfLines, isInLine } from './lines.ts';
import { fits, willFit, type ExpectedFacts, type WaitingJob } from './matching.ts';

export interface LiveInstance extends ExpectedFacts {
  status: InstanceStatus;
  phase: InstancePhase | null;
  phaseStartedAt: Date | null;
  reachable: boolean;
}

/** Writes to every queued job what it waits for, where that has changed. The jobs of a line wait for the same. */
export async function explainWaiting(trx: Transaction<Tables>, now: Date): Promise<void> {
  const heads = await headsOfLines(trx, 1);
  if (heads.length === 0) return;
  const instances = await liveInstances(trx);
  const notes = await trx.selectFrom('fleet_notes').selectAll().execute();
  const explained = heads.map(({ line, wish, requirements, wanted_instance_id: wantedInstanceId }) => {
    const wishes = { requirements, wantedInstanceId };
    const note = notes.find((each) => each.wish === wish)?.note ?? null;
    const comingId = comingInstance(wishes, instances)?.id ?? null;
    return { line, comingId, text: waitingText(wishes, instances, { note, now }) };
  });
  for (const same of Map.groupBy(explained, ({ text, comingId }) => `${comingId} ${text}`).values()) {
    const { text, comingId } = same[0] ?? { text: null, comingId: null };
    const changed = await trx
      .updateTable('jobs')
      .set({ waiting_for: text, waiting_instance_id: comingId })
      .where(isInLine(same.map(({ line }) => line)))
      .where((where) =>
        where.or([
          where('waiting_for', 'is distinct from', text),
          where('waiting_instance_id', 'is distinct from', comingId),
        ]),
      )
      .returning('id')
      .execute();
    await announceJobs(
      trx,
      changed.map(({ id }) => id),
    );
  }
}

/** What jobs with these wishes wait for. `note` is why the fleet rents no more for them. */
export function waitingText(
  wishes: Pick<WaitingJob, 'requirements' | 'wantedInstanceId'>,
  instances: readonly LiveInstance[],
  { note, now }: { note: string | null; now: Date },
): string {
  const wanted = wishes.wantedInstanceId;
  if (wanted !== null && !instances.some(({ id }) => id === wanted)) {
    return `Instance ${wanted}, which the job asked for, has ended.`;
  }
  const remark = wanted !== null || note === null ? '' : ` ${note}`;
  const fitting = instances.filter((instance) => instance.status === 'ready' && fits(wishes, instance));
  if (fitting.some(({ reachable }) => reachable)) return `Every ready instance that fits is busy.${remark}`;
  if (fitting.length > 0) return `The instance that fits does not answer at the moment.${remark}`;
  const coming = comingInstance(wishes, instances);
  if (coming !== undefined) return comingText(coming, now);
  if (wanted !== null)
    return `Instance ${wanted}, which the job asked for, does not satisfy its requirements.`;
  return `No ready instance satisfies the requirements.${remark}`;
}

/** The instance on its way that jobs with these wishes wait for, unless a ready one fits. */
function comingInstance(
  wishes: Pick<WaitingJob, 'requirements' | 'wantedInstanceId'>,
  instances: readonly LiveInstance[],
): LiveInstance | undefined {
  if (instances.some((instance) => instance.status === 'ready' && fits(wishes, instance))) return undefined;
  return instances
    .filter((instance) => isComing(instance) && mayServe(wishes, instance))
    .toSorted((a, b) => progressOf(b) - progressOf(a))[0];
}

const phaseTexts: Record<InstancePhase, string> = {
  searching: 'The service looks for a machine to rent',
  renting: 'A machine is being rented',
  loading: 'The machine loads its image',
  starting: 'ComfyUI starts on the machine',
};

function isComing({ status }: LiveInstance): boolean {
  return status === 'requested' || status === 'provisioning';
}

/** What a machine that is not known yet will be does not speak against an instance that the job asked for. */
function mayServe(
  { requirements, wantedInstanceId }: Pick<WaitingJob, 'requirements' | 'wantedInstanceId'>,
  instance: LiveInstance,
): boolean {
  if (wantedInstanceId === null) return willFit(requirements, instance);
  return (
    wantedInstanceId === instance.id &&
    (!instance.machineKnown || fits({ requirements, wantedInstanceId }, instance))
  );
}

function progressOf({ phase }: LiveInstance): number {
  return phase === null ? -1 : instancePhases.indexOf(phase);
}

function comingText({ phase, phaseStartedAt }: LiveInstance, now: Date): string {
  if (phase === null) return 'An instance has been asked for.';
  const minutes = Math.floor((now.getTime() - (phaseStartedAt ?? now).getTime()) / 60_000);
  return `${phaseTexts[phase]}${minutes < 1 ? '' : ` (${minutes} min)`}.`;
}

const liveColumns = [...factColumns, 'phase_started_at', 'unreachable_since'] as const;

async function liveInstances(trx: Transaction<Tables>): Promise<LiveInstance[]> {
  const rows = await trx
    .selectFrom('instances')
    .select(liveColumns)
    .where('status', 'in', ['requested', 'provisioning', 'ready'])
    .orderBy('id')
    .execute();
  return rows.map((row) => ({
    ...expectedFacts(row),
    status: row.status,
    phase: row.phase,
    phaseStartedAt: row.phase_started_at,
    reachable: row.unreachable_since === null,
  }));
}
