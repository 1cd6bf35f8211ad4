// Sending files to S3: whole, or in parts that are repeated one by one. None of it is held in memory.
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import type { CompletedPart } from '@aws-sdk/client-s3';
import { backoffMs } from '../support/backoff.ts';
import { sleep } from '../support/sleep.ts';
import { isFileKey, pathOfKey } from './file-key.ts';
import { answerOf, mayPass, statusOf, type Bucket } from './s3-bucket.ts';
import { lengthOf, type ByteRange } from './store.ts';

/** A file of the local disk, and where it goes. */
export interface Upload {
  path: string;
  sizeBytes: number;
  place: { Bucket: string; Key: string };
}

export interface UploadOptions {
  partBytes: number;
  signal: AbortSignal | undefined;
}

const SEND_TRIES = 4;
const PARTS_AT_ONCE = 4;
/** S3 takes no more of one upload. */
const MAX_PARTS = 10_000;
/** The storage may take long to put many parts together. */
const COMPLETE_TIMEOUT_MS = 600_000;
/** An upload in parts that began so long ago belongs to a process that is gone. */
const ABANDONED_AFTER_MS = 86_400_000;

/** Nothing is visible before all of it is there. A failure leaves nothing, unless the process dies over it. */
export async function uploadFile(bucket: Bucket, upload: Upload, options: UploadOptions): Promise<void> {
  if (upload.sizeBytes <= options.partBytes) await uploadWhole(bucket, upload, options.signal);
  else await uploadParts(bucket, upload, options);
}

/**
 * Gives up uploads of ours of which only parts have come: they are invisible, but are paid for. The bucket may be others' too. One that the
 * storage refuses to abort keeps none of the others.
 */
export async function abortAbandoned({ sdk, client, name }: Bucket, prefix: string): Promise<void> {
  const refusals: unknown[] = [];
  let marker: { KeyMarker?: string | undefined; UploadIdMarker?: string | undefined } = {};
  for (;;) {
    const list = new sdk.ListMultipartUploadsCommand({ Bucket: name, Prefix: prefix, ...marker });
    const page = await answerOf((abortSignal) => client.send(list, { abortSignal }));
    for (const { Key = '', UploadId, Initiated } of page.Uploads ?? []) {
      if (
        !isOurs(Key, prefix) ||
        Initiated === undefined ||
        Date.now() - Initiated.getTime() < ABANDONED_AFTER_MS
      )
        continue;
      const abort = new sdk.AbortMultipartUploadCommand({ Bucket: name, Key, UploadId });
      await answerOf((abortSignal) => client.send(abort, { abortSignal })).catch((error: unknown) => {
        // Who does not answer will not for the others either.
        if (statusOf(error) === null) throw error;
        refusals.push(error);
      });
    }
    if (page.IsTruncated !== true || page.NextKeyMarker === undefined) break;
    marker = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker };
  }
  if (refusals.length > 0) throw refusals[0];
}

function isOurs(place: string, prefix: string): boolean {
  const key = place.slice(place.lastIndexOf('/') + 1);
  return isFileKey(key) && place === prefix + pathOfKey(key);
}

async function uploadWhole(
  { sdk, client }: Bucket,
  { path, sizeBytes, place }: Upload,
  signal: AbortSignal | undefined,
): Promise<void> {
  await sendBytes(path, { start: 0, end: sizeBytes - 1 }, signal, (body, abortSignal) =>
    client.send(new sdk.PutObjectCommand({ ...place, ...body }), { abortSignal }),
  );
}

async function uploadParts(
  { sdk, client }: Bucket,
  { path, sizeBytes, place }: Upload,
  { partBytes, signal }: UploadOptions,
): Promise<void> {
  const create = new sdk.CreateMultipartUploadCommand(place);
  const { UploadId } = await answerOf((abortSignal) => client.send(create, { abortSignal }));
  const upload = { ...place, UploadId };
  const parts: CompletedPart[] = [];
  const failed = new AbortController();
  const stop = AbortSignal.any([failed.signal, ...(signal === undefined ? [] : [signal])]);
  const ranges = rangesOf(sizeBytes, partBytes).entries();

  async function sendParts(): Promise<void> {
    for (const [index, range] of ranges) {
      const PartNumber = index + 1;
      const { ETag } = await sendBytes(path, range, stop, (body, abortSignal) =>
        client.send(new sdk.UploadPartCommand({ ...upload, PartNumber, ...body }), { abortSignal }),
      );
      parts[index] = { PartNumber, ETag };
    }
  }

  try {
    // The first failure stops the others, and is the one that is told.
    const hands = Array.from({ length: PARTS_AT_ONCE }, () =>
      sendParts().catch((error) => failed.abort(error)),
    );
    await Promise.all(hands);
    stop.throwIfAborted();
    const complete = new sdk.CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts: parts } });
    await answerOf((abortSignal) => client.send(complete, { abortSignal }), COMPLETE_TIMEOUT_MS);
  } catch (error) {
    const abort = new sdk.AbortMultipartUploadCommand(upload);
    // Where this fails too, `abortAbandoned` does it later.
    await answerOf((abortSignal) => client.send(abort, { abortSignal })).catch(() => undefined);
    throw error;
  }
}

function rangesOf(sizeBytes: number, wantedPartBytes: number): ByteRange[] {
  const partBytes = Math.max(wantedPartBytes, Math.ceil(sizeBytes / MAX_PARTS));
  return Array.from({ length: Math.ceil(sizeBytes / partBytes) }, (_, index) => ({
    start: index * partBytes,
    end: Math.min(sizeBytes, (index + 1) * partBytes) - 1,
  }));
}

/** Sends a part of a file, with a fresh stream for every try: the library cannot repeat one that it has read from. */
async function sendBytes<T>(
  path: string,
  range: ByteRange,
  signal: AbortSignal | undefined,
  send: (body: { Body: Readable; ContentLength: number }, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    const stream = createReadStream(path, range.end < range.start ? {} : range);
    const ContentLength = lengthOf(range);
    try {
      return await send({ Body: stream, ContentLength }, signal ?? new AbortController().signal);
    } catch (error) {
      signal?.throwIfAborted();
      if (tries >= SEND_TRIES || !mayPass(error)) throw error;
    } finally {
      stream.destroy();
    }
    await sleep(backoffMs(tries, { baseMs: 200, capMs: 5000 }), signal);
  }
}
