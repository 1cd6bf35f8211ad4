// The hash that names assets.
import { createBLAKE3, type IHasher } from 'hash-wasm';

/** Keeps finished hashers for the next file: each is a WebAssembly instance, which costs more to make than to reset. */
export interface HasherPool {
  /** Calls `work` with a hasher of its own, ready for the first byte. */
  lend<T>(work: (hasher: IHasher) => Promise<T>): Promise<T>;
}

export function createHasherPool({ maxIdle = 8 } = {}): HasherPool {
  const idle: IHasher[] = [];
  return {
    async lend(work) {
      const hasher = idle.pop() ?? (await createBLAKE3());
      try {
        return await work(hasher.init());
      } finally {
        if (idle.length < maxIdle) idle.push(hasher);
      }
    },
  };
}
