// Seeds: drawing one where the caller asks for it, and saying which were used.
import { randomBytes } from 'node:crypto';
import type { NodeInput } from '../comfyui/object-info.ts';
import type { JobInput, JobSeed, Workflow } from './job.ts';
import type { JobPlaces } from './known-nodes.ts';
import { inputKey } from './node-check.ts';
import { applyInputs, nodeOf } from './workflow.ts';

const SEED_NAMES: ReadonlySet<string> = new Set(['seed', 'noise_seed']);
/** Within the bounds of every node that is known: some take no more than 32 bits. */
const CAUTIOUS_MAX = 2 ** 32 - 1;

/** The inputs with a number for each that is to be random. It stays the same in all attempts. */
export function drawSeeds(
  workflow: Workflow,
  inputs: readonly JobInput[],
  places: Pick<JobPlaces, 'inputs'>,
): JobInput[] {
  return inputs.map((input) => {
    if (input.random !== true) return input;
    const nodeClass = nodeOf(workflow, input.node)?.class_type ?? '';
    return { ...input, value: drawWithin(places.inputs(nodeClass, input.input)) };
  });
}

/** The seeds of a workflow with its inputs: those that nodes call so, and those that were drawn. A linked one is not known before it runs. */
export function seedsOf(workflow: Workflow, inputs: readonly JobInput[]): JobSeed[] {
  const drawn = new Set(inputs.flatMap(({ node, input, random }) => (random ? [inputKey(node, input)] : [])));
  const values = inputs.flatMap(({ node, input, value }) =>
    value === undefined ? [] : [{ node, input, value }],
  );
  return Object.entries(applyInputs(workflow, values)).flatMap(([node, { inputs: given }]) =>
    Object.entries(given).flatMap(([input, value]) =>
      typeof value === 'number' && (SEED_NAMES.has(input) || drawn.has(inputKey(node, input)))
        ? [{ node, input, value }]
        : [],
    ),
  );
}

/** A whole number that every one of the nodes takes. */
function drawWithin(known: readonly NodeInput[]): number {
  const min = Math.ceil(Math.max(0, ...known.map((input) => input.min ?? 0)));
  const max = Math.floor(
    Math.min(Number.MAX_SAFE_INTEGER, ...known.map((input) => input.max ?? CAUTIOUS_MAX)),
  );
  return known.length === 0 || max < min ? draw(0, CAUTIOUS_MAX) : draw(min, max);
}

/** 64 random bits, so that no number is noticeably more likely than another. */
function draw(min: number, max: number): number {
  const range = BigInt(max) - BigInt(min) + 1n;
  return min + Number(randomBytes(8).readBigUInt64BE() % range);
}
