// Forms with files, whole and broken in every place.
import fc from 'fast-check';
import { nastyText } from './nasty.ts';

interface Form {
  contentType: string;
  bytes: Buffer;
}

interface Part {
  head: string;
  bytes: Buffer;
}

const boundary = 'cfy-boundary';
const contentType = `multipart/form-data; boundary=${boundary}`;
/** The smallest PNG: one grey pixel. */
const png = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==',
  'base64',
);

/** A form of one file, or of a field with JSON and maybe a file. `json` gives null where there is no such field. */
export function formOf(name: string, json: fc.Arbitrary<string | null>): fc.Arbitrary<Form> {
  return partsOf(name, json).map((parts) => ({ contentType, bytes: formBytes(parts) }));
}

export function spoiledForm(name: string, json: fc.Arbitrary<string | null>): fc.Arbitrary<Form> {
  const parts = partsOf(name, json);
  const cut = fc.tuple(parts, fc.double({ min: 0, max: 1, noNaN: true })).map(([own, share]) => {
    const bytes = formBytes(own);
    return { contentType, bytes: bytes.subarray(0, Math.floor(bytes.length * share)) };
  });
  const otherHead = fc.tuple(parts, oddHead).map(([own, head]) => ({
    contentType,
    bytes: formBytes([...own, { head, bytes: png }]),
  }));
  const otherType = fc
    .tuple(parts, fc.constantFrom(...oddTypes))
    .map(([own, type]) => ({ contentType: type, bytes: formBytes(own) }));
  const many = fc.tuple(parts, fc.integer({ min: 20, max: 100 })).map(([own, count]) => ({
    contentType,
    bytes: formBytes([
      ...own,
      ...Array.from({ length: count }, (_, index) => filePart(`f${index}`, 'a.png')),
    ]),
  }));
  const bytes = fc
    .uint8Array({ maxLength: 500 })
    .map((noise) => ({ contentType, bytes: Buffer.from(noise) }));
  return fc.oneof(cut, otherHead, otherType, many, bytes);
}

function partsOf(name: string, json: fc.Arbitrary<string | null>): fc.Arbitrary<Part[]> {
  return fc.tuple(json, fc.boolean(), fc.nat(2000), nastyText).map(([text, hasFile, extra, fileName]) => {
    // Each with bytes of its own, so that they are not all the same asset.
    const file = {
      ...filePart(text === null ? name : 'picture', fileName),
      bytes: Buffer.concat([png, Buffer.from(`${extra}`)]),
    };
    if (text === null) return [file];
    const field = { head: `form-data; name="${name}"`, bytes: Buffer.from(text) };
    return hasFile ? [file, field] : [field];
  });
}

function filePart(name: string, fileName: string): Part {
  // As browsers write it: quotes and line ends are encoded, everything else is sent as it is.
  const written = fileName.replaceAll('"', '%22').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
  return { head: `form-data; name="${name}"; filename="${written}"`, bytes: png };
}

const oddHead = fc.constantFrom(
  'form-data',
  'form-data; name=""',
  'form-data; name="__proto__"',
  'form-data; name="constructor"; filename="x"',
  'form-data; name="file"; filename="../../../../tmp/evil.png"',
  'form-data; name="file"; filename*=UTF-8\'\'%2e%2e%2fevil',
  'form-data; name="file"; filename*=x\'\'%zz',
  'form-data; name="file"; filename="a\0b.png"',
  `form-data; name="${'n'.repeat(5000)}"`,
  `form-data; name="file"; filename="${'f'.repeat(20_000)}"`,
  'attachment; filename="x"',
  'form-data; name="job"\r\ncontent-type: application/json',
  'form-data; name="job"\r\ncontent-transfer-encoding: base64',
  'form-data; name="a"\r\nno-colon',
);

const oddTypes = [
  'multipart/form-data',
  'multipart/form-data; boundary=',
  'multipart/form-data; boundary=other',
  `multipart/form-data; boundary=${'b'.repeat(500)}`,
  'multipart/mixed; boundary=cfy-boundary',
  'multipart/form-data; boundary="cfy-boundary"; charset=utf-16',
  'application/x-www-form-urlencoded',
];

function formBytes(parts: Part[]): Buffer {
  return Buffer.concat([
    ...parts.flatMap(({ head, bytes }) => [
      Buffer.from(`--${boundary}\r\ncontent-disposition: ${head}\r\n\r\n`),
      bytes,
      Buffer.from('\r\n'),
    ]),
    Buffer.from(`--${boundary}--\r\n`),
  ]);
}
