// How much of a stream its way through this process holds in memory, without what only waits to be cleaned away.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/**
 * The same chunks, with a look at the memory of all buffers each time `everyBytes` more have passed. `heldBytes` tells
 * by how much they grew, at the least: a look sees now and then what is still being cleaned away, while of a stream
 * that is held as a whole each sees `everyBytes` or more.
 */
export function watched(chunks: AsyncIterable<Uint8Array>, everyBytes: number) {
  // Twice: what the first one sees is partly still being cleaned away, and would hide as much of what is held.
  collect();
  const before = heldBytes();
  const looks: number[] = [];
  return {
    chunks: watch(),
    heldBytes: (): number => Math.min(...looks),
  };

  async function* watch(): AsyncGenerator<Uint8Array> {
    let passedBytes = 0;
    for await (const chunk of chunks) {
      yield chunk;
      passedBytes += chunk.length;
      if (passedBytes >= (looks.length + 1) * everyBytes) looks.push(grown());
    }
  }

  function grown(): number {
    const bytes = heldBytes() - before;
    // On a busy machine it may only not have been cleaned away yet, which the next collection waits for.
    return bytes < everyBytes / 2 ? bytes : heldBytes() - before;
  }
}

/** Bytes in buffers that something still refers to, after all that nothing refers to is gone. */
export function heldBytes(): number {
  collect();
  return process.memoryUsage().arrayBuffers;
}
