// ComfyUI servers that exist already, for the scenarios that are about jobs.
import { startComfyDouble, type ComfyDouble, type ComfyVersion } from '../doubles/comfyui/index.ts';
import { chaosNodes } from './job-plans.ts';

const versions: ComfyVersion[] = ['0.33.0', '0.3.64'];

/** Both generations of ComfyUI in turn; they stop with the scenario. */
export async function startDoubles(count: number, stack: AsyncDisposableStack): Promise<ComfyDouble[]> {
  const doubles: ComfyDouble[] = [];
  for (let at = 0; at < count; at += 1) {
    const double = await startComfyDouble({
      version: versions[at % versions.length] ?? '0.33.0',
      seed: at + 1,
      knobs: { nodes: chaosNodes },
    });
    stack.defer(() => double.stop());
    doubles.push(double);
  }
  return doubles;
}
