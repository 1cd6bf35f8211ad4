// Knobs that come as JSON from outside: a file, an environment variable, a command line.

/**
 * Throws, with its path, for a knob that does not exist or is of another kind than its default; what is `null` by
 * default takes anything. `open` are the paths of objects whose keys are the user's own; those that are empty by
 * default are, too.
 */
export function checkKnobs(
  given: unknown,
  defaults: object,
  path: string,
  open: readonly string[] = [],
): void {
  if (!isRecord(given)) throw new Error(`${path} must be an object.`);
  for (const [name, value] of Object.entries(given)) {
    const here = `${path}.${name}`;
    if (!Object.hasOwn(defaults, name)) {
      throw new Error(`There is no ${here}; there are ${Object.keys(defaults).join(', ')}.`);
    }
    const standard: unknown = Reflect.get(defaults, name);
    if (standard === null) continue;
    if (kindOf(value) !== kindOf(standard)) throw new Error(`${here} must be ${kindOf(standard)}.`);
    if (isRecord(standard) && Object.keys(standard).length > 0 && !open.includes(here))
      checkKnobs(value, standard, here, open);
  }
}

function kindOf(value: unknown): string {
  return Array.isArray(value) ? 'array' : typeof value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
