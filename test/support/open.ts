// What a test has opened and must not leave behind, for fixtures that open more.
import { it as base } from 'vitest';

/** A test with a stack on which its fixtures put how to stop what they start: undone after the test, the last first. */
// oxlint-disable-next-line no-empty-pattern -- Vitest reads from it which other fixtures are needed
export const it = base.extend('open', async ({}, { onCleanup }) => {
  const open = new AsyncDisposableStack();
  onCleanup(() => open.disposeAsync());
  return open;
});
