// Assets in an S3-compatible bucket: `<prefix>ab/cd/<key>`. What is on its way is on the local disk until it is whole.
import { Readable } from 'node:stream';
import { isFileKey, pathOfKey } from './file-key.ts';
import { answerOf, explaining, openBucket, statusOf, type S3Settings } from './s3-bucket.ts';
import { abortAbandoned, uploadFile } from './s3-upload.ts';
import { fileNotFound, lengthOf, type AssetStore } from './store.ts';
import { createTemporaryFiles } from './temporary-files.ts';

export interface S3StoreOptions extends S3Settings {
  /** Stands before every key. */
  prefix: string;
  /** Folder for files on their way: one for each process, with room for all uploads that it takes at once. */
  temporaryDir: string;
  /** A larger file is sent in parts of this size. */
  partBytes?: number;
}

/** Nothing here is worth waiting long for: `/health` asks. */
const CHECK_TIMEOUT_MS = 5000;

/** Loads the library, which takes some 40 MB of memory, and opens the store. Nothing is asked of the bucket yet. */
export async function createS3Store(options: S3StoreOptions): Promise<AssetStore> {
  const { temporaryDir, prefix, partBytes = 16_000_000 } = options;
  const incoming = createTemporaryFiles({ dir: temporaryDir });
  const bucket = await openBucket(options);
  const { sdk, client, readingClient } = bucket;
  const place = (key: string) => ({ Bucket: bucket.name, Key: prefix + pathOfKey(key) });

  return {
    receive: (stream, receiveOptions, use) =>
      incoming.receive(stream, receiveOptions, ({ path, ...file }) =>
        use({
          ...file,
          publish: (key) =>
            explaining(() =>
              uploadFile(
                bucket,
                { path, sizeBytes: file.sizeBytes, place: place(key) },
                { partBytes, signal: receiveOptions.signal },
              ),
            ),
        }),
      ),

    async read(key, range) {
      if (!isFileKey(key)) throw fileNotFound(key);
      const Range = range && `bytes=${range.start}-${range.end}`;
      const command = new sdk.GetObjectCommand({ ...place(key), Range });
      return explaining(async () => {
        const { Body: body, ContentLength } = await answerOf((abortSignal) =>
          readingClient.send(command, { abortSignal }),
        ).catch((error: unknown) => {
          throw statusOf(error) === 404 ? fileNotFound(key) : error;
        });
        if (!(body instanceof Readable)) throw new Error('There is no body');
        if (range !== undefined && ContentLength !== undefined && ContentLength !== lengthOf(range)) {
          body.destroy();
          throw new Error(`${ContentLength} bytes came for ${Range}`);
        }
        return body;
      });
    },

    async sizeOf(key) {
      if (!isFileKey(key)) return null;
      const command = new sdk.HeadObjectCommand(place(key));
      return explaining(async () => {
        try {
          const head = await answerOf((abortSignal) => client.send(command, { abortSignal }));
          return head.ContentLength ?? null;
        } catch (error) {
          if (statusOf(error) === 404) return null;
          throw error;
        }
      });
    },

    async remove(key) {
      if (!isFileKey(key)) return;
      const command = new sdk.DeleteObjectCommand(place(key));
      await explaining(() => answerOf((abortSignal) => client.send(command, { abortSignal })));
    },

    async check() {
      await incoming.check();
      const command = new sdk.HeadBucketCommand({ Bucket: bucket.name });
      const ask = (abortSignal: AbortSignal) => client.send(command, { abortSignal });
      await explaining(() => answerOf(ask, CHECK_TIMEOUT_MS));
    },

    async tidy() {
      await incoming.tidy();
      await explaining(() => abortAbandoned(bucket, prefix));
    },

    async close() {
      client.destroy();
      readingClient.destroy();
    },
  };
}
