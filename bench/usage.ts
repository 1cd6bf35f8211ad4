// What the service and its PostgreSQL use of the machine, as Linux tells it in /proc: CPU time and memory.
import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';

export interface CpuTimes {
  /** User and system time since the start, in milliseconds; counted in ticks of 10 ms. */
  serviceMs: number;
  postgresMs: number;
}

export interface Usage {
  /** The most that the service ever had in memory, in MB, whatever was reset; null where it cannot be measured. */
  readonly peakEverMb: number | null;
  /** Null where it cannot be measured. */
  cpu(): Promise<CpuTimes | null>;
  memory(): Promise<Memory | null>;
  /** Lets `peakMb` begin anew. False where the system does not let us. */
  resetPeak(): Promise<boolean>;
  stop(): void;
}

export interface Memory {
  residentMb: number;
  /** The most since the start or the last reset, by the kernel's count and by looks in between. */
  peakMb: number;
  /** Of all its processes; memory that they share is counted once. */
  postgresMb: number;
}

const lookMs = 200;
export const canMeasure = process.platform === 'linux';

/** Watches the processes until it is stopped. Off Linux it measures nothing. */
export async function watchUsage(servicePid: number, postgresPid: number | null): Promise<Usage> {
  if (!canMeasure) {
    return {
      peakEverMb: null,
      cpu: async () => null,
      memory: async () => null,
      resetPeak: async () => false,
      stop: () => undefined,
    };
  }
  const tickMs = 1000 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  let peakMb = 0;
  let peakEverMb = 0;

  async function look(): Promise<number> {
    const status = await readFile(`/proc/${servicePid}/status`, 'utf8');
    const residentMb = megabytes(status, 'VmRSS');
    peakMb = Math.max(peakMb, residentMb, megabytes(status, 'VmHWM'));
    peakEverMb = Math.max(peakEverMb, peakMb);
    return residentMb;
  }

  const timer = setInterval(() => void look().catch(() => undefined), lookMs).unref();
  await look();
  return {
    get peakEverMb() {
      return peakEverMb;
    },
    async cpu() {
      const serviceTicks = (await statOf(servicePid)).ownTicks;
      return { serviceMs: serviceTicks * tickMs, postgresMs: (await postgresTicks(postgresPid)) * tickMs };
    },
    async memory() {
      const residentMb = await look();
      return { residentMb, peakMb, postgresMb: await postgresMegabytes(postgresPid) };
    },
    async resetPeak() {
      await look();
      // proc_pid_clear_refs(5): 5 sets the high-water mark back to what is resident now.
      const isReset = await writeFile(`/proc/${servicePid}/clear_refs`, '5').then(
        () => true,
        () => false,
      );
      peakMb = 0;
      await look();
      return isReset;
    },
    stop: () => clearInterval(timer),
  };
}

function megabytes(status: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) / 1024;
}

interface ProcessStat {
  /** Of the process itself, all threads. */
  ownTicks: number;
  /** Of its children that have ended. */
  endedChildrenTicks: number;
}

/** The name of the program may hold blanks and brackets; the numbers come after the last bracket. */
async function statOf(pid: number): Promise<ProcessStat> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [user = 0, system = 0, childUser = 0, childSystem = 0] = fields.slice(11, 15);
  return { ownTicks: user + system, endedChildrenTicks: childUser + childSystem };
}

/** The server, each of its sessions, and those sessions that have ended. */
async function postgresTicks(pid: number | null): Promise<number> {
  if (pid === null) return 0;
  const { ownTicks, endedChildrenTicks } = await statOf(pid);
  let ticks = ownTicks + endedChildrenTicks;
  for (const child of await childrenOf(pid)) {
    ticks += await statOf(child).then(
      (stat) => stat.ownTicks,
      () => 0,
    );
  }
  return ticks;
}

async function postgresMegabytes(pid: number | null): Promise<number> {
  if (pid === null) return 0;
  let kilobytes = 0;
  for (const process of [pid, ...(await childrenOf(pid))]) {
    const text = await readFile(`/proc/${process}/smaps_rollup`, 'utf8').catch(() => '');
    kilobytes += Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0);
  }
  return kilobytes / 1024;
}

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return text.split(' ').filter(Boolean).map(Number);
}

/** The CPU time between two looks for each of `count` pieces of work; null where it cannot be measured. */
export function perPiece(before: CpuTimes | null, after: CpuTimes | null, count: number): CpuTimes | null {
  if (before === null || after === null) return null;
  return {
    serviceMs: (after.serviceMs - before.serviceMs) / count,
    postgresMs: (after.postgresMs - before.postgresMs) / count,
  };
}
