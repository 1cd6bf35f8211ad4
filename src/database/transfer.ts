// The service's tables as one stream of JSON lines, and back into an empty database: a move, a backup, another PostgreSQL.
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { escapeIdentifier, type Client } from 'pg';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { ServerAddress } from './connection.ts';
import { disown } from './disown.ts';
import { migrate, migrations } from './migrate.ts';
import { reach } from './reach.ts';

/** Rows by table. */
export type RowCounts = Record<string, number>;

/** The first line: what the rest is, and which migration its tables are at. */
const header = z.object({
  format: z.literal('comfyfleet-export'),
  schema: z.string(),
  exportedAt: z.string(),
});
/** Then rows, each as PostgreSQL writes it: no value is touched on the way. Tables come after those they refer to. */
const batch = z.object({ table: z.string(), rows: z.array(z.string()) });
/** The last line tells that nothing is missing. */
const footer = z.object({
  sequences: z.record(z.string(), z.number()),
  counts: z.record(z.string(), z.number()),
});

/** The schema in which PostgreSQL finds the service's tables: `public`, unless it is set up to look elsewhere first. */
const ownSchema = `(select relnamespace from pg_class where oid = to_regclass('kysely_migration'))`;

const batchBytes = 1_000_000;
const mostRows = 1_000;

/**
 * Writes every table as it is at one moment, beside a running service. The queues are left out: a service that starts
 * makes their messages anew from the tables.
 */
export async function exportData(address: ServerAddress, output: Writable): Promise<RowCounts> {
  return withClient(address, async (client) => {
    await client.query('begin isolation level repeatable read, read only');
    const line = (value: object): Promise<void> => write(output, `${JSON.stringify(value)}\n`);
    const schema = await levelOf(client);
    if (schema === null) throw new Error('There is nothing to export: no service has used this database.');
    await line({ format: 'comfyfleet-export', schema, exportedAt: new Date().toISOString() });
    const counts: RowCounts = {};
    for (const table of await tablesOf(client)) {
      counts[table] = 0;
      for await (const rows of rowsOf(client, table)) {
        counts[table] += rows.length;
        await line({ table, rows });
      }
    }
    await line({ sequences: await sequencesOf(client), counts });
    return counts;
  });
}

/** `move`: the service goes on here, and nowhere else. `copy`: another service, which leaves to the first what is its. */
export type ImportKind = 'move' | 'copy';

export interface ImportOptions {
  kind: ImportKind;
  /** How the labels of the service will begin that uses the database, where its settings decide that. */
  label: string | null;
  log: Logger;
}

/**
 * Reads what `exportData` wrote into an empty database, all of it or nothing, and brings it up to date. Rejects when
 * the database holds anything, when the export is cut off, or when a newer version of the service made it; and a copy
 * whose labels would be those of its original.
 */
export async function importData(
  address: ServerAddress,
  input: Readable,
  { kind, label, log }: ImportOptions,
): Promise<RowCounts> {
  const lines = linesOf(input);
  const next = async (): Promise<unknown> => parse((await lines.next()).value);
  const start = header.safeParse(await next());
  if (!start.success) throw new Error('This is not an export of the service.');
  const { schema } = start.data;
  if (!Object.hasOwn(migrations, schema)) {
    throw new Error(
      `The export is at schema ${schema}, which this version of the service does not know. Use a newer one.`,
    );
  }
  const counts = await withClient(address, async (client) => {
    const level = await levelOf(client);
    if (level !== null && level !== schema) {
      throw new Error(
        `The database is at schema ${level}, and the export at ${schema}. Import into a new database.`,
      );
    }
    await migrate(address, log, { level: schema });
    await client.query('begin');
    await assertEmpty(client);
    const done = await insertAll(client, next);
    if (kind === 'copy') await disown(client, label);
    await client.query('commit');
    return done;
  });
  await migrate(address, log);
  return counts;
}

async function insertAll(client: Client, next: () => Promise<unknown>): Promise<RowCounts> {
  const tables = new Set(await tablesOf(client));
  const counts: RowCounts = Object.fromEntries([...tables].map((table) => [table, 0]));
  for (;;) {
    const value = await next();
    const end = footer.safeParse(value);
    if (end.success) {
      const short = Object.entries(end.data.counts).find(([table, count]) => counts[table] !== count);
      if (short !== undefined) throw new Error(`The export is damaged: rows of ${short[0]} are missing.`);
      await restoreSequences(client, end.data.sequences);
      return counts;
    }
    const { table, rows } = batch.parse(value);
    if (!tables.has(table)) throw new Error(`The export holds an unknown table, ${table}.`);
    const name = escapeIdentifier(table);
    // The offset keeps each line from being read once for every column.
    await client.query(
      `insert into ${name} overriding system value
       select (read.row).* from (select line::${name} as row from unnest($1::text[]) line offset 0) read`,
      [rows],
    );
    counts[table] = (counts[table] ?? 0) + rows.length;
  }
}

/** Reads a table through a cursor. The next batch is as long as the last one's rows let fit into about a megabyte. */
async function* rowsOf(client: Client, table: string): AsyncGenerator<string[]> {
  const name = escapeIdentifier(table);
  await client.query(`declare export_rows no scroll cursor for select ${name}::text as line from ${name}`);
  for (let limit = 10; ;) {
    const { rows } = await client.query<{ line: string }>(`fetch ${limit} from export_rows`);
    if (rows.length === 0) break;
    yield rows.map(({ line }) => line);
    const bytes = rows.reduce((sum, { line }) => sum + line.length, 0);
    limit = Math.min(mostRows, Math.max(1, Math.floor((batchBytes / bytes) * rows.length)));
  }
  await client.query('close export_rows');
}

/** The service's tables, each after those that it refers to; unlogged ones hold nothing that anybody would miss. */
async function tablesOf(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ name: string; parents: string[] }>(
    `select relname as name, array(
       select parent.relname::text from pg_constraint join pg_class parent on parent.oid = confrelid
       where conrelid = pg_class.oid and contype = 'f' and confrelid <> conrelid) as parents
     from pg_class where relnamespace = ${ownSchema} and relkind = 'r' and relpersistence = 'p'
       and relname not like 'kysely%'
     order by relname`,
  );
  const parents = new Map(rows.map((row) => [row.name, row.parents]));
  const sorted = new Set<string>();
  const visit = (name: string): void => {
    for (const parent of parents.get(name) ?? []) if (!sorted.has(parent)) visit(parent);
    sorted.add(name);
  };
  for (const name of parents.keys()) visit(name);
  return [...sorted];
}

async function sequencesOf(client: Client): Promise<Record<string, number>> {
  const { rows } = await client.query<{ name: string; value: number }>(
    `select sequencename as name, last_value as value
     from pg_sequences join pg_namespace on nspname = schemaname
     where pg_namespace.oid = ${ownSchema} and last_value is not null`,
  );
  return Object.fromEntries(rows.map(({ name, value }) => [name, value]));
}

async function restoreSequences(client: Client, sequences: Record<string, number>): Promise<void> {
  for (const [name, value] of Object.entries(sequences)) {
    await client.query('select setval($1::regclass, $2)', [escapeIdentifier(name), value]);
  }
}

async function assertEmpty(client: Client): Promise<void> {
  for (const table of await tablesOf(client)) {
    const name = escapeIdentifier(table);
    // Nobody else writes while the import goes on.
    await client.query(`lock table ${name} in exclusive mode`);
    const { rows } = await client.query<{ used: boolean }>(`select exists (select from ${name}) as used`);
    if (rows[0]?.used === true) {
      throw new Error(`The database is not empty: there is something in ${table}. Import into a new one.`);
    }
  }
}

/** The newest migration that was applied; null where none was. */
async function levelOf(client: Client): Promise<string | null> {
  const { rows: found } = await client.query<{ there: boolean }>(
    `select to_regclass('kysely_migration') is not null as there`,
  );
  if (found[0]?.there !== true) return null;
  const { rows } = await client.query<{ level: string | null }>(
    'select max(name) as level from kysely_migration',
  );
  return rows[0]?.level ?? null;
}

async function withClient<T>(address: ServerAddress, work: (client: Client) => Promise<T>): Promise<T> {
  const client = await reach(address);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

async function* linesOf(input: Readable): AsyncGenerator<string> {
  let pieces: string[] = [];
  try {
    for await (const chunk of input.setEncoding('utf8')) {
      const [first = '', ...rest] = String(chunk).split('\n');
      pieces.push(first);
      for (const piece of rest) {
        yield pieces.join('');
        pieces = [piece];
      }
    }
  } catch (error) {
    throw new Error('The export cannot be read to its end: it is cut off or damaged. Nothing was imported.', {
      cause: error,
    });
  }
}

function parse(line: unknown): unknown {
  if (typeof line !== 'string') throw new Error('The export ends too early: it is cut off.');
  try {
    return JSON.parse(line);
  } catch (error) {
    throw new Error('The export is damaged: a line of it is not JSON.', { cause: error });
  }
}

async function write(output: Writable, text: string): Promise<void> {
  // One that failed while nothing waited for it never drains.
  if (output.destroyed) throw output.errored ?? new Error('The export has nowhere to go any more.');
  if (!output.write(text)) await once(output, 'drain');
}
