// Numbers that look random and repeat with the seed.

export interface Random {
  /** In [0, 1). */
  fraction(): number;
  /** From `min` to `max`, both included. */
  integer(min: number, max: number): number;
  /** Lower-case hexadecimal digits. */
  hex(digits: number): string;
}

/** Mulberry32: small, even, and the same on every machine. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const fraction = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const integer = (min: number, max: number) => min + Math.floor(fraction() * (max - min + 1));
  return {
    fraction,
    integer,
    hex: (digits) => Array.from({ length: digits }, () => integer(0, 15).toString(16)).join(''),
  };
}
