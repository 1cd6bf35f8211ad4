// The instance and its rental: statuses, phases, reasons, and which may follow which.

export const instanceStatuses = [
  'requested',
  'provisioning',
  'ready',
  'draining',
  'terminating',
  'terminated',
] as const;
export type InstanceStatus = (typeof instanceStatuses)[number];

/** Which status may follow which. `terminated` is written only when the provider confirmed absence. */
export const instanceTransitions: Record<InstanceStatus, readonly InstanceStatus[]> = {
  requested: ['provisioning', 'terminating', 'terminated'],
  provisioning: ['ready', 'terminating', 'terminated'],
  ready: ['provisioning', 'draining', 'terminating', 'terminated'],
  draining: ['terminating', 'terminated'],
  terminating: ['terminated'],
  terminated: [],
};

/** The statuses from which `to` may be reached: the guard of every write of a status. */
export function instanceStatusesBefore(to: InstanceStatus): InstanceStatus[] {
  return instanceStatuses.filter((from) => instanceTransitions[from].includes(to));
}

/** What an instance that is not ready yet is doing. */
export const instancePhases = ['searching', 'renting', 'loading', 'starting'] as const;
export type InstancePhase = (typeof instancePhases)[number];

/** One phase of one rental, for `GET /instances/:id`. `endedAt` is null while it lasts. */
export interface PhaseTime {
  phase: InstancePhase;
  /** Which rental of the instance, counted from 1; 0 before the first. */
  rental: number;
  startedAt: string;
  endedAt: string | null;
}

/** A price that a rental once had. */
export interface PastPrice {
  pricePerHourUsd: number;
  until: string;
}

/** Why an instance, or one rental of it, ended. */
export const terminationReasons = {
  requested: 'You asked for it.',
  idle: 'It had nothing to do for too long.',
  lost_race: 'Another machine was ready before it.',
  not_needed: 'The jobs that it was for were gone before a machine was rented.',
  no_offer: 'No offer satisfied the requirements in time.',
  rental_failed: 'Every rental that was tried failed.',
  renting_failed: 'The provider refused to rent.',
  renting_timeout: 'The provider never confirmed the rental.',
  loading_timeout: 'The machine did not load its image in time.',
  starting_timeout: 'ComfyUI did not answer in time.',
  unreachable: 'The machine runs but its port cannot be reached.',
  wedged: 'ComfyUI accepts work and does not do it.',
  open_without_credentials: 'ComfyUI answered without credentials, so the machine was not safe to use.',
  credentials_refused: 'The machine refuses its own credentials.',
  insecure: 'The machine did not offer HTTPS, or its certificate changed.',
  image_pull_failed: 'The provider could not fetch the image.',
  container_failed: 'The container could not start.',
  exited: 'The container ended.',
  offline: 'The host went offline.',
  unknown_to_provider: 'The provider lost contact with the host.',
  stopped_by_provider: 'The provider stopped the machine.',
  outbid: 'Somebody bid more for the machine.',
  lost: 'The provider no longer knows the machine.',
  limit_reached: 'A spending limit is reached.',
  lifetime_reached: 'It has reached the end of its lifetime.',
  contract_ending: 'The host soon stops letting the machine out.',
  price_raised: 'The host raised the price above the limit.',
  step_failed: 'The service failed to look after it; its log says why.',
  heartbeat_lost: 'The machine does not take the sign of life without which it destroys itself.',
  orphaned: 'It was found at the provider without a record.',
  insufficient_credit: 'The account at the provider lacks credit.',
  provider_refused_key: 'The provider does not accept the API key.',
  removed_from_settings: 'Its URL is no longer in COMFYUI_URLS.',
  left_behind: 'It belongs to the service that this database was copied from.',
} as const;
export type TerminationReason = keyof typeof terminationReasons;
export const terminationReasonCodes = Object.keys(terminationReasons).filter(isTerminationReason);

function isTerminationReason(code: string): code is TerminationReason {
  return code in terminationReasons;
}

/** Whether an instance has reached the end of its life; one without an end never does. */
export function isLifeOver({ expires_at: expiresAt }: { expires_at: Date | null }, now: Date): boolean {
  return expiresAt !== null && expiresAt <= now;
}

/** Ends that somebody wanted, after which nobody waits for the machine. */
export const wantedReasons: ReadonlySet<TerminationReason> = new Set([
  'requested',
  'idle',
  'lost_race',
  'not_needed',
]);

/**
 * A rental's life. `intended` is written before the provider is asked; `creating` by the one process that asks, just before it does,
 * so a rental found in that state may exist and counts as billing until it is settled by its label.
 */
export const rentalStatuses = ['intended', 'creating', 'active', 'destroying', 'gone'] as const;
export type RentalStatus = (typeof rentalStatuses)[number];

/** What can keep a running machine from being used; each is fatal when it lasts. */
export type Trouble = 'timeout' | 'unauthorized' | 'insecure' | 'absent';
