// What to ask for where the memory of a GPU did not suffice.
import { satisfiesVram } from '../instances/requirements.ts';

/** The nominal sizes that machines are let out with, in GB. */
const USUAL_VRAM_GB = [16, 24, 32, 48, 80, 96, 141];

/** The next usual size, in GB, above what a GPU shows; null where nothing larger is usual. */
export function nextVramGb(vramGb: number): number | null {
  return USUAL_VRAM_GB.find((minVramGb) => !satisfiesVram({ minVramGb }, vramGb)) ?? null;
}
