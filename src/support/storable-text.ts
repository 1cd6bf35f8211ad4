// Which texts the database takes: in PostgreSQL none holds a NUL, and within JSON none half of a surrogate pair.

export function isStorableText(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0');
}

/** What a schema says of another one. */
export const notStorable = { message: 'it holds a character that cannot be stored' };
