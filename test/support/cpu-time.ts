// How long work takes, however busy the machine is meanwhile.

/** Milliseconds of this thread's processor that the work took. */
export function cpuMs(work: () => void): number {
  const before = process.threadCpuUsage();
  work();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1000;
}
