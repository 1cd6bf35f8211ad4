// What JSON may hold so that the database and ComfyUI keep it as it was given.
import { curedText, isStorableText } from '../support/storable-text.ts';

const MAX_DEPTH = 64;

export interface JsonFault {
  detail: string;
  /** Path of the value at fault. */
  field: string;
}

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * The first thing in a parsed JSON value that would not survive, or null: texts that PostgreSQL's jsonb refuses (NUL, halves of
 * surrogate pairs), numbers that JavaScript has already changed (whole numbers beyond 2^53), nesting without end.
 */
export function checkJsonValue(value: unknown, field: string, depth = 0): JsonFault | null {
  if (typeof value === 'string') return checkText(value, field);
  if (typeof value === 'number') return checkNumber(value, field);
  if (typeof value !== 'object' || value === null) return null;
  if (depth >= MAX_DEPTH) return { detail: `Values are nested deeper than ${MAX_DEPTH} levels.`, field };
  for (const [key, member] of Object.entries(value)) {
    const fault = checkText(key, field) ?? checkJsonValue(member, `${field}.${key}`, depth + 1);
    if (fault !== null) return fault;
  }
  return null;
}

function checkText(text: string, field: string): JsonFault | null {
  if (isStorableText(text)) return null;
  return { detail: 'A text holds a NUL or half a character, which cannot be stored.', field };
}

function checkNumber(value: number, field: string): JsonFault | null {
  if (Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value))) return null;
  return {
    detail:
      'A whole number beyond 9007199254740991 (2^53 - 1) would be changed on its way. Use a smaller one, also as a seed.',
    field,
  };
}

const MAX_TEXT = 20_000;
const MAX_MEMBERS = 1000;

/** A copy of what another program said, such that PostgreSQL takes it and that it stays small: texts cured and cut, lists cut. */
export function storable<T>(value: T): T;
export function storable(value: unknown): unknown {
  return cured(value, 0);
}

function cured(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return curedText(value.slice(0, MAX_TEXT));
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= MAX_DEPTH) return null;
  if (Array.isArray(value)) return value.slice(0, MAX_MEMBERS).map((member) => cured(member, depth + 1));
  const members = Object.entries(value).slice(0, MAX_MEMBERS);
  return Object.fromEntries(
    members.map(([key, member]) => [String(cured(key, depth)), cured(member, depth + 1)]),
  );
}
