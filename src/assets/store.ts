// The contract for the bytes of assets. Every implementation passes the suite in test/contract/asset-store.test.ts.
import type { Readable } from 'node:stream';

/** A part of a file in bytes; `end` is the last byte that belongs to it. */
export interface ByteRange {
  start: number;
  end: number;
}

export interface PutOptions {
  /** A longer stream is refused with a `ServiceError` of code `payload_too_large`. */
  maxBytes: number;
  signal?: AbortSignal | undefined;
}

export interface StoredFile {
  /** BLAKE3 of the bytes, 64 hexadecimal digits. */
  id: string;
  sizeBytes: number;
  /** False when the store had these bytes already; of several that store them at once, more than one may read true. */
  createdNew: boolean;
  /** The first bytes, at most `headBytes` of them, from which the type can be told. */
  head: Buffer;
}

/** What the detection of file types wants to see. */
export const headBytes = 4100;

export interface AssetStore {
  /**
   * Stores a stream under the hash of its bytes, never holding more than a few chunks in memory. Nothing is visible before it is
   * whole and durable; a failure leaves nothing behind. Destroys the stream when it rejects: with the stream's own error, the
   * signal's reason, or a `ServiceError` (`payload_too_large`, `storage_full`).
   */
  put(stream: Readable, options: PutOptions): Promise<StoredFile>;
  /** Rejects with `asset_not_found` before any byte when the store does not have the file. */
  read(id: string, range?: ByteRange): Promise<Readable>;
  has(id: string): Promise<boolean>;
  /** Removing what is not there is fine. */
  remove(id: string): Promise<void>;
  /** Rejects when files could not be written now. */
  check(): Promise<void>;
}
