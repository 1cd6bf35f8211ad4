// S3's way of asking and answering: which operation a request is, and XML.
import type { IncomingMessage, ServerResponse } from 'node:http';

export type Operation =
  | 'HeadBucket'
  | 'ListMultipartUploads'
  | 'PutObject'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject'
  | 'CreateMultipartUpload'
  | 'UploadPart'
  | 'CompleteMultipartUpload'
  | 'AbortMultipartUpload';

export interface Call {
  operation: Operation;
  key: string;
  query: URLSearchParams;
}

/** Null for what the double does not play, another bucket included. */
export function operationOf(request: IncomingMessage, bucket: string): Call | null {
  const url = new URL(request.url ?? '/', 'http://double');
  const [, name, ...rest] = url.pathname.split('/').map(decodeURIComponent);
  const key = rest.join('/');
  const query = url.searchParams;
  const operation = name === bucket ? named(request.method ?? '', key !== '', query) : undefined;
  return operation === undefined ? null : { operation, key, query };
}

function named(method: string, hasKey: boolean, query: URLSearchParams): Operation | undefined {
  if (!hasKey) {
    if (method === 'HEAD') return 'HeadBucket';
    return method === 'GET' && query.has('uploads') ? 'ListMultipartUploads' : undefined;
  }
  const isUpload = query.has('uploadId');
  switch (method) {
    case 'GET':
      return 'GetObject';
    case 'HEAD':
      return 'HeadObject';
    case 'PUT':
      return isUpload ? 'UploadPart' : 'PutObject';
    case 'DELETE':
      return isUpload ? 'AbortMultipartUpload' : 'DeleteObject';
    case 'POST':
      if (isUpload) return 'CompleteMultipartUpload';
      return query.has('uploads') ? 'CreateMultipartUpload' : undefined;
    default:
      return undefined;
  }
}

export function sendXml(response: ServerResponse, xml: string): void {
  response.writeHead(200, { 'content-type': 'application/xml' });
  response.end(`<?xml version="1.0" encoding="UTF-8"?>\n${xml}`);
}

export function sendError(response: ServerResponse, status: number, code: string, message = code): void {
  response.writeHead(status, { 'content-type': 'application/xml', connection: 'close' });
  response.end(
    `<?xml version="1.0"?>\n<Error><Code>${code}</Code><Message>${escapeXml(message)}</Message></Error>`,
  );
}

export function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
