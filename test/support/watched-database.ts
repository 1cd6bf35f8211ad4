// The database of a bench, with what is asked of it in sight.
import { Kysely, PostgresDialect } from 'kysely';
import { onTestFinished } from 'vitest';
import { createPool } from '../../src/database/connection.ts';
import type { Tables } from '../../src/database/tables.ts';
import { collector } from './collector.ts';
import type { JobBench } from './jobs.ts';

interface WatchedOptions {
  size: number;
  /** How long a statement may wait or take; null for as long as it likes. */
  statementTimeoutMs: number | null;
}

/** The database of the bench over connections of its own, the statements that it gets, and those of them that failed. */
export function openWatchedDatabase({ databaseUrl, deps: { log } }: JobBench, options: WatchedOptions) {
  const statements = collector<string>();
  const failures = collector<string>();
  const pool = createPool({ connectionString: databaseUrl }, { ...options, log });
  const db = new Kysely<Tables>({
    dialect: new PostgresDialect({ pool }),
    log({ level, query }) {
      statements.add(query.sql);
      if (level === 'error') failures.add(query.sql);
    },
  });
  onTestFinished(() => db.destroy());
  return { db, statements, failures };
}

/** One whose statements fail rather than wait for a lock for long. */
export function openHurriedDatabase(bench: JobBench) {
  return openWatchedDatabase(bench, { size: 4, statementTimeoutMs: 500 });
}
