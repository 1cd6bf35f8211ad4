// How much of a stream its way through this process holds in memory, without what only waits to be cleaned away.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/**
 * The same chunks, with a look at the memory of all buffers each time `everyBytes` more have passed. `heldBytes` tells
 * by how much they grew: the median of the looks, since a look sees now and then what is still being cleaned away,
 * while a stream that is held as a whole shows half of its length.
 */
export function watched(chunks: AsyncIterable<Uint8Array>, everyBytes: number) {
  const before = buffersBytes();
  const looks: number[] = [];
  return {
    chunks: watch(),
    heldBytes: (): number => looks.toSorted((a, b) => a - b)[Math.floor(looks.length / 2)] ?? Number.NaN,
  };

  async function* watch(): AsyncGenerator<Uint8Array> {
    let passedBytes = 0;
    for await (const chunk of chunks) {
      yield chunk;
      passedBytes += chunk.length;
      if (passedBytes >= (looks.length + 1) * everyBytes) looks.push(buffersBytes() - before);
    }
  }
}

function buffersBytes(): number {
  collect();
  return process.memoryUsage().arrayBuffers;
}
