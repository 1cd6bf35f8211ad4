// Machines so dear that money can be seen to go within the seconds of a test.
import type { OfferSpec } from '../doubles/vast/index.ts';

/** So dear that seconds cost cents. */
export const dear: OfferSpec = {
  gpuName: 'RTX 4090',
  gpuPricePerHourUsd: 90,
  vramMb: 24_564,
  downloadMbps: 1500,
  reliability: 0.99,
  slices: 4,
};
/** What dear machines need to be rented at all. */
export const rich = {
  MAX_PRICE_PER_HOUR_USD: '1000',
  MAX_TOTAL_PRICE_PER_HOUR_USD: 'none',
  MAX_SPEND_PER_DAY_USD: 'none',
  MAX_SPEND_PER_MONTH_USD: 'none',
  CREDIT_RESERVE_HOURS: '0',
};
