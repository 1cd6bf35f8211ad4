// Writes the files that nodes save: PNG with its metadata, video, animated WebP, and padding to an exact size.
import ffmpeg from '@ffmpeg-installer/ffmpeg';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { crc32 } from 'node:zlib';
import sharp from 'sharp';
import { dumpPythonJson } from '../support/python.ts';
import { nodeError, type ImageBatch, type NodeContext, type Video } from './definition.ts';
import { oncePerFrame, pixels } from './pixels.ts';

export type Metadata = Readonly<Record<string, string>>;

const IEND_BYTES = 12;
const CHUNK_OVERHEAD_BYTES = 12;
const BOX_HEADER_BYTES = 8;

/** ComfyUI: every saved file carries the graph and the workflow, unless the server runs with --disable-metadata. */
export function metadataOf({ knobs, graph, extraData }: NodeContext): Metadata {
  if (!knobs.embedMetadata) return {};
  const metadata: Record<string, string> = { prompt: dumpPythonJson(graph) };
  const info = extraData['extra_pnginfo'];
  if (typeof info === 'object' && info !== null && !Array.isArray(info)) {
    for (const [key, value] of Object.entries(info)) metadata[key] = dumpPythonJson(value);
  }
  return metadata;
}

/** Makes sure that there is room, as far as the knob says so. */
export function assertDiskSpace({ knobs }: Pick<NodeContext, 'knobs'>, file: string): void {
  if (!knobs.diskFull) return;
  throw nodeError('OSError', '[Errno 28] No space left on device', [
    ['PIL/Image.py', 'save', `fp = builtins.open("${file}", "w+b")`],
  ]);
}

export async function encodePng(image: ImageBatch, frame: Buffer, metadata: Metadata): Promise<Buffer> {
  const png = await oncePerFrame(frame, `png ${image.width}`, () =>
    pixels(image, frame).png({ compressionLevel: 4 }).toBuffer(),
  );
  const texts = Object.entries(metadata).map(([key, value]) =>
    pngChunk('tEXt', Buffer.from(`${key}\0${value}`, 'latin1')),
  );
  return insertBeforeEnd(png, texts);
}

/** A PNG of exactly that many bytes; one that is larger already stays as it is. */
export function padPng(png: Buffer, bytes: number, random: () => number): Buffer {
  const missing = bytes - png.length - CHUNK_OVERHEAD_BYTES;
  return missing < 0 ? png : insertBeforeEnd(png, [pngChunk('coMp', noise(missing, random))]);
}

/** An MP4 of exactly that many bytes, by a `free` box that players skip. */
export function padMp4(mp4: Buffer, bytes: number, random: () => number): Buffer {
  const missing = bytes - mp4.length;
  if (missing < BOX_HEADER_BYTES) return mp4;
  const header = Buffer.alloc(BOX_HEADER_BYTES);
  header.writeUInt32BE(missing);
  header.write('free', 4, 'latin1');
  return Buffer.concat([mp4, header, noise(missing - BOX_HEADER_BYTES, random)]);
}

export interface VideoFormat {
  readonly extension: 'mp4' | 'webm';
  readonly arguments: readonly string[];
}

export const VIDEO_FORMATS: Readonly<Record<'mp4' | 'webm', VideoFormat>> = {
  mp4: {
    extension: 'mp4',
    arguments: ['-c:v', 'libx264', '-preset', 'ultrafast', '-movflags', '+faststart+use_metadata_tags'],
  },
  webm: { extension: 'webm', arguments: ['-c:v', 'libvpx-vp9', '-deadline', 'realtime', '-cpu-used', '8'] },
};

/**
 * Writes a video and returns the extension that it got: where no ffmpeg runs, the result is an animated WebP and
 * says so.
 */
export async function writeVideo(
  video: Video,
  format: VideoFormat,
  stem: string,
  metadata: Metadata,
): Promise<string> {
  try {
    await runFfmpeg(video, format, `${stem}.${format.extension}`, metadata);
    return format.extension;
  } catch (error) {
    if (!isMissingProgram(error)) throw error;
    await writeFile(`${stem}.webp`, await encodeAnimatedWebp(video.images, video.framesPerSecond, {}));
    return 'webp';
  }
}

export function encodeAnimatedWebp(
  { width, height, channels, frames }: ImageBatch,
  framesPerSecond: number,
  options: { lossless?: boolean; quality?: number },
): Promise<Buffer> {
  return sharp(Buffer.concat(frames), {
    raw: { width, height: height * frames.length, channels, pageHeight: height },
  })
    .webp({ ...options, delay: Math.round(1000 / framesPerSecond), loop: 0 })
    .toBuffer();
}

async function runFfmpeg(video: Video, format: VideoFormat, file: string, metadata: Metadata): Promise<void> {
  const { width, height, channels, frames } = video.images;
  const input = ['-f', 'rawvideo', '-pix_fmt', channels === 4 ? 'rgba' : 'rgb24', '-s', `${width}x${height}`];
  const output = ['-vf', 'crop=trunc(iw/2)*2:trunc(ih/2)*2', '-pix_fmt', 'yuv420p', '-threads', '1'];
  const tags = Object.entries(metadata).flatMap(([key, value]) => ['-metadata', `${key}=${value}`]);
  const rate = ['-r', String(video.framesPerSecond), '-i', 'pipe:0'];
  const child = spawn(
    ffmpeg.path,
    [
      '-loglevel',
      'error',
      '-y',
      ...input,
      ...rate,
      ...output,
      '-fflags',
      '+bitexact',
      ...format.arguments,
      ...tags,
      file,
    ],
    { stdio: ['pipe', 'ignore', 'pipe'] },
  );
  const complaint: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => complaint.push(chunk));
  const ended = once(child, 'close');
  // A process that ends early breaks the pipe; its exit code says why, so that is what counts.
  await Promise.all([pipeline(Readable.from(frames), child.stdin).catch(() => undefined), ended]);
  if (child.exitCode !== 0) {
    throw nodeError('av.error.ExternalError', Buffer.concat(complaint).toString('utf8').trim());
  }
}

const isMissingProgram = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && ['ENOENT', 'EACCES', 'ENOEXEC'].includes(String(error.code));

function insertBeforeEnd(png: Buffer, chunks: readonly Buffer[]): Buffer {
  const end = png.length - IEND_BYTES;
  return Buffer.concat([png.subarray(0, end), ...chunks, png.subarray(end)]);
}

function pngChunk(type: string, data: Buffer): Buffer {
  const typed = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const frame = Buffer.alloc(8);
  frame.writeUInt32BE(data.length, 0);
  frame.writeUInt32BE(crc32(typed), 4);
  return Buffer.concat([frame.subarray(0, 4), typed, frame.subarray(4)]);
}

function noise(bytes: number, random: () => number): Buffer {
  // One random block, repeated: random enough to resist compression checks, quick enough for large files.
  const block = Buffer.from(Array.from({ length: Math.min(bytes, 4096) }, () => Math.floor(random() * 256)));
  return bytes === 0 ? Buffer.alloc(0) : Buffer.alloc(bytes, block);
}
