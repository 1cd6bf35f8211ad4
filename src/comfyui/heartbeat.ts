// The sign of life that a rented machine waits for: a small file among ComfyUI's inputs, which the machine itself reads back.
import { Readable } from 'node:stream';
import { askComfy, readAnswer, type AnswerLimits } from './answer.ts';
import { ComfyError } from './errors.ts';
import type { Link } from './link.ts';
import { multipartBody } from './multipart.ts';
import { uploadedSchema } from './schemas.ts';

/** Where the file lies below ComfyUI's input folder. */
const heartbeatFile = { subfolder: 'comfyfleet', name: 'heartbeat.txt' } as const;

const limits: AnswerLimits = { deadlineMs: 15_000, maxBytes: 64 * 1024 };

/**
 * Writes `mark`, which must differ from the one before, and reads it as the machine's own loop does, so that a success means
 * that the loop can see it. ComfyUI overwrites a file of the same name only when `overwrite` is the text "true".
 * Rejects with a `ComfyError`, or with the signal's reason.
 */
export async function sendHeartbeat(link: Link, mark: string, signal?: AbortSignal): Promise<void> {
  const bytes = Buffer.from(mark);
  const file = {
    name: heartbeatFile.name,
    contentType: 'text/plain',
    sizeBytes: bytes.length,
    stream: () => Readable.from([bytes]),
  };
  const fields = { type: 'input', subfolder: heartbeatFile.subfolder, overwrite: 'true' };
  const { headers, body } = multipartBody(file, fields);
  const upload = { method: 'POST', path: '/upload/image', headers, body, signal } as const;
  readAnswer(uploadedSchema, await askComfy(link, upload, limits));

  const query = { filename: heartbeatFile.name, subfolder: heartbeatFile.subfolder, type: 'input' };
  const seen = await askComfy(link, { method: 'GET', path: '/view', query, signal }, limits);
  if (seen.status !== 200 || seen.text !== mark)
    throw new ComfyError('protocol', 'The heartbeat was taken and cannot be read back');
}
