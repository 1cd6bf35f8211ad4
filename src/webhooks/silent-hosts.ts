// Which receivers did not answer when they were last tried, as far as this process knows.

export interface SilentHosts {
  has(host: string): boolean;
  /** Remembers how a try at a host went. */
  note(host: string, isSilent: boolean): void;
}

/** Remembers at most so many, the latest: callers name what hosts they like, and some never answer. */
export function createSilentHosts(most = 10_000): SilentHosts {
  const hosts = new Set<string>();
  return {
    has: (host) => hosts.has(host),
    note(host, isSilent) {
      hosts.delete(host);
      if (!isSilent) return;
      hosts.add(host);
      const [oldest] = hosts;
      if (hosts.size > most && oldest !== undefined) hosts.delete(oldest);
    },
  };
}
