// Every setting, once: its bounds, default and meaning. The README's table and .env.example are checked against this file.
import { z } from 'zod';
import { requirementsSchema } from './instances/requirements.ts';

const text = () => z.string().trim();
const number = (min: number, max: number) => z.coerce.number().min(min).max(max);
const integer = (min: number, max: number) => z.coerce.number().int().min(min).max(max);
/** A limit that `none` switches off: then the number is `unlimited`. */
const limit = (min: number, max: number, unlimited = Infinity) =>
  z.union([z.literal('none').transform(() => unlimited), number(min, max)]);
const flag = () => z.enum(['true', 'false']).transform((value) => value === 'true');
const list = () =>
  z.string().transform((value) =>
    value
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== ''),
  );
const url = () => z.url({ protocol: /^https?$/ }).transform((value) => value.replace(/\/+$/, ''));

const json = () =>
  z.string().transform((value, context): unknown => {
    try {
      return JSON.parse(value);
    } catch {
      context.addIssue({ code: 'custom', message: 'is not JSON' });
      return z.NEVER;
    }
  });

interface SettingInfo {
  description: string;
  unit?: string;
  /** Never printed, and redacted from logs. */
  secret?: boolean;
}

/** The description that goes with a schema; read back by `describeSettings`. */
const about = z.registry<SettingInfo>();
function setting<S extends z.ZodType>(schema: S, info: SettingInfo): S {
  about.add(schema, info);
  return schema;
}

/** The settings in the order in which they are documented. A value in a default is text, as it would be in the environment. */
const settingsSchema = z.object({
  HOST: setting(text().min(1).prefault('127.0.0.1'), {
    description: 'Address to listen on. Anything but loopback needs an API key.',
  }),
  PORT: setting(integer(0, 65_535).prefault('8400'), {
    description: 'Port to listen on; 0 takes a free one.',
  }),
  LOG_LEVEL: setting(z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']).prefault('info'), {
    description: 'Least severe level that is logged.',
  }),
  LOG_FORMAT: setting(z.enum(['json', 'pretty']).prefault('json'), {
    description: 'One JSON object a line, or text for a person.',
  }),
  API_KEYS: setting(list().prefault(''), {
    description:
      'API keys as name=key, separated by commas; a key has at least 32 characters. Stored hashed.',
    secret: true,
  }),
  CORS_ORIGINS: setting(list().prefault(''), {
    description: 'Origins of browsers that may call, separated by commas; * allows all.',
  }),
  TRUST_PROXY: setting(flag().prefault('false'), {
    description: "Take the caller's address from X-Forwarded-For. Only behind a proxy that sets it.",
  }),
  RATE_LIMIT_PER_MINUTE: setting(integer(1, 1_000_000).prefault('1200'), {
    description: 'Requests that one API key, or one address, may make.',
    unit: 'requests per minute',
  }),
  BODY_LIMIT_MB: setting(number(0.1, 100).prefault('10'), { description: 'Largest JSON body.', unit: 'MB' }),
  UPLOAD_LIMIT_MB: setting(number(1, 100_000).prefault('2048'), {
    description: 'Largest uploaded file.',
    unit: 'MB',
  }),
  SHUTDOWN_TIMEOUT_SECONDS: setting(number(1, 600).prefault('20'), {
    description: 'How long a graceful stop may take.',
    unit: 's',
  }),

  DATA_DIR: setting(text().min(1).prefault('./data'), {
    description: 'Folder of the embedded database and of stored files.',
  }),
  DATABASE_URL: setting(z.url({ protocol: /^postgres(ql)?$/ }).optional(), {
    description: 'A PostgreSQL (15 or newer) of your own. Unset: the service runs one itself in DATA_DIR.',
    secret: true,
  }),
  DATABASE_POOL_SIZE: setting(integer(4, 200).prefault('16'), {
    description: 'Connections to the database.',
  }),

  VASTAI_API_KEY: setting(text().min(1).optional(), {
    description: 'Key of the vast.ai account that pays. Unset: nothing is rented.',
    secret: true,
  }),
  VAST_API_URL: setting(url().prefault('https://console.vast.ai'), {
    description: "Base of vast.ai's API; changed only for tests and the demo.",
  }),
  VAST_PACING: setting(z.enum(['documented', 'none']).prefault('documented'), {
    description: 'Spacing of calls to vast.ai: as it documents, or none, which only a double can bear.',
  }),
  VAST_IMAGE_KIND: setting(z.enum(['vast', 'ai-dock']).prefault('vast'), {
    description:
      "Whose image VAST_IMAGE is: vast.ai's own, or ai-dock's. They differ in how they start and are closed.",
  }),
  VAST_IMAGE: setting(text().min(1).max(900).prefault('vastai/comfy'), {
    description: 'Image without its tag.',
  }),
  VAST_IMAGE_TAG: setting(text().min(1).max(120).prefault('v0.35.0-cuda-{cuda}-py312'), {
    description:
      'Tag of the image. {cuda} becomes 13.2 or 12.9, whichever the driver of the machine supports.',
  }),
  VAST_RUNTYPE: setting(z.enum(['ssh_direct', 'ssh_direc ssh_proxy', 'args']).prefault('ssh_direct'), {
    description: 'How vast.ai starts the container. args keeps the entrypoint of the image and opens no SSH.',
  }),
  VAST_COMFYUI_PORT: setting(integer(1, 65_535).prefault('8188'), {
    description: "Port of the image's authenticating proxy for ComfyUI.",
  }),
  VAST_COMFYUI_INTERNAL_PORT: setting(integer(1, 65_535).prefault('18188'), {
    description: 'Loopback port of ComfyUI inside the machine. Never mapped.',
  }),
  VAST_EXTRA_PORTS: setting(
    list()
      .pipe(z.array(z.string().regex(/^\d{1,5}$/)).max(20))
      .prefault(''),
    {
      description: 'Further ports of the image to map, separated by commas.',
    },
  ),
  VAST_DISK_GB: setting(number(8, 4096).prefault('80'), {
    description: 'Disk of a machine when the request names none; 150 and more for video models.',
    unit: 'GB',
  }),
  VAST_HTTPS: setting(flag().prefault('true'), {
    description: 'Reach machines by HTTPS, with the certificate pinned on first use.',
  }),
  VAST_COMFYUI_ARGS: setting(text().max(150).prefault(''), {
    description: 'Further command-line arguments for ComfyUI, before those that the service needs.',
  }),
  VAST_PROVISIONING_SCRIPT: setting(
    z
      .url({ protocol: /^https$/ })
      .max(256)
      .optional(),
    {
      description: 'Script that the image fetches and runs at its first boot, to download models.',
    },
  ),
  LABEL_PREFIX: setting(
    z
      .string()
      .regex(/^[a-z0-9-]{1,16}$/)
      .prefault('cfy'),
    {
      description: 'First part of the label of every rental.',
    },
  ),
  DEPLOYMENT: setting(
    z
      .string()
      .regex(/^[a-z0-9-]{1,32}$/)
      .optional(),
    {
      description:
        'Second part of the label; tells deployments on one vast.ai account apart. Unset: made once and kept in the database.',
    },
  ),

  COMFYUI_URLS: setting(list().pipe(z.array(url()).max(100)).prefault(''), {
    description: 'ComfyUI servers that exist already, separated by commas.',
  }),
  COMFYUI_TOKEN: setting(text().min(1).optional(), {
    description: 'Bearer token for the servers of COMFYUI_URLS.',
    secret: true,
  }),

  MAX_PRICE_PER_HOUR_USD: setting(limit(0.01, 1000, 1000).prefault('1'), {
    description: 'Highest price of one machine, disk included; none switches the limit off.',
    unit: 'USD per hour',
  }),
  MAX_TOTAL_PRICE_PER_HOUR_USD: setting(limit(0.01, 1_000_000).prefault('3'), {
    description: 'Highest price of all machines together; none switches the limit off.',
    unit: 'USD per hour',
  }),
  MAX_INSTANCES: setting(integer(0, 1000).prefault('3'), { description: 'Rented instances at once.' }),
  MAX_SPEND_PER_DAY_USD: setting(limit(0, 1_000_000).prefault('50'), {
    description:
      'Most that may be spent in a day of UTC, the worst case of everything rented included; none switches the limit off.',
    unit: 'USD',
  }),
  MAX_SPEND_PER_MONTH_USD: setting(limit(0, 10_000_000).prefault('500'), {
    description:
      'Most that may be spent in a month of UTC, the worst case of everything rented included; none switches the limit off.',
    unit: 'USD',
  }),
  INSTANCE_MAX_LIFETIME_HOURS: setting(limit(0.01, 8760).prefault('12'), {
    description:
      'Longest life of an instance, from its request on; then it takes no more jobs and ends. none switches the limit off.',
    unit: 'h',
  }),
  DRAIN_LIMIT_MINUTES: setting(number(0, 10_080).prefault('30'), {
    description:
      'How long the jobs of an instance that ends for a limit may go on before they are handed back to the queue.',
    unit: 'min',
  }),
  DESTROY_RESERVE_HOURS: setting(number(0, 168).prefault('1'), {
    description:
      'Hours that every machine is expected to bill beyond its end, should vast.ai not destroy it.',
    unit: 'h',
  }),
  CREDIT_RESERVE_HOURS: setting(number(0, 8760).prefault('2'), {
    description:
      'Nothing is rented that would leave the vast.ai account with credit for fewer hours than these.',
    unit: 'h',
  }),
  CREDIT_CHECK_SECONDS: setting(number(1, 86_400).prefault('60'), {
    description: 'How often the credit of the vast.ai account is looked at.',
    unit: 's',
  }),
  MAX_RENTALS_PER_INSTANCE: setting(integer(1, 20).prefault('3'), {
    description: 'Machines that are tried, one after the other, before an instance is given up.',
  }),
  SEARCH_TIMEOUT_SECONDS: setting(number(1, 86_400).prefault('300'), {
    description: 'How long an instance waits for a fitting offer.',
    unit: 's',
  }),
  RENT_SETTLE_SECONDS: setting(number(1, 3600).prefault('120'), {
    description:
      'How long a rental is looked for that no view of the provider shows, before it counts as not made or lost.',
    unit: 's',
  }),
  ORPHAN_POLICY: setting(z.enum(['destroy', 'adopt', 'report']).prefault('destroy'), {
    description:
      'What becomes of a rental with the label of this deployment that no record accounts for: destroyed, used again where it was only missed and its secret is still known and else destroyed, or only reported.',
  }),
  ORPHAN_GRACE_SECONDS: setting(number(0, 86_400).prefault('120'), {
    description: 'How long a rental must have been seen without a record before it counts as an orphan.',
    unit: 's',
  }),
  RECONCILE_SECONDS: setting(number(0.05, 600).prefault('60'), {
    description: 'How often the rentals of the account are compared with the records.',
    unit: 's',
  }),
  DEAD_MAN_SWITCH_MINUTES: setting(number(0, 1440).prefault('30'), {
    description:
      "How long a machine goes on without a sign of life from this service before it destroys itself; 0 builds no such switch. Only with vast.ai's own image and an SSH run type.",
    unit: 'min',
  }),
  LOADING_TIMEOUT_SECONDS: setting(number(1, 86_400).prefault('1800'), {
    description: 'How long a machine may take to fetch its image and run.',
    unit: 's',
  }),
  STARTING_TIMEOUT_SECONDS: setting(number(1, 86_400).prefault('1200'), {
    description: 'How long ComfyUI may take to answer once the machine runs, model downloads included.',
    unit: 's',
  }),
  UNREACHABLE_TIMEOUT_SECONDS: setting(number(1, 86_400).prefault('120'), {
    description: 'How long a running machine may swallow connections before it counts as unreachable.',
    unit: 's',
  }),
  INSTANCE_POLL_SECONDS: setting(number(0.05, 600).prefault('5'), {
    description: 'How often an instance that is not ready is looked at.',
    unit: 's',
  }),
  INSTANCE_CHECK_SECONDS: setting(number(0.05, 3600).prefault('30'), {
    description: 'How often a ready instance is looked at.',
    unit: 's',
  }),
  INSTANCE_IDLE_MINUTES: setting(number(0, 10_080).prefault('15'), {
    description: 'How long a rented instance may have nothing to do before it is let go; 0 keeps it.',
    unit: 'min',
  }),

  FLEET_MIN: setting(integer(0, 1000).prefault('0'), {
    description: 'Rented instances that are kept although no job waits for them.',
  }),
  FLEET_MAX: setting(integer(0, 1000).prefault('2'), {
    description:
      'Instances that the service may rent by itself for jobs that name none, at once and within MAX_INSTANCES; 0 leaves all renting to POST /instances.',
  }),
  FLEET_REQUIREMENTS: setting(json().pipe(requirementsSchema).prefault('{}'), {
    description: 'What such an instance must satisfy where a job names no requirements, as JSON.',
  }),
  FLEET_JOBS_PER_INSTANCE: setting(integer(1, 10_000).prefault('4'), {
    description: 'Queued jobs that one instance is enough for; more of them bring another.',
  }),
  FLEET_RACE: setting(integer(1, 2).prefault('1'), {
    description:
      'Machines that are rented for one such instance; of 2 the first that is ready is kept and the other destroyed.',
  }),
  FLEET_RETRY_SECONDS: setting(number(0.05, 3600).prefault('60'), {
    description:
      'Pause after an instance that ended without being ready; doubles with each further one, up to an hour.',
    unit: 's',
  }),

  JOB_TIME_LIMIT_SECONDS: setting(number(1, 604_800).prefault('3600'), {
    description: 'How long a job may run when it names no limit of its own.',
    unit: 's',
  }),
  JOB_WAIT_LIMIT_SECONDS: setting(number(1, 2_592_000).prefault('86400'), {
    description: 'How long a job may wait for an instance when it names no limit of its own.',
    unit: 's',
  }),
  JOB_MAX_ATTEMPTS: setting(integer(1, 20).prefault('3'), {
    description: 'Tries of a job whose instances are lost.',
  }),
  WORKFLOW_MAX_NODES: setting(integer(1, 100_000).prefault('1000'), {
    description: 'Nodes of one workflow.',
  }),
  INPUT_URL_TIMEOUT_SECONDS: setting(number(1, 86_400).prefault('300'), {
    description: 'How long an input given by URL may take to arrive.',
    unit: 's',
  }),
  INPUT_URL_ALLOWED_HOSTS: setting(list().prefault(''), {
    description:
      'Hosts that inputs may be fetched from although their address is private, as host or host:port.',
  }),
});

/** All settings, checked, under the names of their variables. */
export type Config = z.output<typeof settingsSchema>;

/** Thrown at the start: one line for each setting at fault, without its value where that is secret. */
export class ConfigError extends Error {
  readonly lines: string[];

  constructor(lines: string[]) {
    super(lines.join('\n'));
    this.name = 'ConfigError';
    this.lines = lines;
  }
}

/** Reads the settings from an environment. Throws `ConfigError` naming every one at fault. */
export function loadConfig(env: Record<string, string | undefined>): Config {
  const given = Object.fromEntries(
    Object.keys(settingsSchema.shape).flatMap((name) => {
      const value = env[name];
      return value === undefined || value === '' ? [] : [[name, value]];
    }),
  );
  const parsed = settingsSchema.safeParse(given);
  if (parsed.success) return checkTogether(parsed.data);
  throw new ConfigError(
    parsed.error.issues.map((issue) => {
      const name = String(issue.path[0]);
      const info = settingInfo(name);
      const shown = info.secret === true ? '' : ` (got "${String(given[name])}")`;
      const unit = info.unit === undefined ? '' : `, in ${info.unit}`;
      return `${name}${shown}: ${issue.message}${unit}. ${info.description}`;
    }),
  );
}

/** What the name of an API key looks like. */
export const apiKeyNamePattern = /^[A-Za-z0-9_.-]{1,64}$/;

/** The API keys of the settings as pairs; a key never appears in an error. */
export function configuredApiKeys(config: Config): { name: string; key: string }[] {
  return config.API_KEYS.map((entry) => {
    const at = entry.indexOf('=');
    return { name: entry.slice(0, Math.max(0, at)), key: entry.slice(at + 1) };
  });
}

export interface SettingDescription extends SettingInfo {
  name: string;
  /** As it would be written in the environment; null where there is none. */
  default: string | null;
}

/** Every setting with its meaning, for the README's table and `.env.example`. */
export function describeSettings(): SettingDescription[] {
  const empty = Object.entries(settingsSchema.shape);
  return empty.map(([name, schema]) => ({ name, default: defaultOf(schema), ...settingInfo(name) }));
}

function checkTogether(config: Config): Config {
  const lines: string[] = [];
  const names = new Set<string>();
  for (const { name, key } of configuredApiKeys(config)) {
    if (!apiKeyNamePattern.test(name))
      lines.push('API_KEYS: every entry is name=key, with a name of letters, digits, _ . or -.');
    else if (key.length < 32) lines.push(`API_KEYS: the key named ${name} is shorter than 32 characters.`);
    if (names.has(name)) lines.push(`API_KEYS: the name ${name} appears twice.`);
    names.add(name);
  }
  if (config.VAST_COMFYUI_PORT === config.VAST_COMFYUI_INTERNAL_PORT) {
    lines.push(
      'VAST_COMFYUI_INTERNAL_PORT: must differ from VAST_COMFYUI_PORT, or the image opens no site for it.',
    );
  }
  if (lines.length > 0) throw new ConfigError(lines);
  return config;
}

function settingInfo(name: string): SettingInfo {
  const schema = new Map<string, z.ZodType>(Object.entries(settingsSchema.shape)).get(name);
  return (schema && about.get(schema)) ?? { description: '' };
}

function defaultOf(schema: z.ZodType): string | null {
  return schema instanceof z.ZodPrefault ? String(schema.def.defaultValue) : null;
}
