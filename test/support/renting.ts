// The whole service with a double of vast.ai, anew for each test, which others may run beside: instances are rented through the API.
import { expect } from 'vitest';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { it as base } from './open.ts';
import { startTestService, type Answer, type TestService } from './service.ts';

interface Rental {
  number: number;
  status: string;
  label: string;
  machineId: string;
  providerInstanceId: string | null;
  endReason: string | null;
  goneAt: string | null;
}

export interface Instance {
  id: string;
  origin: string;
  status: string;
  phase: string | null;
  message: string | null;
  pricePerHourUsd: number | null;
  costUsd: number;
  comfyuiVersion: string | null;
  reachable: boolean;
  phases: { phase: string; rental: number; seconds: number; endedAt: string | null }[];
  rentals: Rental[];
  terminationReason: string | null;
  terminationDetail: string | null;
  expiresAt: string | null;
}

export interface Renting {
  readonly vast: VastDouble;
  readonly service: TestService;
  readonly post: <T>(path: string, json?: object) => Promise<Answer<T>>;
  /** Asks for an instance; resolves with it as it was accepted. */
  readonly rent: (json?: object) => Promise<Instance>;
  /** Asks for an instance, and waits until it is ready or has ended. */
  readonly settled: (json?: object) => Promise<Instance>;
  /** Asks for an instance, and waits until it is ready. */
  readonly readyInstance: (json?: object) => Promise<Instance>;
  /** The instance once it has this status, or once `done` says so; rejects after `limitMs` with what it is then. */
  readonly instanceWhen: (
    id: string,
    done: string | ((instance: Instance) => boolean),
    limitMs?: number,
  ) => Promise<Instance>;
  /** Asks for the end of an instance, and waits until it has ended. */
  readonly end: (id: string) => Promise<Instance>;
}

export interface RentingOptions {
  /** Machines load and boot at once, unless it is said here. */
  vast?: Parameters<typeof startVastDouble>[0];
  env?: Record<string, string>;
  comfyUrls?: string[];
}

export type StartRenting = (options?: RentingOptions) => Promise<Renting>;

/**
 * A test that starts what it rents with by `start`, as often as it likes; all of it is stopped after the test. A file with settings
 * of its own extends it: `override` would change it for the files that follow in the same worker too.
 */
export const it = base.extend('start', ({ open }) => {
  const start: StartRenting = async (options = {}) => {
    const vast = await startVastDouble({
      ...options.vast,
      knobs: { phases: instantPhases, ...options.vast?.knobs },
    });
    open.defer(() => vast.stop());
    const { env = {}, comfyUrls = [] } = options;
    const service = await startTestService({ vast, env, comfyUrls });
    open.defer(() => service.stop());
    return createRenting(vast, service);
  };
  return start;
});

/** A `start` with settings of a file's own, which a test may set otherwise. */
export const withEnv =
  (start: StartRenting, settings: Record<string, string>): StartRenting =>
  ({ env, ...options } = {}) =>
    start({ ...options, env: { ...settings, ...env } });

function createRenting(vast: VastDouble, service: TestService): Renting {
  const renting: Renting = {
    vast,
    service,
    post: (path, json = {}) => service.call(path, { method: 'POST', json }),
    async rent(json) {
      const { status, headers, body } = await renting.post<Instance>('/instances', json);
      expect(status).toBe(202);
      expect(headers.get('location')).toBe(`/instances/${body.id}`);
      return body;
    },
    async settled(json) {
      const { id } = await renting.rent(json);
      return renting.instanceWhen(id, isSettled);
    },
    async readyInstance(json) {
      const { id } = await renting.rent(json);
      return renting.instanceWhen(id, 'ready');
    },
    instanceWhen(id, done, limitMs) {
      const isDone = typeof done === 'string' ? ({ status }: Instance) => status === done : done;
      return service.until<Instance>(`/instances/${id}`, isDone, limitMs);
    },
    async end(id) {
      await service.call(`/instances/${id}`, { method: 'DELETE' });
      return renting.instanceWhen(id, 'terminated');
    },
  };
  return renting;
}

export const isSettled = ({ status }: Instance): boolean => status === 'ready' || status === 'terminated';
