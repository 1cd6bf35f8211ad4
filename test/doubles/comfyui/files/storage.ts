// The three folders of a ComfyUI server, and the names that it gives to what it saves.
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { nodeError } from '../nodes/definition.ts';

const FOLDER_TYPES = ['output', 'input', 'temp'] as const;
export type FolderType = (typeof FOLDER_TYPES)[number];

export const isFolderType = (value: string): value is FolderType =>
  (FOLDER_TYPES as readonly string[]).includes(value);

/** Where the played server believes to live; shown in error texts instead of the real folder. */
export const PRETENDED_ROOT = '/ComfyUI';

export interface SavePath {
  readonly folder: string;
  readonly filename: string;
  readonly subfolder: string;
  /** The first free number: the highest on disk and one, looked up at this moment. */
  readonly counter: number;
}

export interface Storage {
  readonly root: string;
  directory(type: FolderType): string;
  /** Creates the folders and empties the temp folder, as the server does when it starts. */
  prepare(): Promise<void>;
  emptyTemp(): Promise<void>;
  /** ComfyUI: `get_save_image_path`. Throws a node error when the prefix leads out of the folder. */
  savePath(
    prefix: string,
    size: { width: number; height: number },
    type?: 'output' | 'temp',
  ): Promise<SavePath>;
  /** The file behind a name as LoadImage takes it: `sub/name.png`, `name.png [output]`; undefined when there is none. */
  findInput(annotatedName: string): string | undefined;
}

export function openStorage(root: string, options: { namesCommonPath: boolean }): Storage {
  const directory = (type: FolderType): string => path.join(root, type);

  return {
    root,
    directory,
    async prepare() {
      await Promise.all(FOLDER_TYPES.map((type) => mkdir(directory(type), { recursive: true })));
      await this.emptyTemp();
    },
    async emptyTemp() {
      await rm(directory('temp'), { recursive: true, force: true });
      await mkdir(directory('temp'), { recursive: true });
    },
    async savePath(prefix, size, type = 'output') {
      const base = directory(type);
      const expanded = path.normalize(expandVariables(prefix, size));
      const folder = path.resolve(base, path.dirname(expanded));
      if (!isInside(base, folder)) throw outsideError(root, folder, type, options.namesCommonPath);
      await mkdir(folder, { recursive: true });
      const filename = path.basename(expanded);
      const counter = highestCounter(await readdir(folder), filename) + 1;
      const subfolder = path.dirname(expanded);
      return { folder, filename, counter, subfolder: subfolder === '.' ? '' : subfolder };
    },
    findInput(annotatedName) {
      const { name, type } = splitAnnotation(annotatedName, 'input');
      const file = path.resolve(directory(type), name);
      return isInside(directory(type), file) && existsSync(file) ? file : undefined;
    },
  };
}

/** `name.png [output]` means that folder. */
export function splitAnnotation(name: string, fallback: FolderType): { name: string; type: FolderType } {
  const found = /^(?<name>.*) \[(?<type>output|input|temp)\]$/u.exec(name)?.groups;
  if (found?.['name'] === undefined || found['type'] === undefined || !isFolderType(found['type'])) {
    return { name, type: fallback };
  }
  return { name: found['name'], type: found['type'] };
}

export const isInside = (base: string, file: string): boolean =>
  file === base || file.startsWith(`${base}${path.sep}`);

function expandVariables(prefix: string, { width, height }: { width: number; height: number }): string {
  const now = new Date();
  const two = (value: number): string => String(value).padStart(2, '0');
  return prefix
    .replaceAll('%width%', String(width))
    .replaceAll('%height%', String(height))
    .replaceAll('%year%', String(now.getFullYear()))
    .replaceAll('%month%', two(now.getMonth() + 1))
    .replaceAll('%day%', two(now.getDate()))
    .replaceAll('%hour%', two(now.getHours()))
    .replaceAll('%minute%', two(now.getMinutes()))
    .replaceAll('%second%', two(now.getSeconds()));
}

function highestCounter(names: readonly string[], filename: string): number {
  const counters = names
    .filter((name) => name.startsWith(`${filename}_`))
    .map((name) => Number.parseInt(name.slice(filename.length + 1), 10) || 0);
  return Math.max(0, ...counters);
}

function outsideError(root: string, folder: string, type: FolderType, namesCommonPath: boolean): Error {
  const shown = path.join(PRETENDED_ROOT, path.relative(root, folder));
  const lines = [
    '**** ERROR: Saving image outside the output folder is not allowed.',
    ` full_output_folder: ${shown}`,
    `         output_dir: ${PRETENDED_ROOT}/${type}`,
    ...(namesCommonPath ? [`         commonpath: ${PRETENDED_ROOT}`] : []),
  ];
  return nodeError('Exception', lines.join('\n'), [
    ['folder_paths.py', 'get_save_image_path', 'raise Exception(err)'],
  ]);
}
