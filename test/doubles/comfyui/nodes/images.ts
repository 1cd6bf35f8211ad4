// The nodes that make, load and change pictures, run for real on 8-bit pixels.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Dict } from '../support/model.ts';
import type { Storage } from '../files/storage.ts';
import {
  imagesOf,
  isKind,
  listOf,
  nodeError,
  numberOf,
  textOf,
  type ImageBatch,
  type NodeDefinition,
} from './definition.ts';
import { seededRandom } from '../support/random.ts';
import { blend, decodeImage, mapFrames, meanColor, oncePerFrame, pixels, rgb } from './pixels.ts';

const IMAGE_SLOT = [{ type: 'IMAGE' }] as const;
const UPSCALE_METHODS = ['nearest-exact', 'bilinear', 'area', 'bicubic', 'lanczos'] as const;
const KERNELS: Readonly<Record<string, 'nearest' | 'linear' | 'cubic' | 'lanczos3'>> = {
  'nearest-exact': 'nearest',
  bilinear: 'linear',
  area: 'linear',
  bicubic: 'cubic',
  lanczos: 'lanczos3',
};
const MAX_BATCH = 4096;
const MAX_SIDE = 16_384;

const emptyImage: NodeDefinition = {
  name: 'EmptyImage',
  displayName: 'EmptyImage',
  category: 'image',
  required: {
    width: ['INT', { default: 512, min: 1, max: MAX_SIDE, step: 1 }],
    height: ['INT', { default: 512, min: 1, max: MAX_SIDE, step: 1 }],
    batch_size: ['INT', { default: 1, min: 1, max: MAX_BATCH }],
    color: ['INT', { default: 0, min: 0, max: 0xffffff, step: 1, display: 'color' }],
  },
  outputs: IMAGE_SLOT,
  execute: (inputs) => {
    const [width, height] = [numberOf(inputs, 'width'), numberOf(inputs, 'height')];
    const color = numberOf(inputs, 'color');
    const pixel = Buffer.from([(color >> 16) & 0xff, (color >> 8) & 0xff, color & 0xff]);
    const frame = Buffer.alloc(width * height * 3, pixel);
    return { values: [rgb(width, height, repeat(frame, numberOf(inputs, 'batch_size')))] };
  },
};

const loadImage: NodeDefinition = {
  name: 'LoadImage',
  displayName: 'Load Image',
  category: 'image',
  required: { image: [[], { image_upload: true }] },
  outputs: [{ type: 'IMAGE' }, { type: 'MASK' }],
  validates: {
    image: (value, storage) =>
      typeof value === 'string' && storage.findInput(value) !== undefined
        ? undefined
        : `Invalid image file: ${String(value)}`,
  },
  fingerprint: async (inputs, storage) =>
    createHash('sha256')
      .update(await readInput(inputs, storage))
      .digest('hex'),
  execute: async (inputs, { storage }) => {
    const bytes = await readInput(inputs, storage);
    const decoded = await decodeImage(bytes, textOf(inputs, 'image'));
    return { values: [decoded.image, decoded.mask] };
  },
};

const imageScale: NodeDefinition = {
  name: 'ImageScale',
  displayName: 'Upscale Image',
  category: 'image/upscaling',
  required: {
    image: ['IMAGE'],
    upscale_method: [UPSCALE_METHODS, {}],
    width: ['INT', { default: 512, min: 0, max: MAX_SIDE, step: 1 }],
    height: ['INT', { default: 512, min: 0, max: MAX_SIDE, step: 1 }],
    crop: [['disabled', 'center'], {}],
  },
  outputs: IMAGE_SLOT,
  execute: async (inputs) => {
    const image = imagesOf(inputs, 'image');
    const [width, height] = targetSize(image, numberOf(inputs, 'width'), numberOf(inputs, 'height'));
    const fit = inputs['crop'] === 'center' ? 'cover' : 'fill';
    const kernel = KERNELS[textOf(inputs, 'upscale_method')] ?? 'nearest';
    const key = `scale ${width}x${height} ${fit} ${kernel} ${image.width}x${image.height}`;
    const frames = await mapFrames(image, key, (frame) =>
      pixels(image, frame).resize({ width, height, fit, kernel, fastShrinkOnLoad: false }).raw().toBuffer(),
    );
    return { values: [{ ...image, width, height, frames }] };
  },
};

const imageInvert: NodeDefinition = {
  name: 'ImageInvert',
  displayName: 'Invert Image',
  category: 'image',
  required: { image: ['IMAGE'] },
  outputs: IMAGE_SLOT,
  execute: async (inputs) => {
    const image = imagesOf(inputs, 'image');
    const frames = await mapFrames(image, 'invert', (frame) => frame.map((value) => 255 - value));
    return { values: [{ ...image, frames }] };
  },
};

const imageFromBatch: NodeDefinition = {
  name: 'ImageFromBatch',
  displayName: 'ImageFromBatch',
  category: 'image/batch',
  required: {
    image: ['IMAGE'],
    batch_index: ['INT', { default: 0, min: 0, max: 4095 }],
    length: ['INT', { default: 1, min: 1, max: MAX_BATCH }],
  },
  outputs: IMAGE_SLOT,
  execute: (inputs) => {
    const image = imagesOf(inputs, 'image');
    const start = Math.min(image.frames.length - 1, numberOf(inputs, 'batch_index'));
    return { values: [{ ...image, frames: image.frames.slice(start, start + numberOf(inputs, 'length')) }] };
  },
};

const repeatImageBatch: NodeDefinition = {
  name: 'RepeatImageBatch',
  displayName: 'RepeatImageBatch',
  category: 'image/batch',
  required: { image: ['IMAGE'], amount: ['INT', { default: 1, min: 1, max: MAX_BATCH }] },
  outputs: IMAGE_SLOT,
  execute: (inputs) => {
    const image = imagesOf(inputs, 'image');
    return { values: [{ ...image, frames: repeat(image.frames, numberOf(inputs, 'amount')).flat() }] };
  },
};

const rebatchImages: NodeDefinition = {
  name: 'RebatchImages',
  displayName: 'Rebatch Images',
  category: 'image/batch',
  required: { images: ['IMAGE'], batch_size: ['INT', { default: 1, min: 1, max: MAX_BATCH }] },
  outputs: [{ type: 'IMAGE', isList: true }],
  inputIsList: true,
  execute: (inputs) => {
    const [size] = listOf(inputs, 'batch_size');
    const images = listOf(inputs, 'images').filter((image) => isKind<ImageBatch>(image, 'IMAGE'));
    const batches = images.flatMap((image) =>
      chunks(image.frames, typeof size === 'number' ? size : 1).map((frames): ImageBatch => ({
        ...image,
        frames,
      })),
    );
    return { values: [batches] };
  },
};

const imageAddNoise: NodeDefinition = {
  name: 'ImageAddNoise',
  displayName: 'ImageAddNoise',
  category: 'image',
  required: {
    image: ['IMAGE'],
    seed: ['INT', { default: 0, min: 0, max: Number.MAX_SAFE_INTEGER, control_after_generate: true }],
    strength: ['FLOAT', { default: 0.5, min: 0, max: 1, step: 0.01 }],
  },
  outputs: IMAGE_SLOT,
  execute: async (inputs) => {
    const image = imagesOf(inputs, 'image');
    const [seed, strength] = [numberOf(inputs, 'seed'), numberOf(inputs, 'strength')];
    const frames = await mapFrames(image, `noise ${seed} ${strength}`, (frame) => {
      const random = seededRandom(seed);
      return frame.map((value) => Math.max(0, Math.min(255, value + (random() - 0.5) * 2 * strength * 255)));
    });
    return { values: [{ ...image, frames }] };
  },
};

const colorTransfer: NodeDefinition = {
  name: 'ColorTransfer',
  displayName: 'Color Transfer',
  category: 'image/adjustment',
  onlyIn: '0.33.0',
  required: {
    image_target: ['IMAGE'],
    image_ref: ['IMAGE'],
    method: [['reinhard', 'mkl', 'histogram'], { default: 'reinhard' }],
    source_stats: [['per_frame', 'uniform', 'target_frame'], { default: 'per_frame' }],
    strength: ['FLOAT', { default: 1, min: 0, max: 10, step: 0.01 }],
  },
  outputs: IMAGE_SLOT,
  execute: async (inputs, context) => {
    const [target, reference] = [imagesOf(inputs, 'image_target'), imagesOf(inputs, 'image_ref')];
    const color = meanColor(reference);
    const strength = numberOf(inputs, 'strength');
    const frames: Buffer[] = [];
    for (const [index, frame] of target.frames.entries()) {
      await context.spend(context.knobs.frameMs);
      const key = `transfer ${color.join(' ')} ${strength}`;
      frames.push(await oncePerFrame(frame, key, async () => blend(target, frame, color, strength)));
      context.progress(index + 1, target.frames.length);
    }
    return { values: [{ ...target, frames }] };
  },
};

const getImageSize: NodeDefinition = {
  name: 'GetImageSize',
  displayName: 'Get Image Size',
  category: 'image',
  required: { image: ['IMAGE'] },
  hidden: { unique_id: 'UNIQUE_ID' },
  outputs: [
    { type: 'INT', name: 'width' },
    { type: 'INT', name: 'height' },
    { type: 'INT', name: 'batch_size' },
  ],
  execute: (inputs, context) => {
    const { width, height, frames } = imagesOf(inputs, 'image');
    context.text(`width: ${width}, height: ${height}\n batch size: ${frames.length}`);
    return { values: [width, height, frames.length] };
  },
};

export const imageNodes: readonly NodeDefinition[] = [
  emptyImage,
  loadImage,
  imageScale,
  imageInvert,
  imageFromBatch,
  repeatImageBatch,
  rebatchImages,
  imageAddNoise,
  colorTransfer,
  getImageSize,
];

async function readInput(inputs: Dict, storage: Storage): Promise<Buffer> {
  const name = textOf(inputs, 'image');
  const file = storage.findInput(name);
  if (file === undefined)
    throw nodeError('FileNotFoundError', `[Errno 2] No such file or directory: '${name}'`);
  return readFile(file);
}

/** ComfyUI: a side of 0 keeps the proportions; both 0 keep the size. */
function targetSize(image: ImageBatch, width: number, height: number): [number, number] {
  if (width === 0 && height === 0) return [image.width, image.height];
  if (width === 0) return [Math.max(1, Math.round((image.width * height) / image.height)), height];
  if (height === 0) return [width, Math.max(1, Math.round((image.height * width) / image.width))];
  return [width, height];
}

const repeat = <T>(value: T, count: number): T[] => Array.from({ length: count }, () => value);

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, index) =>
    items.slice(index * size, (index + 1) * size),
  );
}
