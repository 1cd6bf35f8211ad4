// An instance as vast.ai shows it, reduced to what the domain needs to decide.
import { isIP, isIPv4 } from 'node:net';
import { z } from 'zod';
import type {
  MachineAddress,
  ProviderCondition,
  ProviderFailure,
  ProviderInstance,
} from '../instances/provider.ts';
import { briefText } from './redaction.ts';
import type { InstanceRow } from './schemas.ts';
import { isRecord } from '../support/is-record.ts';

export interface AddressRules {
  /** The port inside the machine. */
  port: number;
  scheme: MachineAddress['scheme'];
}

export function rentalView(row: InstanceRow, rules: AddressRules): ProviderInstance {
  return {
    providerInstanceId: row.id,
    label: row.label,
    machineId: row.machine_id,
    pricePerHourUsd: row.dph_total,
    createdAt: dateOf(row.start_date),
    endsAt: dateOf(row.end_date),
    condition: conditionOf(row, rules),
    message: briefText(row.status_msg, credentialsIn(row)),
  };
}

/** What vast.ai writes into `status_msg` when a start fails, while `actual_status` may stay "loading" for minutes. */
const failureMessages: { pattern: RegExp; reason: ProviderFailure }[] = [
  { pattern: /oci runtime create failed|gpu error/i, reason: 'container_failed' },
  {
    pattern:
      /failed to pull image|pull access denied|manifest\b.*\b(unknown|not found)|unauthorized|failed to resolve reference|repository does not exist|no space left on device|unexpected eof/i,
    reason: 'image_pull_failed',
  },
];
const daemonMessage = /error response from daemon/i;

const LATEST_SECONDS = Date.UTC(9999, 11, 31) / 1000;

function conditionOf(row: InstanceRow, rules: AddressRules): ProviderCondition {
  const status = row.actual_status?.trim().toLowerCase() ?? '';
  if (status === 'offline') return failed('offline');
  if (status === 'unknown') return failed('unknown_to_provider');
  // The text of a machine that runs may be old.
  const told = status === 'running' ? null : failureIn(row.status_msg ?? '', status);
  if (told !== null) return failed(told);
  // vast.ai gives up a start, or lets a higher bid win, by turning what it intends. We never stop a machine.
  if (row.intended_status === 'stopped') {
    return failed(row.is_bid === true ? 'outbid' : 'stopped_by_provider');
  }
  if (status === 'exited') return failed('exited');
  if (status === 'stopped' || status === 'frozen') return failed('stopped_by_provider');
  if (status === 'running') return { kind: 'running', address: addressOf(row, rules) };
  return { kind: 'loading' };
}

/** No moment that could be meant, such as 0 or milliseconds where seconds belong, is none: ISO 8601 has four digits for a year. */
function dateOf(seconds: number | null): Date | null {
  if (seconds === null || seconds <= 0 || seconds > LATEST_SECONDS) return null;
  return new Date(seconds * 1000);
}

function failed(reason: ProviderFailure): ProviderCondition {
  return { kind: 'failed', reason };
}

function failureIn(message: string, status: string): ProviderFailure | null {
  const known = failureMessages.find(({ pattern }) => pattern.test(message));
  if (known !== undefined) return known.reason;
  if (!daemonMessage.test(message)) return null;
  return status === 'loading' ? 'image_pull_failed' : 'container_failed';
}

const portEntriesSchema = z.array(
  z.object({
    HostIp: z.string().optional(),
    // Text in every answer seen; a number is taken too.
    HostPort: z.coerce
      .string()
      .regex(/^\d{1,5}$/)
      .transform(Number)
      .pipe(z.int().min(1).max(65_535)),
  }),
);

/** Where the port is reached from outside; null until both address and port are published. The entry for IPv4 wins: the order is not promised. */
function addressOf(row: InstanceRow, { port, scheme }: AddressRules): MachineAddress | null {
  const host = row.public_ipaddr?.trim() ?? '';
  if (isIP(host) === 0 || !isRecord(row.ports)) return null;
  const entries = portEntriesSchema.safeParse(row.ports[`${port}/tcp`]);
  if (!entries.success) return null;
  const entry = entries.data.find(({ HostIp }) => isIPv4(HostIp ?? '')) ?? entries.data[0];
  return entry === undefined ? null : { scheme, host, port: entry.HostPort };
}

/** vast.ai shows what the machine was given, its secret included, to whoever may read the instance. */
function credentialsIn(row: InstanceRow): string[] {
  const pairs = Array.isArray(row.extra_env)
    ? row.extra_env.filter((pair): pair is unknown[] => Array.isArray(pair))
    : Object.entries(isRecord(row.extra_env) ? row.extra_env : {});
  const secrets = pairs.filter(([name]) => /password|token|secret|key/i.test(String(name)));
  return [row.jupyter_token, ...secrets.map(([, value]) => value)].filter(
    (value): value is string => typeof value === 'string',
  );
}
