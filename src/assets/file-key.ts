// The name of a file in a store: the hash of its bytes, and a part of its own.
import { randomBytes } from 'node:crypto';

const keyPattern = /^[0-9a-f]{64}(?:\.[0-9a-f]{16})?$/;

/**
 * A name that no file ever had. That makes removals safe: one that comes late, even from a process that was thought
 * dead, cannot hit the same bytes stored anew.
 */
export function newFileKey(id: string): string {
  return `${id}.${randomBytes(8).toString('hex')}`;
}

/** Whether a text is such a name. Files from before names had a part of their own are called by their hash alone. */
export function isFileKey(text: string): boolean {
  return keyPattern.test(text);
}

/** Where a file lies in a store: spread over folders by its hash, the same in every store. */
export function pathOfKey(key: string): string {
  return `${key.slice(0, 2)}/${key.slice(2, 4)}/${key}`;
}
