// How much of a stream its way through this process holds in memory, without what only waits to be cleaned away.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/**
 * Watches streams from here on: the same chunks, with a look at the memory of all buffers once `atBytes` have passed.
 * `heldBytes` tells by how much they grew. Enough must have passed, and still be to come, to be seen beside the few
 * megabytes that are in no buffer of this process but on their way from one socket to the other.
 */
export function watchMemory({ atBytes, limitBytes }: { atBytes: number; limitBytes: number }) {
  // Twice: what the first one sees is partly still being cleaned away, and would hide as much of what is held.
  collect();
  const before = heldBytes();

  return (chunks: AsyncIterable<Uint8Array>) => {
    let held = Infinity;
    return { chunks: watch(), heldBytes: () => held };

    async function* watch(): AsyncGenerator<Uint8Array> {
      let passedBytes = 0;
      for await (const chunk of chunks) {
        yield chunk;
        passedBytes += chunk.length;
        if (passedBytes >= atBytes && held === Infinity) held = grown();
      }
    }
  };

  function grown(): number {
    let bytes = heldBytes() - before;
    // On a busy machine it may only not have been cleaned away yet, which the next collection waits for.
    for (let again = 0; bytes >= limitBytes && again < 3; again += 1) bytes = heldBytes() - before;
    return bytes;
  }
}

/** Bytes in buffers that something still refers to, after all that nothing refers to is gone. */
export function heldBytes(): number {
  collect();
  return process.memoryUsage().arrayBuffers;
}
