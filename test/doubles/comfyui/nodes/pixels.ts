// Pictures as rows of 8-bit pixels: decoding, changing frame by frame, remembering what was computed.
import sharp, { type Sharp } from 'sharp';
import { nodeError, type ImageBatch, type MaskBatch } from './definition.ts';

/** A picture in sharp's hands. */
export const pixels = ({ width, height, channels }: Omit<ImageBatch, 'frames'>, frame: Buffer): Sharp =>
  sharp(frame, { raw: { width, height, channels } });

export const rgb = (width: number, height: number, frames: readonly Buffer[]): ImageBatch => ({
  kind: 'IMAGE',
  width,
  height,
  channels: 3,
  frames,
});

/** A file as picture and mask, as LoadImage gives them. */
export async function decodeImage(
  bytes: Buffer,
  name: string,
): Promise<{ image: ImageBatch; mask: MaskBatch }> {
  try {
    const { data, info } = await sharp(bytes)
      .rotate()
      .ensureAlpha()
      .toColorspace('srgb')
      .raw()
      .toBuffer({ resolveWithObject: true });
    const [width, height] = [info.width, info.height];
    const color = Buffer.alloc(width * height * 3);
    const mask = Buffer.alloc(width * height);
    for (let pixel = 0; pixel < width * height; pixel += 1) {
      data.copy(color, pixel * 3, pixel * 4, pixel * 4 + 3);
      mask[pixel] = 255 - (data[pixel * 4 + 3] ?? 255);
    }
    return { image: rgb(width, height, [color]), mask: { kind: 'MASK', width, height, frames: [mask] } };
  } catch {
    throw nodeError('PIL.UnidentifiedImageError', `cannot identify image file '/ComfyUI/input/${name}'`);
  }
}

// Results by frame and operation: hundreds of equal frames are then computed once.
const computed = new WeakMap<Buffer, Map<string, Promise<Buffer>>>();

/** Computes once for each buffer and key, however many frames share the buffer. */
export function oncePerFrame(frame: Buffer, key: string, compute: () => Promise<Buffer>): Promise<Buffer> {
  const results = computed.get(frame) ?? new Map<string, Promise<Buffer>>();
  computed.set(frame, results);
  const result = results.get(key) ?? compute();
  results.set(key, result);
  return result;
}

/** Changes every frame, equal ones once. */
export function mapFrames(
  { frames }: ImageBatch,
  key: string,
  change: (frame: Buffer) => Uint8Array | Promise<Uint8Array>,
): Promise<Buffer[]> {
  return Promise.all(
    frames.map((frame) => oncePerFrame(frame, key, async () => Buffer.from(await change(frame)))),
  );
}

export function meanColor({ frames, channels }: ImageBatch): [number, number, number] {
  const sums: [number, number, number] = [0, 0, 0];
  const [frame] = frames;
  if (frame === undefined) return sums;
  for (let index = 0; index < frame.length; index += channels) {
    for (const channel of [0, 1, 2] as const) sums[channel] += frame[index + channel] ?? 0;
  }
  const count = frame.length / channels;
  return [sums[0] / count, sums[1] / count, sums[2] / count];
}

/** Moves every pixel towards a colour. */
export function blend(image: ImageBatch, frame: Buffer, color: readonly number[], strength: number): Buffer {
  const weight = Math.min(1, strength);
  return Buffer.from(
    frame.map((value, index) => value * (1 - weight) + (color[index % image.channels] ?? value) * weight),
  );
}
