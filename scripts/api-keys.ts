// Makes, lists and revokes API keys: npm run keys -- create NAME | list | revoke NAME
import { mkdir } from 'node:fs/promises';
import { pino } from 'pino';
import { ConfigError, loadConfig, type Config } from '../src/config.ts';
import { createKysely, createPool, type ServerAddress } from '../src/database/connection.ts';
import { embeddedAddress, startEmbeddedServer } from '../src/database/embedded.ts';
import { migrate } from '../src/database/migrate.ts';
import { reasonsOf, ServiceError } from '../src/errors.ts';
import { createApiKeys, type ApiKeys } from '../src/http/api-keys.ts';

const usage = `Usage: npm run keys -- create NAME    makes a key and prints it, this once
       npm run keys -- list           shows the names of all keys
       npm run keys -- revoke NAME    ends a key
`;

const log = pino({ level: 'silent' });

try {
  const command = commandOf(process.argv.slice(2));
  if (command === null) {
    process.stderr.write(usage);
    process.exitCode = 2;
  } else {
    await withApiKeys(loadConfig(process.env), command);
  }
} catch (error) {
  const isExpected = error instanceof ServiceError || error instanceof ConfigError;
  process.stderr.write(
    isExpected ? `${error.message}\n` : `The keys could not be reached: ${reasonsOf(error)}\n`,
  );
  process.exitCode = 1;
}

type Command = (keys: ApiKeys) => Promise<void>;

function commandOf([verb, name, ...further]: string[]): Command | null {
  if (further.length > 0) return null;
  if (verb === 'create' && name !== undefined) return (keys) => create(keys, name);
  if (verb === 'revoke' && name !== undefined) return (keys) => revoke(keys, name);
  return verb === 'list' && name === undefined ? list : null;
}

/** The key alone goes to the standard output, so that a script can take it from there. */
async function create(keys: ApiKeys, name: string): Promise<void> {
  const { key } = await keys.create(name);
  process.stderr.write('The key is shown this once. A running service accepts it within 5 seconds.\n');
  process.stdout.write(`${key}\n`);
}

async function revoke(keys: ApiKeys, name: string): Promise<void> {
  await keys.revoke(name);
  process.stderr.write(`The key ${name} is revoked. A running service refuses it within 5 seconds.\n`);
}

async function list(keys: ApiKeys): Promise<void> {
  for (const { name, origin, createdAt, revokedAt } of await keys.list()) {
    const state = revokedAt === null ? 'active' : `revoked ${revokedAt.toISOString()}`;
    const from = origin === 'settings' ? 'API_KEYS' : 'command';
    process.stdout.write(`${[name, from, `created ${createdAt.toISOString()}`, state].join('\t')}\n`);
  }
}

async function withApiKeys(config: Config, command: Command): Promise<void> {
  await using opened = new AsyncDisposableStack();
  const address = await openServer(config, opened);
  await migrate(address, log);
  const pool = createPool(address, { size: 1, log, statementTimeoutMs: 30_000 });
  opened.defer(() => pool.end());
  await command(createApiKeys(createKysely(pool)));
}

/** The server of DATABASE_URL, or the service's own; this is started only if no service runs it already. */
async function openServer(config: Config, opened: AsyncDisposableStack): Promise<ServerAddress> {
  if (config.DATABASE_URL !== undefined) return { connectionString: config.DATABASE_URL };
  await mkdir(config.DATA_DIR, { recursive: true });
  const address = await embeddedAddress(config.DATA_DIR);
  if (await answers(address)) return address;
  const server = await startEmbeddedServer(config.DATA_DIR, log);
  opened.defer(() => server.stop());
  return server.address;
}

async function answers(address: ServerAddress): Promise<boolean> {
  const pool = createPool(address, { size: 1, log, statementTimeoutMs: 5000 });
  try {
    await pool.query('select 1');
    return true;
  } catch {
    return false;
  } finally {
    await pool.end();
  }
}
