// The order in which offers are taken, and the ids under which callers know them.
import { describe, expect, it } from 'vitest';
import type { Offer } from '../../src/instances/provider.ts';
import { findOffer, publicOfferId, rankOffers } from '../../src/instances/ranking.ts';

function offer(change: Partial<Offer>): Offer {
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

describe('offers', () => {
  it('are ranked by what the first hour of work costs, not by price alone', () => {
    const cheapButSlow = offer({
      offerId: 'slow',
      machineId: 'slow',
      pricePerHourUsd: 0.39,
      downloadMbps: 20,
    });
    const fast = offer({ offerId: 'fast', machineId: 'fast' });
    expect(rankOffers([cheapButSlow, fast]).map((ranked) => ranked.offer.offerId)).toEqual(['fast', 'slow']);
  });

  it('rank the same in whatever order the provider lists them', () => {
    const all = ['a', 'b', 'c'].map((id, index) =>
      offer({ offerId: id, machineId: id, pricePerHourUsd: 0.3 + (index % 2) }),
    );
    const forward = rankOffers(all).map((ranked) => ranked.offer.offerId);
    expect(rankOffers(all.toReversed()).map((ranked) => ranked.offer.offerId)).toEqual(forward);
  });

  it('pay for unreliability and for costly downloads', () => {
    const shaky = offer({ machineId: 'shaky', reliability: 0.5 });
    const metered = offer({ machineId: 'metered', downloadPricePerGbUsd: 0.05 });
    const good = offer({ machineId: 'good' });
    expect(rankOffers([shaky, metered, good])[0]?.offer.machineId).toBe('good');
  });

  it('say why they stand where they stand', () => {
    expect(rankOffers([offer({})])[0]?.reasons.join('; ')).toMatch(
      /0\.400 USD per hour.*80 GB.*1000 Mbit\/s.*reliability 0\.990/,
    );
  });

  it('are found again when the provider has given the machine another offer id', () => {
    const seen = offer({ offerId: '17', machineId: '95392' });
    const relisted = offer({ offerId: '18', machineId: '95392' });
    expect(findOffer([offer({}), relisted], publicOfferId(seen))).toBe(relisted);
    expect(findOffer([offer({})], publicOfferId(seen))).toBeUndefined();
  });
});
