// The nodes that leave files: pictures, video, text, and pictures over the WebSocket only.
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { FileItem } from '../support/model.ts';
import {
  imagesOf,
  numberOf,
  textOf,
  videoOf,
  type ImageBatch,
  type NodeContext,
  type NodeDefinition,
  type Video,
} from './definition.ts';
import {
  assertDiskSpace,
  encodeAnimatedWebp,
  encodePng,
  metadataOf,
  VIDEO_FORMATS,
  writeVideo,
} from './encode.ts';

const PREFIX = ['STRING', { default: 'ComfyUI', tooltip: 'The prefix for the file to save.' }] as const;
const HIDDEN = { prompt: 'PROMPT', extra_pnginfo: 'EXTRA_PNGINFO' } as const;

const saveImage: NodeDefinition = {
  name: 'SaveImage',
  displayName: 'Save Image',
  category: 'image',
  required: {
    images: ['IMAGE', { tooltip: 'The images to save.' }],
    filename_prefix: PREFIX,
  },
  hidden: HIDDEN,
  outputs: [],
  isOutput: true,
  execute: async (inputs, context) => {
    const images = await savePngs(
      imagesOf(inputs, 'images'),
      textOf(inputs, 'filename_prefix'),
      'output',
      context,
    );
    return { ui: { images } };
  },
};

const previewImage: NodeDefinition = {
  name: 'PreviewImage',
  displayName: 'Preview Image',
  category: 'image',
  required: { images: ['IMAGE'] },
  hidden: HIDDEN,
  outputs: [],
  isOutput: true,
  execute: async (inputs, context) => {
    const letters = Array.from({ length: 5 }, () =>
      'abcdefghijklmnopqrstupvxyz'.charAt(context.random() * 26),
    );
    const prefix = `ComfyUI_temp_${letters.join('')}`;
    return { ui: { images: await savePngs(imagesOf(inputs, 'images'), prefix, 'temp', context) } };
  },
};

const saveImageWebsocket: NodeDefinition = {
  name: 'SaveImageWebsocket',
  displayName: 'SaveImageWebsocket',
  category: 'api/image',
  pythonModule: 'custom_nodes.websocket_image_save',
  required: { images: ['IMAGE'] },
  outputs: [],
  isOutput: true,
  execute: async (inputs, context) => {
    const image = imagesOf(inputs, 'images');
    for (const [index, frame] of image.frames.entries()) {
      const bytes = await encodePng(image, frame, {});
      context.progress(index, image.frames.length, { format: 'png', bytes });
    }
    return { values: [], ui: {} };
  },
};

const saveAnimatedWebp: NodeDefinition = {
  name: 'SaveAnimatedWEBP',
  displayName: 'SaveAnimatedWEBP',
  category: 'image/animation',
  required: {
    images: ['IMAGE'],
    filename_prefix: ['STRING', { default: 'ComfyUI' }],
    fps: ['FLOAT', { default: 6, min: 0.01, max: 1000, step: 0.01 }],
    lossless: ['BOOLEAN', { default: true }],
    quality: ['INT', { default: 80, min: 0, max: 100 }],
    method: [['default', 'fastest', 'slowest']],
  },
  hidden: HIDDEN,
  outputs: [],
  isOutput: true,
  execute: async (inputs, context) => {
    const image = imagesOf(inputs, 'images');
    const target = await context.storage.savePath(textOf(inputs, 'filename_prefix'), image);
    const bytes = await encodeAnimatedWebp(image, numberOf(inputs, 'fps'), {
      lossless: inputs['lossless'] === true,
      quality: Math.max(1, numberOf(inputs, 'quality')),
    });
    const filename = `${target.filename}_${counterText(target.counter)}_.webp`;
    await save(path.join(target.folder, filename), bytes, context);
    const images = [fileItem(filename, target.subfolder, 'output')];
    return { ui: image.frames.length === 1 ? { images } : { images, animated: [true] } };
  },
};

const createVideo: NodeDefinition = {
  name: 'CreateVideo',
  displayName: 'Create Video',
  category: 'image/video',
  pythonModule: 'comfy_extras.nodes_video',
  required: {
    images: ['IMAGE', { tooltip: 'The images to create a video from.' }],
    fps: ['FLOAT', { default: 30, min: 1, max: 120, step: 1 }],
  },
  optional: { audio: ['AUDIO', { tooltip: 'The audio to add to the video.' }] },
  outputs: [{ type: 'VIDEO' }],
  execute: (inputs) => {
    const video: Video = {
      kind: 'VIDEO',
      images: imagesOf(inputs, 'images'),
      framesPerSecond: numberOf(inputs, 'fps'),
    };
    return { values: [video] };
  },
};

const saveVideo: NodeDefinition = {
  name: 'SaveVideo',
  displayName: 'Save Video',
  category: 'image/video',
  pythonModule: 'comfy_extras.nodes_video',
  required: {
    video: ['VIDEO', { tooltip: 'The video to save.' }],
    filename_prefix: ['STRING', { default: 'video/ComfyUI' }],
    format: ['COMBO', { default: 'auto', options: ['auto', 'mp4', 'webm'] }],
  },
  optional: { codec: ['COMBO', { default: 'auto', options: ['auto', 'h264', 'vp9'] }] },
  hidden: HIDDEN,
  outputs: [],
  isOutput: true,
  execute: async (inputs, context) => {
    const format = inputs['format'] === 'webm' ? VIDEO_FORMATS.webm : VIDEO_FORMATS.mp4;
    return {
      ui: await saveVideoFile(videoOf(inputs, 'video'), textOf(inputs, 'filename_prefix'), format, context),
    };
  },
};

const saveWebm: NodeDefinition = {
  name: 'SaveWEBM',
  displayName: 'SaveWEBM',
  category: 'image/video',
  pythonModule: 'comfy_extras.nodes_video',
  required: {
    images: ['IMAGE'],
    filename_prefix: ['STRING', { default: 'ComfyUI' }],
    codec: ['COMBO', { options: ['vp9', 'av1'] }],
    fps: ['FLOAT', { default: 24, min: 0.01, max: 1000, step: 0.01 }],
    crf: ['FLOAT', { default: 32, min: 0, max: 63, step: 1 }],
  },
  hidden: HIDDEN,
  outputs: [],
  isOutput: true,
  execute: async (inputs, context) => {
    const video: Video = {
      kind: 'VIDEO',
      images: imagesOf(inputs, 'images'),
      framesPerSecond: numberOf(inputs, 'fps'),
    };
    return { ui: await saveVideoFile(video, textOf(inputs, 'filename_prefix'), VIDEO_FORMATS.webm, context) };
  },
};

const saveText: NodeDefinition = {
  name: 'SaveText',
  displayName: 'Save Text',
  category: 'text',
  pythonModule: 'comfy_extras.nodes_text',
  onlyIn: '0.33.0',
  required: {
    text: ['STRING', { forceInput: true }],
    filename_prefix: ['STRING', { default: 'ComfyUI' }],
    format: ['COMBO', { default: 'txt', options: ['txt', 'md', 'json'] }],
  },
  outputs: [{ type: 'STRING' }],
  isOutput: true,
  execute: async (inputs, context) => {
    const text = textOf(inputs, 'text');
    const target = await context.storage.savePath(textOf(inputs, 'filename_prefix'), { width: 0, height: 0 });
    const filename = `${target.filename}_${counterText(target.counter)}.${textOf(inputs, 'format')}`;
    await save(path.join(target.folder, filename), Buffer.from(text), context);
    return { values: [text], ui: { text: [text], files: [fileItem(filename, target.subfolder, 'output')] } };
  },
};

export const saveNodes: readonly NodeDefinition[] = [
  saveImage,
  previewImage,
  saveImageWebsocket,
  saveAnimatedWebp,
  createVideo,
  saveVideo,
  saveWebm,
  saveText,
];

/** Writes a file of a node, unless the disk is full. */
export async function save(file: string, bytes: Buffer, context: Pick<NodeContext, 'knobs'>): Promise<void> {
  assertDiskSpace(context, path.basename(file));
  await writeFile(file, bytes);
}

export const fileItem = (filename: string, subfolder: string, type: FileItem['type']): FileItem => ({
  filename,
  subfolder,
  type,
});

export const counterText = (counter: number): string => String(counter).padStart(5, '0');

async function savePngs(
  image: ImageBatch,
  prefix: string,
  type: 'output' | 'temp',
  context: NodeContext,
): Promise<FileItem[]> {
  const target = await context.storage.savePath(prefix, image, type);
  const metadata = metadataOf(context);
  const items: FileItem[] = [];
  for (const [index, frame] of image.frames.entries()) {
    const stem = target.filename.replaceAll('%batch_num%', String(index));
    const filename = `${stem}_${counterText(target.counter + index)}_.png`;
    await save(path.join(target.folder, filename), await encodePng(image, frame, metadata), context);
    items.push(fileItem(filename, target.subfolder, type));
  }
  return items;
}

async function saveVideoFile(
  video: Video,
  prefix: string,
  format: (typeof VIDEO_FORMATS)['mp4'],
  context: NodeContext,
): Promise<{ images: FileItem[]; animated: boolean[] }> {
  const target = await context.storage.savePath(prefix, video.images);
  const stem = `${target.filename}_${counterText(target.counter)}_`;
  assertDiskSpace(context, `${stem}.${format.extension}`);
  const extension = await writeVideo(video, format, path.join(target.folder, stem), metadataOf(context));
  return { images: [fileItem(`${stem}.${extension}`, target.subfolder, 'output')], animated: [true] };
}
