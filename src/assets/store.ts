// The contract for the bytes of assets. Every implementation passes the suite in test/contract/asset-store.test.ts.
import type { Readable } from 'node:stream';
import { ServiceError } from '../errors.ts';

/** A part of a file in bytes; `end` is the last byte that belongs to it. */
export interface ByteRange {
  start: number;
  end: number;
}

export interface ReceiveOptions {
  /** A longer stream is refused with a `ServiceError` of code `payload_too_large`. */
  maxBytes: number;
  signal?: AbortSignal | undefined;
}

/** A file that has arrived whole, and is not in the store yet. */
export interface ReceivedFile {
  /** BLAKE3 of the bytes, 64 hexadecimal digits. */
  id: string;
  sizeBytes: number;
  /** The first bytes, at most `headBytes` of them, from which the type can be told. */
  head: Buffer;
  /** Puts it into the store under a key of `newFileKey`: all of it, durable, or nothing. Once at most. */
  publish: (key: string) => Promise<void>;
}

/** What the detection of file types wants to see. */
export const headBytes = 4100;

export interface AssetStore {
  /**
   * Receives a stream, measured and hashed, never holding more than a few chunks in memory, and lends it to `use`,
   * which may publish it. What is not published is gone afterwards. Destroys the stream when it rejects: with the
   * stream's own error, the signal's reason, what `use` threw, or a `ServiceError` (`payload_too_large`,
   * `storage_full`, `storage_unavailable`).
   */
  receive<T>(stream: Readable, options: ReceiveOptions, use: (file: ReceivedFile) => Promise<T>): Promise<T>;
  /** Rejects with `asset_not_found` before any byte when the store does not have the file. */
  read(key: string, range?: ByteRange): Promise<Readable>;
  /** Null when the store does not have the file. */
  sizeOf(key: string): Promise<number | null>;
  /** Removing what is not there is fine. */
  remove(key: string): Promise<void>;
  /** Rejects when files could not be written now, as far as that can be told cheaply. */
  check(): Promise<void>;
  /** Removes what uploads that were killed have left behind, once it is old enough to be nobody's. */
  tidy(): Promise<void>;
  /** Gives back connections; nothing else may be called afterwards. */
  close(): Promise<void>;
}

export function lengthOf({ start, end }: ByteRange): number {
  return end - start + 1;
}

/** For a store that does not have a file. */
export function fileNotFound(key: string): ServiceError {
  return new ServiceError('asset_not_found', `There is no stored file ${key}.`);
}
