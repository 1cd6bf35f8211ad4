// The ComfyUI doubles behind the rentals, unless a test runs others.
import type { ComfyDouble, ComfyKnobs, ComfyVersion, SimulatedNode } from '../comfyui/index.ts';
import { startComfyDouble } from '../comfyui/index.ts';
import { argumentValue, splitImage } from './boot.ts';
import type { ComfyUiOrder, StartComfyUi } from './installation.ts';

export interface ComfyUiDoubles {
  start: StartComfyUi;
  of(rentalId: number): ComfyDouble | undefined;
}

/** Each rental gets a double of its own, with `knobs` and its machine's GPU. */
export function comfyUiDoubles(knobs: Partial<ComfyKnobs>): ComfyUiDoubles {
  const doubles = new Map<number, ComfyDouble>();
  return {
    async start(order) {
      const double = await startComfyDouble({ ...asOrdered(order, knobs), seed: order.rentalId });
      doubles.set(order.rentalId, double);
      return double;
    },
    of: (rentalId) => doubles.get(rentalId),
  };
}

/** The double that stands for what was ordered: `knobs`, with the machine's GPU. */
export function asOrdered(
  { image, args, gpuName, vramMb, hasCudaMismatch }: ComfyUiOrder,
  knobs: Partial<ComfyKnobs>,
): { version: ComfyVersion; knobs: Partial<ComfyKnobs> } {
  return {
    version: versionOf(image),
    knobs: {
      gpu: { name: `NVIDIA ${gpuName}`, vramTotalBytes: vramMb * 1024 * 1024 },
      ...launchKnobs(args),
      reportedVersion: /^v(\d+\.\d+\.\d+)/.exec(splitImage(image).tag)?.[1] ?? null,
      ...knobs,
      ...(hasCudaMismatch ? { nodes: failingNodes(knobs.nodes ?? {}) } : {}),
    },
  };
}

/** What the command line turns on and off. */
function launchKnobs(args: string[]): Partial<ComfyKnobs> {
  const uploadMb = argumentValue(args, '--max-upload-size');
  return {
    arguments: args,
    checksOrigin: !args.includes('--enable-cors-header'),
    embedMetadata: !args.includes('--disable-metadata'),
    ...(uploadMb === undefined ? {} : { maxUploadBytes: Number(uploadMb) * 1024 * 1024 }),
  };
}

/** The closer of the two generations that the ComfyUI double plays. */
function versionOf(image: ComfyUiOrder['image']): ComfyVersion {
  const minor = /^v0\.(\d+)/.exec(splitImage(image).tag)?.[1];
  return Number(minor ?? 3) < 25 ? '0.3.64' : '0.33.0';
}

/** Whatever runs on the GPU fails as it does with a driver that is too old. */
function failingNodes(nodes: Record<string, SimulatedNode>): Record<string, SimulatedNode> {
  const error = {
    type: 'RuntimeError',
    message: 'CUDA error: the provided PTX was compiled with an unsupported toolchain.',
  };
  const sampler: SimulatedNode = { durationMs: 0, returns: ['LATENT'] };
  const all = { KSampler: sampler, KSamplerAdvanced: sampler, SamplerCustomAdvanced: sampler, ...nodes };
  return Object.fromEntries(Object.entries(all).map(([name, node]) => [name, { ...node, error }]));
}
