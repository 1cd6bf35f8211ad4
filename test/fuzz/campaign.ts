// Thousands of requests against a service: sent, judged, and where one finds a fault, made as small as shows it.
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { readApi, type Api } from './api.ts';
import { isEndless, judge, leaks, parse, type Violation } from './judge.ts';
import { drafts, fillIn, type Draft, type Pools } from './requests.ts';
import type { Kind } from './values.ts';
import { exchange, type ExchangeOptions, type Outcome, type WireRequest } from './wire.ts';
import type { World } from './world.ts';

export interface CampaignOptions {
  world: World;
  requests: number;
  seed: number;
  say: (line: string) => void;
}

export interface Report {
  requests: number;
  /** How many ended how: a status, or what came instead of one. */
  outcomes: Record<string, number>;
  requestsPerSecond: number;
  slowestMs: number;
  /** Of the service's process at the start, at most, and at the end; null where the system does not tell. */
  rssMb: [number, number, number] | null;
  openFilesLeft: number | null;
  /** One for each fault, with a request that shows it. */
  violations: string[];
}

const CONCURRENCY = 6;
/** Drawn at a time. A request is known by the number of its slice and its place in it. */
const SLICE = 120;
/** Far beyond any answer, also where other work holds up the machine. */
const ANSWER_LIMIT_MS = 30_000;
const PATIENCE_MS = 150;
const SHRINK_LIMIT_MS = 15_000;
const MOST_SHRUNK = 6;
const MOST_IDS = 200;
/** Connections to the database and to machines, which are opened when they are first needed. */
const MOST_FILES_LEFT = 40;
/** Far more than twice what the heap may take. */
const MOST_RSS_MB = 600;

export async function runCampaign({ world, requests, seed, say }: CampaignOptions): Promise<Report> {
  const api = await fetchApi(world);
  const arbitrary = drafts(api, world.apiKey);
  const wire: ExchangeOptions = {
    host: world.url.hostname,
    port: Number(world.url.port),
    limitMs: ANSWER_LIMIT_MS,
    patienceMs: PATIENCE_MS,
  };
  const pools = emptyPools();
  const outcomes: Record<string, number> = {};
  const found = new Map<string, { seed: number; path: number; text: string; times: number }>();
  let secrets = await world.secrets();
  let [slowestMs, peakRssMb] = [0, 0];
  const before = await world.usage();
  const begun = performance.now();

  async function send(
    draft: Draft,
  ): Promise<{ request: WireRequest; outcome: Outcome; violations: Violation[] }> {
    const request = fillIn(draft, pools);
    const sent = performance.now();
    const outcome = await exchange(request, wire);
    if (request.ending === 'complete' && !(outcome.kind === 'answered' && isEndless(outcome)))
      slowestMs = Math.max(slowestMs, performance.now() - sent);
    if (outcome.kind === 'answered' && outcome.status < 300) harvest(pools, outcome);
    const told = outcome.kind === 'answered' ? leaks(outcome, secrets) : [];
    return { request, outcome, violations: [...judge(api, request, outcome), ...told] };
  }

  for (let done = 0; done < requests; done += SLICE) {
    const sliceSeed = seed + done;
    const count = Math.min(SLICE, requests - done);
    const slice = fc.sample(arbitrary, { seed: sliceSeed, numRuns: count }).entries();
    await Promise.all(
      Array.from({ length: CONCURRENCY }, async () => {
        for (const [path, draft] of slice) {
          const { request, outcome, violations } = await send(draft);
          const ending = outcome.kind === 'answered' ? String(outcome.status) : outcome.kind;
          outcomes[ending] = (outcomes[ending] ?? 0) + 1;
          for (const { signature, text } of violations) {
            const known = found.get(signature);
            if (known !== undefined) known.times += 1;
            else {
              found.set(signature, { seed: sliceSeed, path, text: `${text}\n${show(request)}`, times: 1 });
              say(`found ${signature}: ${text}\n${show(request)}`);
            }
          }
        }
      }),
    );
    secrets = await world.secrets();
    const rssMb = (await world.usage())?.rssMb ?? 0;
    peakRssMb = Math.max(peakRssMb, rssMb);
    if (done % (SLICE * 10) === 0 && done > 0) say(`${done} requests, ${rssMb} MB`);
  }
  const seconds = (performance.now() - begun) / 1000;

  const violations: string[] = [];
  for (const [signature, { seed: sliceSeed, path, text, times }] of [...found].slice(0, MOST_SHRUNK)) {
    const small = await shrink(arbitrary, sliceSeed, path, async (draft) =>
      (await send(draft)).violations.some((violation) => violation.signature === signature),
    );
    const smallest = small === null ? '' : `\nsmallest:\n${show(fillIn(small, pools))}`;
    violations.push(`${signature} (${times} times): ${text}${smallest}`);
  }
  violations.push(...[...found.keys()].slice(MOST_SHRUNK).map((signature) => `${signature}: also found`));

  const after = before === null ? null : await restingUsage(world, before.openFiles);
  const openFilesLeft = before === null || after === null ? null : after.openFiles - before.openFiles;
  violations.push(...(await finalViolations(world, openFilesLeft, peakRssMb)));
  return {
    requests,
    outcomes,
    requestsPerSecond: Math.round(requests / seconds),
    slowestMs: Math.round(slowestMs),
    rssMb: before === null || after === null ? null : [before.rssMb, peakRssMb, after.rssMb],
    openFilesLeft,
    violations,
  };
}

async function fetchApi({ url }: World): Promise<Api> {
  const answer = await fetch(new URL('/openapi.json', url));
  return readApi(await answer.json());
}

type OwnPools = Record<Kind, string[]>;

function emptyPools(): OwnPools & Pools {
  return { jobs: [], instances: [], assets: [], batches: [], deliveries: [], outputs: [] };
}

/** Learns the ids of what an answer shows. */
function harvest(pools: OwnPools, { body }: Extract<Outcome, { kind: 'answered' }>): void {
  const visit = (value: unknown, depth: number): void => {
    if (typeof value !== 'object' || value === null || depth > 4) return;
    for (const member of Object.values(value)) visit(member, depth + 1);
    const { id, url, urls, rentals, sizeBytes, jobId, jobs, counts }: Record<string, unknown> = Object(value);
    if (typeof url === 'string' && url.startsWith('/jobs/')) learn(pools.outputs, url.split('?', 1)[0]);
    if (typeof id !== 'string') return;
    if (Array.isArray(rentals)) learn(pools.instances, id);
    else if (urls !== undefined) learn(pools.jobs, id);
    else if (sizeBytes !== undefined) learn(pools.assets, id);
    else if (jobId !== undefined) learn(pools.deliveries, id);
    else if (jobs !== undefined || counts !== undefined) learn(pools.batches, id);
  };
  visit(parse(body), 0);
}

/** The newest ones: what is old may be gone. */
function learn(ids: string[], id: string | undefined): void {
  if (id === undefined || ids.includes(id)) return;
  ids.push(id);
  if (ids.length > MOST_IDS) ids.shift();
}

/** The smallest request like the one at `path` that still finds the fault; null where it does not find it again. */
async function shrink(
  arbitrary: fc.Arbitrary<Draft>,
  seed: number,
  path: number,
  isFound: (draft: Draft) => Promise<boolean>,
): Promise<Draft | null> {
  const property = fc.asyncProperty(arbitrary, async (draft) => !(await isFound(draft)));
  const result = await fc.check(property, {
    seed,
    path: String(path),
    numRuns: 1,
    interruptAfterTimeLimit: SHRINK_LIMIT_MS,
  });
  return result.counterexample?.[0] ?? null;
}

/** Connections that were given up take a moment to be noticed. */
async function restingUsage(world: World, openFiles: number): ReturnType<World['usage']> {
  for (let look = 0; look < 20; look += 1) {
    const usage = await world.usage();
    if (usage === null || usage.openFiles <= openFiles + 5) return usage;
    await sleep(250);
  }
  return world.usage();
}

async function finalViolations(
  world: World,
  openFilesLeft: number | null,
  peakRssMb: number,
): Promise<string[]> {
  const health = await fetch(new URL('/health', world.url));
  const secrets = await world.secrets();
  const lines = await world.logLines();
  return [
    ...world.violations(),
    ...(health.status === 200 ? [] : [`health: ${health.status} ${await health.text()}`]),
    ...(openFilesLeft !== null && openFilesLeft > MOST_FILES_LEFT
      ? [`files: ${openFilesLeft} more are open than before`]
      : []),
    ...(peakRssMb > MOST_RSS_MB ? [`memory: ${peakRssMb} MB at most`] : []),
    ...unique(lines.flatMap((line) => logComplaints(line, secrets))),
  ];
}

function logComplaints(line: string, secrets: ReadonlyMap<string, string>): string[] {
  const told = [...secrets]
    .filter(([, secret]) => line.includes(secret))
    .map(([what]) => `log: tells ${what}`);
  const { level, msg } = Object(parse(Buffer.from(line))) as { level?: unknown; msg?: unknown };
  if (level === undefined) return [...told, `log: a line of its own: ${line.slice(0, 300)}`];
  const isGrave = level === 'error' || level === 'fatal';
  return isGrave ? [...told, `log: ${level}: ${String(msg)} ${line.slice(0, 600)}`] : told;
}

function unique(lines: string[]): string[] {
  return [...new Map(lines.map((line) => [line.slice(0, 60), line])).values()];
}

function show({ method, target, headers, body, ending }: WireRequest): string {
  const head = [`${method} ${target}`, ...headers.map(([name, value]) => `${name}: ${value}`)];
  const text = body === null ? '' : body.toString('latin1');
  const lines = [...head, '', text, ...(ending === 'complete' ? [] : [`(${ending})`])];
  return lines.map((line) => `    ${JSON.stringify(line.slice(0, 600)).slice(1, -1)}`).join('\n');
}
