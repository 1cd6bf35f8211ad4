// A small reader of multipart/form-data, for bodies that are already in memory.

export interface Part {
  readonly name: string;
  /** Undefined for a plain field. */
  readonly filename: string | undefined;
  readonly bytes: Buffer;
}

/** Undefined when the content type is not multipart; no parts for a body that is none. */
export function parseMultipart(contentType: string | undefined, body: Buffer): Part[] | undefined {
  const boundary = /^multipart\/form-data;.*boundary="?(?<boundary>[^";]+)"?/iu.exec(
    contentType ?? '',
  )?.groups;
  const mark = boundary?.['boundary'];
  if (mark === undefined) return undefined;
  const delimiter = Buffer.from(`\r\n--${mark}`);
  // The first delimiter has no line break before it.
  const whole = Buffer.concat([Buffer.from('\r\n'), body]);
  const parts: Part[] = [];
  let from = whole.indexOf(delimiter);
  while (from !== -1) {
    const start = from + delimiter.length;
    const end = whole.indexOf(delimiter, start);
    if (end === -1) break;
    const part = parsePart(whole.subarray(start, end));
    if (part !== undefined) parts.push(part);
    from = end;
  }
  return parts;
}

function parsePart(raw: Buffer): Part | undefined {
  const headEnd = raw.indexOf('\r\n\r\n');
  if (headEnd === -1) return undefined;
  const disposition = /^content-disposition:(?<value>.*)$/imu.exec(raw.subarray(0, headEnd).toString('utf8'))
    ?.groups?.['value'];
  if (disposition === undefined) return undefined;
  const name = parameter(disposition, 'name');
  if (name === undefined) return undefined;
  return { name, filename: parameter(disposition, 'filename'), bytes: raw.subarray(headEnd + 4) };
}

function parameter(disposition: string, name: string): string | undefined {
  const found = new RegExp(`;\\s*${name}="(?<value>(?:[^"\\\\]|\\\\.)*)"`, 'iu').exec(disposition)?.groups?.[
    'value'
  ];
  return found?.replaceAll(/\\(.)/gu, '$1');
}
