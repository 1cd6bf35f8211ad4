// Plays the recordings of real ComfyUI servers again: against the double, or against the server at COMFYUI_URL.
import { randomUUID } from 'node:crypto';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { poll, post, send, sendForm, untilIdle, upload } from '../doubles/comfyui/conformance/client.ts';
import { edgeRequests } from '../doubles/comfyui/conformance/edge-requests.ts';
import { openLedger } from '../doubles/comfyui/conformance/known-differences.ts';
import {
  createNormalizer,
  differencesBetween,
  readEdges,
  readRecording,
  readUploads,
  type RecordedAnswer,
} from '../doubles/comfyui/conformance/recordings.ts';
import {
  recordedTranscript,
  replay,
  SCENARIOS,
  type Transcript,
} from '../doubles/comfyui/conformance/scenarios.ts';
import {
  isRealServer,
  startTarget,
  targetVersions,
  type Target,
} from '../doubles/comfyui/conformance/target.ts';
import type { ComfyDouble, ComfyVersion } from '../doubles/comfyui/index.ts';

const versions = await targetVersions();
/** A real server computes what the double only pretends to. */
const SCENARIO_TIMEOUT_MS = isRealServer ? 180_000 : 20_000;

describe.each(versions)('ComfyUI %s', (version) => {
  let target: Target | undefined;
  let double: ComfyDouble | undefined;
  let url = '';
  const recordedNames = createNormalizer();
  const replayedNames = createNormalizer();
  const ledger = openLedger(version, isRealServer ? 'real server' : 'double');
  const leftOut: string[] = [];

  beforeAll(async () => {
    target = await startTarget(version);
    ({ double, url } = target);
    await untilIdle(url);
    await post(`${url}/free`, { unload_models: true, free_memory: true });
    await upload(url, { name: 'e2e_input.png', bytes: await picture('#1478dc') }, { overwrite: 'true' });
  });
  afterAll(async () => {
    process.stdout.write(`${report(version, url, [...ledger.report(), ...leftOut]).join('\n')}\n`);
    await target?.stop();
  });

  /** What differs, without what is known to. */
  const compare = (name: string, recorded: unknown, replayed: unknown): string[] =>
    ledger.unknown(name, differencesBetween(recordedNames(recorded), replayedNames(replayed)));

  describe('scenarios', () => {
    let shift: number | undefined;

    test.for(SCENARIOS[version])(
      '$name ends and shows itself as recorded',
      { timeout: SCENARIO_TIMEOUT_MS },
      async (scenario) => {
        // The node that is to be cancelled runs until the cancel is there, however long that takes.
        if (double !== undefined) double.knobs.hangingNode = scenario.cancel?.whenRuns ?? null;
        const recording = readRecording(version, scenario.name);
        const replayed = await replay(url, recording, scenario, () => {
          if (double !== undefined) double.knobs.hangingNode = null;
        });
        shift ??= recording.submit[1].number - replayed.submit[1].number;
        expect(compare(scenario.name, recordedTranscript(recording), shiftNumbers(replayed, shift))).toEqual(
          [],
        );
      },
    );
  });

  describe('edges', () => {
    const recorded = readEdges(version);
    const requests = edgeRequests();
    const names = { recorded: createNormalizer(), replayed: createNormalizer() };
    const firstNumbers: { recorded?: number; replayed?: number } = {};

    beforeAll(async () => {
      await untilIdle(url);
    });

    test('every recorded answer has its request', () => {
      expect(requests.map(({ name }) => name)).toEqual(Object.keys(recorded));
    });

    test.for(requests)(
      '$name is answered as recorded',
      { timeout: SCENARIO_TIMEOUT_MS },
      async (request, context) => {
        if (double === undefined && request.breaks === version) {
          leftOut.push(`Left out: ${request.name} would end the worker of a real server.`);
          context.skip('It would end the worker of a real server.');
        }
        const answer = await send(url + request.path, request);
        if (request.waitForEnd?.includes(version) === true) await endOf(url, answer.text);
        const [status, contentType, body] = recordedAnswer(recorded, request.name);
        const type = answer.headers['content-type'] ?? null;
        expect({ status: answer.status, type }).toEqual({ status, type: contentType });
        const differences = compare(
          request.name,
          names.recorded(fromFirst(readAnswer(body, body), firstNumbers, 'recorded')),
          names.replayed(fromFirst(readAnswer(answer.text, body), firstNumbers, 'replayed')),
        );
        expect(differences).toEqual([]);
      },
    );
  });

  describe('uploads', () => {
    const recorded = readUploads(version);
    /** A name that no server has seen, shown as the recorded one. */
    const stem = `conformance-${randomUUID()}`;
    const name = `${stem}.png`;

    test.for(UPLOADS)('$name is answered as recorded', async ({ name: step, image, ...form }) => {
      const bytes = image === undefined ? undefined : await picture(image);
      const answer = await sendUpload(url, { ...form, filename: form.filename ?? name }, bytes);
      const [status, body] = recorded[step] ?? [0, ''];
      expect([answer.status, answer.text.replaceAll(stem, 'e2e_input')]).toEqual([status, body]);
    });

    test('every recorded upload has its step', () => {
      expect(UPLOADS.map((step) => step.name)).toEqual(Object.keys(recorded));
    });
  });

  // Only the double is held to its list; a real server of another version may differ in less.
  test.runIf(!isRealServer)('what is left different from the recordings is really different', () => {
    expect(ledger.unseen()).toEqual([]);
  });
});

function report(version: ComfyVersion, url: string, lines: readonly string[]): string[] {
  const subject = isRealServer ? `The server at ${url}` : 'The double';
  const title = `${subject}, compared with the recordings of ComfyUI ${version}:`;
  return [title, ...(lines.length === 0 ? ['no difference'] : lines).map((line) => `  - ${line}`)];
}

interface UploadStep {
  readonly name: string;
  /** The colour of the picture; without one the field `image` is missing or, with `text`, no file. */
  readonly image?: string;
  readonly text?: string;
  readonly filename?: string;
  readonly fields?: Record<string, string>;
  readonly isUrlEncoded?: boolean;
}

const [FIRST, OTHER] = ['#1478dc', '#dc1478'];

const UPLOADS: readonly UploadStep[] = [
  { name: 'first', image: FIRST },
  { name: 'same_again_no_overwrite', image: FIRST },
  { name: 'different_same_name', image: OTHER },
  { name: 'different_again', image: OTHER },
  { name: 'overwrite_true', image: FIRST, fields: { overwrite: 'true' } },
  { name: 'overwrite_1', image: FIRST, fields: { overwrite: '1' } },
  { name: 'overwrite_True_capital', image: OTHER, fields: { overwrite: 'True' } },
  { name: 'subfolder', image: FIRST, fields: { subfolder: 'job1/in' } },
  { name: 'subfolder_traversal', image: FIRST, fields: { subfolder: '../../evil' } },
  { name: 'filename_traversal', image: FIRST, filename: '..%2F..%2Fevil.png' },
  { name: 'filename_dir', image: FIRST, filename: 'sub%2Fdir.png' },
  { name: 'type_temp', image: FIRST, fields: { type: 'temp' } },
  { name: 'type_output', image: FIRST, fields: { type: 'output' } },
  { name: 'type_bad', image: FIRST, fields: { type: 'nowhere' } },
  { name: 'no_image_urlencoded', isUrlEncoded: true },
  { name: 'image_not_file', text: 'no file' },
];

async function sendUpload(
  url: string,
  step: Omit<UploadStep, 'name'> & { filename: string },
  bytes?: Buffer,
) {
  if (step.isUrlEncoded === true) {
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    return send(`${url}/upload/image`, { method: 'POST', headers, body: 'a=b' });
  }
  if (bytes !== undefined) return upload(url, { name: step.filename, bytes }, step.fields);
  const form = new FormData();
  form.set('image', step.text ?? '');
  return sendForm(`${url}/upload/image`, form);
}

const recordedAnswer = (answers: Record<string, RecordedAnswer>, name: string): RecordedAnswer => {
  const answer = answers[name];
  if (answer === undefined) throw new Error(`Nothing is recorded for ${name}.`);
  return answer;
};

/** JSON where it is JSON, else text. Long histories were cut when they were recorded: of them the head counts. */
function readAnswer(body: string, recorded: string): unknown {
  if (!recorded.startsWith('{')) return body;
  if (recorded.endsWith('}')) return JSON.parse(body);
  return /^\{"[^"]+": \{"prompt": \[[^,]+, "[^"]+", (?<head>.{60})/u.exec(body)?.groups?.['head'];
}

async function endOf(url: string, accepted: string): Promise<void> {
  const { prompt_id: id, number }: { prompt_id: string; number: number } = JSON.parse(accepted);
  await poll(
    async () => (await send(`${url}/history/${id}`)).text,
    (text) => text.includes(`"prompt": [${number},`),
  );
}

/** Numbers of the counter, seen from the first one of each side. */
function fromFirst(
  value: unknown,
  first: { recorded?: number; replayed?: number },
  side: 'recorded' | 'replayed',
): unknown {
  const shift = (number: number): number => {
    if (number < 0) return -shift(-number);
    first[side] ??= number;
    return number - first[side];
  };
  return JSON.parse(JSON.stringify(value), (key, entry: unknown) => {
    if (key === 'total') return '<total>';
    if ((key === 'number' || key === 'priority') && typeof entry === 'number' && entry !== 5)
      return shift(entry);
    if (key === 'prompt' && Array.isArray(entry) && typeof entry[0] === 'number')
      return [shift(entry[0]), ...entry.slice(1)];
    return entry;
  });
}

/** The counter of a server that has worked before stands somewhere else. */
function shiftNumbers(transcript: Transcript, by: number): Transcript {
  if (by === 0) return transcript;
  return JSON.parse(JSON.stringify(transcript), (key, value: unknown) => {
    if ((key === 'number' || key === 'priority') && typeof value === 'number') return value + by;
    if (key === 'prompt' && Array.isArray(value) && typeof value[0] === 'number')
      return [value[0] + by, ...value.slice(1)];
    return value;
  });
}

const picture = (background: string): Promise<Buffer> =>
  sharp({ create: { width: 80, height: 60, channels: 3, background } })
    .png()
    .toBuffer();
