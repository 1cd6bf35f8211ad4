// How the service is: what each part says about itself, gathered at most once a second.
import { setTimeout as delay } from 'node:timers/promises';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { ServiceError } from '../errors.ts';

const partStatuses = ['ok', 'degraded', 'unavailable', 'off'] as const;

/** How one part is. `off`: not set up, and that is fine. `detail` is one line for a person, without hosts or secrets: anybody may read it. */
export interface PartHealth {
  status: (typeof partStatuses)[number];
  detail: string;
}

/** Every part by name. The service works without any but the first two. */
interface HealthReport {
  database: PartHealth;
  queues: PartHealth;
  provider: PartHealth;
  [further: string]: PartHealth;
}

/** Asks one part. A rejection, or no answer in time, counts as `unavailable`. */
export type Probe = (signal: AbortSignal) => Promise<PartHealth>;

export type Probes = { [part in keyof HealthReport]: Probe };

type LifePhase = 'starting' | 'running' | 'stopping';

export interface Health {
  /** How every part is. Never rejects; at most about a second old. */
  check(): Promise<HealthReport>;
  /** Whether the process takes work at all. It begins as `starting`. */
  phase(): LifePhase;
  enter(phase: LifePhase): void;
}

export function createHealth(probes: Probes, { cacheMs = 1000, timeoutMs = 2000 } = {}): Health {
  let phase: LifePhase = 'starting';
  let latest: { report: Promise<HealthReport>; startedAt: number } | undefined;
  return {
    check() {
      // Whoever asks meanwhile shares the answer, so that many who watch cost as much as one.
      if (latest === undefined || performance.now() - latest.startedAt >= cacheMs) {
        latest = { report: ask(probes, timeoutMs), startedAt: performance.now() };
      }
      return latest.report;
    },
    phase: () => phase,
    enter(next) {
      phase = next;
    },
  };
}

/** `ok`: all is well. `degraded`: it works, but a part is unwell. `unavailable`: it cannot do its work. */
function overallStatus(report: HealthReport): 'ok' | 'degraded' | 'unavailable' {
  const isUnwell = (part: PartHealth) => part.status === 'degraded' || part.status === 'unavailable';
  if (report.database.status === 'unavailable' || report.queues.status === 'unavailable')
    return 'unavailable';
  return Object.values(report).some(isUnwell) ? 'degraded' : 'ok';
}

const partSchema = z.object({ status: z.enum(partStatuses), detail: z.string() });

const healthSchema = z
  .object({
    status: z.enum(['ok', 'degraded', 'unavailable']).describe('`ok` exactly when all is well'),
    version: z.string(),
    uptimeSeconds: z.number(),
    parts: z.object({ database: partSchema, queues: partSchema, provider: partSchema }).catchall(partSchema),
  })
  .meta({ id: 'Health', description: 'How the service and its parts are' });

const probeSchema = z.object({ status: z.enum(['ok', 'unavailable']), detail: z.string() });

/** The health routes. Open to everybody, never limited, and quiet in the log. */
export function healthRoutes({
  health,
  version,
}: {
  health: Health;
  version: string;
}): FastifyPluginAsyncZod {
  const open = { config: { public: true, unlimited: true }, logLevel: 'warn' } as const;
  const tags = ['service'];
  return async (app) => {
    app.get(
      '/health',
      {
        ...open,
        schema: {
          operationId: 'getHealth',
          summary: 'How the service is',
          description:
            'Answers 200 as long as the service works, even if a part is unwell, and 503 when it does not.',
          tags,
          response: {
            200: healthSchema,
            503: healthSchema.describe('The database or the queues do not work'),
          },
        },
      },
      async (_request, reply) => {
        const parts = await health.check();
        const status = overallStatus(parts);
        reply.code(status === 'unavailable' ? 503 : 200).header('cache-control', 'no-store');
        return { status, version, uptimeSeconds: Math.round(process.uptime()), parts };
      },
    );

    app.get(
      '/health/live',
      {
        ...open,
        schema: {
          operationId: 'getLiveness',
          summary: 'Whether the process lives',
          description: 'For whoever restarts it. It says nothing about the database.',
          tags,
          response: { 200: probeSchema },
        },
      },
      async (_request, reply) => {
        reply.header('cache-control', 'no-store');
        return { status: 'ok' as const, detail: 'The process lives.' };
      },
    );

    app.get(
      '/health/ready',
      {
        ...open,
        schema: {
          operationId: 'getReadiness',
          summary: 'Whether to send requests here',
          description:
            'For a load balancer: 503 while the service starts or stops, or lacks its database or queues.',
          tags,
          response: { 200: probeSchema, 503: probeSchema.describe('Send requests elsewhere') },
        },
      },
      async (_request, reply) => {
        const obstacle = await obstacleOf(health);
        reply.code(obstacle === null ? 200 : 503).header('cache-control', 'no-store');
        if (obstacle === null) return { status: 'ok' as const, detail: 'Ready.' };
        return { status: 'unavailable' as const, detail: obstacle };
      },
    );
  };
}

/** Why requests should go elsewhere, or null. */
async function obstacleOf(health: Health): Promise<string | null> {
  const phase = health.phase();
  if (phase !== 'running') return `The service is ${phase}.`;
  const { database, queues } = await health.check();
  if (database.status === 'unavailable') return `Database: ${database.detail}`;
  if (queues.status === 'unavailable') return `Queues: ${queues.detail}`;
  return null;
}

async function ask(probes: Probes, timeoutMs: number): Promise<HealthReport> {
  const { database, queues, provider, ...others } = probes;
  const [databaseHealth, queuesHealth, providerHealth, ...otherHealth] = await Promise.all(
    [database, queues, provider, ...Object.values(others)].map((probe) => askOne(probe, timeoutMs)),
  );
  const further = Object.keys(others).map((name, index) => [name, otherHealth[index] ?? unanswered] as const);
  return {
    database: databaseHealth ?? unanswered,
    queues: queuesHealth ?? unanswered,
    provider: providerHealth ?? unanswered,
    ...Object.fromEntries(further),
  };
}

const unanswered: PartHealth = { status: 'unavailable', detail: 'It does not answer.' };

async function askOne(probe: Probe, timeoutMs: number): Promise<PartHealth> {
  const done = new AbortController();
  const late = delay(timeoutMs, unanswered, { signal: done.signal }).catch(() => unanswered);
  const answer = (async () => probe(done.signal))().catch(unwell);
  try {
    return await Promise.race([answer, late]);
  } finally {
    done.abort();
  }
}

/** The reason of a failure may name hosts, unless it was written for callers. */
function unwell(error: unknown): PartHealth {
  return error instanceof ServiceError ? { status: 'unavailable', detail: error.message } : unanswered;
}
