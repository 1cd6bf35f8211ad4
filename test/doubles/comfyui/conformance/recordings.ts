// Recordings of real servers, and the form in which a recording and a replay can be compared.
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { ComfyVersion } from '../versions.ts';
import type { Frame } from './client.ts';

/** What was recorded of one scenario; frames carry the second at which they came. */
export interface Recording {
  readonly submit: readonly [status: number, body: { prompt_id: string; number: number }];
  readonly client_events: readonly (readonly [number, Frame])[];
  readonly observer_events: readonly (readonly [number, Frame])[];
  readonly history: Readonly<
    Record<string, { prompt: [number, string, object, Record<string, unknown>, string[]] }>
  >;
  readonly job: readonly [status: number, body: unknown];
}

/** Status, content type, body. */
export type RecordedAnswer = readonly [status: number, contentType: string | null, body: string];

const golden = (version: ComfyVersion, name: string) =>
  JSON.parse(
    readFileSync(new URL(`../../../golden/comfyui-${version}/${name}.json`, import.meta.url), 'utf8'),
  );

export const readRecording = (version: ComfyVersion, scenario: string): Recording =>
  golden(version, scenario);

export const readEdges = (version: ComfyVersion): Record<string, RecordedAnswer> => golden(version, 'edge');

export const readUploads = (version: ComfyVersion): Record<string, readonly [number, string]> =>
  golden(version, 'uploads');

/**
 * Replaces what differs from run to run by names: ids and files in the order of their appearance, times by a word,
 * and the folders of its code and files, which errors name. One normalizer serves one whole session.
 */
export function createNormalizer(): (value: unknown) => unknown {
  const ids = new Map<string, string>();
  const files = new Map<string, string>();
  const nameOf = (names: Map<string, string>, kind: string, text: string): string => {
    const name = names.get(text) ?? `<${kind} ${names.size + 1}>`;
    names.set(text, name);
    return name;
  };
  const text = (value: string): string =>
    withoutFolders(value)
      .replaceAll(/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/giu, (id) =>
        nameOf(ids, 'id', id),
      )
      .replaceAll(/^(?<stem>.*)_(?<counter>\d{5})_(?=\.)/gu, (file) => nameOf(files, 'file', file));
  const normalize = (value: unknown, key?: string): unknown => {
    if (typeof value === 'string') return text(value);
    if (typeof value === 'number' && isTime(key)) return '<time>';
    if (Array.isArray(value)) return value.map((item) => normalize(item));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([name, entry]) => [
        text(name),
        isSet(name) ? sorted(entry) : normalize(entry, name),
      ]),
    );
  };
  return (value) => normalize(value);
}

/** Where ComfyUI and Python lie is a matter of the machine: tracebacks and errors about paths keep names of files only. */
function withoutFolders(text: string): string {
  const named = text.replaceAll(/(?<=^ *File ").*\/(?=[^/"]+")/gmu, '');
  const output = /^ *output_dir: (?<output>.+)$/mu.exec(named)?.groups?.['output'];
  if (output === undefined) return named;
  return named
    .replaceAll(`output_dir: ${output}`, 'output_dir: <outputs>')
    .replaceAll(dirname(output), '<folder around the outputs>');
}

/** Progress is throttled by time, so only its first and last step can be compared. */
export const withoutMiddleSteps = (frames: readonly Frame[]): Frame[] =>
  frames.filter((frame) => !isMiddleStep(frame));

/** Where two normalized values differ, as `path: recorded → replayed`. */
export function differencesBetween(recorded: unknown, replayed: unknown, path = ''): string[] {
  if (isPlain(recorded) && isPlain(replayed)) {
    const keys = new Set([...Object.keys(recorded), ...Object.keys(replayed)]);
    return [...keys].flatMap((key) =>
      differencesBetween(recorded[key], replayed[key], path === '' ? key : `${path}.${key}`),
    );
  }
  const [left, right] = [JSON.stringify(recorded), JSON.stringify(replayed)];
  return left === right ? [] : [`${path}: ${left} → ${right}`];
}

const isTime = (key: string | undefined): boolean =>
  key !== undefined &&
  (key === 'timestamp' || key === 'create_time' || /^execution_(?:start|end)_time$/u.test(key));

/** Python sets: their order means nothing. */
const isSet = (key: string): boolean => key === 'executed' || key === 'current_outputs';

const sorted = (value: unknown): unknown => (Array.isArray(value) ? value.map(String).sort() : value);

const isPlain = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;

function isMiddleStep({ type, data }: Frame): boolean {
  if (type === 'progress') return isMiddle(data['value'], data['max']);
  const nodes = type === 'progress_state' && isPlain(data['nodes']) ? Object.values(data['nodes']) : [];
  return nodes.some(
    (node) => isPlain(node) && node['state'] === 'running' && isMiddle(node['value'], node['max']),
  );
}

const isMiddle = (value: unknown, max: unknown): boolean =>
  typeof value === 'number' && typeof max === 'number' && value > 1 && value < max;
