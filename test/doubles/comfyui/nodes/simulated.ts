// Nodes declared by a knob: they stand for what needs a GPU, a model or a custom node pack.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { SimulatedNode } from '../knobs.ts';
import type { Dict, FileItem } from '../support/model.ts';
import { isKind, nodeError, type ImageBatch, type NodeContext, type NodeDefinition } from './definition.ts';
import {
  encodePng,
  padMp4,
  padPng,
  VIDEO_FORMATS,
  writeVideo,
  assertDiskSpace,
  metadataOf,
} from './encode.ts';
import { pixels, rgb } from './pixels.ts';
import { counterText, fileItem, save } from './save.ts';

const SIDE = 64;
const PREVIEW_SIDE = 16;

export function simulatedNode(name: string, declared: SimulatedNode): NodeDefinition {
  const { returns = ['IMAGE'], outputCount = 0, choices = {} } = declared;
  return {
    name,
    displayName: name,
    category: 'simulated',
    pythonModule: 'custom_nodes.simulated',
    required: Object.fromEntries(Object.entries(choices).map(([input, options]) => [input, [options, {}]])),
    outputs: returns.map((type) => ({ type })),
    isOutput: outputCount > 0,
    execute: async (inputs, context) => {
      await spendSteps(declared, context);
      if (declared.error !== undefined) throw nodeError(declared.error.type, declared.error.message);
      const image = firstImage(inputs) ?? solidImage(SIDE, context.random);
      const values = returns.map((type) => (type === 'IMAGE' ? image : { kind: type }));
      if (outputCount === 0) return { values };
      const files = await saveFiles(declared, image, inputs, context);
      return { values, ui: { [declared.outputKey ?? 'images']: files } };
    },
  };
}

async function spendSteps(
  { durationMs, steps = 0, previews = false }: SimulatedNode,
  context: NodeContext,
): Promise<void> {
  if (steps === 0) return context.spend(durationMs);
  for (let step = 1; step <= steps; step += 1) {
    await context.spend(durationMs / steps);
    const wanted = previews || context.wantsPreviews;
    const preview = wanted ? { format: 'jpeg' as const, bytes: await previewBytes(context) } : undefined;
    context.progress(step, steps, preview);
  }
}

async function previewBytes({ random }: NodeContext): Promise<Buffer> {
  const image = solidImage(PREVIEW_SIDE, random);
  return pixels(image, image.frames[0] ?? Buffer.alloc(0))
    .jpeg({ quality: 95 })
    .toBuffer();
}

async function saveFiles(
  declared: SimulatedNode,
  image: ImageBatch,
  inputs: Dict,
  context: NodeContext,
): Promise<FileItem[]> {
  const { outputCount = 1, outputExtension = 'png' } = declared;
  const prefix = typeof inputs['filename_prefix'] === 'string' ? inputs['filename_prefix'] : 'ComfyUI';
  const target = await context.storage.savePath(prefix, image);
  const files: FileItem[] = [];
  for (let index = 0; index < outputCount; index += 1) {
    const stem = `${target.filename}_${counterText(target.counter + index)}_`;
    const bytes = await (outputExtension === 'png' ? pngBytes : mp4Bytes)(declared, image, stem, context);
    const filename = `${stem}.${outputExtension}`;
    await save(path.join(target.folder, filename), bytes, context);
    files.push(fileItem(filename, target.subfolder, 'output'));
  }
  return files;
}

async function pngBytes(
  { outputBytes = 0 }: SimulatedNode,
  image: ImageBatch,
  _stem: string,
  context: NodeContext,
): Promise<Buffer> {
  const png = await encodePng(image, image.frames[0] ?? Buffer.alloc(0), metadataOf(context));
  return padPng(png, outputBytes, context.random);
}

async function mp4Bytes(
  { outputBytes = 0 }: SimulatedNode,
  image: ImageBatch,
  stem: string,
  context: NodeContext,
): Promise<Buffer> {
  assertDiskSpace(context, stem);
  const frames = Array.from({ length: 8 }, () => image.frames[0] ?? Buffer.alloc(0));
  const draft = path.join(context.storage.directory('temp'), `${context.promptId}-${stem}`);
  const extension = await writeVideo(
    { kind: 'VIDEO', images: { ...image, frames }, framesPerSecond: 8 },
    VIDEO_FORMATS.mp4,
    draft,
    {},
  );
  return padMp4(await readFile(`${draft}.${extension}`), outputBytes, context.random);
}

const firstImage = (inputs: Dict): ImageBatch | undefined =>
  Object.values(inputs).find((value) => isKind<ImageBatch>(value, 'IMAGE'));

function solidImage(side: number, random: () => number): ImageBatch {
  const color = Buffer.from([random() * 256, random() * 256, random() * 256].map(Math.floor));
  return rgb(side, side, [Buffer.alloc(side * side * 3, color)]);
}
