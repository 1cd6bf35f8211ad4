// What a failed prompt means for its job, from ComfyUI's own account of it.
import type { HistoryEntry, PromptError } from '../comfyui/client.ts';
import type { JobError } from './job.ts';
import { nextVramGb } from './memory.ts';
import type { Verdict } from './verdict.ts';

/** `vramGb` is what the GPU of the instance has, where it is known. A lack of memory may be cured by freeing it, anything else would repeat. */
export function failureOf({ error }: Pick<HistoryEntry, 'error'>, vramGb: number | null): Verdict {
  const node = nodeOf(error);
  if (error === null || error.outOfMemory === null) {
    const detail = `${nameOf(error)} failed: ${error?.message || 'ComfyUI does not say why.'}`;
    return { kind: 'failed', error: { code: 'node_error', detail, ...node } };
  }
  const { message, outOfMemory } = error;
  if (outOfMemory === 'host') {
    const detail = `${nameOf(error)} ran out of main memory. Ask for more with requirements.minRamGb, or make the work smaller. ${message}`;
    return { kind: 'again', error: { code: 'out_of_memory', detail: detail.trim(), ...node } };
  }
  const minVramGb = vramGb === null ? null : nextVramGb(vramGb);
  const has = vramGb === null ? '' : `, which has ${Math.round(vramGb)} GB`;
  const advice = minVramGb === null ? 'Make' : `Ask for requirements.minVramGb ${minVramGb}, or make`;
  const detail = `${nameOf(error)} ran out of the memory of the GPU${has}. ${advice} the work smaller. ${message}`;
  return {
    kind: 'again',
    error: {
      code: 'out_of_memory',
      detail: detail.trim(),
      ...node,
      ...(minVramGb === null ? {} : { requirements: { minVramGb } }),
    },
  };
}

function nameOf(error: PromptError | null): string {
  if (error === null || error.nodeId === null) return 'A node';
  return `Node ${error.nodeId}${error.nodeType === null ? '' : ` (${error.nodeType})`}`;
}

function nodeOf(error: PromptError | null): Pick<JobError, 'nodeId' | 'nodeType' | 'exceptionType'> {
  const { nodeId = null, nodeType = null, exceptionType = null } = error ?? {};
  return {
    ...(nodeId === null ? {} : { nodeId }),
    ...(nodeType === null ? {} : { nodeType }),
    ...(exceptionType === null ? {} : { exceptionType }),
  };
}
