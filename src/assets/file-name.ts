// File names as others write them, made harmless.

const maxLength = 200;
/** Control characters, and those that reverse the direction of writing to hide an extension. */
const unseen = /[\p{Cc}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

/** The last part of a path, without invisible characters, of bounded length with its extension kept; null when nothing is left. */
export function plainFileName(text: string | null): string | null {
  const last = text?.split(/[/\\]/).at(-1) ?? '';
  const name = last.toWellFormed().replace(unseen, '').trim();
  if (name === '' || name === '.' || name === '..') return null;
  if (name.length <= maxLength) return name;
  const extension = /\.[A-Za-z0-9]{1,16}$/.exec(name)?.[0] ?? '';
  return name.slice(0, maxLength - extension.length).toWellFormed() + extension;
}
