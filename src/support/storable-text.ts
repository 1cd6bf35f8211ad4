// Which texts the database takes: in PostgreSQL none holds a NUL, and within JSON none half of a surrogate pair.

export function isStorableText(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0');
}

/** The text without what the database would not take. */
export function curedText(text: string): string {
  return text.toWellFormed().replaceAll('\0', '');
}

/** What a schema says of another one. */
export const notStorable = { message: 'it holds a character that cannot be stored' };
