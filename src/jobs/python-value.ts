// How Python reads a value that came as JSON, as far as ComfyUI's checks of a workflow depend on it.

/** Python's `int()`; null where it raises. NaN for digits that JavaScript does not know. */
export function pythonInt(value: unknown): number | null {
  if (typeof value === 'boolean') return Number(value);
  if (typeof value === 'number') return Math.trunc(value);
  if (typeof value !== 'string' || !/^\s*[+-]?\p{Nd}+(?:_\p{Nd}+)*\s*$/u.test(value)) return null;
  return Number(value.replaceAll('_', ''));
}

/** Python's `float()`; null where it raises. NaN for digits that JavaScript does not know, and for infinity. */
export function pythonFloat(value: unknown): number | null {
  if (typeof value === 'boolean' || typeof value === 'number') return Number(value);
  if (typeof value !== 'string') return null;
  const text = value.trim();
  if (/^[+-]?(?:inf(?:inity)?|nan)$/i.test(text)) return NaN;
  return floatPattern.test(text) ? Number(text.replaceAll('_', '')) : null;
}

/** Python's `==` between what JSON can hold but lists and objects: `True` is 1. */
export function pythonEquals(a: string | number | boolean, b: unknown): boolean {
  if (typeof a === 'string' || typeof b === 'string') return a === b;
  return Number(a) === (typeof b === 'boolean' ? Number(b) : b);
}

const digits = String.raw`\p{Nd}+(?:_\p{Nd}+)*`;
const floatPattern = new RegExp(
  `^[+-]?(?:${digits}\\.?(?:${digits})?|\\.${digits})(?:e[+-]?${digits})?$`,
  'iu',
);
