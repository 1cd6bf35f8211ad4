// The first contact with a PostgreSQL: what keeps the service from using it, in words that say where to look.
import { Client } from 'pg';
import { hasErrorCode } from '../errors.ts';
import { agreeOnStyle, connectionSettings, type ServerAddress } from './connection.ts';
import { within } from './within.ts';

const oldestVersion = 150_000;
/** PostgreSQL's `insufficient_privilege`. */
const INSUFFICIENT_PRIVILEGE = '42501';
const ANSWER_LIMIT_MS = 30_000;

/**
 * A connection of one's own. Rejects, saying what to do and never with the URL, when there is none, or when the server answers
 * nothing on it or is too old.
 */
export async function reach(address: ServerAddress, answerLimitMs = ANSWER_LIMIT_MS): Promise<Client> {
  const client = await connect(address);
  try {
    await within(answerLimitMs, assertSupported(client));
    await within(answerLimitMs, agreeOnStyle(client));
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
}

/** What the user of the database lacks, if that is what went wrong. */
export function missingRights(cause: unknown): Error | null {
  if (!hasErrorCode(cause, INSUFFICIENT_PRIVILEGE)) return null;
  return new Error(
    'The user of the database may not create what the service needs. Make it the owner of the database, or let it create tables in the schema public, and schemas.',
    { cause },
  );
}

async function connect(address: ServerAddress): Promise<Client> {
  try {
    const client = new Client(connectionSettings(address));
    // What a broken connection interrupts rejects by itself.
    client.on('error', () => undefined);
    await client.connect();
    return client;
  } catch (error) {
    const advice = 'connectionString' in address ? ' Check DATABASE_URL.' : '';
    throw new Error(`${describeRefusal(error)}${advice}`, { cause: error });
  }
}

async function assertSupported(client: Client): Promise<void> {
  const { rows } = await client.query<{ version: string; number: number }>(
    `select current_setting('server_version') as version, current_setting('server_version_num')::integer as number`,
  );
  const [{ version, number } = { version: 'unknown', number: 0 }] = rows;
  if (number < oldestVersion) {
    throw new Error(`The database is PostgreSQL ${version}; the service needs 15 or newer.`);
  }
}

function describeRefusal(error: unknown): string {
  const { code, message }: { code?: unknown; message?: unknown } = Object(error);
  if (typeof code === 'string') {
    return `${refusals.get(code) ?? 'The database cannot be reached'} (${code}).`;
  }
  const text = typeof message === 'string' ? message : '';
  return (
    silentRefusals.find(([pattern]) => pattern.test(text))?.[1] ?? 'The database cannot be connected to.'
  );
}

/** By SQLSTATE, as PostgreSQL's appendix of error codes has them. */
const refusals = new Map([
  ['28P01', 'The database refuses the user or the password'],
  ['28000', 'The database refuses the user or the kind of connection'],
  ['3D000', 'There is no such database on the server; create it first'],
  [INSUFFICIENT_PRIVILEGE, 'The user may not connect to the database'],
  ['53300', 'The database has no connection left'],
  ['57P03', 'The database is starting or stopping; try again in a moment'],
]);

/** What `pg` says without a code. */
const silentRefusals: [RegExp, string][] = [
  [/^timeout expired/, 'The database did not answer in time.'],
  [/^Connection terminated/, 'The database closed the connection at once.'],
  [/^SASL: .*password/, 'The database asks for a password.'],
  [/does not support SSL/, 'The database offers no TLS, which is asked for.'],
];
