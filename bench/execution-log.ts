// What a ComfyUI ran when, by its own history.
import { getJson } from './http.ts';
import { sumOf } from './stats.ts';

/** By the clock of the wall, in milliseconds. */
export interface Execution {
  startedAt: number;
  endedAt: number;
}

interface HistoryAnswer {
  [promptId: string]: {
    prompt: [number: number, promptId: string, graph: { '1': { inputs: { seed: number } } }];
    status: { messages: [event: string, data: { timestamp: number }][] };
  };
}

/** Every execution that succeeded, by the seed of its workflow. */
export async function readExecutions(url: string): Promise<Map<number, Execution>> {
  const executions = new Map<number, Execution>();
  for (const { prompt, status } of Object.values(await getJson<HistoryAnswer>(`${url}/history`))) {
    const times = new Map(status.messages.map(([event, { timestamp }]) => [event, timestamp]));
    const startedAt = times.get('execution_start');
    const endedAt = times.get('execution_success');
    if (startedAt === undefined || endedAt === undefined) continue;
    executions.set(prompt[2]['1'].inputs.seed, { startedAt, endedAt });
  }
  return executions;
}

/** The share of the time between the first start and the last end in which nothing ran, of several ComfyUI together, from 0 to 1. */
export function idleShareOf(executionsByServer: readonly Execution[][]): number {
  const all = executionsByServer.flat();
  const spanMs =
    Math.max(...all.map(({ endedAt }) => endedAt)) - Math.min(...all.map(({ startedAt }) => startedAt));
  const busyMs = sumOf(all.map(({ startedAt, endedAt }) => endedAt - startedAt));
  return 1 - busyMs / (spanMs * executionsByServer.length);
}
