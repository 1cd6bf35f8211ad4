// The outputs of a job: what kind of thing a file is, what it is called, and where it is found.
import { extname } from 'node:path';
import type { OutputKind } from './job.ts';

/** The path of an output in this API. */
export function outputUrl(jobId: string, name: string): string {
  return `/jobs/${jobId}/outputs/${encodeURIComponent(name)}`;
}

const MODEL_EXTENSIONS = new Set([
  '.glb',
  '.gltf',
  '.obj',
  '.ply',
  '.stl',
  '.fbx',
  '.splat',
  '.ksplat',
  '.usdz',
  '.spz',
]);

/** What a file is, by its content type; ComfyUI lists videos under `images`, so its keys say nothing. */
export function outputKindOf(fileName: string, contentType: string | null): OutputKind {
  if (MODEL_EXTENSIONS.has(extname(fileName).toLowerCase())) return 'model';
  const [family] = (contentType ?? '').split('/');
  switch (family) {
    case 'image':
    case 'video':
    case 'audio':
    case 'model':
    case 'text':
      return family;
    default:
      return 'file';
  }
}

/** Gives out names that are unique within one job and the same every time the same outputs come in the same order. */
export function createNamer(): (wanted: string, nodeId: string) => string {
  const taken = new Set<string>();
  /** Where the count for a name goes on: a node may have thousands of texts. */
  const counts = new Map<string, number>();
  return (wanted, nodeId) => {
    const name = plainName(wanted);
    const ofNode = plainName(`${nodeId}-${wanted}`);
    let free = taken.has(name) ? ofNode : name;
    let count = counts.get(ofNode) ?? 2;
    for (; taken.has(free); count += 1) free = `${count}-${ofNode}`;
    counts.set(ofNode, count);
    taken.add(free);
    return free;
  };
}

/** What a path segment may grow to once it is encoded. */
const MAX_ENCODED = 240;

/** A name that is one segment of a path and that a database and a header can hold. */
function plainName(name: string): string {
  const plain = name
    .slice(-MAX_ENCODED)
    .toWellFormed()
    // oxlint-disable-next-line no-control-regex -- control characters are what is replaced
    .replaceAll(/[/\\\u0000-\u001f\u007f]/g, '_');
  const short = endOf(plain);
  return /^\.*$/.test(short) ? `_${short}` : short;
}

/** Cut at the front: the end has the number and the kind. */
function endOf(name: string): string {
  const kept: string[] = [];
  let length = 0;
  for (const character of Array.from(name).toReversed()) {
    length += encodeURIComponent(character).length;
    if (length > MAX_ENCODED) break;
    kept.unshift(character);
  }
  return kept.join('');
}
