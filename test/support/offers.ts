// An offer for tests that need one and do not care which.
import type { Offer } from '../../src/instances/provider.ts';

export function offer(change: Partial<Offer> = {}): Offer {
  return {
    offerId: '1',
    machineId: 'm1',
    gpuName: 'RTX 4090',
    gpuCount: 1,
    vramGb: 24,
    ramGb: 64,
    cpuCores: 16,
    diskGb: 80,
    region: 'US',
    reliability: 0.99,
    downloadMbps: 1000,
    uploadMbps: 500,
    cudaVersion: 12.8,
    verified: true,
    pricePerHourUsd: 0.4,
    storagePricePerHourUsd: 0.02,
    downloadPricePerGbUsd: 0.002,
    uploadPricePerGbUsd: 0.002,
    remainingSeconds: 1_000_000,
    ...change,
  };
}
