// Knobs that come as JSON from outside: a file, an environment variable, a command line.

/** Throws, with its path, for a value that a knob cannot have. */
export type KnobCheck = (value: unknown, path: string) => void;

/** One of these names. */
export const oneOf =
  (names: readonly string[]): KnobCheck =>
  (value, path) => {
    if (names.some((name) => name === value)) return;
    throw new Error(`${path} cannot be ${JSON.stringify(value)}; it can be ${names.join(', ')}.`);
  };

/** An object whose keys are the user's own, with values like the example. */
export const mapOf =
  (example: unknown): KnobCheck =>
  (value, path) => {
    checkKind(value, {}, path);
    for (const [name, item] of Object.entries(value)) checkKnob(item, example, `${path}.${name}`);
  };

export const orNull =
  (example: unknown): KnobCheck =>
  (value, path) => {
    if (value !== null) checkKnob(value, example, path);
  };

/**
 * Throws for a value that is not like the example: of another kind, or with a name in it that the example does not
 * have. A list is like its first item, a check decides by itself, and where the example is `null` anything goes.
 */
export function checkKnob(value: unknown, example: unknown, path: string): void {
  if (example === null || example === undefined) return;
  if (typeof example === 'function') return (example as KnobCheck)(value, path);
  checkKind(value, example, path);
  if (typeof example !== 'object') return;
  for (const [name, item] of Object.entries(value)) {
    const here = `${path}.${name}`;
    if (!Array.isArray(example) && !Object.hasOwn(example, name)) {
      throw new Error(`There is no ${here}; there are ${Object.keys(example).join(', ')}.`);
    }
    checkKnob(item, Reflect.get(example, Array.isArray(example) ? 0 : name), here);
  }
}

function checkKind(value: unknown, example: unknown, path: string): asserts value is object {
  if (kindOf(value) !== kindOf(example)) throw new Error(`${path} must be ${kindOf(example)}.`);
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}
