// Is a job refused before it costs anything, and only where every place that it may run on would refuse it?
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { askNodeCatalog } from '../../src/comfyui/object-info.ts';
import { openLink } from '../../src/comfyui/link.ts';
import { loadConfig } from '../../src/config.ts';
import { ServiceError } from '../../src/errors.ts';
import { imageOf, keepCatalog, newestCatalog, packCatalog } from '../../src/instances/catalogs.ts';
import type { Workflow } from '../../src/jobs/job.ts';
import { createKnownNodes, type KnownNodes } from '../../src/jobs/known-nodes.ts';
import { seedsOf } from '../../src/jobs/seeds.ts';
import { defaultKnobs } from '../doubles/comfyui/knobs.ts';
import { createJobBench, type JobBench } from '../support/jobs.ts';
import { emptyImage } from '../support/workflows.ts';

let bench: JobBench;

beforeAll(async () => {
  bench = await createJobBench();
});
afterAll(() => bench.stop());
beforeEach(async () => {
  const { db } = bench.database;
  await db.deleteFrom('slots').execute();
  await db.updateTable('jobs').set({ status: 'canceled' }).execute();
  await db.updateTable('instances').set({ status: 'terminated' }).execute();
  await db.deleteFrom('node_catalogs').execute();
});
afterEach(() => {
  Object.assign(bench.double.knobs, defaultKnobs());
});

/** Reads the node classes that the double has now, as of an instance that is ready. */
async function readCatalog(instanceId: string, { image = null as string | null, now = new Date() } = {}) {
  const link = openLink({ baseUrl: bench.double.url, token: null, certificateFingerprint: null });
  try {
    const packed = await packCatalog(image, await askNodeCatalog(link, '0.33.0'));
    const { db } = bench.database;
    await db.transaction().execute((trx) => keepCatalog(trx, { instanceId, image, packed, now }));
    return packed.id;
  } finally {
    await link.close();
  }
}

async function addKnownInstance(): Promise<string> {
  const id = await bench.addInstance();
  await readCatalog(id);
  return id;
}

const using = (classType: string): Workflow => ({
  ...emptyImage,
  '3': { class_type: classType, inputs: {} },
  '4': { class_type: 'SaveImage', inputs: { images: ['3', 0], filename_prefix: 'x' } },
});
const upscaler: Workflow = {
  ...emptyImage,
  '2': {
    class_type: 'ImageScale',
    inputs: { image: ['1', 0], upscale_method: 'magic', width: 8, height: 8, crop: 'center' },
  },
  '3': { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: 'x' } },
};
const asked = () => bench.double.counters.requests['GET /object_info/{class}'] ?? 0;

/** The refusal of a job; null where it is accepted. */
async function refusalOf(
  workflow: Workflow,
  request: Record<string, unknown> = {},
): Promise<ServiceError | null> {
  try {
    await bench.submit(workflow, request);
    return null;
  } catch (error) {
    if (error instanceof ServiceError) return error;
    throw error;
  }
}

describe('a job for an instance that is named', () => {
  it('is refused with answers by node, and the field that is at fault', async () => {
    const instanceId = await addKnownInstance();
    const refusal = await refusalOf(upscaler, { instanceId });
    expect(refusal).toMatchObject({
      code: 'invalid_workflow',
      status: 422,
      field: 'workflow.2.inputs.upscale_method',
      extra: {
        nodeErrors: {
          '2': {
            class_type: 'ImageScale',
            dependent_outputs: ['3'],
            errors: [{ type: 'value_not_in_list', input_name: 'upscale_method' }],
          },
        },
      },
    });
    expect(refusal?.message).toContain(`instance ${instanceId} would refuse the workflow`);
  });

  it('is refused for what its inputs put into the workflow', async () => {
    const instanceId = await addKnownInstance();
    const inputs = [
      { node: '1', input: 'color', value: 5 },
      { node: '1', input: 'width', value: 1_000_000 },
    ];
    expect(await refusalOf(emptyImage, { instanceId, inputs })).toMatchObject({ field: 'inputs[1]' });
  });

  it('is accepted where its inputs mend the workflow', async () => {
    const instanceId = await addKnownInstance();
    const inputs = [{ node: '2', input: 'upscale_method', value: 'area' }];
    expect(await refusalOf(upscaler, { instanceId, inputs })).toBeNull();
  });

  it('is accepted for a node that was installed since, and the catalog is read again', async () => {
    const instanceId = await addKnownInstance();
    bench.double.knobs.nodes = { NewNode: { durationMs: 0 } };
    expect(await refusalOf(using('NewNode'), { instanceId })).toBeNull();
    const { catalog_read_at } = await bench.database.db
      .selectFrom('instances')
      .select('catalog_read_at')
      .where('id', '=', instanceId)
      .executeTakeFirstOrThrow();
    expect(catalog_read_at).toBeNull();
  });

  it('is accepted while the instance cannot be asked', async () => {
    const instanceId = await addKnownInstance();
    bench.double.knobs.requestFaults = [{ route: 'GET /object_info/{class}', how: 'drop-before' }];
    expect(await refusalOf(upscaler, { instanceId })).toBeNull();
  });

  it('is accepted where nothing is known of the instance', async () => {
    expect(await refusalOf(using('Nothing'), { instanceId: await bench.addInstance() })).toBeNull();
  });

  it('does not make the instance answer again for each of many bad ones', async () => {
    const instanceId = await addKnownInstance();
    const before = asked();
    for (let times = 0; times < 5; times += 1) await refusalOf(upscaler, { instanceId });
    expect(asked() - before).toBe(1);
  });

  it('is accepted for a node that was installed since, also where the clock was set back', async () => {
    const instanceId = await addKnownInstance();
    let now = new Date();
    const nodes = createKnownNodes({ ...bench.deps, canRent: false, clock: { now: () => now } });
    const check = async () => (await nodes.placesFor({ instanceId })).check(using('NewNode'), []);
    await expect(check()).rejects.toMatchObject({ code: 'invalid_workflow' });
    now = new Date(now.getTime() - 3_600_000);
    bench.double.knobs.nodes = { NewNode: { durationMs: 0 } };
    await expect(check()).resolves.toBeUndefined();
  });
});

describe('a job that names no instance', () => {
  it('is refused when every instance would refuse it', async () => {
    await addKnownInstance();
    await addKnownInstance();
    expect(await refusalOf(using('Nothing'))).toMatchObject({ code: 'invalid_workflow' });
  });

  it('is accepted when one instance takes it, or may', async () => {
    await addKnownInstance();
    await bench.addInstance();
    expect(await refusalOf(using('Nothing'))).toBeNull();
    bench.double.knobs.nodes = { Rare: { durationMs: 0 } };
    await addKnownInstance();
    expect(await refusalOf(using('Rare'))).toBeNull();
  });

  it('is refused when those that would take it do not satisfy its requirements', async () => {
    await addKnownInstance();
    await bench.addInstance({ gpuName: 'L40S' });
    const requirements = { gpuNames: ['RTX 4090'] };
    expect(await refusalOf(using('Nothing'), { requirements })).toMatchObject({ code: 'invalid_workflow' });
  });

  it('is accepted when there is no instance at all', async () => {
    expect(await refusalOf(using('Nothing'))).toBeNull();
  });
});

describe('a job for a machine that is not rented yet', () => {
  const loader = (name: string): Workflow => ({
    ...emptyImage,
    '3': { class_type: 'Loader', inputs: { ckpt_name: name } },
    '4': { class_type: 'SaveImage', inputs: { images: ['3', 0], filename_prefix: 'x' } },
  });

  function renting(settings: Record<string, string> = {}): KnownNodes {
    return createKnownNodes({ ...bench.deps, config: loadConfig(settings), canRent: true });
  }
  async function accepts(nodes: KnownNodes, workflow: Workflow): Promise<boolean> {
    const places = await nodes.placesFor({});
    return places.check(workflow, []).then(
      () => true,
      () => false,
    );
  }
  async function readImage(now = new Date()): Promise<void> {
    bench.double.knobs.nodes = { Loader: { durationMs: 0, choices: { ckpt_name: ['a.safetensors'] } } };
    const id = await bench.addInstance();
    await readCatalog(id, { image: imageOf(loadConfig({})), now });
    await bench.database.db
      .updateTable('instances')
      .set({ status: 'terminated' })
      .where('id', '=', id)
      .execute();
  }

  it('is held against the last machine of that image, but for its models', async () => {
    await readImage();
    expect(await accepts(renting(), using('Nothing'))).toBe(false);
    expect(await accepts(renting(), upscaler)).toBe(false);
    expect(await accepts(renting(), loader('b.safetensors'))).toBe(true);
  });

  it('is accepted for another image, and when the last machine is too long ago', async () => {
    await readImage(new Date(Date.now() - 8 * 86_400_000));
    expect(await accepts(renting(), using('Nothing'))).toBe(true);
    expect(await accepts(renting({ NODE_CATALOG_HOURS: '500' }), using('Nothing'))).toBe(false);
    const other = { NODE_CATALOG_HOURS: '500', VAST_PROVISIONING_SCRIPT: 'https://example.org/more.sh' };
    expect(await accepts(renting(other), using('Nothing'))).toBe(true);
  });
});

describe('a catalog', () => {
  it('is kept once for instances that have the same, and goes with the last of them', async () => {
    const [first, second] = [await addKnownInstance(), await addKnownInstance()];
    const { db } = bench.database;
    expect(await db.selectFrom('node_catalogs').select('id').execute()).toHaveLength(1);
    bench.double.knobs.nodes = { Rare: { durationMs: 0 } };
    await readCatalog(first);
    expect(await db.selectFrom('node_catalogs').select('id').execute()).toHaveLength(2);
    await readCatalog(second);
    expect(await db.selectFrom('node_catalogs').select('id').execute()).toHaveLength(1);
  });

  it('of an image is kept when its machines are gone, the newest of it', async () => {
    const { db } = bench.database;
    for (const name of ['Old', 'New']) {
      bench.double.knobs.nodes = { [name]: { durationMs: 0 } };
      const id = await bench.addInstance();
      await readCatalog(id, { image: 'an-image' });
      await db.updateTable('instances').set({ status: 'terminated' }).where('id', '=', id).execute();
    }
    await readCatalog(await bench.addInstance());
    const kept = await db.selectFrom('node_catalogs').select('id').where('image', '=', 'an-image').execute();
    const newest = await newestCatalog(db, 'an-image', new Date(0));
    expect(kept.map(({ id }) => id)).toEqual([newest?.id]);
  });
});

describe('seeds', () => {
  const noisy: Workflow = {
    '1': { class_type: 'EmptyImage', inputs: { width: 8, height: 8, batch_size: 1, color: 1 } },
    '2': { class_type: 'ImageAddNoise', inputs: { image: ['1', 0], seed: 7, strength: 0.5 } },
    '3': { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: 'x' } },
  };

  it('are shown as the job runs with them', async () => {
    await addKnownInstance();
    const inputs = [{ node: '2', input: 'seed', value: 42 }];
    expect((await bench.job(await bench.submit(noisy))).seeds).toEqual([
      { node: '2', input: 'seed', value: 7 },
    ]);
    expect((await bench.job(await bench.submit(noisy, { inputs }))).seeds).toEqual([
      { node: '2', input: 'seed', value: 42 },
    ]);
  });

  it('are drawn for each job that asks for it, and kept with its inputs', async () => {
    await addKnownInstance();
    const inputs = [{ node: '2', input: 'seed', random: true }];
    const ids = await Promise.all([1, 2].map(() => bench.submit(noisy, { inputs })));
    const [first, second] = await Promise.all(ids.map((id) => bench.job(id)));
    const seed = first?.seeds[0]?.value ?? -1;
    expect(seed).not.toBe(second?.seeds[0]?.value);
    expect(Number.isSafeInteger(seed) && seed >= 0).toBe(true);
    expect(await bench.inputsOf(ids[0] ?? '')).toEqual([
      { node: '2', input: 'seed', random: true, value: seed },
    ]);
  });

  it('stay within what the node takes', async () => {
    await addKnownInstance();
    const inputs = [{ node: '1', input: 'batch_size', random: true }];
    for (let times = 0; times < 20; times += 1) {
      const { seeds } = await bench.job(await bench.submit(noisy, { inputs }));
      const drawn = seeds.find(({ input }) => input === 'batch_size')?.value ?? 0;
      expect(drawn >= 1 && drawn <= 4096).toBe(true);
    }
  });

  it('that come from another node are not known before it runs', () => {
    const linked = structuredClone(noisy);
    linked['4'] = { class_type: 'PrimitiveInt', inputs: { value: 5 } };
    expect(seedsOf(linked, [{ node: '2', input: 'seed', value: ['4', 0] }])).toEqual([]);
  });

  it('are those of the very input that was drawn, whatever nodes and inputs are called', () => {
    const workflow: Workflow = {
      a: { class_type: 'Noise', inputs: { 'b c': 1 } },
      'a b': { class_type: 'Noise', inputs: { c: 2 } },
    };
    expect(seedsOf(workflow, [{ node: 'a b', input: 'c', value: 3, random: true }])).toEqual([
      { node: 'a b', input: 'c', value: 3 },
    ]);
  });

  it('are drawn once: an input cannot have a value and be random', async () => {
    const inputs = [{ node: '2', input: 'seed', random: true, value: 5 }];
    expect(await refusalOf(noisy, { inputs })).toMatchObject({ code: 'invalid_input', field: 'inputs[0]' });
  });
});

describe('results that ComfyUI had already', () => {
  it('are said to be reused, also when they were saved again', async () => {
    await bench.addInstance();
    const workflow = { ...emptyImage };
    workflow['1'] = { class_type: 'EmptyImage', inputs: { width: 9, height: 9, batch_size: 1, color: 4711 } };
    const first = await bench.run(await bench.submit(workflow));
    const second = await bench.run(await bench.submit(workflow));
    expect([first.outputsReused, second.outputsReused]).toEqual([false, true]);
    workflow['1'].inputs['color'] = 4712;
    const third = await bench.run(await bench.submit(workflow));
    expect(third).toMatchObject({ status: 'succeeded', outputsReused: false });
  });
});
