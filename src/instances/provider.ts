// The contract between the domain and whoever rents machines to us. Providers know nothing of the domain beyond this file.
import type { Requirements } from './requirements.ts';

/** A machine that can be rented now. Units are in the names; a null is a fact that the provider did not give. */
export interface Offer {
  /** Short-lived: the same machine may be listed under another id a moment later. */
  offerId: string;
  /** The physical machine; the right key for avoiding one that failed. */
  machineId: string;
  gpuName: string;
  gpuCount: number;
  /** Memory of one GPU. */
  vramGb: number;
  /** Our share of the machine's main memory. */
  ramGb: number | null;
  cpuCores: number | null;
  /** Disk that would be rented, which is what the price includes. */
  diskGb: number;
  /** ISO 3166 country code. */
  region: string | null;
  /** 0 to 1. */
  reliability: number | null;
  downloadMbps: number | null;
  uploadMbps: number | null;
  cudaVersion: number | null;
  verified: boolean;
  /** GPU and disk together. */
  pricePerHourUsd: number;
  storagePricePerHourUsd: number;
  downloadPricePerGbUsd: number;
  uploadPricePerGbUsd: number;
  /** How long the host still lets the machine out, in seconds. */
  remainingSeconds: number | null;
}

/** Why an offer does not satisfy the requirements, in words for a person. */
export interface RejectedOffer {
  offer: Offer;
  reasons: string[];
}

export interface OfferSearch {
  /** Offers that satisfy the requirements, in no particular order. */
  offers: Offer[];
  rejected: RejectedOffer[];
}

export interface SearchOptions {
  machineId?: string | undefined;
  /** A machine is waited for: goes before the searches of who only looks. */
  toRent?: boolean;
  signal?: AbortSignal;
}

/** When a machine destroys itself for want of a heartbeat, in whole seconds. */
export interface DeadMan {
  limitSeconds: number;
  /** Until the first heartbeat, counted from the boot. */
  firstSeconds: number;
}

export interface LaunchRequest {
  offer: Offer;
  /** Unique text by which the rental is recognised as ours, also when the answer is lost. */
  label: string;
  /** The machine's own secret: 43 characters of base64url. */
  secret: string;
  diskGb: number;
  /** Null: it gets no such switch. */
  deadMan: DeadMan | null;
}

export interface LaunchOptions {
  /**
   * Awaited when the call is about to be sent, since it may have waited long for its turn. Where it rejects, nothing is sent, and
   * the launch rejects with the same.
   */
  beforeSending?: () => Promise<void>;
  signal?: AbortSignal;
}

export interface LaunchResult {
  providerInstanceId: string;
}

/** A rental as the provider sees it, reduced to what decides the next step. */
export interface ProviderInstance {
  providerInstanceId: string;
  label: string | null;
  machineId: string | null;
  pricePerHourUsd: number | null;
  createdAt: Date | null;
  /** When the host stops letting the machine out. */
  endsAt: Date | null;
  condition: ProviderCondition;
  /** The provider's own words on the state, secrets removed, trimmed; null where it says nothing. */
  message: string | null;
}

export type ProviderCondition =
  /** The machine is being made or its image fetched. */
  | { kind: 'loading' }
  /** The machine runs; `address` is null while the provider has not published one. */
  | { kind: 'running'; address: MachineAddress | null }
  /** It will not come up, or has stopped: destroy it. */
  | { kind: 'failed'; reason: ProviderFailure };

export interface MachineAddress {
  scheme: 'http' | 'https';
  host: string;
  port: number;
}

export type ProviderFailure =
  | 'image_pull_failed'
  | 'container_failed'
  | 'exited'
  | 'offline'
  | 'unknown_to_provider'
  | 'stopped_by_provider'
  | 'outbid';

/** `confirmed` absence is the only proof that a rental costs nothing any more. */
export type ProviderView = { kind: 'present'; instance: ProviderInstance } | { kind: 'absent' };

export interface ProviderAccount {
  creditUsd: number | null;
}

/** Every method rejects with a `ProviderError`, but where it says something else. None repeats a call that could rent twice. */
export interface Provider {
  readonly name: 'vast';
  /** Of ComfyUI on what is launched, where the settings pin one. */
  readonly comfyUiVersion: string | null;
  /** Offers of one machine where `machineId` names it; otherwise of all, the cheapest up to a bound. */
  searchOffers(requirements: Requirements, options?: SearchOptions): Promise<OfferSearch>;
  /** Rents. A rejection of kind `ambiguous` means "maybe rented": settle it with `listByLabel`. */
  launch(request: LaunchRequest, options?: LaunchOptions): Promise<LaunchResult>;
  /** One rental, from the provider's single view. Absence here may be read lag shortly after a launch. */
  describe(providerInstanceId: string, signal?: AbortSignal): Promise<ProviderView>;
  /** All rentals of the account whose label starts with `prefix`, complete or a rejection; an empty list is a fact. */
  listByLabel(prefix: string, signal?: AbortSignal): Promise<ProviderInstance[]>;
  /** All rentals of the account, those of others included; complete or a rejection. */
  listAll(signal?: AbortSignal): Promise<ProviderInstance[]>;
  /** Asks for the end of the rental; resolving does not mean that it is gone. */
  terminate(providerInstanceId: string, signal?: AbortSignal): Promise<void>;
  /** The last lines of the machine's log, secrets removed. */
  logs(providerInstanceId: string, lines: number, signal?: AbortSignal): Promise<string>;
  account(signal?: AbortSignal): Promise<ProviderAccount>;
}

export type ProviderErrorKind =
  /** The offer is taken or gone: take the next one. */
  | 'offer_gone'
  /** Asked too often: later. */
  | 'rate_limited'
  /** No credit, or a spending cap of the account: stop renting, tell a person. */
  | 'no_credit'
  /** The key is wrong or revoked. It says nothing about any rental. */
  | 'unauthorized'
  /** Our request was wrong: repeating does not help. */
  | 'invalid'
  /** No usable answer to a call that changes nothing: repeat it. */
  | 'unavailable'
  /** No usable answer to a launch: the machine may have been rented. */
  | 'ambiguous';

export class ProviderError extends Error {
  readonly kind: ProviderErrorKind;
  /** A rental that the failed launch left behind; it must be destroyed. */
  readonly leftoverId: string | undefined;
  /** The single view of a rental failed, but the list of the account answers, and does not show it. */
  readonly unlisted: boolean;

  constructor(
    kind: ProviderErrorKind,
    message: string,
    options: { cause?: unknown; leftoverId?: string; unlisted?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ProviderError';
    this.kind = kind;
    this.leftoverId = options.leftoverId;
    this.unlisted = options.unlisted ?? false;
  }
}
