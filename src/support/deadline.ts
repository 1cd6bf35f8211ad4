// Limits of time that are signals.

/** Aborted after `ms` milliseconds. Settings in seconds make fractions of them, such as 8.05 * 1000, which `AbortSignal.timeout` refuses. */
export function deadlineIn(ms: number): AbortSignal {
  return AbortSignal.timeout(Math.ceil(ms));
}
