// A multipart body with one file, streamed, whose length is known before the first byte.
import { randomUUID } from 'node:crypto';
import { PassThrough, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

export interface UploadFile {
  name: string;
  contentType: string;
  sizeBytes: number;
  stream: () => Readable;
}

export interface MultipartBody {
  headers: { 'content-type': string; 'content-length': string };
  body: Readable;
}

/** Opens the file, which is destroyed with the body; an error of either is one of the body. */
export function multipartBody(file: UploadFile, fields: Record<string, string>): MultipartBody {
  const boundary = `----${randomUUID()}`;
  const head = Buffer.from(
    Object.entries(fields)
      .map(
        ([name, value]) =>
          `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`,
      )
      .join('') +
      `--${boundary}\r\nContent-Disposition: form-data; name="image"; filename="${quotable(file.name)}"\r\n` +
      `Content-Type: ${file.contentType}\r\n\r\n`,
  );
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
  const body = new PassThrough();
  body.write(head);
  pipeline(file.stream(), body, { end: false }).then(
    () => body.end(tail),
    (error: Error) => body.destroy(error),
  );
  return {
    headers: {
      'content-type': `multipart/form-data; boundary=${boundary}`,
      'content-length': String(head.length + file.sizeBytes + tail.length),
    },
    body,
  };
}

/** As forms in browsers do it. */
function quotable(name: string): string {
  return name.replaceAll('"', '%22').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}
