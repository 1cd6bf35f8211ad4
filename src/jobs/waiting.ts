// What queued jobs wait for, in words.
import { sql, type Transaction } from 'kysely';
import type { InstancePhase, InstanceStatus } from '../instances/instance.ts';
import type { RequestedRequirements } from '../instances/requirements.ts';
import type { Tables } from '../database/tables.ts';
import { announceJob } from './events.ts';
import { fits, type InstanceFacts, type WaitingJob } from './matching.ts';

export interface LiveInstance extends InstanceFacts {
  status: InstanceStatus;
  phase: InstancePhase | null;
  reachable: boolean;
}

/** Writes to every queued job what it waits for, where that has changed. Jobs that want the same wait for the same. */
export async function explainWaiting(trx: Transaction<Tables>): Promise<void> {
  const wishes = await trx
    .selectFrom('jobs')
    .select(['requirements', 'wanted_instance_id'])
    .distinct()
    .where('status', '=', 'queued')
    .execute();
  if (wishes.length === 0) return;
  const instances = await liveInstances(trx);
  for (const { requirements, wanted_instance_id: wantedInstanceId } of wishes) {
    const text = waitingText({ requirements, wantedInstanceId }, instances);
    const json = requirements === null ? null : JSON.stringify(requirements);
    const changed = await trx
      .updateTable('jobs')
      .set({ waiting_for: text })
      .where('status', '=', 'queued')
      .where('waiting_for', 'is distinct from', text)
      .where('wanted_instance_id', 'is not distinct from', wantedInstanceId)
      .where(sql<boolean>`requirements is not distinct from ${json}::jsonb`)
      .returning('id')
      .execute();
    for (const { id } of changed) await announceJob(trx, id);
  }
}

/** What jobs with these wishes wait for. */
export function waitingText(
  wishes: Pick<WaitingJob, 'requirements' | 'wantedInstanceId'>,
  instances: readonly LiveInstance[],
): string {
  const wanted = wishes.wantedInstanceId;
  if (wanted !== null && !instances.some(({ id }) => id === wanted)) {
    return `Instance ${wanted}, which the job asked for, has ended.`;
  }
  const ready = instances.filter(({ status }) => status === 'ready');
  const fitting = ready.filter((instance) => fits(wishes, instance));
  if (fitting.some(({ reachable }) => reachable)) return 'Every ready instance that fits is busy.';
  if (fitting.length > 0) return 'The instance that fits does not answer at the moment.';
  const coming = instances.find(
    (instance) =>
      (instance.status === 'requested' || instance.status === 'provisioning') && mayFit(wishes, instance),
  );
  if (coming !== undefined) {
    return `An instance is being prepared${coming.phase === null ? '' : `: ${coming.phase}`}.`;
  }
  if (wanted !== null)
    return `Instance ${wanted}, which the job asked for, does not satisfy its requirements.`;
  return 'No ready instance satisfies the requirements. Rent one with POST /instances.';
}

/** Whether an instance that is not ready yet may fit: what is not known about it does not speak against it. */
function mayFit(
  wishes: Pick<WaitingJob, 'requirements' | 'wantedInstanceId'>,
  instance: InstanceFacts,
): boolean {
  const wanted: RequestedRequirements | null = wishes.requirements;
  return fits(wishes, {
    id: instance.id,
    gpuName: instance.gpuName ?? wanted?.gpuNames[0] ?? null,
    gpuCount: instance.gpuCount ?? wanted?.gpuCount ?? null,
    vramGb: instance.vramGb ?? wanted?.minVramGb ?? null,
    region: instance.region ?? wanted?.regions[0] ?? null,
  });
}

async function liveInstances(trx: Transaction<Tables>): Promise<LiveInstance[]> {
  const rows = await trx
    .selectFrom('instances')
    .select(['id', 'status', 'phase', 'gpu_name', 'gpu_count', 'vram_gb', 'region', 'unreachable_since'])
    .where('status', 'in', ['requested', 'provisioning', 'ready'])
    .orderBy('id')
    .execute();
  return rows.map((row) => ({
    id: row.id,
    status: row.status,
    phase: row.phase,
    gpuName: row.gpu_name,
    gpuCount: row.gpu_count,
    vramGb: row.vram_gb,
    region: row.region,
    reachable: row.unreachable_since === null,
  }));
}
