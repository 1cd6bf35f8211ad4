// ComfyUI behind a rental as a container: the image of test/doubles/comfyui/Dockerfile, one container for each rental.
import { execFile } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ComfyKnobs } from '../comfyui/index.ts';
import { asOrdered } from './comfyui-doubles.ts';
import type { StartComfyUi } from './installation.ts';

const PORT = 8188;
/** In the container's own file system: files live as long as the container, not its process. */
const DATA_DIR = '/tmp/comfyui';
const START_TIMEOUT_MS = 60_000;

/** For `startComfyUi` of the double; the image has been built, and the docker command reaches an engine. */
export function containerComfyUi(image: string, knobs: Partial<ComfyKnobs> = {}): StartComfyUi {
  return async (order) => {
    const ordered = asOrdered(order, knobs);
    const environment = { VERSION: ordered.version, KNOBS: JSON.stringify(ordered.knobs), DATA_DIR };
    const id = await docker(
      'run',
      '--detach',
      '--publish',
      `127.0.0.1::${PORT}`,
      '--label',
      `comfyfleet.rental=${order.rentalId}`,
      ...Object.entries(environment).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
      image,
    );
    const stop = async (): Promise<void> => {
      await docker('rm', '--force', '--volumes', id);
    };
    let url = await answering(id).catch(async (error: unknown) => {
      await stop();
      throw error;
    });
    return {
      get url() {
        return url;
      },
      async exit() {
        await docker('kill', id);
      },
      async restart() {
        await docker('start', id);
        // The engine gives another port at each start.
        url = await answering(id);
      },
      stop,
    };
  };
}

/** Resolves to the address under which the container's ComfyUI answers. */
async function answering(id: string): Promise<string> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  const url = `http://${await docker('port', id, `${PORT}/tcp`)}`;
  for (;;) {
    const signal = AbortSignal.timeout(START_TIMEOUT_MS);
    const answer = await fetch(`${url}/system_stats`, { signal }).catch(() => null);
    await answer?.body?.cancel();
    if (answer?.ok === true) return url;
    if (performance.now() > deadline)
      throw new Error(`ComfyUI in a container does not answer: ${await docker('logs', '--tail', '20', id)}`);
    await delay(50);
  }
}

async function docker(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)('docker', args);
  return stdout.trim();
}
