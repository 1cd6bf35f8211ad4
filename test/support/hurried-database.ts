// A database whose statements fail rather than wait.
import { Kysely, PostgresDialect } from 'kysely';
import { onTestFinished } from 'vitest';
import { createPool } from '../../src/database/connection.ts';
import type { Tables } from '../../src/database/tables.ts';
import { collector } from './collector.ts';
import type { JobBench } from './jobs.ts';

/** The database of the bench over connections of its own that wait for no lock long, and the statements that failed for it. */
export function openHurriedDatabase({ databaseUrl, deps: { log } }: JobBench) {
  const failures = collector<string>();
  const pool = createPool({ connectionString: databaseUrl }, { size: 4, log, statementTimeoutMs: 500 });
  const db = new Kysely<Tables>({
    dialect: new PostgresDialect({ pool }),
    log({ level, query }) {
      if (level === 'error') failures.add(query.sql);
    },
  });
  onTestFinished(() => db.destroy());
  return { db, failures };
}
