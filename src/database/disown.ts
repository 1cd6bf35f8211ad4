// A copied database lets go of everything that is still the business of the service it was copied from.
import type { Client } from 'pg';

/**
 * Writes off the machines, ends the unfinished jobs and forgets the name of the deployment, so that a service on this
 * database neither touches what the other one has rented nor runs anything twice. Knows every schema that can be imported.
 * Rejects where `label`, with which the settings begin the labels to come, is what the other one's labels begin with.
 */
export async function disown(client: Client, label: string | null): Promise<void> {
  await assertOtherLabel(client, label);
  const run = async (table: string, statement: string): Promise<void> => {
    const { rows } = await client.query<{ there: boolean }>('select to_regclass($1) is not null as there', [
      table,
    ]);
    if (rows[0]?.there === true) await client.query(statement);
  };
  // With another name its labels are strangers' to the other service, and the other's to it.
  await run('service_values', `delete from service_values where name = 'deployment'`);
  await run('orphans', 'delete from orphans');
  await run('slots', 'delete from slots');
  await run(
    'rentals',
    `update rentals set status = 'gone', gone_at = now(), end_reason = 'left_behind' where status <> 'gone'`,
  );
  await run(
    'instances',
    `update instances set status = 'terminated', terminated_at = now(), phase = null, message = null,
       next_step_at = null, termination_reason = 'left_behind'
     where status <> 'terminated'`,
  );
  await run(
    'attempts',
    `update attempts set status = 'ended', outcome = 'canceled', ended_at = now(),
       reason = 'The job stays with the service that this database was copied from.'
     where status <> 'ended'`,
  );
  await run(
    'webhook_deliveries',
    `update webhook_deliveries set status = 'failed', ended_at = now(), next_try_at = null where status = 'pending'`,
  );
  await run(
    'job_events',
    `insert into job_events (job_id, type, data)
     select id, 'status', jsonb_build_object(
       'status', 'canceled', 'waitingFor', null, 'instanceId', null, 'attempt', attempt, 'error', null)
     from jobs where finished_at is null order by id`,
  );
  await run(
    'jobs',
    `update jobs set status = 'canceled', finished_at = now(), waiting_for = null where finished_at is null`,
  );
}

async function assertOtherLabel(client: Client, label: string | null): Promise<void> {
  const { rows } = await client.query<{ taken: boolean }>(
    'select exists (select from rentals where starts_with(label, $1)) as taken',
    [`${label}.`],
  );
  if (label !== null && rows[0]?.taken === true) {
    throw new Error(
      'DEPLOYMENT is the name of the service that made the export, and each would end the machines of the other. Give the copy another one, or leave DEPLOYMENT unset.',
    );
  }
}
