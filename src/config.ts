// Every setting, once: its bounds, default and meaning. The README's table and .env.example are checked against this file.
import { z } from 'zod';
import { requirementsSchema } from './instances/requirements.ts';
import { describeIssue, fieldProblems } from './support/issues.ts';
import { isHost } from './support/public-url.ts';

/** Every check of a setting fails with the one phrase that says what is accepted. */
const text = (maxLength = 10_000) => {
  const must = `must be a text of 1 to ${maxLength} characters`;
  return z.string().trim().min(1, must).max(maxLength, must);
};
/** What goes into a header `Authorization`: any other character would be changed on its way, or end each request before it is sent. */
const credential = /^[\x21-\x7e]+$/;
const mustBeCredential = 'must be a text of printable ASCII without spaces';
const token = () => text().regex(credential, mustBeCredential);
const shaped = (pattern: RegExp, must: string) => z.string().regex(pattern, must);
const number = (min: number, max: number, must = `must be a number from ${min} to ${max}`) =>
  z.coerce.number(must).min(min, must).max(max, must);
const integer = (min: number, max: number) => {
  const must = `must be a whole number from ${min} to ${max}`;
  return z.coerce.number(must).int(must).min(min, must).max(max, must);
};
/** A limit that `none` switches off: then the number is `unlimited`. */
const limit = (min: number, max: number, unlimited = Infinity) => {
  const must = `must be a number from ${min} to ${max}, or none`;
  return z.union([z.literal('none').transform(() => unlimited), number(min, max, must)], must);
};
const choice = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, `must be one of ${values.join(', ')}`);
const flag = () => z.enum(['true', 'false'], 'must be true or false').transform((value) => value === 'true');
/** Proxies between the callers and the service, the nearest one counted first. */
const hops = () => {
  const must = 'must be true, false, or the number of proxies, 0 to 10';
  const one = z.literal('true').transform(() => 1);
  const none = z.literal('false').transform(() => 0);
  return z.union([one, none, integer(0, 10)], must);
};
const list = () =>
  z.string().transform((value) =>
    value
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== ''),
  );
/** A list of texts that each pass a check. */
const listOf = (isOne: (item: string) => boolean, must: string) =>
  list().pipe(z.array(z.string().refine(isOne, must)));
const hosts = () =>
  listOf(isHost, 'must be a host such as hooks.internal or 10.0.0.7:9000, without a scheme or a path');
const url = () =>
  z
    .url({ protocol: /^https?$/, error: 'must be a URL that begins with http:// or https://' })
    .transform((value) => value.replace(/\/+$/, ''));
/** Credentials in a URL would end up wherever the URL is shown, and are not sent. */
const comfyUrl = () =>
  url().refine(
    (value) => !hasCredentials(value),
    'must be a URL without a user and a password; a server that asks for a token gets COMFYUI_TOKEN',
  );
/** An entry of a list of waits, in seconds. */
const wait = () => {
  const must = 'must be a number from 0 to 86400';
  return z.coerce.number<string>(must).min(0, must).max(86_400, must);
};
const postgresUrl = () =>
  z.url({
    protocol: /^postgres(ql)?$/,
    error: 'must be a URL such as postgres://user:password@host:5432/database',
  });

const json = () =>
  z.string().transform((value, context): unknown => {
    try {
      return JSON.parse(value);
    } catch {
      context.addIssue({ code: 'custom', message: 'must be JSON' });
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

const s3Names = ['S3_ENDPOINT', 'S3_BUCKET', 'S3_ACCESS_KEY_ID', 'S3_SECRET_ACCESS_KEY'] as const;

/** The settings in the order in which they are documented. A value in a default is text, as it would be in the environment. */
const settingsSchema = z
  .object({
    HOST: setting(text().prefault('127.0.0.1'), {
      description: 'Address to listen on. Anything but loopback needs an API key.',
    }),
    PORT: setting(integer(0, 65_535).prefault('8400'), {
      description: 'Port to listen on; 0 takes a free one.',
    }),
    PUBLIC_URL: setting(url().optional(), {
      description:
        'Where others reach the service, such as https://comfy.example.com. Unset: links to it are paths.',
    }),
    LOG_LEVEL: setting(choice(['trace', 'debug', 'info', 'warn', 'error', 'silent']).prefault('info'), {
      description: 'Least severe level that is logged.',
    }),
    LOG_FORMAT: setting(choice(['json', 'pretty']).prefault('json'), {
      description: 'One JSON object a line (json), or text for a person (pretty).',
    }),
    API_KEYS: setting(list().superRefine(checkApiKeys).prefault(''), {
      description:
        'API keys as name=key, separated by commas; a key has at least 32 characters. Stored hashed. The same for all replicas: each start revokes those of an earlier one that it does not name.',
      secret: true,
    }),
    CORS_ORIGINS: setting(
      listOf(isOrigin, 'must be an origin such as https://app.example.com, without a path, or *').prefault(
        '',
      ),
      {
        description:
          'Origins of browsers that may call, separated by commas; * allows all where there are API keys.',
      },
    ),
    TRUST_PROXY: setting(hops().prefault('false'), {
      description:
        "Take the caller's address from X-Forwarded-For, as the proxy in front wrote it (true). Behind several in a row: their number. Entries beyond are the caller's own words.",
    }),
    RATE_LIMIT_PER_MINUTE: setting(integer(1, 1_000_000).prefault('1200'), {
      description: 'Requests that one API key, or one address, may make.',
      unit: 'requests per minute',
    }),
    LAG_LIMIT_MS: setting(integer(0, 60_000).prefault('2000'), {
      description:
        'While the event loop runs later than this, on average over half a second, requests are answered 503. 0: never.',
      unit: 'milliseconds',
    }),
    BODY_LIMIT_MB: setting(number(0.1, 100).prefault('10'), {
      description: 'Largest JSON body. Of any size, it may have 200000 fields and entries at most.',
      unit: 'MB',
    }),
    UPLOAD_LIMIT_MB: setting(number(1, 100_000).prefault('2048'), {
      description: 'Largest uploaded file.',
      unit: 'MB',
    }),
    DRAIN_SECONDS: setting(number(0, 300).prefault('0'), {
      description:
        'How long a stop goes on answering while /health/ready says 503, so that a balancer in front sends requests elsewhere first.',
      unit: 's',
    }),
    SHUTDOWN_TIMEOUT_SECONDS: setting(number(1, 600).prefault('20'), {
      description: 'How long a graceful stop may take.',
      unit: 's',
    }),

    DATA_DIR: setting(text().prefault('./data'), {
      description: 'Folder of the embedded database and of stored files.',
    }),
    DATABASE_URL: setting(postgresUrl().optional(), {
      description: 'A PostgreSQL (15 or newer) of your own. Unset: the service runs one itself in DATA_DIR.',
      secret: true,
    }),
    DATABASE_POOL_SIZE: setting(integer(4, 200).prefault('16'), {
      description: 'Connections to the database.',
    }),

    ASSET_STORE: setting(choice(['local', 's3']).prefault('local'), {
      description:
        'Where stored files are: in DATA_DIR, which then all replicas must share, or in an S3-compatible bucket.',
    }),
    S3_ENDPOINT: setting(url().optional(), {
      description: "Address of the S3-compatible server. Unset: Amazon's own, by S3_REGION.",
    }),
    S3_BUCKET: setting(
      shaped(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'must be the name of a bucket').optional(),
      { description: 'Bucket for stored files; it must exist.' },
    ),
    S3_REGION: setting(text(64).prefault('us-east-1'), { description: 'Region of the bucket.' }),
    S3_ACCESS_KEY_ID: setting(text(200).optional(), {
      description: 'Key for the bucket. Unset: what the surroundings give, such as the role of a machine.',
      secret: true,
    }),
    S3_SECRET_ACCESS_KEY: setting(text(200).optional(), {
      description: 'The secret of S3_ACCESS_KEY_ID.',
      secret: true,
    }),
    S3_FORCE_PATH_STYLE: setting(flag().prefault('true'), {
      description:
        'Name the bucket in the path, as most servers want it, and not in the host name, as Amazon prefers it.',
    }),
    S3_PREFIX: setting(
      shaped(/^(?:[\w.-]+\/)*$/, 'must be folders, each followed by a slash, such as comfyfleet/').prefault(
        '',
      ),
      { description: 'Folder within the bucket, with a slash at its end.' },
    ),
    RESULT_RETENTION_DAYS: setting(integer(0, 36_500).prefault('30'), {
      description: 'How long the results of a job are kept after its end; 0 keeps them for ever.',
      unit: 'days',
    }),
    ASSET_RETENTION_DAYS: setting(integer(0, 36_500).prefault('30'), {
      description:
        'How long an uploaded file is kept after it was last uploaded, or used by a job that had not ended; 0 keeps it for ever.',
      unit: 'days',
    }),
    JOB_RETENTION_DAYS: setting(integer(0, 36_500).prefault('180'), {
      description:
        'How long the record of a job is kept after its end, unless it still has results or a webhook to deliver; 0 keeps it for ever.',
      unit: 'days',
    }),
    LINK_LIFETIME_HOURS: setting(number(0.01, 168).prefault('24'), {
      description: 'How long a link to a file works without an API key, at least.',
      unit: 'h',
    }),
    LINK_SECRET: setting(
      list()
        .pipe(z.array(z.string().min(32, 'must have at least 32 characters')).max(10))
        .prefault(''),
      {
        description:
          'Secrets of such links, separated by commas: the first signs, all are accepted. Unset: made once and kept in the database.',
        secret: true,
      },
    ),

    VASTAI_API_KEY: setting(token().optional(), {
      description: 'Key of the vast.ai account that pays. Unset: nothing is rented.',
      secret: true,
    }),
    VAST_API_URL: setting(url().prefault('https://console.vast.ai'), {
      description: "Base of vast.ai's API; changed only for tests and the demo.",
    }),
    VAST_PACING: setting(choice(['documented', 'none']).prefault('documented'), {
      description: 'Spacing of calls to vast.ai: as it documents, or none, which only a double can bear.',
    }),
    VAST_IMAGE_KIND: setting(choice(['vast', 'ai-dock']).prefault('vast'), {
      description:
        "Whose image VAST_IMAGE is: vast.ai's own, or ai-dock's. They differ in how they start and are closed.",
    }),
    VAST_IMAGE: setting(text(900).prefault('vastai/comfy'), {
      description: 'Image without its tag.',
    }),
    VAST_IMAGE_TAG: setting(text(120).prefault('v0.35.0-cuda-{cuda}-py312'), {
      description:
        'Tag of the image. {cuda} becomes 13.2 or 12.9, whichever the driver of the machine supports.',
    }),
    VAST_RUNTYPE: setting(choice(['ssh_direct', 'ssh_direc ssh_proxy', 'args']).prefault('ssh_direct'), {
      description:
        'How vast.ai starts the container. args keeps the entrypoint of the image and opens no SSH.',
    }),
    VAST_COMFYUI_PORT: setting(integer(1, 65_535).prefault('8188'), {
      description: "Port of the image's authenticating proxy for ComfyUI.",
    }),
    VAST_COMFYUI_INTERNAL_PORT: setting(integer(1, 65_535).prefault('18188'), {
      description: 'Loopback port of ComfyUI inside the machine. Never mapped.',
    }),
    VAST_EXTRA_PORTS: setting(
      listOf(isPort, 'must be the number of a port, 1 to 65535')
        .refine((ports) => ports.length <= 20, 'must be at most 20 ports')
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
    VAST_COMFYUI_ARGS: setting(
      z.string().trim().max(150, 'must be a text of at most 150 characters').prefault(''),
      {
        description: 'Further command-line arguments for ComfyUI, before those that the service needs.',
      },
    ),
    VAST_PROVISIONING_SCRIPT: setting(
      z
        .url({ protocol: /^https$/, error: 'must be a URL that begins with https://' })
        .max(256, 'must be a URL of at most 256 characters')
        .optional(),
      {
        description: 'Script that the image fetches and runs at its first boot, to download models.',
      },
    ),
    LABEL_PREFIX: setting(
      shaped(/^[a-z0-9-]{1,16}$/, 'must be 1 to 16 lower-case letters, digits or -').prefault('cfy'),
      {
        description: 'First part of the label of every rental.',
      },
    ),
    DEPLOYMENT: setting(
      shaped(/^[a-z0-9-]{1,32}$/, 'must be 1 to 32 lower-case letters, digits or -').optional(),
      {
        description:
          'Second part of the label; tells deployments on one vast.ai account apart. Unset: made once and kept in the database.',
      },
    ),

    COMFYUI_URLS: setting(
      list().pipe(z.array(comfyUrl()).max(100, 'must be at most 100 URLs')).prefault(''),
      {
        description:
          'ComfyUI servers that exist already, separated by commas. The same for all replicas: each start ends those that it does not name.',
      },
    ),
    COMFYUI_TOKEN: setting(token().optional(), {
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
    ORPHAN_POLICY: setting(choice(['destroy', 'adopt', 'report']).prefault('destroy'), {
      description:
        'What becomes of a rental with the label of this deployment and no live record: destroyed, used again if missed, with its secret known and in the limits, else destroyed, or reported if no record knew it.',
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
      description:
        'How long a running machine may swallow connections before it counts as unreachable; its jobs then go on elsewhere. While the provider cannot be asked either, this does not count.',
      unit: 's',
    }),
    COMFYUI_TIMEOUT_SECONDS: setting(number(0.05, 600).prefault('30'), {
      description: 'How long ComfyUI may take to answer a call that gives it no work.',
      unit: 's',
    }),
    STALL_TIMEOUT_SECONDS: setting(number(0.05, 3600).prefault('30'), {
      description:
        'How long ComfyUI may let a job wait while it runs none before it counts as wedged; the job then goes on elsewhere.',
      unit: 's',
    }),
    STOP_TIMEOUT_SECONDS: setting(number(0.05, 86_400).prefault('300'), {
      description:
        'How long ComfyUI may take to stop a job that was canceled or has reached its limit before it counts as wedged.',
      unit: 's',
    }),
    INSTANCE_POLL_SECONDS: setting(number(0.05, 600).prefault('5'), {
      description: 'How often an instance that is not ready is looked at.',
      unit: 's',
    }),
    INSTANCE_CHECK_SECONDS: setting(number(0.05, 3600).prefault('30'), {
      description:
        'How often a ready instance is looked at; more often where DEAD_MAN_SWITCH_MINUTES is short.',
      unit: 's',
    }),
    INSTANCE_IDLE_MINUTES: setting(number(0, 10_080).prefault('15'), {
      description: 'How long a rented instance may have nothing to do before it is let go; 0 keeps it.',
      unit: 'min',
    }),

    FLEET_MIN: setting(integer(0, 1000).prefault('0'), {
      description: 'Rented instances that are kept although no job waits for them, within FLEET_MAX.',
    }),
    FLEET_MAX: setting(integer(0, 1000).prefault('2'), {
      description:
        'Instances that the service may rent by itself for jobs that name none, within MAX_INSTANCES; 0 leaves all renting to POST /instances. Where all are taken, one idle for a minute gives way to what other jobs need.',
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
      description: 'Attempts of a job that may be lost with their instances before it is given up.',
    }),
    PREVIEWS_PER_SECOND: setting(number(0.1, 20).prefault('2'), {
      description: 'Previews of one job that are handed on; those in between are dropped.',
      unit: 'per second',
    }),
    PREVIEW_LIMIT_KB: setting(number(1, 10_000).prefault('256'), {
      description: 'Largest preview that is handed on.',
      unit: 'kB',
    }),
    BATCH_MAX_ITEMS: setting(integer(1, 1000).prefault('100'), {
      description: 'Jobs of one batch.',
    }),
    PREFER_WAIT_MAX_SECONDS: setting(integer(0, 90).prefault('60'), {
      description: 'Longest time that a request with Prefer: wait is held open.',
      unit: 's',
    }),
    IDEMPOTENCY_HOURS: setting(number(0.01, 720).prefault('24'), {
      description: 'How long an Idempotency-Key is kept.',
      unit: 'h',
    }),
    WEBHOOK_SECRET: setting(
      list()
        .pipe(z.array(z.string().refine(isWebhookSecret, 'must be whsec_ and 24 to 64 bytes in base64')))
        .prefault(''),
      {
        description:
          'Signs webhooks; make one with: echo "whsec_$(openssl rand -base64 32)". Two, separated by a comma, both sign, so that one can replace the other. Unset: no job may name a webhook.',
        secret: true,
      },
    ),
    WEBHOOK_ALLOWED_HOSTS: setting(hosts().prefault(''), {
      description: 'Hosts that webhooks may go to although their address is private, as host or host:port.',
    }),
    WEBHOOK_TIMEOUT_SECONDS: setting(number(0.1, 60).prefault('15'), {
      description: 'How long the receiver of a webhook may take to answer.',
      unit: 's',
    }),
    WEBHOOK_RETRY_SECONDS: setting(
      list()
        .pipe(z.array(wait()).max(50, 'must be at most 50 waits'))
        .prefault('5,30,120,600,1800,3600,7200,14400,28800,28800'),
      {
        description:
          'Waits between the tries of a webhook, separated by commas; after the last it is given up. The default takes a day.',
        unit: 's',
      },
    ),
    WEBHOOK_RETENTION_DAYS: setting(number(0, 3650).prefault('30'), {
      description: 'How long a delivery of a webhook is kept after its end.',
      unit: 'days',
    }),
    NODE_CATALOG_HOURS: setting(number(0, 8760).prefault('168'), {
      description:
        'How long the nodes of an image, as an instance of it had them, count for jobs that wait for a machine; 0 checks jobs only against instances that are ready.',
      unit: 'h',
    }),
    WORKFLOW_MAX_NODES: setting(integer(1, 10_000).prefault('1000'), {
      description: 'Nodes of one workflow.',
    }),
    INPUT_URL_TIMEOUT_SECONDS: setting(number(1, 86_400).prefault('300'), {
      description: 'How long an input given by URL may take to arrive.',
      unit: 's',
    }),
    INPUT_URL_ALLOWED_HOSTS: setting(hosts().prefault(''), {
      description:
        'Hosts that inputs may be fetched from although their address is private, as host or host:port.',
    }),
  })
  .refine((config) => config.VAST_COMFYUI_PORT !== config.VAST_COMFYUI_INTERNAL_PORT, {
    path: ['VAST_COMFYUI_INTERNAL_PORT'],
    error: 'must differ from VAST_COMFYUI_PORT, or the image opens no site for it',
    // Also where other settings are at fault, so that all of it is said at once.
    when: ({ issues }) => !issues.some(({ path }) => String(path?.[0]).startsWith('VAST_COMFYUI')),
  })
  .refine((config) => config.ASSET_STORE === 's3' || s3Names.every((name) => config[name] === undefined), {
    path: ['ASSET_STORE'],
    error: `must be s3 where ${s3Names.join(', ')} are set`,
  })
  .refine((config) => config.ASSET_STORE === 'local' || config.S3_BUCKET !== undefined, {
    path: ['S3_BUCKET'],
    error: 'must be set with ASSET_STORE=s3',
  })
  .refine(
    ({ S3_ACCESS_KEY_ID: id, S3_SECRET_ACCESS_KEY: secret }) => (id === undefined) === (secret === undefined),
    { path: ['S3_SECRET_ACCESS_KEY'], error: 'must be set together with S3_ACCESS_KEY_ID' },
  );

/** Settings that another one limits. */
const withinOthers = [
  ['FLEET_MIN', 'FLEET_MAX'],
  ['FLEET_MIN', 'MAX_INSTANCES'],
  ['FLEET_MAX', 'MAX_INSTANCES'],
] as const;

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
  const parsed = withinLimits(given).safeParse(given, { error: describeIssue });
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.flatMap((issue) => linesAbout(issue, given));
  throw new ConfigError([...new Set(lines)]);
}

/** What the name of an API key looks like. */
export const apiKeyNamePattern = /^[A-Za-z0-9_.-]{1,64}$/;

/** The API keys of the settings as pairs; a key never appears in an error. */
export function configuredApiKeys(config: Config): { name: string; key: string }[] {
  return config.API_KEYS.map(apiKeyOf);
}

export interface SettingDescription extends SettingInfo {
  name: string;
  /** As it would be written in the environment; null where there is none. */
  default: string | null;
  /** The values that are accepted, where it is a choice. */
  choices: string[] | null;
}

/** Every setting with its meaning, for the README's table and `.env.example`. */
export function describeSettings(): SettingDescription[] {
  const empty = Object.entries(settingsSchema.shape);
  return empty.map(([name, schema]) => ({
    name,
    default: defaultOf(schema),
    choices: choicesOf(schema),
    ...settingInfo(name),
  }));
}

/** What goes beyond the limit that another setting gives would do nothing. Nobody asked for what is only a default. */
function withinLimits(given: Record<string, string>): typeof settingsSchema {
  return withinOthers
    .filter((names) => names.every((name) => name in given))
    .reduce(
      (schema, [name, limitName]) =>
        schema.refine((config) => config[name] <= config[limitName], {
          path: [name],
          error: `must be no more than ${limitName}`,
          when: ({ issues }) => !issues.some(({ path }) => path?.[0] === name || path?.[0] === limitName),
        }),
      settingsSchema,
    );
}

/** Never repeats a key: an entry without a name may be one. */
function checkApiKeys(entries: string[], context: z.RefinementCtx<string[]>): void {
  const names = new Set<string>();
  const complain = (message: string): void => context.addIssue({ code: 'custom', message });
  for (const { name, key } of entries.map(apiKeyOf)) {
    if (!apiKeyNamePattern.test(name))
      complain('every entry must be name=key, with a name of letters, digits, _ . or -');
    else if (key.length < 32) complain(`the key named ${name} must have at least 32 characters`);
    else if (!credential.test(key)) complain(`the key named ${name} ${mustBeCredential}`);
    if (names.has(name)) complain(`the name ${name} appears twice`);
    names.add(name);
  }
}

function apiKeyOf(entry: string): { name: string; key: string } {
  const at = entry.indexOf('=');
  return { name: entry.slice(0, Math.max(0, at)), key: entry.slice(at + 1) };
}

/** As browsers write it in the header `Origin`, which is compared as it is. */
function isOrigin(entry: string): boolean {
  const parsed = URL.parse(entry);
  return entry === '*' || (parsed?.origin === entry && /^https?:$/.test(parsed.protocol));
}

function isPort(entry: string): boolean {
  return /^\d{1,5}$/.test(entry) && Number(entry) >= 1 && Number(entry) <= 65_535;
}

function isWebhookSecret(secret: string): boolean {
  const [, base64 = ''] = /^whsec_(.+)$/.exec(secret) ?? [];
  const key = Buffer.from(base64, 'base64');
  return key.length >= 24 && key.length <= 64 && key.toString('base64') === base64;
}

function hasCredentials(address: string): boolean {
  const { username, password } = new URL(address);
  return username !== '' || password !== '';
}

/** Which variable is wrong, what it holds unless that is secret, and what is accepted. */
function linesAbout(issue: z.core.$ZodIssue, given: Record<string, string>): string[] {
  const [variable, ...path] = issue.path;
  const name = String(variable);
  const info = settingInfo(name);
  const value = given[name];
  // A URL may hold a password, however it is written.
  const isShown = info.secret !== true && value !== undefined && !value.includes('@');
  const shown = isShown ? ` (got "${value}")` : '';
  const unit = info.unit === undefined ? '' : `, in ${info.unit}`;
  return complaintsOf(issue, path).map(
    (complaint) => `${name}${shown}: ${complaint}${unit}. ${info.description}`,
  );
}

/** One for an entry of a list, and for each field of a JSON object. */
function complaintsOf(issue: z.core.$ZodIssue, path: PropertyKey[]): string[] {
  const [at] = path;
  if (typeof at === 'number') return [`entry ${at + 1} ${issue.message}`];
  if (at === undefined && issue.code !== 'unrecognized_keys') return [issue.message];
  return fieldProblems([{ ...issue, path }], 'it').map(({ detail }) => detail.replace(/\.$/, ''));
}

function settingInfo(name: string): SettingInfo {
  const schemas: Record<string, z.ZodType> = settingsSchema.shape;
  const schema = Object.hasOwn(schemas, name) ? schemas[name] : undefined;
  return (schema && about.get(schema)) ?? { description: '' };
}

function defaultOf(schema: z.ZodType): string | null {
  return schema instanceof z.ZodPrefault ? String(schema.def.defaultValue) : null;
}

function choicesOf(schema: z.ZodType): string[] | null {
  const given = schema instanceof z.ZodPrefault ? schema.unwrap() : schema;
  return given instanceof z.ZodEnum ? given.options.map(String) : null;
}
