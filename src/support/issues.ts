// What zod found, in sentences a person can act on: one for each field at fault.
import type { z } from 'zod';
import type { $ZodErrorMap, $ZodIssue } from 'zod/v4/core';

/** One thing that is wrong. `field` is absent where the whole is at fault. */
export interface FieldProblem {
  field?: string;
  detail: string;
}

/** Everything that zod found. `whole` names what was checked, such as "The body". */
export function fieldProblems(issues: readonly $ZodIssue[], whole: string): FieldProblem[] {
  return issues.flatMap((issue) => problemsOf(issue, [], whole));
}

/** A path as a caller would write it: `inputs[0].node`, `workflow["3"].class_type`. */
export function formatPath(path: readonly PropertyKey[]): string {
  return path
    .map((key, index) => {
      if (typeof key === 'number') return `[${key}]`;
      const name = String(key);
      if (!/^[A-Za-z_$][\w$-]*$/.test(name)) return `[${JSON.stringify(name)}]`;
      return index === 0 ? name : `.${name}`;
    })
    .join('');
}

/** The phrase after "… is not valid:" for what a schema says nothing about itself. */
export const describeIssue: $ZodErrorMap = (issue) => {
  switch (issue.code) {
    case 'invalid_type':
      return describeType(issue.expected, issue.input);
    case 'invalid_value':
      return `it must be ${oneOf(issue.values)}`;
    case 'too_small':
      return `it must ${atBound(issue.origin, 'at least', Number(issue.minimum), issue.inclusive ?? true)}`;
    case 'too_big':
      return `it must ${atBound(issue.origin, 'at most', Number(issue.maximum), issue.inclusive ?? true)}`;
    case 'not_multiple_of':
      return `it must be a multiple of ${issue.divisor}`;
    case 'invalid_format':
      return formats[issue.format] ?? 'it does not have the expected form';
    case 'unrecognized_keys':
      return 'it has unknown fields';
    case 'invalid_union':
      return describeUnion(issue.errors as $ZodIssue[][], issue.discriminator);
    default:
      return 'it is not allowed here';
  }
};

function problemsOf(issue: $ZodIssue, base: PropertyKey[], whole: string): FieldProblem[] {
  const path = [...base, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => problemAt([...path, key], 'there is no such field', whole));
  }
  if (issue.code === 'invalid_union') {
    const branch = closestBranch(issue.errors);
    if (branch !== undefined) return branch.flatMap((inner) => problemsOf(inner, path, whole));
  }
  if (issue.code === 'invalid_key' || issue.code === 'invalid_element') {
    const [inner] = issue.issues;
    if (inner !== undefined) return problemsOf(inner, path, whole);
  }
  return [problemAt(path, issue.message, whole)];
}

function problemAt(path: PropertyKey[], phrase: string, whole: string): FieldProblem {
  const sentence = phrase.endsWith('.') ? phrase : `${phrase}.`;
  if (path.length === 0) return { detail: `${whole} is not valid: ${sentence}` };
  const field = formatPath(path);
  return { field, detail: `"${field}" is not valid: ${sentence}` };
}

/**
 * Of the alternatives of a union, the one that the caller probably meant: the one that went wrong deepest inside, else one that has
 * more to say than that the value is of another kind. None when all say only that.
 */
function closestBranch(branches: $ZodIssue[][]): $ZodIssue[] | undefined {
  const depth = (issues: $ZodIssue[]) =>
    Math.max(...issues.map((issue) => issue.path.length + (issue.code === 'unrecognized_keys' ? 1 : 0)));
  const inside = branches.filter((issues) => issues.length > 0 && depth(issues) > 0);
  const deepest = inside.toSorted((a, b) => depth(b) - depth(a) || a.length - b.length)[0];
  return deepest ?? branches.find((issues) => issues.some(({ code }) => code !== 'invalid_type'));
}

function describeType(expected: string, input: unknown): string {
  // What may be anything but absent has no kind of its own.
  if (expected === 'nonoptional') return 'it is missing';
  const wanted = typeNames[expected] ?? expected;
  return input === undefined ? `it is missing and must be ${wanted}` : `it must be ${wanted}`;
}

function describeUnion(branches: $ZodIssue[][], discriminator: string | undefined): string {
  if (discriminator !== undefined) return `"${discriminator}" must be one of the documented values`;
  const wanted = new Set(
    branches
      .flat()
      .flatMap((issue) =>
        issue.code === 'invalid_type' ? [typeNames[issue.expected] ?? issue.expected] : [],
      ),
  );
  return wanted.size === 0 ? 'it has none of the accepted forms' : `it must be ${[...wanted].join(' or ')}`;
}

function oneOf(values: readonly z.core.util.Primitive[]): string {
  const shown = values.map((value) => (typeof value === 'string' ? `"${value}"` : String(value)));
  return shown.length === 1 ? String(shown[0]) : `one of ${shown.join(', ')}`;
}

function atBound(origin: string, bound: 'at least' | 'at most', limit: number, inclusive: boolean): string {
  const unit = countedUnits[origin];
  if (unit !== undefined) return `have ${bound} ${limit} ${limit === 1 ? unit.one : unit.many}`;
  if (inclusive) return `be ${bound} ${limit}`;
  return bound === 'at least' ? `be more than ${limit}` : `be less than ${limit}`;
}

const countedUnits: Record<string, { one: string; many: string }> = {
  string: { one: 'character', many: 'characters' },
  array: { one: 'entry', many: 'entries' },
  set: { one: 'entry', many: 'entries' },
  map: { one: 'entry', many: 'entries' },
  record: { one: 'field', many: 'fields' },
  object: { one: 'field', many: 'fields' },
};

const typeNames: Record<string, string> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  object: 'an object',
  record: 'an object',
  array: 'a list',
  null: 'null',
  never: 'absent',
};

const formats: Record<string, string> = {
  uuid: 'it must be a UUID',
  url: 'it must be a URL',
  email: 'it must be an e-mail address',
  datetime: 'it must be a time in ISO 8601, such as 2026-01-31T12:00:00Z',
  date: 'it must be a date in ISO 8601, such as 2026-01-31',
};
