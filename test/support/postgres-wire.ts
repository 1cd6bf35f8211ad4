// What a PostgreSQL says on its connections, for tests that pretend to be one.

/** The message of an error that ends the connection: severity, code and text, each with its letter. */
export function fatal(code: string): Buffer {
  return message('E', Buffer.from(`SFATAL\0C${code}\0Mno, says hunter2\0\0`));
}

/** What lets a client in, and tells it to ask. */
export function welcome(): Buffer {
  return Buffer.concat([message('R', Buffer.alloc(4)), message('Z', Buffer.from('I'))]);
}

function message(kind: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(kind);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}
