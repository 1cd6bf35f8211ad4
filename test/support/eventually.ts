// Waiting for what must come to pass, in tests that run beside each other: `expect.poll` then does not know which test it is for.
import { vi } from 'vitest';

/** Checks again and again until the check passes; rejects with its last failure after `timeout` milliseconds. */
export const eventually = (check: () => void | Promise<void>, timeout = 15_000): Promise<void> =>
  vi.waitFor(check, { timeout });
