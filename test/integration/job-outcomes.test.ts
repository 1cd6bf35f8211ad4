// What becomes of a job: one line and more for every knob of the ComfyUI double, each run through the whole service.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Workflow } from '../../src/jobs/job.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import type { ComfyKnobs, ComfyVersion, SimulatedNode } from '../doubles/comfyui/index.ts';
import { defaultKnobs } from '../doubles/comfyui/knobs.ts';
import { eventually } from '../support/eventually.ts';
import { fresh } from '../support/jobs.ts';
import { setStage, type Play, type Stage } from '../support/outcomes.ts';
import { emptyImage, failingRegex, scaledImage, slowFrames, slowList } from '../support/workflows.ts';

interface Line {
  /** The knob that it turns; null where the double needs none. */
  knob: keyof ComfyKnobs | null;
  /** What becomes of the job. */
  outcome: string;
  /** Generations of ComfyUI that it is played on: both where they differ. */
  versions?: ComfyVersion[];
  /** Needs a ComfyUI for itself; with the knobs that are turned before the instance is ready, if any. */
  own?: Partial<ComfyKnobs> | true;
  /** Knobs that are turned before the job. */
  knobs?: Partial<ComfyKnobs>;
  play: (play: Play) => Promise<unknown>;
}

const newer: ComfyVersion = '0.33.0';
const both: ComfyVersion[] = ['0.33.0', '0.3.64'];
const MB = 1024 * 1024;
/** Long enough for something to happen meanwhile. */
const slowly = rendering({ durationMs: 800, steps: 20 });

const lines: Line[] = [
  // Speed
  {
    knob: 'nodeMs',
    outcome: 'succeeds, and its times tell how long ComfyUI took',
    knobs: { nodeMs: 200 },
    async play({ run }) {
      const job = await run(fresh(emptyImage));
      expect(job).toMatchObject({ status: 'succeeded', cost: null, attempts: [{ outcome: 'succeeded' }] });
      expectNear(job.timings.executingMs, 400);
      expectWholeTimes(job);
    },
  },
  {
    knob: 'itemMs',
    outcome: 'is canceled between two items of a list',
    versions: both,
    knobs: { itemMs: 20 },
    play: (play) => cancelsWhileRunning(play, slowList),
  },
  {
    knob: 'frameMs',
    outcome: 'succeeds and shows its progress by frames',
    knobs: { frameMs: 6 },
    async play({ submit, when, ended }) {
      const id = await submit(fresh(slowFrames));
      const seen = await when(id, (job) => (job.progress?.step ?? 0) > 0);
      expect(seen.progress).toMatchObject({
        phase: 'executing',
        currentNodeType: 'ColorTransfer',
        steps: 150,
      });
      const job = await ended(id);
      expect(job).toMatchObject({ status: 'succeeded', progress: null });
      expectNear(job.timings.executingMs, 900);
    },
  },
  {
    knob: 'latencyMs',
    outcome: 'succeeds however slowly ComfyUI answers, and the wait is part of its times',
    knobs: { latencyMs: 80 },
    async play({ run }) {
      const job = await run(fresh(emptyImage));
      expect(job.status).toBe('succeeded');
      expect(job.timings.collectingMs).toBeGreaterThanOrEqual(80);
    },
  },
  {
    knob: 'nodes',
    outcome: 'succeeds with as many files as its nodes save, each of its size, under any key',
    versions: both,
    knobs: {
      nodes: {
        Render: { durationMs: 300, steps: 3, outputCount: 3, outputBytes: 300_000, outputKey: 'gifs' },
      },
    },
    async play({ run, read }) {
      const job = await run(rendered());
      expect(job).toMatchObject({ status: 'succeeded', outputsReused: false });
      expect(job.outputs.map(({ sizeBytes, kind }) => ({ sizeBytes, kind }))).toEqual(
        Array.from({ length: 3 }, () => ({ sizeBytes: 300_000, kind: 'image' })),
      );
      expect(await read(job.outputs[2])).toHaveLength(300_000);
      expectNear(job.timings.executingMs, 300);
    },
  },
  {
    knob: 'nodes',
    outcome: 'fails with the error of its node',
    knobs: rendering({ error: { type: 'ValueError', message: 'no such sampler' } }),
    async play({ run, double }) {
      const job = await run(rendered());
      expect(job).toMatchObject({
        status: 'failed',
        error: { code: 'node_error', nodeId: '2', nodeType: 'Render', exceptionType: 'ValueError' },
        attempts: [{ number: 1, outcome: 'failed' }],
        outputs: [],
      });
      expect(job.error?.detail).toContain('no such sampler');
      expect(double.counters.executionsStarted).toBe(1);
    },
  },
  {
    knob: 'nodes',
    outcome: 'fails with the answers of ComfyUI by node, for a choice that only the node itself can judge',
    versions: both,
    knobs: rendering({ choices: { model: ['a.safetensors'] } }),
    async play({ run, double }) {
      const job = await run(rendered({ model: 'b.safetensors' }));
      expect(job).toMatchObject({
        status: 'failed',
        error: {
          code: 'invalid_workflow',
          nodeErrors: { '2': { class_type: 'Render', errors: [{ type: 'value_not_in_list' }] } },
        },
        attempts: [{ outcome: 'failed', startedAt: null }],
      });
      expect(double.counters.executionsStarted).toBe(0);
    },
  },
  {
    knob: 'nodes',
    outcome: 'is canceled when its node ends, where nothing interrupts it',
    knobs: rendering({ durationMs: 3000 }),
    async play(play) {
      const job = await cancelsWhileRunning(play, rendered());
      expect(job.timings.totalMs).toBeGreaterThanOrEqual(3000);
    },
  },
  {
    knob: 'models',
    outcome: 'succeeds, whatever the folders of models hold: only the choices of nodes count',
    knobs: { models: { checkpoints: ['a.safetensors'] } },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({ status: 'succeeded' });
    },
  },
  {
    knob: 'gpu',
    outcome: 'runs on the GPU that it asks for, without naming an instance',
    own: { gpu: { name: 'NVIDIA H900', vramTotalBytes: 600 * 1024 * MB } },
    async play({ run, instanceId }) {
      const request = { instanceId: undefined, requirements: { minVramGb: 500 } };
      expect(await run(fresh(emptyImage), request)).toMatchObject({ status: 'succeeded', instanceId });
    },
  },
  {
    knob: 'nodeReplacements',
    outcome: 'succeeds with a class that ComfyUI replaces',
    own: { nodeReplacements: { OldImage: 'EmptyImage' } },
    async play({ run }) {
      expect(await run(replaced())).toMatchObject({ status: 'succeeded', outputs: [{}] });
    },
  },
  {
    knob: 'nodeReplacements',
    outcome: 'is not accepted where ComfyUI is too old to replace a class',
    versions: ['0.3.64'],
    own: { nodeReplacements: { OldImage: 'EmptyImage' } },
    async play({ ask }) {
      expect(await ask(replaced())).toMatchObject({
        status: 422,
        body: { code: 'invalid_workflow', nodeErrors: { '1': { errors: [{ type: 'missing_node_type' }] } } },
      });
    },
  },

  // Limits
  {
    knob: 'maxUploadBytes',
    outcome: 'fails when an input is larger than its ComfyUI takes, and nothing is submitted',
    knobs: { maxUploadBytes: 10_000 },
    async play({ run, upload, double }) {
      const assetId = await upload(Buffer.alloc(20_000, 1), 'large.png');
      const job = await run(scaledImage, { inputs: [{ node: '1', input: 'image', assetId }] });
      expect(job).toMatchObject({ status: 'failed', error: { code: 'invalid_input' } });
      expect(double.counters.promptsAccepted).toBe(0);
    },
  },
  {
    knob: 'maxUploadBytes',
    outcome: 'fails when the workflow itself is larger than its ComfyUI takes',
    knobs: { maxUploadBytes: 200 },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({
        status: 'failed',
        error: { code: 'invalid_workflow' },
      });
    },
  },
  {
    knob: 'cacheBytes',
    outcome: 'is made anew where ComfyUI has dropped the results of before',
    knobs: { cacheBytes: 0 },
    async play({ run }) {
      const workflow = fresh(emptyImage);
      const other = fresh(emptyImage);
      for (const each of [workflow, other, workflow]) {
        expect(await run(each)).toMatchObject({ status: 'succeeded', outputsReused: false });
      }
    },
  },
  {
    knob: 'maxHistory',
    outcome: 'succeeds although ComfyUI forgets the end of a prompt with the next one',
    knobs: { maxHistory: 0 },
    async play({ submit, ended }) {
      const ids = await Promise.all([1, 2, 3].map(() => submit(fresh(emptyImage))));
      for (const job of await Promise.all(ids.map((id) => ended(id)))) {
        expect(job).toMatchObject({ status: 'succeeded', outputs: [{}] });
      }
    },
  },

  // Events
  {
    knob: 'sockets',
    outcome: 'succeeds although no event arrives over a socket that seems to be well',
    own: true,
    knobs: { sockets: 'silent' },
    play: (play) => succeedsOnce(play),
  },
  {
    knob: 'sockets',
    outcome: 'succeeds over a socket that is half open',
    own: true,
    knobs: { sockets: 'dead' },
    play: (play) => succeedsOnce(play),
  },
  {
    knob: 'deadSocketMs',
    outcome: 'succeeds although the server does not miss the sockets that the service gave up',
    own: true,
    knobs: { sockets: 'dead', deadSocketMs: 60_000 },
    play: (play) => succeedsOnce(play),
  },
  {
    knob: 'sockets',
    outcome: 'succeeds without any event stream',
    own: true,
    knobs: { sockets: 'refused' },
    async play(play) {
      play.double.dropSockets();
      await succeedsOnce(play);
    },
  },
  {
    knob: 'dropSocketAfterFrames',
    outcome: 'succeeds although the socket drops after every few frames',
    versions: both,
    own: true,
    knobs: { dropSocketAfterFrames: 3 },
    play: (play) => succeedsOnce(play),
  },
  ...[true, false].map((reconnectFault): Line => ({
    knob: 'reconnectFault',
    outcome: `succeeds when the socket drops while it runs, ${reconnectFault ? 'with' : 'without'} the fault at reconnection`,
    own: true,
    knobs: { reconnectFault, ...slowly },
    async play(play) {
      const id = await play.submit(rendered());
      await play.when(id, isExecuting);
      play.double.dropSockets();
      expect(await play.ended(id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
      expect(play.double.counters.executionsStarted).toBe(1);
    },
  })),
  {
    knob: 'historyDelayMs',
    outcome: 'succeeds when the history comes later than the news of success',
    versions: both,
    knobs: { historyDelayMs: 400 },
    play: (play) => succeedsOnce(play),
  },

  // Faults
  {
    knob: 'loseInterrupts',
    outcome: 'is canceled with effect on the GPU, although interrupts get lost',
    versions: both,
    knobs: { loseInterrupts: 2, itemMs: 20 },
    play: (play) => cancelsWhileRunning(play, slowList),
  },
  {
    knob: 'loseInterrupts',
    outcome: 'is canceled although ComfyUI never stops it, and says that this is not confirmed',
    own: true,
    knobs: { loseInterrupts: 1_000_000, itemMs: 30 },
    async play(play) {
      const job = await cancelsWhileRunning(play, slowList);
      expect(job.attempts[0]?.reason).toContain('not confirmed');
    },
  },
  {
    knob: 'wedged',
    outcome: 'succeeds as a second attempt once a ComfyUI that ran nothing works again',
    versions: both,
    own: true,
    knobs: { wedged: true },
    async play({ submit, when, ended, double }) {
      const id = await submit(fresh(emptyImage));
      await when(id, (job) => job.attempts[0]?.outcome === 'lost');
      // First gone, so that nothing is given to it once it works and before it starts again.
      await double.exit();
      double.knobs.wedged = false;
      await double.restart();
      expect(await ended(id)).toMatchObject({
        status: 'succeeded',
        attempts: [{ outcome: 'lost' }, { outcome: 'succeeded' }],
      });
    },
  },
  {
    knob: 'hangingNode',
    outcome: 'is canceled once a node that hangs comes back',
    versions: both,
    knobs: { hangingNode: '1' },
    async play({ submit, when, cancel, ended, double }) {
      const id = await submit(fresh(slowList));
      await when(id, isExecuting);
      await cancel(id);
      await eventually(() => expect(double.counters.interruptsReceived).toBeGreaterThan(0));
      double.knobs.hangingNode = null;
      expect(await ended(id)).toMatchObject({ status: 'canceled', attempts: [{ outcome: 'canceled' }] });
    },
  },
  {
    knob: 'requestFaults',
    outcome: 'succeeds with one execution when the answer to its submit is lost',
    versions: both,
    knobs: { requestFaults: [{ route: 'POST /prompt', how: 'drop-after', times: 1 }] },
    play: (play) => succeedsOnce(play),
  },
  {
    knob: 'requestFaults',
    outcome: 'succeeds although each kind of call fails for a moment',
    knobs: {
      requestFaults: ['POST /upload/image', 'GET /history/{id}', 'GET /queue', 'GET /view'].flatMap(
        (route) =>
          [
            { route, how: 'status', status: 502, times: 1 },
            { route, how: 'drop-before', times: 1 },
          ] as const,
      ),
    },
    async play({ run, upload, double }) {
      const assetId = await upload(await png(), 'photo.png');
      const job = await run(scaledImage, { inputs: [{ node: '1', input: 'image', assetId }] });
      expect(job).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
      expect(double.counters.executionsStarted).toBe(1);
    },
  },
  {
    knob: 'requestFaults',
    outcome: 'fails when ComfyUI does not have the files that it reports, also not after another try',
    knobs: { requestFaults: [{ route: 'GET /view', how: 'status', status: 404 }] },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({
        status: 'failed',
        error: { code: 'output_unavailable', nodeId: '2' },
        attempts: [{ outcome: 'failed' }, { outcome: 'failed' }],
        outputs: [],
      });
    },
  },
  {
    knob: 'uploadBytesPerSecond',
    outcome: 'succeeds after a slow upload, which is part of its times',
    knobs: { uploadBytesPerSecond: 200_000 },
    async play({ run, upload }) {
      const assetId = await upload(Buffer.concat([await png(), Buffer.alloc(100_000)]), 'photo.png');
      const job = await run(scaledImage, { inputs: [{ node: '1', input: 'image', assetId }] });
      expect(job.status).toBe('succeeded');
      expectNear(job.timings.stagingMs, 500);
    },
  },
  {
    knob: 'downloadBytesPerSecond',
    outcome: 'succeeds after a slow download, which is part of its times',
    knobs: { downloadBytesPerSecond: 400_000, ...rendering({ outputBytes: 200_000 }) },
    async play({ run, read }) {
      const job = await run(rendered());
      expect(await read(job.outputs[0])).toHaveLength(200_000);
      expectNear(job.timings.collectingMs, 500);
    },
  },
  {
    knob: 'cutDownloadAfterBytes',
    outcome: 'succeeds with whole files, although downloads are cut for a while',
    knobs: { cutDownloadAfterBytes: 40 },
    async play({ submit, ended, read, double }) {
      const id = await submit(fresh(emptyImage));
      await eventually(() => expect(double.counters.requests['GET /view']).toBeGreaterThan(1));
      double.knobs.cutDownloadAfterBytes = null;
      const job = await ended(id);
      expect(job).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
      await expect(sharp(await read(job.outputs[0])).stats()).resolves.toBeDefined();
    },
  },
  {
    knob: 'cutDownloadAfterBytes',
    outcome: 'fails when the one instance that it wants never sends a file whole',
    knobs: { cutDownloadAfterBytes: 40 },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({
        status: 'failed',
        error: { code: 'instance_lost' },
        attempts: [{ outcome: 'lost' }],
        outputs: [],
      });
    },
  },
  {
    knob: 'diskFull',
    outcome: 'fails with the error of the node that found no space',
    versions: both,
    knobs: { diskFull: true },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({
        status: 'failed',
        error: { code: 'node_error', nodeId: '2', exceptionType: 'OSError' },
      });
    },
  },
  {
    knob: 'diskFull',
    outcome: 'fails when the one instance that it wants has no space for its inputs',
    knobs: { diskFull: true },
    async play({ run, upload, double }) {
      const assetId = await upload(await png(), 'photo.png');
      expect(await run(scaledImage, { inputs: [{ node: '1', input: 'image', assetId }] })).toMatchObject({
        status: 'failed',
        error: { code: 'instance_lost' },
      });
      expect(double.counters.promptsAccepted).toBe(0);
    },
  },
  {
    knob: 'outOfMemory',
    outcome: 'succeeds at the second try, with the memory freed and the same seeds',
    versions: both,
    knobs: { outOfMemory: 1 },
    async play({ submit, when, ended, double }) {
      const inputs = [{ node: '2', input: 'seed', random: true }];
      const id = await submit(noisy, { inputs });
      const { seeds } = await when(id, () => true);
      const job = await ended(id);
      expect(job).toMatchObject({
        status: 'succeeded',
        attempts: [{ outcome: 'failed' }, { outcome: 'succeeded' }],
        seeds: [{ node: '2', input: 'seed' }],
      });
      expect(job.seeds).toEqual(seeds);
      expect(double.counters.requests['POST /free']).toBe(1);
    },
  },
  {
    knob: 'outOfMemory',
    outcome: 'fails when the memory does not suffice twice, and says so',
    knobs: { outOfMemory: 100 },
    async play({ run }) {
      const job = await run(fresh(emptyImage));
      expect(job).toMatchObject({
        status: 'failed',
        error: { code: 'out_of_memory', nodeId: '1' },
        attempts: [{ outcome: 'failed' }, { outcome: 'failed' }],
      });
    },
  },
  {
    knob: 'emptyCachedOutputs',
    outcome: 'succeeds with its results from the cache, where ComfyUI forgets those of nobody',
    knobs: { emptyCachedOutputs: true },
    async play({ run }) {
      await run(previewed);
      expect(await run(previewed)).toMatchObject({ status: 'succeeded', outputs: [{}], outputsReused: true });
    },
  },
  {
    knob: 'ownPromptIds',
    outcome: 'fails at once where ComfyUI gives it an id of its own, and what was begun is stopped',
    versions: both,
    knobs: { ownPromptIds: true, ...rendering({ durationMs: 60_000, steps: 600 }) },
    async play({ run, double }) {
      expect(await run(rendered())).toMatchObject({
        status: 'failed',
        error: { code: 'unexpected_answer', detail: expect.stringContaining('too old') },
        attempts: [{ number: 1 }],
      });
      expect(double.counters.promptsAccepted).toBe(1);
      await eventually(() => expect(double.counters.executionsFinished).toBe(1));
    },
  },
  {
    knob: 'errorPaddingBytes',
    outcome: 'fails with a short error, however much ComfyUI says',
    versions: both,
    knobs: { errorPaddingBytes: 3 * MB },
    async play({ run }) {
      const job = await run(failingRegex);
      expect(job).toMatchObject({ status: 'failed', error: { code: 'node_error', nodeId: '2' } });
      expect(JSON.stringify(job).length).toBeLessThan(5000);
    },
  },
  ...[true, false].map((embedMetadata): Line => ({
    knob: 'embedMetadata',
    outcome: `succeeds with its workflow ${embedMetadata ? 'inside' : 'left out of'} its file, as ComfyUI wrote it`,
    knobs: { embedMetadata },
    async play({ run, read }) {
      const job = await run(fresh(emptyImage));
      expect((await read(job.outputs[0])).includes('EmptyImage')).toBe(embedMetadata);
    },
  })),

  // The command line
  {
    knob: 'checksOrigin',
    outcome: 'succeeds where pages of other sites may call its ComfyUI too',
    knobs: { checksOrigin: false },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({ status: 'succeeded' });
    },
  },
  {
    knob: 'arguments',
    outcome: 'succeeds, whatever ComfyUI tells of its command line',
    own: { arguments: ['--listen', '0.0.0.0', '--cuda-device', '1'] },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({ status: 'succeeded' });
    },
  },
  {
    knob: 'reportedVersion',
    outcome: 'succeeds on a version newer than all that are known',
    own: { reportedVersion: '9.1.0' },
    async play({ run }) {
      expect(await run(fresh(emptyImage))).toMatchObject({ status: 'succeeded' });
    },
  },

  // Without a knob
  {
    knob: null,
    outcome: 'goes on as a second attempt after a restart that took the memory of ComfyUI',
    versions: both,
    own: true,
    knobs: slowly,
    async play({ submit, when, ended, double }) {
      const id = await submit(rendered());
      await when(id, isExecuting);
      await double.restart();
      expect(await ended(id)).toMatchObject({
        status: 'succeeded',
        attempts: [{ outcome: 'lost' }, { outcome: 'succeeded' }],
      });
    },
  },
  {
    knob: null,
    outcome: 'fails when the process of the one instance that it wants is gone for good',
    own: true,
    knobs: slowly,
    async play({ submit, when, ended, double }) {
      const id = await submit(rendered());
      await when(id, isExecuting);
      await double.exit();
      expect(await ended(id)).toMatchObject({
        status: 'failed',
        error: { code: 'instance_lost' },
        attempts: [{ outcome: 'lost' }],
      });
    },
  },
  {
    knob: null,
    outcome: 'waits for a ComfyUI that exits before it is submitted, and succeeds when it is back',
    own: true,
    async play({ submit, ended, when, double }) {
      await double.exit();
      const id = await submit(fresh(emptyImage));
      await when(id, (job) => job.status === 'running' || job.waitingFor !== null);
      await double.restart();
      expect(await ended(id)).toMatchObject({ status: 'succeeded' });
    },
  },
  {
    knob: null,
    outcome: 'fails with answers by node, and nothing is run, when ComfyUI would run only a part of it',
    versions: both,
    async play({ run, double }) {
      const { '1': load, ...rest } = scaledImage;
      const workflow = {
        ...fresh(emptyImage),
        ...Object.fromEntries(Object.entries(rest).map(([id, node]) => [`1${id}`, moved(node)])),
        '11': { ...load, class_type: 'LoadImage', inputs: { image: 'missing.png' } },
      };
      expect(await run(workflow)).toMatchObject({
        status: 'failed',
        error: { code: 'invalid_workflow', nodeErrors: { '11': { class_type: 'LoadImage' } } },
        outputs: [],
      });
      await eventually(() =>
        expect(double.counters.executionsFinished).toBe(double.counters.executionsStarted),
      );
    },
  },
  {
    knob: null,
    outcome: 'is not accepted when the instance would refuse it, and never reaches it',
    versions: both,
    async play({ ask, double }) {
      const inputs = [{ node: '1', input: 'width', value: 0 }];
      expect(await ask(emptyImage, { inputs })).toMatchObject({
        status: 422,
        body: {
          code: 'invalid_workflow',
          field: 'inputs[0]',
          nodeErrors: {
            '1': {
              class_type: 'EmptyImage',
              dependent_outputs: ['2'],
              errors: [{ type: 'value_smaller_than_min' }],
            },
          },
        },
      });
      expect(double.counters.requests['POST /prompt']).toBeUndefined();
    },
  },
  {
    knob: null,
    outcome: 'succeeds, and is said to be reused, when ComfyUI has all its results already',
    versions: both,
    async play({ run }) {
      const workflow = fresh(emptyImage);
      expect(await run(workflow)).toMatchObject({ status: 'succeeded', outputsReused: false });
      expect(await run(workflow)).toMatchObject({ status: 'succeeded', outputsReused: true, outputs: [{}] });
    },
  },
  {
    knob: null,
    outcome: 'succeeds at the second try when ComfyUI answers from its cache with a file that is gone',
    versions: both,
    async play({ run, double }) {
      expect(await run(previewed)).toMatchObject({ status: 'succeeded', outputs: [{ temporary: true }] });
      await rm(join(double.dataDir, 'temp'), { recursive: true });
      expect(await run(previewed)).toMatchObject({
        status: 'succeeded',
        attempts: [{ outcome: 'failed' }, { outcome: 'succeeded' }],
        outputsReused: false,
      });
    },
  },
  {
    knob: null,
    outcome: 'succeeds although ComfyUI writes a bare NaN into its history',
    versions: both,
    async play({ run }) {
      const workflow: Workflow = {
        '1': { class_type: 'PrimitiveFloat', inputs: { value: 'nan' } },
        '2': { class_type: 'PreviewAny', inputs: { source: ['1', 0] } },
      };
      expect(await run(workflow)).toMatchObject({
        status: 'succeeded',
        outputs: [{ kind: 'text', text: 'nan' }],
      });
    },
  },
];

const cases = lines.flatMap((line) =>
  (line.versions ?? [newer]).map((version) => {
    const title = `${line.outcome} (${line.knob ?? 'no knob'}, ${version})`;
    return { ...line, version, title };
  }),
);

let stage: Stage;

beforeAll(async () => {
  stage = await setStage(cases, {
    RATE_LIMIT_PER_MINUTE: '100000',
    STALL_TIMEOUT_SECONDS: '2',
    STOP_TIMEOUT_SECONDS: '4',
    UNREACHABLE_TIMEOUT_SECONDS: '4',
    // Each of so many instances is looked at when a run suspects it.
    INSTANCE_CHECK_SECONDS: '5',
  });
});
afterAll(() => stage.stop());

describe.concurrent('a job', () => {
  it.each(cases.map((line) => [line.title, line] as const))('%s', async (_title, line) => {
    await stage.play(line, async (play) => {
      Object.assign(play.double.knobs, line.knobs);
      await line.play(play);
      const { executionsOf } = play.double.counters;
      expect(Object.entries(executionsOf).filter(([, times]) => times > 1)).toEqual([]);
    });
  });
});

describe('the table', () => {
  it('has a line for every knob of the double', () => {
    const turned = new Set(lines.map(({ knob }) => knob).filter((knob) => knob !== null));
    expect([...turned].sort()).toEqual(Object.keys(defaultKnobs()).sort());
  });
});

/** Noise over one picture, by a seed. */
const noisy: Workflow = {
  '1': { class_type: 'EmptyImage', inputs: { width: 8, height: 8, batch_size: 1, color: 1 } },
  '2': { class_type: 'ImageAddNoise', inputs: { image: ['1', 0], seed: 0, strength: 0.5 } },
  '3': { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: 'noisy' } },
};

/** Saves nothing under a name of its own, so that ComfyUI may answer all of it from its cache. */
const previewed: Workflow = {
  '1': { class_type: 'EmptyImage', inputs: { width: 8, height: 8, batch_size: 1, color: 2 } },
  '2': { class_type: 'PreviewImage', inputs: { images: ['1', 0] } },
};

function rendering(node: Partial<SimulatedNode>): Partial<ComfyKnobs> {
  return { nodes: { Render: { durationMs: 10, outputCount: 1, ...node } } };
}

/** One node that the knob `nodes` declares. */
function rendered(inputs: Record<string, unknown> = {}): Workflow {
  const image = ['1', 0];
  return {
    ...fresh(emptyImage),
    '2': { class_type: 'Render', inputs: { image, filename_prefix: 'render', ...inputs } },
  };
}

function replaced(): Workflow {
  const workflow = fresh(emptyImage);
  const { '1': image } = workflow;
  return { ...workflow, '1': { class_type: 'OldImage', inputs: image?.inputs ?? {} } };
}

/** The node with its links to what has a 1 before its id now. */
function moved(node: Workflow[string]): Workflow[string] {
  const inputs = Object.entries(node.inputs).map(([name, value]) => [
    name,
    Array.isArray(value) ? [`1${String(value[0])}`, value[1]] : value,
  ]);
  return { ...node, inputs: Object.fromEntries(inputs) };
}

function isExecuting(job: JobView): boolean {
  return job.progress?.phase === 'executing' && job.attempts.at(-1)?.startedAt != null;
}

async function succeedsOnce({ run, double }: Play): Promise<void> {
  const job = await run(fresh(emptyImage));
  expect(job).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }], outputs: [{}] });
  expect(double.counters).toMatchObject({ promptsAccepted: 1, executionsStarted: 1 });
}

async function cancelsWhileRunning(play: Play, workflow: Workflow): Promise<JobView> {
  const id = await play.submit(fresh(workflow));
  await play.when(id, isExecuting);
  await play.cancel(id);
  const job = await play.ended(id);
  expect(job).toMatchObject({
    status: 'canceled',
    error: null,
    attempts: [{ outcome: 'canceled' }],
    outputs: [],
  });
  return job;
}

/** A busy machine is late, never early. */
function expectNear(foundMs: number | null, expectedMs: number): void {
  expect(foundMs).toBeGreaterThanOrEqual(expectedMs * 0.8);
  expect(foundMs).toBeLessThan(expectedMs + 10_000);
}

/** No part is missing, and together they are no more than the whole. */
function expectWholeTimes({ timings }: JobView): void {
  const { totalMs, ...parts } = timings;
  const sum = Object.values(parts).reduce<number>((whole, part) => whole + (part ?? Number.NaN), 0);
  expect(sum).toBeGreaterThan(0);
  expect(sum).toBeLessThanOrEqual((totalMs ?? 0) + 5);
}

let pictures = 0;
/** A new one each time: a ComfyUI that several cases share keeps what it was sent. */
function png(): Promise<Buffer> {
  pictures += 1;
  return sharp({ create: { width: 32, height: 24, channels: 3, background: { r: 192, g: 64, b: pictures } } })
    .png()
    .toBuffer();
}
