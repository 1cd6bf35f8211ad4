// The order in which offers are taken, and the ids under which callers know them.
import { describe, expect, it } from 'vitest';
import { findOffer, publicOfferId, rankOffers } from '../../src/instances/ranking.ts';
import { offer } from '../support/offers.ts';

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

  it('show the parts of the expected cost, which add up to it', () => {
    const [ranked] = rankOffers([offer({ downloadPricePerGbUsd: 0.01, reliability: 0.9 })]);
    if (ranked === undefined) throw new Error('There is no offer.');
    const { gpuUsd, bootUsd, storageUsd, downloadUsd, failuresUsd } = ranked.expectedParts;
    expect(gpuUsd).toBeCloseTo(0.38, 9);
    expect(downloadUsd).toBeCloseTo(0.095, 9);
    expect(Math.min(bootUsd, storageUsd, failuresUsd)).toBeGreaterThan(0);
    const sum = gpuUsd + bootUsd + storageUsd + downloadUsd + failuresUsd;
    expect(sum).toBeCloseTo(ranked.expectedCostUsd, 9);
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
