// Checking a ready instance: does the provider still show it, does ComfyUI still answer.
import { createComfyClient } from '../../comfyui/client.ts';
import { ComfyError } from '../../comfyui/errors.ts';
import { openLink, type Link } from '../../comfyui/link.ts';
import { probe, probeWithoutCredentials, type Probe } from '../../comfyui/probe.ts';
import { messageOf } from '../../errors.ts';
import { begunAt } from '../../support/clock.ts';
import { isLifeOver, type TerminationReason } from '../instance.ts';
import { ProviderError } from '../provider.ts';
import { stillOwned, type InstanceUpdate } from '../records.ts';
import { linkTarget } from '../target.ts';
import { keepAlive, untilNextLookMs } from './heartbeat.ts';
import { noteCatalog } from './catalog.ts';
import { NO_WORDS, noteAbsence, raisedPrice, shownUrl, viewRental } from './load.ts';
import { describeProbe, describeReady } from './start.ts';
import { drainInstance, endInstance, finish, withoutTrouble, type RentalStep, type Step } from './step.ts';

/** A machine that does not answer is looked at more often than one that does. */
const SUSPECT_CHECK_MS = 5000;
/** Machines are rented that are let out for a day more, so nothing near that may count as soon. */
const LONGEST_CONTRACT_MARGIN_MS = 6 * 3_600_000;

interface Wanted {
  /** What the caller sees of an instance that is well; what ComfyUI says of itself unless given. */
  message?: string;
  /** When it is looked at again, at the latest. */
  everyMs?: number;
}

interface Manner extends Wanted {
  everyMs: number;
  /** The provider could not be asked either, so silence may be that of our own network. */
  isProviderSilent: boolean;
}

/** What the provider tells of a machine whose next step it leaves open. */
interface Told {
  /** With the address as it is now. */
  step: Step;
  isProviderSilent: boolean;
}

/** One look at an instance that is ready, or that still has jobs while it drains. */
export async function check(given: Step, wanted: Wanted = {}): Promise<void> {
  const { rental } = given;
  const told = rental === null ? toldBy(given) : await askProvider({ ...given, rental });
  if (told === 'decided') return;
  const { step, isProviderSilent } = told;
  const link = openLink(linkTarget(step.instance, step.rental, step.deps.config));
  try {
    const seen = await probe(link, step.signal);
    const everyMs = untilNextLookMs(step, wanted.everyMs);
    await judge(step, link, seen, { ...wanted, everyMs, isProviderSilent });
  } finally {
    await link.close();
  }
}

/**
 * A provider that cannot answer decides nothing: the machine is watched, and its switch renewed, all the same. One that refuses
 * to answer, or answers with its list alone, is not `silent`: our network works then.
 */
async function askProvider(step: RentalStep): Promise<Told | 'decided'> {
  try {
    return await checkRental(step);
  } catch (error) {
    if (!(error instanceof ProviderError)) throw error;
    const level = error.kind === 'unauthorized' ? 'error' : 'warn';
    step.log[level](
      { kind: error.kind, error: messageOf(error) },
      'the provider could not be asked for the machine',
    );
    return toldBy(step, error.kind === 'unavailable' && !error.unlisted);
  }
}

/** `decided` when the provider's view has decided the step already. */
async function checkRental(step: RentalStep): Promise<Told | 'decided'> {
  const view = await viewRental(step);
  if (view === 'absent') {
    await noteAbsence(step);
    return 'decided';
  }
  if (view.condition.kind === 'failed') {
    await endInstance(step, view.condition.reason, view.message ?? NO_WORDS);
    return 'decided';
  }
  const raise = raisedPrice(step, view);
  if (raise !== null && (step.instance.status === 'ready' || !isLifeOver(step.instance, step.now))) {
    // Its jobs have no longer than those of one that has reached a limit.
    await drainInstance(step, 'price_raised', raise, { expires_at: step.now });
    return 'decided';
  }
  if (endsSoon(step, view.endsAt) && step.instance.status === 'ready') {
    await drainInstance(step, 'contract_ending', `Its contract ends at ${view.endsAt?.toISOString()}.`);
    return 'decided';
  }
  return toldBy(await followAddress(step, shownUrl(step.rental, view)));
}

/** The machine is looked at where it is now, so that one which answers nowhere is not taken for one that only moves. */
async function followAddress(step: RentalStep, url: string | null): Promise<RentalStep> {
  const { deps, instance, rental } = step;
  if (url === null || url === rental.address_url) return step;
  await deps.db
    .updateTable('rentals')
    .set({ address_url: url })
    .where('id', '=', rental.id)
    .where('status', '=', 'active')
    .where(stillOwned(instance))
    .execute();
  return { ...step, rental: { ...rental, address_url: url } };
}

function toldBy(step: Step, isProviderSilent = false): Told {
  return { step, isProviderSilent };
}

/** Whether the host lets the machine out for no longer than a job may take. */
function endsSoon({ deps, now }: Step, endsAt: Date | null): boolean {
  const jobMs = Math.min(deps.config.JOB_TIME_LIMIT_SECONDS * 1000, LONGEST_CONTRACT_MARGIN_MS);
  return endsAt !== null && endsAt.getTime() - now.getTime() < jobMs;
}

async function judge(step: Step, link: Link, seen: Probe, manner: Manner): Promise<void> {
  const { instance } = step;
  if (seen.kind === 'ready') {
    const stuck = await isStuck(step, link);
    if (stuck === 'yes' && instance.provider !== 'static')
      return endInstance(step, 'wedged', 'A job stays in its queue and is neither run nor stopped.');
    if (stuck !== 'no') return noteSilence(step, manner, 'wedged', 'ComfyUI does not work off its queue.');
    // A container that starts again, or an address that moves, may have lost its lock.
    if (step.rental !== null && (await probeWithoutCredentials(link.target, step.signal)) === 'open')
      return endInstance(step, 'open_without_credentials', 'A request without credentials got an answer.');
    const pulse = await keepAlive(step, link);
    if (pulse === 'hopeless' && instance.status === 'ready')
      return drainInstance(step, 'heartbeat_lost', 'ComfyUI answers, but takes no files.');
    const update: InstanceUpdate = {
      message: manner.message ?? describeReady(step, seen),
      unreachable_since: null,
      stuck_prompt_id: null,
      comfyui_version: seen.version,
    };
    await finish(step, update, manner.everyMs, withoutTrouble(step));
    return noteCatalog(step, link, seen.version);
  }
  await noteSilence(step, manner, reasonBehind(seen), describeProbe(seen));
}

/**
 * It takes no jobs while this lasts, and is ended when it lasts too long; a server that nobody rents is waited for. While the
 * provider is silent as well, an end would free no machine and may destroy every healthy one, so the time begins anew.
 */
async function noteSilence(
  step: Step,
  manner: Manner,
  reason: TerminationReason,
  detail: string,
): Promise<void> {
  const { deps, instance, now } = step;
  const { everyMs, isProviderSilent } = manner;
  // The look itself may have waited for long.
  const since = isProviderSilent ? deps.clock.now() : begunAt(instance.unreachable_since, now);
  const lasted = now.getTime() - since.getTime();
  if (instance.provider !== 'static' && lasted >= deps.config.UNREACHABLE_TIMEOUT_SECONDS * 1000)
    return endInstance(step, reason, detail);
  const message = isProviderSilent ? `${detail} The provider cannot be asked either.` : detail;
  const update: InstanceUpdate = { message, unreachable_since: since };
  await finish(step, update, Math.min(everyMs, SUSPECT_CHECK_MS));
}

/** Whether the prompt that a run found stuck still is: it runs, although it was told to stop, or it waits although nothing runs. */
async function isStuck({ deps, instance, signal }: Step, link: Link): Promise<'yes' | 'no' | 'unclear'> {
  const promptId = instance.stuck_prompt_id;
  if (promptId === null) return 'no';
  const client = createComfyClient(link, { answerMs: deps.config.COMFYUI_TIMEOUT_SECONDS * 1000 });
  try {
    const { running, pending } = await client.queue(signal);
    const waitsInVain = pending.includes(promptId) && running.length === 0;
    return running.includes(promptId) || waitsInVain ? 'yes' : 'no';
  } catch (error) {
    if (error instanceof ComfyError) return 'unclear';
    throw error;
  }
}

function reasonBehind(seen: Probe): TerminationReason {
  if (seen.kind === 'insecure') return 'insecure';
  return seen.kind === 'unauthorized' ? 'credentials_refused' : 'unreachable';
}
