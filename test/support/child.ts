// A child process that tests talk with line by line, and that never outlives them.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export interface Child {
  process: ChildProcess;
  /** Every line that it has said so far. */
  lines: string[];
  /** Resolves with the first line, said already or yet to come, that matches. Rejects when it ends without one. */
  says(pattern: RegExp): Promise<string>;
  /** Ends it, and resolves when it is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>;
}

/**
 * What a child gets of the environment although it is to know nothing else: its programs, and what others have compiled
 * already, a third of the work of a start. A process writes that down when it ends in good order.
 */
export const bareEnvironment = (): NodeJS.ProcessEnv => ({
  PATH: process.env['PATH'],
  NODE_COMPILE_CACHE: process.env['TEST_COMPILE_CACHE'],
});

/** Runs a TypeScript program of the repository. */
export function startChild(program: URL, ...args: string[]): Child {
  const child = spawn(process.execPath, [program.pathname, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...bareEnvironment() },
  });
  const ended = once(child, 'exit');
  const lines: string[] = [];
  const listeners = new Set<() => void>();
  const tell = (): void => listeners.forEach((listener) => listener());
  const reader = createInterface({ input: child.stdout });
  reader.on('line', (line) => {
    lines.push(line);
    tell();
  });
  reader.on('close', tell);
  return {
    process: child,
    lines,
    says: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const line = lines.find((candidate) => pattern.test(candidate));
          const over = child.exitCode !== null || child.signalCode !== null;
          if (line === undefined && !over) return;
          listeners.delete(look);
          if (line === undefined) reject(new Error(`The process ended without a line like ${pattern}`));
          else resolve(line);
        };
        listeners.add(look);
        look();
      }),
    kill: async (signal = 'SIGKILL') => {
      child.kill(signal);
      if (child.exitCode === null && child.signalCode === null) await ended;
    },
  };
}
