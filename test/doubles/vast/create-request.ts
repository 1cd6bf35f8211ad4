// The body of `PUT /asks/{id}/`, checked as the service checks it.

export interface CreateRequest {
  image: string;
  /** Names and values, the port mappings (`-p 8188:8188`) among them. */
  env: [string, string][];
  diskGb: number;
  label: string | null;
  /** As sent; empty means the default. */
  runtype: string;
  onstart: string;
  args: string[];
  /** A bid for the machine; null is on demand. */
  bidPerHourUsd: number | null;
  startsStopped: boolean;
  /** Refuse rather than make a stopped rental. */
  cancelUnavailable: boolean;
  /** The body as it came. */
  body: Record<string, unknown>;
}

export interface InvalidRequest {
  error: 'invalid_args' | 'invalid_price';
  message: string;
}

const runtypes = new Set([
  'ssh',
  'jupyter',
  'args',
  'ssh_proxy',
  'ssh_direct',
  'ssh_direc',
  'jupyter_proxy',
  'jupyter_direct',
  'jupyter_direc',
]);

/** The checked request, or why it is refused. The limits are those of vast.ai's page on creating instances. */
export function readCreateRequest(body: Record<string, unknown>): CreateRequest | InvalidRequest {
  const env = readEnv(body['env']);
  if (typeof env === 'string') return invalid(env);
  const image = body['image'];
  if (typeof image !== 'string' || image === '') return invalid("'image' is required");
  if (image.length > 1024) return invalid("'image' is longer than 1024 characters");
  const disk = body['disk'] ?? 10;
  if (typeof disk !== 'number' || !(disk >= 8)) return invalid("'disk' must be at least 8.0");
  const label = body['label'] ?? null;
  if (label !== null && typeof label !== 'string') return invalid("'label' must be a string");
  if (label !== null && label.length > 256) return invalid("'label' is longer than 256 characters");
  const runtype = body['runtype'] ?? '';
  if (typeof runtype !== 'string') return invalid("'runtype' must be a string");
  const unknownType = runtype.split(/\s+/).find((word) => word !== '' && !runtypes.has(word));
  if (unknownType !== undefined) return invalid(`'runtype' ${unknownType} is not known`);
  const onstart = body['onstart'] ?? '';
  if (typeof onstart !== 'string') return invalid("'onstart' must be a string");
  if (onstart.length > 4048) return invalid("'onstart' is longer than 4048 characters");
  const args = readArgs(body);
  if (onstart.length + args.join(' ').length > 4096) return invalid("'args' and 'onstart' are too long");
  const target = body['target_state'] ?? 'running';
  if (target !== 'running' && target !== 'stopped') return invalid("'target_state' is not known");
  const bid = body['price'] ?? null;
  if (bid !== null && (typeof bid !== 'number' || bid < 0.001 || bid > 128)) {
    return { error: 'invalid_price', message: "'price' must be between 0.001 and 128" };
  }
  const cancel = body['cancel_unavail'] ?? (bid === null && target === 'running');
  return {
    image,
    env,
    diskGb: disk,
    label,
    runtype,
    onstart,
    args,
    bidPerHourUsd: bid,
    startsStopped: target === 'stopped',
    cancelUnavailable: cancel === true,
    body,
  };
}

/** The value of a variable; the last one wins, as in a shell. */
export function envValue(request: CreateRequest, name: string): string | undefined {
  return request.env.findLast(([key]) => key === name)?.[1];
}

function readEnv(value: unknown): [string, string][] | string {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object' || Array.isArray(value)) return "'env' must be an object";
  const entries: [string, string][] = [];
  let total = 0;
  for (const [name, item] of Object.entries(value)) {
    if (typeof item !== 'string') return `'env' value of ${name} must be a string`;
    if (name.length > 256 || item.length > 256) return `'env' entry ${name} is longer than 256 characters`;
    total += name.length + item.length;
    entries.push([name, item]);
  }
  if (total > 32_768) return "'env' is longer than 32768 characters";
  if (entries.filter(([name]) => name.startsWith('-p ')).length > 64) return "'env' maps more than 64 ports";
  return entries;
}

function readArgs(body: Record<string, unknown>): string[] {
  const { args, args_str: text } = body;
  if (Array.isArray(args)) return args.map(String);
  return typeof text === 'string' && text !== '' ? text.split(/\s+/) : [];
}

function invalid(message: string): InvalidRequest {
  return { error: 'invalid_args', message };
}
