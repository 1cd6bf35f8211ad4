// The whole service with a double of vast.ai, anew for each test of a file: instances are rented through the API.
import { afterEach, expect } from 'vitest';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { startTestService, type TestService } from './service.ts';

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
}

/** Those of the test that runs. */
export let vast: VastDouble;
export let service: TestService;

/** Called once at the top of a file: what a test has started is stopped after it. */
export function useRenting(): void {
  afterEach(async () => {
    await service.stop();
    await vast.stop();
  });
}

/** Called first in each test. */
export async function start(
  options: Parameters<typeof startVastDouble>[0] = {},
  env: Record<string, string> = {},
): Promise<void> {
  vast = await startVastDouble({ ...options, knobs: { phases: instantPhases, ...options.knobs } });
  service = await startTestService({ vast, env });
}

export async function rent(json: object = {}): Promise<Instance> {
  const { status, headers, body } = await service.call<Instance>('/instances', { method: 'POST', json });
  expect(status).toBe(202);
  expect(headers.get('location')).toBe(`/instances/${body.id}`);
  return body;
}

export const settled = (instance: Instance): boolean =>
  instance.status === 'ready' || instance.status === 'terminated';
