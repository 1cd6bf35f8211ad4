// Loading: waits until the provider says that the machine runs and where it is.
import type { MachineAddress, ProviderInstance } from '../provider.ts';
import { enterPhase } from '../records.ts';
import {
  failRental,
  finish,
  lookAgain,
  needProvider,
  needProviderId,
  noteTrouble,
  phaseAgeMs,
  type RentalStep,
} from './step.ts';

export async function load(step: RentalStep): Promise<void> {
  const { instance, rental, deps, now } = step;
  if (instance.phase !== 'loading')
    return finish(step, enterPhase(instance, 'loading', rental.number, now), 0);

  const view = await viewRental(step);
  if (view === 'absent')
    return noteTrouble(step, 'absent', 'lost', 'The provider does not show the machine.');
  if (view.condition.kind === 'failed') return failRental(step, view.condition.reason, view.message ?? '');

  const address = view.condition.kind === 'running' ? view.condition.address : null;
  if (address !== null) return begin(step, address);
  if (phaseAgeMs(step) >= deps.config.LOADING_TIMEOUT_SECONDS * 1000) {
    return failRental(step, 'loading_timeout', view.message ?? 'The provider gave no reason.');
  }
  const waitingFor =
    view.condition.kind === 'running' ? 'The machine runs; its address is not known yet.' : view.message;
  await lookAgain(step, waitingFor ?? 'The machine loads its image.');
}

/**
 * What the provider shows of the rental. Absent means that its single view and its list agree; either alone lags behind.
 * Notes the first sight, since absence means more after it.
 */
export async function viewRental(step: RentalStep): Promise<ProviderInstance | 'absent'> {
  const { rental, deps } = step;
  const provider = needProvider(step);
  const view = await provider.describe(needProviderId(rental), step.signal);
  const instance =
    view.kind === 'present'
      ? view.instance
      : (await provider.listByLabel(rental.label, step.signal)).find(({ label }) => label === rental.label);
  if (instance === undefined) return 'absent';
  if (rental.seen_at === null || rental.message !== instance.message) {
    await deps.db
      .updateTable('rentals')
      .set({ seen_at: rental.seen_at ?? step.now, message: instance.message })
      .where('id', '=', rental.id)
      .execute();
  }
  return instance;
}

export function addressUrl(address: MachineAddress): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${address.scheme}://${host}:${address.port}`;
}

async function begin(step: RentalStep, address: MachineAddress): Promise<void> {
  const { instance, rental, now } = step;
  const update = {
    ...enterPhase(instance, 'starting', rental.number, now),
    message: 'The machine runs; ComfyUI starts.',
  };
  await finish(step, update, 0, async (trx) => {
    await trx
      .updateTable('rentals')
      .set({ running_at: now, address_url: addressUrl(address), trouble: null, trouble_since: null })
      .where('id', '=', rental.id)
      .where('status', '=', 'active')
      .execute();
  });
}
