// The HTTP app for tests: keys in memory, parts that say what a test wants, no database, nothing in the log.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { loadConfig } from '../../src/config.ts';
import type { ApiKeys } from '../../src/http/api-keys.ts';
import { createHealth, type Health, type Probe } from '../../src/http/health.ts';
import { createHttpServer, type App } from '../../src/http/server.ts';
import type { SignedLinks } from '../../src/http/signed-links.ts';
import { createLogger } from '../../src/support/log.ts';

export interface TestAppOptions {
  /** Settings, as in the environment. */
  settings?: Record<string, string>;
  /** Names of API keys, each with its key. */
  keys?: Record<string, string>;
  /** Stands for what looks keys up. */
  apiKeys?: Partial<ApiKeys>;
  routes?: FastifyPluginAsyncZod[];
  probes?: Partial<Record<string, Probe>>;
  links?: Pick<SignedLinks, 'check'>;
  /** Receives every line of the log. */
  onLog?: (line: string) => void;
}

export interface TestApp {
  app: App;
  health: Health;
  keys: Record<string, string>;
}

/** An app that does not listen, with its parts well and its phase `running`. Close it after the test. */
export async function createTestApp(options: TestAppOptions = {}): Promise<TestApp> {
  const { keys = {}, routes = [], probes = {}, onLog } = options;
  const config = loadConfig({
    LOG_LEVEL: onLog === undefined ? 'silent' : 'trace',
    // On a busy machine any test would be turned away at times.
    LAG_LIMIT_MS: '0',
    ...options.settings,
  });
  const isWell = async () => ({ status: 'ok' as const, detail: 'It works.' });
  const health = createHealth({ database: isWell, queues: isWell, provider: isWell, ...probes });
  health.enter('running');
  const app = await createHttpServer({
    config,
    log: createLogger(config, onLog === undefined ? undefined : { write: onLog }),
    apiKeys: { ...apiKeysInMemory(keys), ...options.apiKeys },
    health,
    routes,
    ...(options.links === undefined ? {} : { links: options.links }),
  });
  return { app, health, keys };
}

/** API keys as the app sees them. A test may add and remove entries of `keys` at any time. */
function apiKeysInMemory(keys: Record<string, string>): ApiKeys {
  const unused = async () => {
    throw new Error('The HTTP app neither makes nor lists keys.');
  };
  return {
    async verify(key) {
      return Object.keys(keys).find((name) => keys[name] === key) ?? null;
    },
    async any() {
      return Object.keys(keys).length > 0;
    },
    create: unused,
    list: unused,
    revoke: unused,
    adoptSettings: unused,
  };
}
