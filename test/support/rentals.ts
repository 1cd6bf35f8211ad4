// The row of a rental, for tests that need one without renting.
import { v7 as uuid } from 'uuid';
import type { Offer } from '../../src/instances/provider.ts';

/** The first rental of an instance, of a machine that nobody has asked the provider for yet. */
export function intendedRental(instanceId: string, offer: Offer) {
  return {
    id: uuid(),
    instance_id: instanceId,
    number: 1,
    status: 'intended' as const,
    label: instanceId,
    offer: JSON.stringify(offer),
    machine_id: offer.machineId,
    price_per_hour_usd: offer.pricePerHourUsd,
    secret: 'x'.repeat(43),
  };
}
