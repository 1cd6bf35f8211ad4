// Checking a ready instance: does the provider still show it, does ComfyUI still answer.
import { openLink } from '../../comfyui/link.ts';
import { probe, type Probe } from '../../comfyui/probe.ts';
import type { InstanceUpdate } from '../records.ts';
import { linkTarget } from '../target.ts';
import { addressUrl, viewRental } from './load.ts';
import { describeProbe } from './start.ts';
import { endInstance, finish, noteTrouble, type Step } from './step.ts';

/** A machine that does not answer is looked at more often than one that does. */
const SUSPECT_CHECK_MS = 5000;

export async function check(step: Step): Promise<void> {
  if (step.rental !== null && (await checkRental({ ...step, rental: step.rental }))) return;
  const link = openLink(linkTarget(step.instance, step.rental, step.deps.config));
  try {
    await judge(step, await probe(link, step.signal));
  } finally {
    await link.close();
  }
}

/** True when the provider's view has decided the step already. */
async function checkRental(step: Step & { rental: NonNullable<Step['rental']> }): Promise<boolean> {
  const view = await viewRental(step);
  if (view === 'absent') {
    await noteTrouble(step, 'absent', 'lost', 'The provider does not show the machine any more.');
    return true;
  }
  if (view.condition.kind === 'failed') {
    await endInstance(step, view.condition.reason, view.message ?? '');
    return true;
  }
  const address = view.condition.kind === 'running' ? view.condition.address : null;
  if (address === null || addressUrl(address) === step.rental.address_url) return false;
  await finish(step, { message: 'The machine has a new address.' }, 0, async (trx) => {
    await trx
      .updateTable('rentals')
      .set({ address_url: addressUrl(address) })
      .where('id', '=', step.rental.id)
      .where('status', '=', 'active')
      .execute();
  });
  return true;
}

async function judge(step: Step, seen: Probe): Promise<void> {
  const { deps, instance, now } = step;
  const checkMs = deps.config.INSTANCE_CHECK_SECONDS * 1000;
  if (seen.kind === 'ready') {
    const update: InstanceUpdate = {
      message: describeProbe(seen),
      unreachable_since: null,
      comfyui_version: seen.version,
    };
    return finish(step, update, checkMs, async (trx) => {
      if (instance.unreachable_since !== null) await deps.queues.send(trx, 'dispatch', {});
      await trx
        .updateTable('rentals')
        .set({ trouble: null, trouble_since: null })
        .where('instance_id', '=', instance.id)
        .where('trouble', 'is not', null)
        .execute();
    });
  }
  const since = instance.unreachable_since ?? now;
  const lasted = now.getTime() - since.getTime();
  if (instance.provider !== 'static' && lasted >= deps.config.UNREACHABLE_TIMEOUT_SECONDS * 1000) {
    return endInstance(step, 'unreachable', describeProbe(seen));
  }
  const update: InstanceUpdate = { message: describeProbe(seen), unreachable_since: since };
  await finish(step, update, Math.min(checkMs, SUSPECT_CHECK_MS));
}
