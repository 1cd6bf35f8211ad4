// What the checks run against: a double of each generation, or the real server at COMFYUI_URL.
import { startComfyDouble, type ComfyDouble, type ComfyVersion } from '../index.ts';
import { send } from './client.ts';

export interface Target {
  readonly url: string;
  /** Undefined for a real server. */
  readonly double: ComfyDouble | undefined;
  stop(): Promise<void>;
}

const realUrl = process.env['COMFYUI_URL'];

export const isRealServer = realUrl !== undefined;

/** The generations to check; of a real server, the recorded one that is nearest to its version. */
export async function targetVersions(): Promise<ComfyVersion[]> {
  if (realUrl === undefined) return ['0.33.0', '0.3.64'];
  const stats: { system: { comfyui_version: string } } = JSON.parse(
    (await send(`${realUrl}/system_stats`)).text,
  );
  const [major = 0, minor = 0] = stats.system.comfyui_version.split('.').map(Number);
  return [major > 0 || minor >= 6 ? '0.33.0' : '0.3.64'];
}

export async function startTarget(version: ComfyVersion): Promise<Target> {
  if (realUrl !== undefined) return { url: realUrl, double: undefined, stop: () => Promise.resolve() };
  const double = await startComfyDouble({ version, knobs: { itemMs: 0 } });
  return { url: double.url, double, stop: () => double.stop() };
}
