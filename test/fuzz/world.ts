// The service as a process of its own, with everything that it needs, and what must never come out of it.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Kysely } from 'kysely';
import type { Tables } from '../../src/database/tables.ts';
import { moneyViolations, watchMoney } from '../chaos/money-invariants.ts';
import { serviceProcess } from '../chaos/service-process.ts';
import { startComfyDouble } from '../doubles/comfyui/index.ts';
import { instantPhases, startVastDouble } from '../doubles/vast/index.ts';
import { createTestDatabase } from '../support/database.ts';

export interface World {
  url: URL;
  apiKey: string;
  db: Kysely<Tables>;
  /** Everything that is secret by now, by what it is. */
  secrets(): Promise<Map<string, string>>;
  /** Memory and open files of the service's process; null where the system does not tell. */
  usage(): Promise<{ rssMb: number; openFiles: number } | null>;
  /** What the log holds so far, line by line. */
  logLines(): Promise<string[]>;
  /** What was spent beyond a limit, and how the process ended, if it did. */
  violations(): string[];
}

const HEAP_LIMIT_MB = 128;
const MAX_INSTANCES = 2;
const limits = { totalPricePerHourUsd: 3, perDayUsd: 5 };
const apiKey = 'fuzz-api-key-0123456789-0123456789-0123456789';
const secretSettings = {
  COMFYUI_TOKEN: 'fuzz-comfyui-token-0123456789',
  WEBHOOK_SECRET: `whsec_${Buffer.alloc(32, 'fuzz').toString('base64')}`,
};

export async function startWorld(stack: AsyncDisposableStack): Promise<World> {
  const [vast, comfy] = [
    await startVastDouble({
      knobs: { phases: instantPhases },
      apiKey: 'fuzz-vast-key-0123456789',
      creditUsd: 1000,
    }),
    await startComfyDouble(),
  ];
  stack.defer(async () => void (await Promise.all([vast.stop(), comfy.stop()])));
  const made = await createTestDatabase();
  stack.defer(made.stop);
  const folder = await mkdtemp(join(tmpdir(), 'comfyfleet-fuzz-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  // A password that the server does not ask for, to see where it goes.
  const databaseUrl = new URL(made.url);
  databaseUrl.password = 'fuzz-database-password';
  const logFile = join(folder, 'service.log');
  const service = serviceProcess('service', {
    logFile,
    env: {
      ...secretSettings,
      // A leak ends the process, and so is noticed.
      NODE_OPTIONS: `--max-old-space-size=${HEAP_LIMIT_MB}`,
      API_KEYS: `fuzz=${apiKey}`,
      DATABASE_URL: databaseUrl.href,
      DATA_DIR: join(folder, 'data'),
      VASTAI_API_KEY: vast.apiKey,
      VAST_API_URL: vast.url,
      VAST_PACING: 'none',
      COMFYUI_URLS: comfy.url,
      INSTANCE_POLL_SECONDS: '0.2',
      RENT_SETTLE_SECONDS: '2',
      MAX_INSTANCES: String(MAX_INSTANCES),
      MAX_TOTAL_PRICE_PER_HOUR_USD: String(limits.totalPricePerHourUsd),
      MAX_SPEND_PER_DAY_USD: String(limits.perDayUsd),
      BODY_LIMIT_MB: '1',
      UPLOAD_LIMIT_MB: '1',
      WEBHOOK_RETRY_SECONDS: '1,1',
      WEBHOOK_TIMEOUT_SECONDS: '1',
      INPUT_URL_TIMEOUT_SECONDS: '2',
    },
  });
  stack.defer(() => service.stop());
  const money = watchMoney(vast);
  stack.defer(() => money.stop());
  service.start();
  await service.up();
  const { db } = made.database;
  const fixed = new Map([
    ['the API key', apiKey],
    ['the key of the vast.ai account', vast.apiKey],
    ['the password of the database', databaseUrl.password],
    ['the token of ComfyUI', secretSettings.COMFYUI_TOKEN],
    ['the secret of webhooks', secretSettings.WEBHOOK_SECRET],
    ['the data folder', folder],
  ]);

  return {
    url: new URL(service.url ?? ''),
    apiKey,
    db,
    async secrets() {
      const rentals = await db
        .selectFrom('rentals')
        .select(['number', 'secret'])
        .where('secret', '<>', '')
        .execute();
      const kept = await db
        .selectFrom('service_values')
        .selectAll()
        .where('name', 'like', '%secret%')
        .execute();
      return new Map([
        ...fixed,
        ...rentals.map(({ secret }): [string, string] => [
          `the secret of a machine, ${secret.slice(0, 4)}…`,
          secret,
        ]),
        ...kept.map(({ name, value }): [string, string] => [`the value ${name}`, value]),
      ]);
    },
    usage: () => usageOf(service.pid),
    logLines: async () => (await readFile(logFile, 'utf8')).split('\n').filter((line) => line !== ''),
    violations() {
      const machines =
        money.seen.machines > MAX_INSTANCES ? [`money: ${money.seen.machines} machines at once`] : [];
      return [...moneyViolations(money.seen, limits), ...machines, ...service.accidents];
    },
  };
}

async function usageOf(pid: number | null): Promise<{ rssMb: number; openFiles: number } | null> {
  try {
    const [status, files] = [await readFile(`/proc/${pid}/status`, 'utf8'), await readdir(`/proc/${pid}/fd`)];
    const kilobytes = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
    return { rssMb: Math.round(kilobytes / 1024), openFiles: files.length };
  } catch {
    return null;
  }
}
