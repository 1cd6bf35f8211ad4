import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createThrottle } from '../../src/support/throttle.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it('does what is asked often once in its interval, the first time at once', async () => {
  let done = 0;
  const throttle = createThrottle(100, async () => void (done += 1));
  for (let ms = 0; ms < 250; ms += 10) {
    throttle.ask();
    await vi.advanceTimersByTimeAsync(10);
  }
  expect(done).toBe(3);
});

it('does nothing twice at once, and when it is stopped, nothing is being done', async () => {
  const running = Promise.withResolvers<void>();
  let begun = 0;
  const throttle = createThrottle(10, () => {
    begun += 1;
    return running.promise;
  });
  throttle.ask();
  await vi.advanceTimersByTimeAsync(10);
  throttle.ask();
  await vi.advanceTimersByTimeAsync(10);
  expect(begun).toBe(1);
  let stopped = false;
  const stopping = throttle.stop().then(() => (stopped = true));
  await vi.advanceTimersByTimeAsync(10);
  expect(stopped).toBe(false);
  running.resolve();
  await stopping;
  throttle.ask();
  await vi.advanceTimersByTimeAsync(50);
  expect(begun).toBe(2);
});
