// What a server says of its node classes (`/object_info`), reduced to what its own checks of a workflow look at.
import { z } from 'zod';
import { askComfy, errorBehind, readAnswer, type AnswerLimits } from './answer.ts';
import type { Link, LinkRequest } from './link.ts';

/** All node classes of a server, by name. */
export interface NodeCatalog {
  comfyuiVersion: string;
  classes: ReadonlyMap<string, NodeClass>;
  /** Names of classes that ComfyUI replaces by others before it checks a workflow. */
  replaced: ReadonlySet<string>;
}

export interface NodeClass {
  /** Part of ComfyUI itself: its types are plain texts. Types of other nodes may have rules of their own. */
  isCore: boolean;
  /** May check values and links itself, and then ComfyUI does not: its inputs have no choices here, and its bounds may not be meant. */
  checksItself: boolean;
  /** ComfyUI runs only what such a node asks for. */
  isOutput: boolean;
  /** The type of each output; null where it is not a plain text. */
  outputs: (string | null)[];
  inputs: Record<string, NodeInput>;
}

export interface NodeInput {
  /** `COMBO` for a list of choices; null where one input stands for others whose names are not known. */
  type: string | null;
  required: boolean;
  /** Only where ComfyUI holds a value against them. */
  choices?: readonly (string | number | boolean)[];
  /** The choices are what lies on the disk: models and other files, which come and go. */
  isFromDisk?: true;
  min?: number;
  max?: number;
}

/** Packs of nodes make it many megabytes, for which ComfyUI looks into every folder of models. */
const wholeLimits: AnswerLimits = { deadlineMs: 30_000, maxBytes: 64 * 1024 * 1024 };
const partLimits: AnswerLimits = { deadlineMs: 10_000, maxBytes: 8 * 1024 * 1024 };

/** Asks a server for all its node classes. `comfyuiVersion` is its own word. Rejects with a `ComfyError`, or with the signal's reason. */
export async function askNodeCatalog(
  link: Link,
  comfyuiVersion: string,
  signal?: AbortSignal,
): Promise<NodeCatalog> {
  const answer = await askComfy(link, get('/object_info', signal), wholeLimits);
  return {
    comfyuiVersion,
    classes: readNodeClasses(readAnswer(dictSchema, answer), comfyuiVersion),
    replaced: await askReplaced(link, signal),
  };
}

/** Asks for one class as it is now; null when the server does not have it. Rejects as the above. */
export async function askNodeClass(
  link: Link,
  name: string,
  comfyuiVersion: string,
  signal?: AbortSignal,
): Promise<NodeClass | null> {
  const request = get(`/object_info/${encodeURIComponent(name)}`, signal);
  const raw = readAnswer(dictSchema, await askComfy(link, request, partLimits));
  return readNodeClasses(raw, comfyuiVersion).get(name) ?? null;
}

/** ComfyUI 0.33 tells which classes it replaces; those before it replace none and do not know the route. */
async function askReplaced(link: Link, signal?: AbortSignal): Promise<Set<string>> {
  const answer = await askComfy(link, get('/node_replacements', signal), partLimits);
  if (errorBehind(answer)?.kind === 'not_found') return new Set();
  return new Set(Object.keys(readAnswer(dictSchema, answer)));
}

function get(path: string, signal: AbortSignal | undefined): LinkRequest {
  return { method: 'GET', path, signal };
}

const dictSchema = z.record(z.string(), z.unknown());

/** Reads an answer of `/object_info`. A class that is described in a way that nobody foresaw is known by its name alone. */
export function readNodeClasses(
  raw: Readonly<Record<string, unknown>>,
  comfyuiVersion: string,
): Map<string, NodeClass> {
  const checksCombos = isAtLeast(comfyuiVersion, COMBOS_CHECKED_FROM);
  return new Map(Object.entries(raw).map(([name, info]) => [name, readNodeClass(name, info, checksCombos)]));
}

/** ComfyUI 0.3.64 does not hold values against choices that are given as `["COMBO", {options}]`; 0.33 does. */
const COMBOS_CHECKED_FROM: readonly [number, number] = [0, 33];

/** Nodes of ComfyUI 0.3.64 to 0.36 with checks of their own (`VALIDATE_INPUTS`) that nothing in their description tells. */
const selfChecked = new Set(['CustomCombo', 'LoadLatent']);

type Dict = Readonly<Record<string, unknown>>;
interface Rules {
  checksCombos: boolean;
  checksItself: boolean;
}

function readNodeClass(name: string, info: unknown, checksCombos: boolean): NodeClass {
  const { input, output, output_node: isOutput, python_module: module } = dictOf(info);
  const required = dictOf(dictOf(input)['required']);
  // A required input wins, as in ComfyUI.
  const specs = Object.entries({ ...dictOf(dictOf(input)['optional']), ...required });
  // `comfy_api_nodes` are ComfyUI's too, but some of them decide themselves what may be linked to them.
  const isCore = typeof module === 'string' && (module === 'nodes' || module.startsWith('comfy_extras.'));
  const checksItself = !isCore || selfChecked.has(name) || specs.some(([, spec]) => isUpload(spec));
  const rules = { checksCombos, checksItself };
  return {
    isCore,
    checksItself,
    isOutput: isOutput === true,
    outputs: listOf(output).map((type) => (typeof type === 'string' ? type : null)),
    inputs: Object.fromEntries(
      specs.map(([key, spec]) => [
        key,
        { required: Object.hasOwn(required, key), ...readInput(key, spec, rules) },
      ]),
    ),
  };
}

/** Lists of uploaded files are only suggestions: such a node looks for the file when it is checked. */
function isUpload(spec: unknown): boolean {
  const options = dictOf(listOf(spec)[1]);
  return Object.keys(options).some((key) => /upload|folder/.test(key) && options[key] !== false);
}

/** An input is `[type, options]`, or `[choices, options]`. */
function readInput(name: string, spec: unknown, rules: Rules): Omit<NodeInput, 'required'> {
  const [type, given] = listOf(spec);
  const options = dictOf(given);
  if (Array.isArray(type) || type === 'COMBO') {
    const isChecked = !rules.checksItself && (type !== 'COMBO' || rules.checksCombos);
    const choices = listOf(type === 'COMBO' ? options['options'] : type);
    if (!isChecked || !choices.every(isChoice) || isOpen(options)) return { type: 'COMBO' };
    return { type: 'COMBO', choices, ...(isFromDisk(name, choices) ? { isFromDisk: true } : {}) };
  }
  if (typeof type !== 'string' || isDynamic(type)) return { type: null };
  const { min, max } = options;
  return {
    type,
    ...(typeof min === 'number' ? { min } : {}),
    ...(typeof max === 'number' ? { max } : {}),
  };
}

function dictOf(value: unknown): Dict {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {};
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function isChoice(value: unknown): value is string | number | boolean {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean';
}

/** ComfyUI 0.33: one such input stands for several others, as many as the workflow has. */
function isDynamic(type: string): boolean {
  return /^COMFY_.+_V3$/.test(type) && type !== 'COMFY_MATCHTYPE_V3';
}

/** Choices that only the editor knows, and those of which several may be taken. */
function isOpen(options: Dict): boolean {
  return options['multiselect'] === true || Object.keys(options).some((key) => key.startsWith('remote'));
}

/** Models appear in lists without any mark. A list that might be one counts as one. */
function isFromDisk(input: string, choices: readonly unknown[]): boolean {
  if (input === 'sampler_name') return false;
  return (
    choices.length === 0 ||
    /(?:^|_)(?:name|model|file|path|folder)\d*$/.test(input) ||
    choices.some((choice) => /\.[a-z][a-z0-9]{1,11}$/i.test(String(choice)))
  );
}

function isAtLeast(version: string, [major, minor]: readonly [number, number]): boolean {
  const [, foundMajor, foundMinor] = /^v?(\d+)\.(\d+)/.exec(version) ?? [];
  if (foundMajor === undefined) return false;
  return Number(foundMajor) > major || (Number(foundMajor) === major && Number(foundMinor) >= minor);
}
