// What we ask vast.ai to run: the body of a create, by which ComfyUI comes up behind the image's own login.
import type { Config } from '../config.ts';
import { withDeadManSwitch } from './dead-man-script.ts';
import type { LaunchRequest } from '../instances/provider.ts';

export type RecipeConfig = Pick<
  Config,
  | 'VAST_IMAGE_KIND'
  | 'VAST_IMAGE'
  | 'VAST_IMAGE_TAG'
  | 'VAST_RUNTYPE'
  | 'VAST_COMFYUI_PORT'
  | 'VAST_COMFYUI_INTERNAL_PORT'
  | 'VAST_EXTRA_PORTS'
  | 'VAST_HTTPS'
  | 'VAST_COMFYUI_ARGS'
  | 'VAST_PROVISIONING_SCRIPT'
  | 'VAST_API_URL'
>;

export interface CreateBody {
  client_id: 'me';
  image: string;
  /** An object, although vast.ai's OpenAPI says text; a port mapping is a key with the value "1". Values have at most 256 characters. */
  env: Record<string, string>;
  disk: number;
  label: string;
  runtype: string;
  onstart?: string;
  target_state: 'running';
  /** Refuse rather than leave a stopped instance behind whose disk costs money. */
  cancel_unavail: true;
}

export function createBody(config: RecipeConfig, request: LaunchRequest): CreateBody {
  const isOwnImage = config.VAST_IMAGE_KIND === 'vast';
  const start = isOwnImage ? withDeadManSwitch('entrypoint.sh', config, request.deadMan) : 'init.sh';
  return {
    client_id: 'me',
    image: imageFor(config, request.offer.cudaVersion),
    env: {
      ...Object.fromEntries(mappedPorts(config).map((port) => [`-p ${port}:${port}`, '1'])),
      ...(isOwnImage ? vastImageEnv(config, request.secret) : aiDockEnv(config, request.secret)),
      ...(config.VAST_PROVISIONING_SCRIPT === undefined
        ? {}
        : { PROVISIONING_SCRIPT: config.VAST_PROVISIONING_SCRIPT }),
    },
    disk: request.diskGb,
    label: request.label,
    runtype: config.VAST_RUNTYPE,
    // The ssh run types replace the entrypoint of the image, so onstart has to run it; args keeps it, and onstart would override it.
    ...(config.VAST_RUNTYPE === 'args' ? {} : { onstart: start }),
    target_state: 'running',
    cancel_unavail: true,
  };
}

/** CUDA 13.2 needs a driver of that version; CUDA 12.9 runs on every newer driver, and on older ones of the 12 family. */
function imageFor(
  { VAST_IMAGE, VAST_IMAGE_TAG }: Pick<RecipeConfig, 'VAST_IMAGE' | 'VAST_IMAGE_TAG'>,
  cudaVersion: number | null,
): string {
  const cuda = cudaVersion !== null && cudaVersion >= 13.2 ? '13.2' : '12.9';
  return `${VAST_IMAGE}:${VAST_IMAGE_TAG.replaceAll('{cuda}', cuda)}`;
}

/** The oldest CUDA version of a driver under which the image runs: a newer minor version does, a newer family does not. */
export function minCudaOf({ VAST_IMAGE_TAG }: Pick<RecipeConfig, 'VAST_IMAGE_TAG'>): number {
  const family = /cuda-(\d+)/.exec(VAST_IMAGE_TAG.replaceAll('{cuda}', '12.9'))?.[1];
  return family === undefined ? 0 : Number(family);
}

/** The version of ComfyUI that the tag of vast.ai's own image pins; null where it pins none. */
export function pinnedComfyUi({
  VAST_IMAGE,
  VAST_IMAGE_TAG,
}: Pick<RecipeConfig, 'VAST_IMAGE' | 'VAST_IMAGE_TAG'>): string | null {
  // Others number their images in their own way.
  if (VAST_IMAGE !== 'vastai/comfy') return null;
  return /^v(\d+\.\d+\.\d+)(?![\d.])/.exec(VAST_IMAGE_TAG)?.[1] ?? null;
}

/** The ports that are opened, ComfyUI's first. Its loopback port is never one of them: nothing guards it. */
export function mappedPorts(
  config: Pick<RecipeConfig, 'VAST_COMFYUI_PORT' | 'VAST_COMFYUI_INTERNAL_PORT' | 'VAST_EXTRA_PORTS'>,
): number[] {
  const ports = new Set([config.VAST_COMFYUI_PORT, ...config.VAST_EXTRA_PORTS.map(Number)]);
  ports.delete(config.VAST_COMFYUI_INTERNAL_PORT);
  return [...ports];
}

/** Services of vast.ai's image that appear on a port once the portal lists them, behind the same login. */
const portalServices: Record<number, string> = {
  1111: 'localhost:1111:11111:/:Instance Portal',
  8288: 'localhost:8288:18288:/docs:API Wrapper',
  8384: 'localhost:8384:18384:/:Syncthing',
};

/**
 * vast.ai's image: without PORTAL_CONFIG it starts neither ComfyUI nor a site for it; the login accepts WEB_PASSWORD as a bearer
 * token, while a token of ours in OPEN_BUTTON_TOKEN would be overwritten by the platform.
 */
function vastImageEnv(config: RecipeConfig, secret: string): Record<string, string> {
  const { VAST_COMFYUI_PORT: outside, VAST_COMFYUI_INTERNAL_PORT: inside } = config;
  const services = mappedPorts(config).flatMap((port) => portalServices[port] ?? []);
  return {
    PORTAL_CONFIG: [`localhost:${outside}:${inside}:/:ComfyUI`, ...services].join('|'),
    WEB_USERNAME: 'comfyfleet',
    WEB_PASSWORD: secret,
    ENABLE_HTTPS: String(config.VAST_HTTPS),
    COMFYUI_ARGS: comfyuiArguments(config),
    COMFYUI_API_BASE: `http://localhost:${inside}`,
    DATA_DIRECTORY: '/workspace/',
  };
}

/** ai-dock's image: the token is accepted as a bearer; the password is set too, since the platform would choose it otherwise. */
function aiDockEnv(config: RecipeConfig, secret: string): Record<string, string> {
  return {
    WEB_ENABLE_AUTH: 'true',
    WEB_ENABLE_HTTPS: String(config.VAST_HTTPS),
    WEB_USER: 'comfyfleet',
    WEB_PASSWORD: secret,
    WEB_TOKEN: secret,
    COMFYUI_PORT_HOST: String(config.VAST_COMFYUI_PORT),
    COMFYUI_ARGS: comfyuiArguments(config),
    DATA_DIRECTORY: '/workspace/',
  };
}

/** Ours come last, because the last one wins: the image's proxy needs this port, and this header so that requests with an Origin pass. */
function comfyuiArguments(config: RecipeConfig): string {
  const ours = `--disable-auto-launch --port ${config.VAST_COMFYUI_INTERNAL_PORT} --enable-cors-header`;
  return config.VAST_COMFYUI_ARGS === '' ? ours : `${config.VAST_COMFYUI_ARGS} ${ours}`;
}
