// One rental: what was asked for, how the service describes it, what runs in it, what it has cost.
import type { BootPlan } from './boot.ts';
import type { Certificate } from './certificate.ts';
import type { Timer } from './clock.ts';
import type { Container } from './container.ts';
import type { CreateRequest } from './create-request.ts';
import type { HeldPort } from '../ports/held-port.ts';
import type { Installation } from './installation.ts';
import type { Fate } from './knobs.ts';
import type { Machine } from './market.ts';

export type ActualStatus =
  | 'created'
  | 'loading'
  | 'running'
  | 'stopped'
  | 'exited'
  | 'rebooting'
  | 'recycling'
  | 'unknown'
  | 'offline';

export interface Rental {
  readonly id: number;
  readonly request: CreateRequest;
  readonly machine: Machine;
  /** Not made by a call: somebody else's on the same account. */
  readonly isForeign: boolean;
  readonly fate: Fate;
  /** The platform's secret, accepted by the image beside WEB_PASSWORD. */
  readonly jupyterToken: string;
  readonly plan: BootPlan;
  readonly createdAtMs: number;
  label: string | null;
  actualStatus: ActualStatus | null;
  intendedStatus: 'running' | 'stopped';
  currentState: 'running' | 'stopped';
  nextState: 'running' | 'stopped';
  statusMessage: string | null;
  /** Mapped ports of the container and the ports of the host that lead to them. */
  ports: { containerPort: string; held: HeldPort }[];
  arePortsPublished: boolean;
  runningSinceMs: number | null;
  endedAtMs: number | null;
  /** When the views stop showing it; later than `endedAtMs` where the service is slow to notice. */
  hiddenFromMs: number | null;
  /** Rented by a bid rather than on demand. */
  isBid: boolean;
  gpuPricePerHourUsd: number;
  readonly storagePricePerHourUsd: number;
  billed: { gpuUsd: number; storageUsd: number };
  billedUntilMs: number;
  /** Bytes of the containers that ended; those of the present one come on top. */
  pastTransfer: { receivedBytes: number; sentBytes: number };
  certificate: Promise<Certificate> | null;
  container: Container | null;
  /** ComfyUI with its files; null before its first start and after the loss of the disk. */
  installation: Installation | null;
  /** The end of the container before this one: until then its ports are in use. */
  containerEnded: Promise<void>;
  contractEnd: Timer | null;
  timers: Set<Timer>;
  /** Every status with the time at which it began. */
  history: { atMs: number; actualStatus: ActualStatus | null; message: string | null }[];
}

/** A rental in short, for tests and tools. */
export interface RentalView {
  id: number;
  label: string | null;
  machineId: number;
  actualStatus: ActualStatus | null;
  intendedStatus: 'running' | 'stopped';
  isForeign: boolean;
  createdAtMs: number;
  endedAtMs: number | null;
  /** By mapped port of the container, the address that leads to it: `127.0.0.1:40123`. */
  addresses: Record<string, string>;
}

export function isLive(rental: Rental): boolean {
  return rental.endedAtMs === null;
}

export function viewOf(rental: Rental, host: string): RentalView {
  return {
    id: rental.id,
    label: rental.label,
    machineId: rental.machine.machineId,
    actualStatus: rental.actualStatus,
    intendedStatus: rental.intendedStatus,
    isForeign: rental.isForeign,
    createdAtMs: rental.createdAtMs,
    endedAtMs: rental.endedAtMs,
    addresses: Object.fromEntries(
      rental.ports.map((entry) => [entry.containerPort, `${host}:${entry.held.port}`]),
    ),
  };
}
