// What a PostgreSQL says on its connections, for tests that pretend to be one.

/** The message of an error that ends the connection: severity, code and text, each with its letter. */
export function fatal(code: string): Buffer {
  const fields = Buffer.from(`SFATAL\0C${code}\0Mno, says hunter2\0\0`);
  const head = Buffer.alloc(5);
  head.write('E');
  head.writeInt32BE(fields.length + 4, 1);
  return Buffer.concat([head, fields]);
}
