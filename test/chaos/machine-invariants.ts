// What must be true of every machine that was ever rented, judged from the double's own history and our records.
import type { Kysely } from 'kysely';
import type { InstanceRow, RentalRow, Tables } from '../../src/database/tables.ts';
import type { Rental, VastDouble } from '../doubles/vast/index.ts';

/** Everything that is judged. It is read once the provider behaves again and all has settled. */
export interface MachineEvidence {
  /** Every rental that the double ever made, foreign ones included. */
  rentals: Rental[];
  /** How the rentals of others looked before, by id. */
  foreignBefore: ReadonlyMap<number, string>;
  /** How the labels of this deployment begin. */
  labelPrefix: string;
  instanceRows: InstanceRow[];
  rentalRows: RentalRow[];
}

/** Between the double's clock reading and ours: both are this machine's, but they are read at other moments. */
const READING_MS = 50;

export async function gatherEvidence(
  vast: VastDouble,
  db: Kysely<Tables>,
  before: Pick<MachineEvidence, 'foreignBefore' | 'labelPrefix'>,
): Promise<MachineEvidence> {
  return {
    ...before,
    rentals: [...vast.state.rentals.values()],
    instanceRows: await db.selectFrom('instances').selectAll().execute(),
    rentalRows: await db.selectFrom('rentals').selectAll().execute(),
  };
}

/** The state of all rentals of others, for a comparison later. */
export function foreignState(vast: VastDouble): Map<number, string> {
  const foreign = [...vast.state.rentals.values()].filter(({ isForeign }) => isForeign);
  return new Map(foreign.map((rental) => [rental.id, stateOf(rental)]));
}

/** Nothing of ours lives, every rental has its record, nobody else's was touched, nothing was rented twice, all ends have a reason. */
export function machineViolations(evidence: MachineEvidence): string[] {
  return [
    ...orphans(evidence),
    ...unrecorded(evidence),
    ...touchedForeign(evidence),
    ...rentedTwice(evidence),
    ...unended(evidence),
  ];
}

/** Rentals of which our record said "gone" while they lived: both views of the provider had denied them. */
export function closedTooEarly({ rentals, rentalRows }: MachineEvidence): RentalRow[] {
  return rentalRows.filter((row) => {
    const rental = rentals.find(({ label }) => label === row.label);
    if (rental === undefined || row.gone_at === null) return false;
    return (rental.endedAtMs ?? Number.POSITIVE_INFINITY) > row.gone_at.getTime() + READING_MS;
  });
}

function orphans({ rentals, rentalRows }: MachineEvidence): string[] {
  return rentals.flatMap((rental) => {
    if (rental.isForeign || rental.endedAtMs !== null) return [];
    const row = rentalRows.find(({ label }) => label === rental.label);
    const record = row === undefined ? 'has no record' : `is ${row.status} in our record`;
    return [`orphan: rental ${rental.id} (${rental.label}) lives and bills, and ${record}`];
  });
}

function unrecorded({ rentals, rentalRows }: MachineEvidence): string[] {
  const byLabel = new Map(rentalRows.map((row) => [row.label, row]));
  return rentals.flatMap((rental) => {
    if (rental.isForeign) return [];
    const row = byLabel.get(rental.label ?? '');
    const isOther = row?.provider_instance_id != null && row.provider_instance_id !== String(rental.id);
    if (isOther) {
      return [
        `unrecorded: rental ${rental.id} (${rental.label}) is ${row.provider_instance_id} in our record`,
      ];
    }
    if (row !== undefined || rental.endedAtMs !== null) return [];
    return [`unrecorded: rental ${rental.id} (${rental.label}) has no record`];
  });
}

function touchedForeign({ rentals, foreignBefore }: MachineEvidence): string[] {
  return [...foreignBefore].flatMap(([id, before]) => {
    const rental = rentals.find((candidate) => candidate.id === id);
    const now = rental === undefined ? 'gone' : stateOf(rental);
    return now === before ? [] : [`foreign: rental ${id} was ${before} and is ${now}`];
  });
}

/** One request never has two machines at a time, and one record never more than one. */
function rentedTwice({ rentals, labelPrefix }: MachineEvidence): string[] {
  const ours = rentals.filter(({ isForeign }) => !isForeign);
  const byLabel = Map.groupBy(ours, ({ label }) => label ?? '');
  const byInstance = Map.groupBy(ours, ({ label }) => instanceIn(label ?? '', labelPrefix));
  const sameLabel = [...byLabel].flatMap(([label, group]) =>
    group.length > 1 ? [`twice: ${group.length} rentals were made under the label ${label}`] : [],
  );
  const atOnce = [...byInstance].flatMap(([instanceId, group]) => overlaps(instanceId, group));
  return [...sameLabel, ...atOnce];
}

function overlaps(instanceId: string, rentals: Rental[]): string[] {
  const inOrder = rentals.toSorted((a, b) => a.createdAtMs - b.createdAtMs);
  return inOrder.flatMap((rental, at) => {
    const next = inOrder[at + 1];
    if (next === undefined || (rental.endedAtMs ?? Number.POSITIVE_INFINITY) <= next.createdAtMs) return [];
    const times = [rental, next].map(({ id, createdAtMs, endedAtMs }) => `${id} ${createdAtMs}-${endedAtMs}`);
    return [`twice: instance ${instanceId} had two machines at once: ${times.join(', ')}`];
  });
}

function unended({ instanceRows, rentalRows }: MachineEvidence): string[] {
  const instances = instanceRows.flatMap(({ id, status, termination_reason: reason }) => {
    if (status !== 'terminated') return [`unended: instance ${id} is ${status}`];
    return reason === null ? [`unended: instance ${id} is terminated without a reason`] : [];
  });
  const rentals = rentalRows.flatMap(({ label, status, end_reason: reason }) => {
    if (status !== 'gone') return [`unended: the record of rental ${label} is ${status}`];
    return reason === null ? [`unended: rental ${label} is gone without a reason`] : [];
  });
  return [...instances, ...rentals];
}

/** `<prefix>.<deployment>.<instance id>.<number>` */
function instanceIn(label: string, labelPrefix: string): string {
  return label.slice(labelPrefix.length + 1).replace(/\.\d+$/, '');
}

function stateOf({ label, actualStatus, intendedStatus, endedAtMs, history }: Rental): string {
  return JSON.stringify({ label, actualStatus, intendedStatus, endedAtMs, changes: history.length });
}
