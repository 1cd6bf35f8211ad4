// Starting: ready means that ComfyUI answers with our secret, over the pinned certificate, and not without it.
import { openLink, readCertificateFingerprint, LinkError, type Link } from '../../comfyui/link.ts';
import { probe, probeWebSocket, probeWithoutCredentials, type Probe } from '../../comfyui/probe.ts';
import { messageOf } from '../../errors.ts';
import { openSlots } from '../../jobs/placement.ts';
import type { InstanceRow } from '../../database/tables.ts';
import type { TerminationReason, Trouble } from '../instance.ts';
import { noteReady } from '../machines.ts';
import { leavePhases, type InstanceUpdate } from '../records.ts';
import { linkTarget } from '../target.ts';
import { noteCatalog } from './catalog.ts';
import { keepAlive, untilNextLookMs } from './heartbeat.ts';
import { NO_WORDS, noteAbsence, raisedPrice, shownUrl, viewRental } from './load.ts';
import {
  failRental,
  finish,
  lookAgain,
  noteTrouble,
  phaseAgeMs,
  withoutTrouble,
  type RentalStep,
  type Step,
} from './step.ts';

type ReadyProbe = Extract<Probe, { kind: 'ready' }>;

/** One good answer may come from a server that is about to restart, so two in a row are asked for. */
const CHECKS_FOR_READY = 2;
const SECOND_CHECK_MS = 250;

/** One look at a rented machine that runs. */
export async function start(step: RentalStep): Promise<void> {
  const { rental, deps } = step;
  const view = await viewRental(step);
  if (view === 'absent') return noteAbsence(step);
  if (view.condition.kind === 'failed')
    return failRental(step, view.condition.reason, view.message ?? NO_WORDS);
  const raise = raisedPrice(step, view);
  if (raise !== null) return failRental(step, 'price_raised', raise);
  if (phaseAgeMs(step) >= deps.config.STARTING_TIMEOUT_SECONDS * 1000) {
    return failRental(step, 'starting_timeout', await lastWords(step));
  }
  const url = shownUrl(rental, view);
  if (url !== null && url !== rental.address_url) return followAddress(step, url);
  await knock(step);
}

/** One look at a ComfyUI server that exists already. It is never given up. */
export async function startStatic(step: Step): Promise<void> {
  const link = openLink(linkTarget(step.instance, null, step.deps.config));
  try {
    const seen = await probe(link, step.signal);
    if (seen.kind === 'ready') return await countCheck(step, link, seen);
    await lookAgain(step, `The ComfyUI server is not usable yet: ${describeProbe(seen)}`, undefined);
  } finally {
    await link.close();
  }
}

/** What a probe found, for a person. */
export function describeProbe(seen: Probe): string {
  switch (seen.kind) {
    case 'ready':
      return `ComfyUI ${seen.version} answers.`;
    case 'starting':
      return `ComfyUI is not up yet (${seen.detail}).`;
    case 'refused':
      return 'Nothing listens on its port yet.';
    case 'timeout':
      return 'Its port does not answer.';
    case 'unauthorized':
      return 'It refuses the credentials.';
    default:
      return seen.detail;
  }
}

/** What a probe found that found ComfyUI ready, for a person. */
export function describeReady(step: Step, seen: ReadyProbe): string {
  return versionWarning(step, seen) ?? describeProbe(seen);
}

/** In words, when a rented machine runs another ComfyUI than the settings pin; otherwise null. */
function versionWarning({ rental, deps }: Step, { version }: ReadyProbe): string | null {
  const pinned = rental === null ? null : (deps.provider?.comfyUiVersion ?? null);
  if (pinned === null || pinned === version) return null;
  return `ComfyUI ${version} answers, and not ${pinned} as VAST_IMAGE_TAG says.`;
}

/** Pins the certificate on first contact, makes sure that the door is closed to others, then tries our key. */
async function knock(step: RentalStep): Promise<void> {
  const { rental, instance, deps } = step;
  if (rental.address_url?.startsWith('https:') === true && rental.certificate_fingerprint === null) {
    return pinCertificate(step, rental.address_url);
  }
  const target = linkTarget(instance, rental, deps.config);
  const link = openLink(target);
  try {
    const seen = await probe(link, step.signal);
    if (seen.kind === 'ready') {
      const door = await probeWithoutCredentials(target, step.signal);
      if (door === 'open')
        return await failRental(
          step,
          'open_without_credentials',
          'A request without credentials got an answer.',
        );
      if (door === 'unclear') return await lookAgain(step, 'Checking that nobody else can use the machine.');
      return await countCheck(step, link, seen);
    }
    const trouble = troubleOf(seen);
    if (trouble !== null)
      return await noteTrouble(step, trouble.trouble, trouble.reason, describeProbe(seen));
    await waitOn(step, describeProbe(seen));
  } finally {
    await link.close();
  }
}

/** It is only not up yet: whatever trouble there was before has not lasted. */
async function waitOn(step: RentalStep, message: string): Promise<void> {
  await lookAgain(step, message, undefined, withoutTrouble(step));
}

async function pinCertificate(step: RentalStep, url: string): Promise<void> {
  try {
    const fingerprint = await readCertificateFingerprint(url, step.signal);
    await finish(step, { message: 'Its certificate is pinned.' }, 0, async (trx) => {
      await trx
        .updateTable('rentals')
        .set({ certificate_fingerprint: fingerprint, trouble: null, trouble_since: null })
        .where('id', '=', step.rental.id)
        .where('certificate_fingerprint', 'is', null)
        .execute();
    });
  } catch (error) {
    if (!(error instanceof LinkError)) throw error;
    if (error.kind === 'refused' || error.kind === 'reset')
      return waitOn(step, 'Nothing listens on its port yet.');
    if (error.kind === 'timeout')
      return noteTrouble(step, 'timeout', 'unreachable', 'Its port does not answer.');
    await noteTrouble(step, 'insecure', 'insecure', messageOf(error));
  }
}

/** The machine moved to another address: checked anew, and by the certificate that was pinned, which moves along with it. */
async function followAddress(step: RentalStep, url: string): Promise<void> {
  await finish(step, { message: 'The machine has a new address.', checks_passed: 0 }, 0, async (trx) => {
    await trx
      .updateTable('rentals')
      .set({ address_url: url, trouble: null, trouble_since: null })
      .where('id', '=', step.rental.id)
      .where('status', '=', 'active')
      .execute();
  });
}

async function countCheck(step: Step, link: Link, seen: ReadyProbe): Promise<void> {
  const passed = step.instance.checks_passed + 1;
  if (passed < CHECKS_FOR_READY) {
    return finish(step, { checks_passed: passed, message: describeProbe(seen) }, SECOND_CHECK_MS);
  }
  if (!(await probeWebSocket(link, step.signal)))
    return lookAgain(step, 'ComfyUI answers, but its WebSocket does not open.');
  if ((await keepAlive(step, link)) !== 'kept')
    return lookAgain(step, 'ComfyUI answers, but does not take the sign of life that the machine waits for.');
  await becomeReady(step, seen);
  // Its first jobs do not wait for this.
  await noteCatalog(step, link, seen.version);
}

async function becomeReady(step: Step, seen: ReadyProbe): Promise<void> {
  const { instance, rental, now } = step;
  const warning = versionWarning(step, seen);
  const update: InstanceUpdate = {
    status: 'ready',
    ready_at: instance.ready_at ?? now,
    comfyui_version: seen.version,
    message: describeReady(step, seen),
    unreachable_since: null,
    ...leavePhases(instance, now),
    ...(rental === null ? hardwareOf(instance, seen) : {}),
  };
  step.log[warning === null ? 'info' : 'warn'](
    { comfyuiVersion: seen.version, warning },
    'the instance is ready',
  );
  await finish(step, update, untilNextLookMs(step), async (trx) => {
    if (rental !== null) {
      if (rental.ready_at === null) await noteReady(trx, rental, now);
      await trx
        .updateTable('rentals')
        .set({ ready_at: now, trouble: null, trouble_since: null })
        .where('id', '=', rental.id)
        .execute();
    }
    await openSlots(trx, instance.id);
  });
}

/** What a static server says of its own hardware; nobody else can tell. */
function hardwareOf(instance: InstanceRow, { devices }: ReadyProbe): InstanceUpdate {
  const first = devices[0];
  if (first === undefined) return {};
  return {
    gpu_name: first.name,
    gpu_count: devices.length,
    vram_gb: first.vramTotalBytes / 1024 ** 3,
    region: instance.region,
  };
}

function troubleOf(seen: Probe): { trouble: Trouble; reason: TerminationReason } | null {
  switch (seen.kind) {
    case 'timeout':
      return { trouble: 'timeout', reason: 'unreachable' };
    case 'unauthorized':
      return { trouble: 'unauthorized', reason: 'credentials_refused' };
    case 'insecure':
      return { trouble: 'insecure', reason: 'insecure' };
    default:
      return null;
  }
}

/** What ComfyUI's start was waiting for, with the end of the machine's log where it can be had. */
async function lastWords(step: RentalStep): Promise<string> {
  const waitedFor = step.instance.message ?? '';
  const { provider } = step.deps;
  if (provider === null || step.rental.provider_instance_id === null) return waitedFor;
  try {
    const log = await provider.logs(step.rental.provider_instance_id, 20, step.signal);
    return `${waitedFor} The end of its log: ${log.trim().slice(-1500)}`;
  } catch (error) {
    step.log.info({ error: messageOf(error) }, 'the log of the machine could not be had');
    return waitedFor;
  }
}
