// Is a workflow judged as ComfyUI would judge it, and accepted where nobody can know?
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askNodeCatalog, readNodeClasses, type NodeCatalog } from '../../src/comfyui/object-info.ts';
import { openLink, type Link } from '../../src/comfyui/link.ts';
import type { Workflow } from '../../src/jobs/job.ts';
import { checkNodes, inputKey } from '../../src/jobs/node-check.ts';
import { edgeRequests } from '../doubles/comfyui/conformance/edge-requests.ts';
import { readEdges } from '../doubles/comfyui/conformance/recordings.ts';
import { validatePrompt } from '../doubles/comfyui/execution/validation.ts';
import { openStorage } from '../doubles/comfyui/files/storage.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { defaultKnobs } from '../doubles/comfyui/knobs.ts';
import { nodeRegistry } from '../doubles/comfyui/nodes/registry.ts';
import { VERSIONS } from '../doubles/comfyui/versions.ts';
import * as workflows from '../support/workflows.ts';
import { cpuMs } from '../support/cpu-time.ts';

let double: ComfyDouble;
let link: Link;
/** Of the double, which knows the classes of the recordings. */
let catalog: NodeCatalog;

beforeAll(async () => {
  double = await startComfyDouble();
  link = openLink({ baseUrl: double.url, token: null, certificateFingerprint: null });
  catalog = await askNodeCatalog(link, '0.33.0');
});
afterAll(async () => {
  await link.close();
  await double.stop();
});

const everything = { later: new Set<string>(), filesAreKnown: true };
const check = (workflow: Workflow, options = everything, from = catalog) =>
  checkNodes(workflow, from, options);

/** What ComfyUI said of a prompt, by node. */
interface Verdict {
  error?: { type: string };
  node_errors: Record<string, { errors: { type: string; extra_info?: { input_name?: string } }[] }>;
}

describe('workflows of the recordings', () => {
  it.each(Object.entries(workflows))('are accepted: %s', (_name, workflow) => {
    expect(check(workflow)).toBeNull();
  });

  const recorded = readEdges('0.33.0');
  const shaped = new Set(['prompt_link_missing_node', 'prompt_inner_link_missing_node', 'prompt_no_inputs']);
  const cases = edgeRequests().flatMap(({ name, path, body }) => {
    const [status, type, text] = recorded[name] ?? [0, null, ''];
    if (path !== '/prompt' || typeof body !== 'string' || type?.startsWith('application/json') !== true)
      return [];
    const { prompt, partial_execution_targets: targets } = JSON.parse(body || '{}');
    // The others are refused for their form, or for what is beside the graph.
    if (!isSound(prompt) || shaped.has(name) || targets !== undefined || text.includes('invalid_prompt_id'))
      return [];
    return [{ name, status, prompt, verdict: JSON.parse(text) as Verdict }];
  });

  it.each(cases)('are judged as the recorded server did: $name', ({ status, prompt, verdict }) => {
    const ours = check(prompt);
    const refused = status !== 200 || Object.keys(verdict.node_errors).length > 0;
    const theirs = Object.entries(verdict.node_errors).flatMap(([id, { errors }]) =>
      errors.map(({ type, extra_info }) => ({ id, type, input: extra_info?.input_name })),
    );
    // A file is looked for by the node itself; only the machine can tell.
    if (theirs.some(({ type }) => type === 'custom_validation_failed')) return expect(ours).toBeNull();
    expect(ours !== null).toBe(refused);
    if (theirs.length === 0 || theirs.some(({ type }) => type.startsWith('exception'))) return;
    expect(
      Object.entries(ours ?? {}).flatMap(([id, { errors }]) =>
        errors.map(({ type, input_name: input }) => ({ id, type, input })),
      ),
    ).toEqual(theirs);
  });

  it('are more than a handful', () => {
    expect(cases.length).toBeGreaterThan(12);
  });
});

describe('every value in every input', () => {
  const numbers = [null, true, false, 0, 1, -1, 0.5, 5, 99_999, 1e9];
  const texts = ['', 'x', '5', ' 7 ', '5.5', '1_0', '+5', '--5', '1e3', '.5', '5.', 'lanczos', 'center'];
  const others = [{}, { __value__: 5 }, { __value__: 'center' }, ['1', 0], ['1'], ['1', 0, 2], [1, 2]];
  const values: unknown[] = [...numbers, ...texts, ...others];

  const knobs = defaultKnobs();
  const traits = VERSIONS['0.33.0'];
  const tools = {
    traits,
    registry: nodeRegistry(traits.version, knobs),
    replacements: knobs.nodeReplacements,
  };

  /** By the double's own judgement, without the way there and back. */
  function isRefused(workflow: Workflow): boolean {
    try {
      const storage = openStorage(double.dataDir, traits);
      const { error, nodeErrors } = validatePrompt(workflow, undefined, { ...tools, storage });
      return error !== null || Object.keys(nodeErrors).length > 0;
    } catch {
      return true;
    }
  }

  it('is refused only where ComfyUI refuses it', () => {
    const base: Workflow = structuredClone(workflows.emptyImage);
    base['2'] = structuredClone(workflows.scaledImage['2'] ?? { class_type: '', inputs: {} });
    base['3'] = { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: 'x' } };
    const wrong: string[] = [];
    let judged = 0;
    for (const [id, node] of Object.entries(base)) {
      for (const input of Object.keys(node.inputs)) {
        for (const value of [...values, undefined]) {
          if (JSON.stringify(value) === '["1",0]' && id === '1') continue;
          const workflow = structuredClone(base);
          const inputs = workflow[id]?.inputs ?? {};
          if (value === undefined) delete inputs[input];
          else inputs[input] = value;
          const ours = check(structuredClone(workflow));
          const refused = isRefused(workflow);
          judged += 1;
          if ((ours !== null) !== refused) wrong.push(`${id}.${input} = ${JSON.stringify(value)}`);
        }
      }
    }
    expect(wrong).toEqual([]);
    expect(judged).toBeGreaterThan(250);
  });
});

describe('a workflow of a real server', () => {
  const raw = JSON.parse(
    readFileSync(new URL('../golden/comfyui-0.3.64/object_info.json', import.meta.url), 'utf8'),
  ) as Record<string, object>;
  const real = (version = '0.3.64', more: Record<string, unknown> = {}): NodeCatalog => ({
    comfyuiVersion: version,
    classes: readNodeClasses({ ...raw, ...more }, version),
    replaced: new Set(['OldNode']),
  });
  const sampled = (): Workflow => ({
    '1': { class_type: 'CheckpointLoaderSimple', inputs: { ckpt_name: 'sd15.safetensors' } },
    '2': { class_type: 'CLIPTextEncode', inputs: { text: 'a cat', clip: ['1', 1] } },
    '3': { class_type: 'EmptyLatentImage', inputs: { width: 512, height: 512, batch_size: 1 } },
    '4': {
      class_type: 'KSampler',
      inputs: {
        model: ['1', 0],
        positive: ['2', 0],
        negative: ['2', 0],
        latent_image: ['3', 0],
        seed: 2 ** 53 - 1,
        steps: 20,
        cfg: 8,
        sampler_name: 'euler',
        scheduler: 'normal',
        denoise: 1,
      },
    },
    '5': { class_type: 'VAEDecode', inputs: { samples: ['4', 0], vae: ['1', 2] } },
    '6': { class_type: 'SaveImage', inputs: { images: ['5', 0], filename_prefix: 'x' } },
  });
  const withInput = (node: string, input: string, value: unknown): Workflow => {
    const workflow = sampled();
    const target = workflow[node];
    if (target !== undefined) target.inputs[input] = value;
    return workflow;
  };
  const elsewhere = { later: new Set<string>(), filesAreKnown: false };

  it('may name a model that another machine may have', () => {
    expect(check(sampled(), elsewhere, real())).toBeNull();
  });

  it('may not name a model that this machine does not have', () => {
    expect(check(sampled(), everything, real())).toMatchObject({
      '1': {
        class_type: 'CheckpointLoaderSimple',
        dependent_outputs: ['6'],
        errors: [{ type: 'value_not_in_list', input_name: 'ckpt_name' }],
      },
    });
  });

  it.each([
    ['an unknown choice', '4', 'sampler_name', 'best', 'value_not_in_list'],
    ['a number beyond the bounds', '4', 'steps', 100_000, 'value_bigger_than_max'],
    ['a text for a number', '4', 'cfg', 'much', 'invalid_input_type'],
    ['a link of the wrong type', '4', 'model', ['2', 0], 'return_type_mismatch'],
    ['a link to an output that is not there', '4', 'model', ['2', 1], 'exception_during_validation'],
    ['nothing where something is needed', '4', 'positive', undefined, 'required_input_missing'],
  ])('may not have %s, wherever it runs', (_name, node, input, value, type) => {
    const workflow = withInput(node, input, value);
    if (value === undefined) delete workflow[node]?.inputs[input];
    expect(check(workflow, elsewhere, real())).toMatchObject({
      [node]: { dependent_outputs: ['6'], errors: [{ type, input_name: input }] },
    });
  });

  it.each([
    ['a node that is not installed', 'KSamplerPro', 'missing_node_type'],
    ['a name that every object has', 'constructor', 'missing_node_type'],
  ])('may not have %s, even where nothing needs it', (_name, classType, type) => {
    const workflow = { ...sampled(), '7': { class_type: classType, inputs: {} } };
    expect(check(workflow, elsewhere, real())).toMatchObject({ '7': { errors: [{ type }] } });
  });

  it('may have a class that ComfyUI replaces, whatever its inputs', () => {
    const workflow = { ...sampled(), '4': { class_type: 'OldNode', inputs: { x: 1 } } };
    expect(check(workflow, elsewhere, real())).toBeNull();
  });

  it('needs an output, and the nodes that lead nowhere are named', () => {
    const { '6': _saved, ...workflow } = sampled();
    expect(check(workflow, elsewhere, real())).toMatchObject({
      '5': { errors: [{ type: 'prompt_no_outputs' }] },
    });
  });

  it('may have any nonsense in nodes that no output needs', () => {
    const workflow = { ...sampled(), '7': { class_type: 'EmptyLatentImage', inputs: { width: 'wide' } } };
    expect(check(workflow, elsewhere, real())).toBeNull();
  });

  it('may have inputs that are filled in when it runs', () => {
    const workflow = withInput('1', 'ckpt_name', 'any');
    const later = new Set([inputKey('1', 'ckpt_name')]);
    expect(check(workflow, { later, filesAreKnown: true }, real())).toBeNull();
  });

  it('may name an upload: the node looks for it itself', () => {
    const workflow: Workflow = {
      '1': { class_type: 'LoadImage', inputs: { image: 'new.png [output]' } },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'x' } },
    };
    expect(check(workflow, everything, real())).toBeNull();
    const latent: Workflow = {
      '1': { class_type: 'LoadLatent', inputs: { latent: 'new.latent' } },
      '2': { class_type: 'PreviewAny', inputs: { source: ['1', 0] } },
    };
    expect(check(latent, everything, real())).toBeNull();
  });

  it('is held against combos in the new form only by a version that does so', () => {
    const workflow: Workflow = {
      '1': { class_type: 'UpscaleModelLoader', inputs: { model_name: '4x.pth' } },
      '2': { class_type: 'PreviewAny', inputs: { source: ['1', 0] } },
    };
    expect(check(workflow, everything, real('0.3.64'))).toBeNull();
    expect(check(workflow, everything, real('0.33.0'))).toMatchObject({ '1': { errors: [{}] } });
    expect(check(workflow, everything, real('unknown'))).toBeNull();
  });
});

describe('a node of somebody else', () => {
  const info = (input: object, more: object = {}) => ({
    input,
    output: ['IMAGE'],
    output_node: true,
    python_module: 'custom_nodes.pack',
    ...more,
  });
  const of = (classes: Record<string, unknown>): NodeCatalog => ({
    comfyuiVersion: '0.33.0',
    classes: readNodeClasses(classes, '0.33.0'),
    replaced: new Set(),
  });
  const only = (inputs: Record<string, unknown>): Workflow => ({ '1': { class_type: 'Own', inputs } });

  it('may check its values and links by its own rules, and is not second-guessed', () => {
    const own = info({ required: { mode: [['a', 'b']], n: ['INT', { max: 5 }], image: ['IMAGE'] } });
    const workflow = {
      ...only({ mode: 'c', n: 9, image: ['2', 3] }),
      '2': { class_type: 'Other', inputs: {} },
    };
    expect(check(workflow, everything, of({ Own: own, Other: info({}) }))).toBeNull();
  });

  it('still needs its inputs, and numbers where it wants numbers', () => {
    const own = info({ required: { mode: [['a', 'b']], n: ['INT', { max: 5 }] } });
    expect(check(only({ n: 'five' }), everything, of({ Own: own }))).toMatchObject({
      '1': { errors: [{ type: 'required_input_missing' }, { type: 'invalid_input_type' }] },
    });
  });

  it.each([
    ['dynamic inputs', ['COMFY_AUTOGROW_V3', { template: {} }]],
    ['dynamic combos', ['COMFY_DYNAMICCOMBO_V3', { options: [{ key: 'mp4', inputs: {} }] }]],
    ['something that nobody foresaw', { type: 'INT' }],
  ])('may have %s', (_name, spec) => {
    const own = info({ required: { x: spec } }, { python_module: 'comfy_extras.nodes_new' });
    expect(check(only({}), everything, of({ Own: own }))).toBeNull();
  });

  it.each([
    ['choices that the editor fetches', ['COMBO', { options: [], remote: { route: '/x' } }]],
    ['choices of which several may be taken', [['a', 'b'], { multiselect: true }]],
    ['any type', ['*']],
    ['a type that is matched', ['COMFY_MATCHTYPE_V3', { template: {} }]],
  ])('may take %s', (_name, spec) => {
    const own = info({ required: { x: spec } }, { python_module: 'comfy_extras.nodes_new' });
    expect(check(only({ x: 'c' }), everything, of({ Own: own }))).toBeNull();
  });

  it.each([
    ['IMAGE,MASK', 'MASK', true],
    ['MASK', 'IMAGE, MASK', true],
    ['*', 'IMAGE', true],
    ['IMAGE', 'COMFY_MATCHTYPE_V3', true],
    ['STRING', 'COMBO', true],
    ['IMAGE', 'COMBO', false],
    ['IMAGE', 'LATENT', false],
  ])('gives %s where %s is taken: %s', (given, taken, fits) => {
    const core = { python_module: 'nodes' };
    const classes = {
      Own: info({ required: { x: [taken, { options: ['a'] }] } }, core),
      Other: info({}, { ...core, output: [given] }),
    };
    const workflow = { ...only({ x: ['2', 0] }), '2': { class_type: 'Other', inputs: {} } };
    expect(check(workflow, everything, of(classes)) === null).toBe(fits);
  });

  it('may be described in any way without harm', () => {
    for (const odd of [null, 5, 'x', [], {}, { input: null, output: 'IMAGE' }, { input: { required: [] } }]) {
      const workflow = { ...only({ x: ['2', 0] }), '2': { class_type: 'Odd', inputs: {} } };
      expect(
        check(workflow, everything, of({ Own: info({ required: { x: ['IMAGE'] } }), Odd: odd })),
      ).toBeNull();
    }
  });
});

describe('a large workflow', () => {
  /** A row of nodes, each of which takes from the one before, and outputs of the last. */
  const row = (nodes: number, outputs: number): Workflow => {
    const workflow: Workflow = {
      '0': { class_type: 'EmptyImage', inputs: { width: 8, height: 8, batch_size: 1, color: 1 } },
    };
    for (let at = 1; at < nodes + outputs; at += 1) {
      const source = [String(Math.min(at, nodes) - 1), 0];
      workflow[at] =
        at < nodes
          ? { class_type: 'ImageInvert', inputs: { image: source } }
          : { class_type: 'SaveImage', inputs: { images: source, filename_prefix: 'x' } };
    }
    return workflow;
  };

  it.each([
    ['that has one output', 1000, 1],
    ['of whose outputs many need the same nodes', 500, 500],
  ])('is judged in a moment: one %s', (_name, nodes, outputs) => {
    const workflow = row(nodes, outputs);
    expect(check(workflow)).toBeNull();
    const times = 5;
    const tookMs = cpuMs(() => {
      for (let time = 0; time < times; time += 1) check(workflow);
    });
    expect(tookMs / times).toBeLessThan(50);
  });

  it('names the outputs that need a node at fault', () => {
    const workflow = row(3, 2);
    workflow['5'] = { class_type: 'SaveImage', inputs: { images: ['0', 0], filename_prefix: 'x' } };
    workflow['1'] = { class_type: 'ImageInvert', inputs: {} };
    expect(check(workflow)).toMatchObject({ '1': { dependent_outputs: ['3', '4'] } });
  });
});

function isSound(prompt: unknown): prompt is Workflow {
  if (typeof prompt !== 'object' || prompt === null) return false;
  const nodes: unknown[] = Object.values(prompt);
  // A circle is found before any catalog is asked.
  return (
    nodes.length > 0 &&
    nodes.every(
      (node) => typeof node === 'object' && node !== null && 'class_type' in node && 'inputs' in node,
    ) &&
    !JSON.stringify(prompt).includes('e2e/cycle')
  );
}
