// The processes of a benchmark beside this one: the service as a user has it, and the ComfyUI double, so that nobody's CPU time counts as another's.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { serverProcess } from '../src/database/embedded-process.ts';
import { newDataFolder } from '../test/chaos/folders.ts';
import { serviceProcess } from '../test/chaos/service-process.ts';
import type { ComfyKnobs } from '../test/doubles/comfyui/index.ts';
import { getJson } from './http.ts';
import type { BenchOptions } from './scenario.ts';
import { watchUsage, type Usage } from './usage.ts';

export interface BenchService {
  readonly url: string;
  readonly usage: Usage;
  /** Ends it before its scenario does. */
  stop(): Promise<void>;
}

const doubleProgram = fileURLToPath(new URL('../test/doubles/comfyui/main.ts', import.meta.url));
const stopLimitMs = 10_000;
const readyLimitMs = 30_000;

/** ComfyUI doubles, each a process of its own. They end with the scenario. */
export async function startDoubles(
  count: number,
  knobs: Partial<ComfyKnobs>,
  stack: AsyncDisposableStack,
): Promise<string[]> {
  return Promise.all(Array.from({ length: count }, () => startDouble(knobs, stack)));
}

/** The service with a database of its own, with these ComfyUI servers ready. It ends with the scenario, and its files go. */
export async function startBenchService(
  comfyUrls: readonly string[],
  { folder, stack, watched }: BenchOptions,
  nodeOptions: readonly string[] = [],
): Promise<BenchService> {
  const dataDir = await newDataFolder(folder, stack);
  const service = serviceProcess('service', {
    logFile: `${dataDir}.log`,
    nodeOptions,
    env: { DATA_DIR: dataDir, COMFYUI_URLS: comfyUrls.join(',') },
  });
  stack.defer(() => service.stop());
  service.start();
  await service.up();
  const { url, pid } = service;
  if (url === null || pid === null) throw new Error('The service ended as soon as it had started.');
  await untilReady(url, comfyUrls.length);
  const usage = await watchUsage(pid, await serverProcess(join(dataDir, 'postgres')));
  stack.defer(() => usage.stop());
  watched(usage);
  return { url, usage, stop: () => service.stop() };
}

async function startDouble(knobs: Partial<ComfyKnobs>, stack: AsyncDisposableStack): Promise<string> {
  // Refused where the scenario has been broken off meanwhile, so that nothing starts that nobody would end.
  const own = stack.use(new AsyncDisposableStack());
  const child = spawn(process.execPath, [doubleProgram], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env['PATH'], PORT: '0', KNOBS: JSON.stringify(knobs) },
  });
  const ended = once(child, 'exit');
  own.defer(async () => {
    const forced = setTimeout(() => child.kill('SIGKILL'), stopLimitMs);
    child.kill('SIGTERM');
    await ended;
    clearTimeout(forced);
  });
  const early = ended.then(() => Promise.reject(new Error('The ComfyUI double ended before it answered.')));
  const [url] = await Promise.race([once(createInterface({ input: child.stdout }), 'line'), early]);
  return String(url);
}

async function untilReady(url: string, count: number): Promise<void> {
  const deadline = performance.now() + readyLimitMs;
  while (performance.now() < deadline) {
    const { items } = await getJson<{ items: { status: string }[] }>(`${url}/instances?limit=100`);
    if (items.filter(({ status }) => status === 'ready').length >= count) return;
    await sleep(50);
  }
  throw new Error(`The service had no ${count} ready instances within ${readyLimitMs / 1000} s.`);
}
