// What is known of an instance and of the machine that it will be, from its row.
import type { InstanceRow } from '../database/tables.ts';
import type { ExpectedFacts, InstanceFacts } from './matching.ts';

/** What a machine has. */
export const machineColumns = [
  'gpu_name',
  'gpu_count',
  'vram_gb',
  'ram_gb',
  'disk_gb',
  'cuda_version',
  'region',
] as const satisfies (keyof InstanceRow)[];

export const factColumns = [
  'id',
  'provider',
  'status',
  'phase',
  'requirements',
  'wanted_offer_id',
  ...machineColumns,
] as const satisfies (keyof InstanceRow)[];

/** Before a machine is chosen the columns are empty, or those of an earlier one that failed. */
export function expectedFacts(row: Pick<InstanceRow, (typeof factColumns)[number]>): ExpectedFacts {
  return {
    ...machineFacts(row),
    machineKnown: row.status !== 'requested' && row.phase !== 'searching' && row.gpu_name !== null,
    // An offer that a caller chose need not satisfy them.
    requirements: row.wanted_offer_id === null ? row.requirements : null,
  };
}

export function machineFacts(row: Pick<InstanceRow, 'id' | (typeof machineColumns)[number]>): InstanceFacts {
  return {
    id: row.id,
    gpuName: row.gpu_name,
    gpuCount: row.gpu_count,
    vramGb: row.vram_gb,
    ramGb: row.ram_gb,
    diskGb: row.disk_gb,
    cudaVersion: row.cuda_version,
    region: row.region,
  };
}
