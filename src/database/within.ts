// Limits for what may take long: a database that is out of reach may keep a caller waiting for a minute.

/** Settles as `answer` does, or rejects after `limitMs` milliseconds. */
export async function within<T>(limitMs: number, answer: Promise<T>): Promise<T> {
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => limit.reject(new Error(`The database did not answer within ${limitMs / 1000} s`)),
    limitMs,
  );
  try {
    return await Promise.race([answer, limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when `ended` does, whatever its outcome, or after `limitMs` milliseconds. */
export async function waitAtMost(limitMs: number, ended: Promise<unknown>): Promise<void> {
  await within(limitMs, ended).catch(() => undefined);
}
