// The tables as Kysely sees them; the migrations are where they come from.
import type { ColumnType, Generated, JSONColumnType, Selectable } from 'kysely';
import type {
  InstancePhase,
  InstanceStatus,
  PhaseTime,
  PastPrice,
  RentalStatus,
  TerminationReason,
  Trouble,
} from '../instances/instance.ts';
import type { MachineFailure } from '../instances/machines.ts';
import type { Offer } from '../instances/provider.ts';
import type { Requirements, RequestedRequirements } from '../instances/requirements.ts';
import type { DeliveryStatus, WebhookEvent } from '../webhooks/delivery.ts';
import type {
  AttemptOutcome,
  AttemptStatus,
  JobError,
  JobInput,
  JobProgress,
  JobSeed,
  JobStatus,
  OutputKind,
  RetriedError,
  Workflow,
} from '../jobs/job.ts';

/** A JSON column that may be null. Written as text, so that arrays and null mean what they say. */
type NullableJson<T> = ColumnType<T | null, string | null | undefined, string | null>;
type Defaulted<T> = ColumnType<T, T | undefined, T>;
type DefaultedJson<T> = ColumnType<T, string | undefined, string>;
/** Null unless written. */
type Optional<T> = ColumnType<T | null, T | null | undefined, T | null>;
type CreatedAt = ColumnType<Date, Date | undefined, Date>;

export interface Tables {
  service_values: { name: string; value: string };
  api_keys: {
    id: string;
    name: string;
    hash: string;
    origin: 'settings' | 'command';
    created_at: CreatedAt;
    revoked_at: Optional<Date>;
  };
  instances: InstancesTable;
  rentals: RentalsTable;
  assets: {
    id: string;
    size_bytes: number;
    content_type: string;
    /** As the newest upload called it. */
    file_name: Optional<string>;
    /** The name of its file in the store. */
    stored_as: string;
    /** When it was last stored, or wanted by a job. */
    used_at: CreatedAt;
    /** Whether a caller brought it; a mere result goes with the last output that refers to it. */
    uploaded: boolean;
    created_at: CreatedAt;
  };
  /** Files in the store that no asset refers to: not yet, or no longer. They are removed when they are due. */
  loose_files: {
    key: string;
    /** True: it may be gone at any moment, and nothing may refer to it any more. */
    removing: boolean;
    due_at: ColumnType<Date, Date, Date>;
  };
  jobs: JobsTable;
  batches: BatchesTable;
  webhook_deliveries: WebhookDeliveriesTable;
  webhook_tries: WebhookTriesTable;
  idempotency_keys: IdempotencyKeysTable;
  attempts: AttemptsTable;
  rental_costs: RentalCostsTable;
  provider_credit: {
    provider: string;
    credit_usd: Optional<number>;
    checked_at: ColumnType<Date, Date, Date>;
    raised_at: Optional<Date>;
  };
  slots: { instance_id: string; slot: number; job_id: Optional<string> };
  outputs: OutputsTable;
  /** Rentals with our label that no record accounts for, from the first time that a list showed them. */
  orphans: { provider_instance_id: string; label: string; first_seen_at: Date; last_seen_at: Date };
  machines: MachinesTable;
  /** The node classes of instances, shared by those that have the same. */
  node_catalogs: {
    id: string;
    /** What a rented machine was made from; null for a server that nobody rents. */
    image: Optional<string>;
    content: Buffer;
    read_at: ColumnType<Date, Date, Date>;
  };
  /** Why the fleet rents no more for a demand. */
  fleet_notes: { wish: string; note: string };
  job_events: {
    id: Generated<number>;
    job_id: string;
    type: string;
    data: JSONColumnType<object>;
    created_at: CreatedAt;
  };
  job_previews: JobPreviewsTable;
}

interface InstancesTable {
  id: string;
  provider: 'vast' | 'static';
  status: InstanceStatus;
  /** Null when ready, draining, terminating or terminated. */
  phase: Optional<InstancePhase>;
  phases: DefaultedJson<PhaseTime[]>;
  phase_started_at: Optional<Date>;
  /** Null for a server that nobody rents. */
  requirements: NullableJson<Requirements>;
  /** The offer that the caller asked for; only the first rental heeds it. */
  wanted_offer_id: Optional<string>;
  static_url: Optional<string>;
  /** The current rental; earlier ones are gone. */
  rental_id: Optional<string>;
  rental_count: Defaulted<number>;
  gpu_name: Optional<string>;
  gpu_count: Optional<number>;
  vram_gb: Optional<number>;
  /** The share of main memory, the rented disk and the newest CUDA of the driver; null where nobody knows. */
  ram_gb: Optional<number>;
  disk_gb: Optional<number>;
  cuda_version: Optional<number>;
  region: Optional<string>;
  comfyui_version: Optional<string>;
  /** Its node classes, and when they were last asked for. */
  catalog_id: Optional<string>;
  catalog_read_at: Optional<Date>;
  message: Optional<string>;
  /**
   * Since when a ready instance has not answered its checks, or has had a prompt stuck; it takes no more jobs then. Set anew by each
   * look at which the provider was silent too.
   */
  unreachable_since: Optional<Date>;
  /** A prompt that its ComfyUI neither runs nor ends, as a run has found; the next check decides. */
  stuck_prompt_id: Optional<string>;
  /** Readiness checks passed in a row. */
  checks_passed: Defaulted<number>;
  termination_reason: Optional<TerminationReason>;
  termination_detail: Optional<string>;
  /** Why it is being ended, before it is confirmed. */
  pending_reason: Optional<TerminationReason>;
  pending_detail: Optional<string>;
  /** Counts wake-ups; a wake-up that carries an older number was overtaken and is dropped. */
  wake: Defaulted<number>;
  next_step_at: Optional<Date>;
  /** Since when no step has come to its end, for reasons other than the provider's; null once one does. */
  failing_since: Optional<Date>;
  failed_at: Optional<Date>;
  api_key: Optional<string>;
  /** The demand that the fleet rented it for; null when somebody asked for it. */
  wish: Optional<string>;
  /** Shared by the instances of which only the first to be ready is kept. */
  race_id: Optional<string>;
  /** How long it may have nothing to do, 0 for ever; null takes the setting. */
  idle_minutes: Optional<number>;
  created_at: CreatedAt;
  /** From then on it takes no more jobs, and ends; null for ever. */
  expires_at: Optional<Date>;
  ready_at: Optional<Date>;
  terminated_at: Optional<Date>;
}

interface RentalsTable {
  id: string;
  instance_id: string;
  number: number;
  status: RentalStatus;
  label: string;
  offer: JSONColumnType<Offer>;
  machine_id: string;
  price_per_hour_usd: number;
  /** The prices before, the first one first. */
  past_prices: DefaultedJson<PastPrice[]>;
  provider_instance_id: Optional<string>;
  secret: string;
  address_url: Optional<string>;
  certificate_fingerprint: Optional<string>;
  message: Optional<string>;
  end_reason: Optional<TerminationReason>;
  end_evidence: Optional<string>;
  destroy_tries: Defaulted<number>;
  created_at: CreatedAt;
  create_sent_at: Optional<Date>;
  confirmed_at: Optional<Date>;
  /** When a view of the provider first showed it; absence before that may be read lag. */
  seen_at: Optional<Date>;
  running_at: Optional<Date>;
  /** What has kept a running machine from being used, without a break since `trouble_since`. */
  trouble: Optional<Trouble>;
  trouble_since: Optional<Date>;
  ready_at: Optional<Date>;
  destroy_requested_at: Optional<Date>;
  gone_at: Optional<Date>;
  /** When its costs were written for good: not before it was gone. */
  recorded_at: Optional<Date>;
  /** Until when the host lets the machine out; null while the provider has not said so. */
  contract_ends_at: Optional<Date>;
  /** After so many seconds without a heartbeat the machine destroys itself; null: it has no such switch. */
  dead_man_seconds: Optional<number>;
  /** When a heartbeat last reached it. */
  heartbeat_at: Optional<Date>;
}

/** What is remembered of a physical machine, whoever rented it. */
interface MachinesTable {
  provider: string;
  machine_id: string;
  /** Rentals that became ready. */
  successes: Defaulted<number>;
  /** Rentals that failed through the machine's own fault. */
  failures: Defaulted<number>;
  failures_in_row: Defaulted<number>;
  /** The newest first. */
  last_reasons: DefaultedJson<MachineFailure[]>;
  /** Not rented again before this. */
  cooldown_until: Optional<Date>;
  /** From the create call to ready; recent rentals count more. */
  ready_seconds: Optional<number>;
  /** At which its image arrived, at least. */
  download_mbps: Optional<number>;
  last_ready_at: Optional<Date>;
  last_failed_at: Optional<Date>;
}

/** What a rental has cost on one day of UTC, in millionths of a dollar. */
interface RentalCostsTable {
  rental_id: string;
  /** As `YYYY-MM-DD`. */
  day: string;
  gpu_micros: number;
  storage_micros: number;
  traffic_micros: number;
}

interface JobsTable {
  id: string;
  status: JobStatus;
  /** Null for a job of a batch, which has it for all of them. */
  workflow: NullableJson<Workflow>;
  batch_id: Optional<string>;
  inputs: DefaultedJson<JobInput[]>;
  seeds: DefaultedJson<JobSeed[]>;
  requirements: NullableJson<RequestedRequirements>;
  wanted_instance_id: Optional<string>;
  priority: Defaulted<number>;
  metadata: DefaultedJson<Record<string, string>>;
  wait_limit_ms: number;
  time_limit_ms: number;
  /** What a queued job waits for, in words. */
  waiting_for: Optional<string>;
  /** The one that is on its way, where it waits for such an instance. */
  waiting_instance_id: Optional<string>;
  /** ComfyUI is asked to make previews. */
  previews: Defaulted<boolean>;
  progress: NullableJson<JobProgress>;
  error: NullableJson<JobError>;
  /** Number of the current or last attempt; the fence of every write of a run. */
  attempt: Defaulted<number>;
  attempt_id: Optional<string>;
  instance_id: Optional<string>;
  cancel_requested_at: Optional<Date>;
  /** The same for workflows that differ in values only. */
  workflow_shape: Optional<string>;
  api_key: Optional<string>;
  /** Where its end is announced. */
  webhook_url: Optional<string>;
  created_at: CreatedAt;
  queued_at: CreatedAt;
  started_at: Optional<Date>;
  finished_at: Optional<Date>;
}

/** The newest preview of a job that somebody watches; gone with the job, and when nobody does any more. */
interface JobPreviewsTable {
  job_id: string;
  wanted_until: ColumnType<Date, Date, Date>;
  /** Another one for each image; null while there is none. */
  image_id: Optional<string>;
  node_id: Optional<string>;
  content_type: Optional<string>;
  image: Optional<Buffer>;
}

/** Jobs that were accepted together, of one workflow. */
interface BatchesTable {
  id: string;
  workflow: JSONColumnType<Workflow>;
  job_count: number;
  api_key: Optional<string>;
  created_at: ColumnType<Date, Date, Date>;
}

/** What a request made that may be repeated. */
interface IdempotencyKeysTable {
  /** Name of the caller's API key; empty without one. */
  api_key: string;
  route: string;
  key: string;
  fingerprint: string;
  made_id: string;
  created_at: ColumnType<Date, Date, Date>;
  expires_at: ColumnType<Date, Date, Date>;
}

/** The one event of a job, on its way to a URL. */
interface WebhookDeliveriesTable {
  id: string;
  job_id: string;
  type: WebhookEvent;
  url: string;
  status: Defaulted<DeliveryStatus>;
  /** What is sent; null before the first try. */
  body: Optional<string>;
  /** Counts wake-ups; one that carries an older number was overtaken and is dropped. */
  wake: Defaulted<number>;
  tries: Defaulted<number>;
  /** Since the event or the last replay. */
  tries_of_round: Defaulted<number>;
  /** Null unless pending. */
  next_try_at: Optional<Date>;
  created_at: CreatedAt;
  ended_at: Optional<Date>;
}

interface WebhookTriesTable {
  delivery_id: string;
  number: number;
  started_at: ColumnType<Date, Date, Date>;
  /** Null while it goes on, and for ever where the service died in it. */
  ended_at: Optional<Date>;
  status_code: Optional<number>;
  error: Optional<string>;
  answer: Optional<string>;
}

interface AttemptsTable {
  /** ComfyUI's prompt_id. */
  id: string;
  job_id: string;
  number: number;
  instance_id: string;
  slot: number;
  /** Written just before the prompt is sent, so that a set one means "maybe submitted". */
  client_id: Optional<string>;
  status: AttemptStatus;
  outcome: Optional<AttemptOutcome>;
  reason: Optional<string>;
  /** The failure after which the job was tried once more, with the memory of its instance freed. */
  retried_for: Optional<RetriedError>;
  created_at: CreatedAt;
  /** When a process last worked on it; old means that its message was lost. */
  touched_at: CreatedAt;
  submitted_at: Optional<Date>;
  started_at: Optional<Date>;
  executed_at: Optional<Date>;
  collecting_at: Optional<Date>;
  /** Whether ComfyUI made nothing anew; null until it is done. */
  outputs_reused: Optional<boolean>;
  ended_at: Optional<Date>;
  /** The rental that it ran on, and what its files cost to move there and back; null until that was counted. */
  rental_id: Optional<string>;
  traffic_micros: Optional<number>;
}

interface OutputsTable {
  job_id: string;
  name: string;
  position: number;
  node_id: string;
  kind: OutputKind;
  /** From ComfyUI's temp folder: a preview rather than a result. */
  temporary: boolean;
  asset_id: Optional<string>;
  text: Optional<string>;
  content_type: string;
  size_bytes: number;
  created_at: CreatedAt;
  /** When its content was removed, which is then in neither column. */
  expired_at: Optional<Date>;
}

export type InstanceRow = Selectable<InstancesTable>;
export type RentalRow = Selectable<RentalsTable>;
export type JobRow = Selectable<JobsTable>;
export type BatchRow = Selectable<BatchesTable>;
export type AttemptRow = Selectable<AttemptsTable>;
export type DeliveryRow = Selectable<WebhookDeliveriesTable>;
export type TryRow = Selectable<WebhookTriesTable>;
export type MachineRow = Selectable<MachinesTable>;
export type OutputRow = Selectable<OutputsTable>;
export type AssetRow = Selectable<Tables['assets']>;
