// The work that is measured: one node that takes a known time and saves one file of a known size.
import type { ComfyKnobs } from '../test/doubles/comfyui/index.ts';
import type { Workflow } from '../src/jobs/job.ts';

export interface Work {
  durationMs: number;
  outputBytes: number;
}

const KB = 1000;
export const MB = 1000 * 1000;

export const small = (durationMs = 0): Work => ({ durationMs, outputBytes: 100 * KB });
export const large = (durationMs = 0): Work => ({ durationMs, outputBytes: 8 * MB });

let seeds = 0;

/** A workflow whose result no cache has: its seed is new. */
export function workflowOf(work: Work): { seed: number; workflow: Workflow } {
  seeds += 1;
  const inputs = { seed: seeds, filename_prefix: 'bench' };
  return { seed: seeds, workflow: { '1': { class_type: nodeName(work), inputs } } };
}

/** What the double needs to know to do such work. Its history is kept although we ask for its removal: it is the log of what ran when. */
export function knobsFor(works: readonly Work[]): Partial<ComfyKnobs> {
  return {
    nodes: Object.fromEntries(
      works.map((work) => [
        nodeName(work),
        { ...work, steps: work.durationMs === 0 ? 0 : 4, outputCount: 1 },
      ]),
    ),
    requestFaults: [{ route: 'POST /history', how: 'status', status: 200 }],
  };
}

function nodeName({ durationMs, outputBytes }: Work): string {
  return `Bench${outputBytes}Bytes${durationMs}Ms`;
}
