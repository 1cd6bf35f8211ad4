// What runs inside a rented machine, read from its image, runtype, onstart and environment as the real images read them.
import type { CreateRequest } from './create-request.ts';
import { envValue } from './create-request.ts';

/** How a port of the image's proxy behaves. */
export interface SitePlan {
  externalPort: number;
  internalPort: number;
  name: string;
  /** ComfyUI will listen behind this site; without it the proxy answers 502 for ever. */
  servesComfyUi: boolean;
  style: 'vast' | 'ai-dock';
  https: boolean;
  /** Null: open to everyone. */
  credentials: Credentials | null;
}

export interface Credentials {
  username: string;
  /** Accepted with the user name by HTTP Basic. */
  password: string;
  /** Accepted as bearer, `?token=` and cookie. */
  tokens: string[];
  cookieName: string;
}

export interface BootPlan {
  /** Ports of the container that are mapped, such as "8188/tcp". */
  mappedPorts: string[];
  sites: SitePlan[];
  /** The command line of ComfyUI; null when it does not start. */
  comfyUiArgs: string[] | null;
  /** What the container writes about it. */
  log: string[];
  /** The loop of the start script by which the machine destroys itself; null without one. */
  deadMan: DeadManPlan | null;
}

/** A start script says what its loop does in its first line: `# dead-man-switch limit=… first=… port=… heartbeat=…`. */
export interface DeadManPlan {
  /** Seconds without a changed heartbeat until the machine destroys itself. */
  limitSeconds: number;
  /** The same until the first heartbeat, from the boot on. */
  firstSeconds: number;
  /** What the loop asks ComfyUI's `/view` for on loopback. */
  query: string;
}

export interface PlatformFacts {
  rentalId: number;
  /** The platform's own secret, in the container as OPEN_BUTTON_TOKEN whatever the request says. */
  token: string;
}

/** Everything that follows from the request; it changes nothing. */
export function planBoot(request: CreateRequest, facts: PlatformFacts): BootPlan {
  const mappedPorts = mappedPortsOf(request);
  const style = imageStyle(request.image);
  if (!runsImageBoot(request, style)) {
    const log = ['sshd: Server listening on 0.0.0.0 port 22.'];
    return { mappedPorts, sites: [], comfyUiArgs: null, log, deadMan: deadManOf(request) };
  }
  const isMapped = (port: number) => mappedPorts.includes(`${port}/tcp`);
  return style === 'ai-dock'
    ? planAiDock(request, facts, mappedPorts, isMapped)
    : planVastImage(request, facts, mappedPorts, isMapped);
}

/** The repository and the tag of an image name. */
export function splitImage(image: string): { repository: string; tag: string } {
  const colon = image.lastIndexOf(':');
  if (colon <= image.lastIndexOf('/')) return { repository: image, tag: 'latest' };
  return { repository: image.slice(0, colon), tag: image.slice(colon + 1) };
}

/** `-p host:container[/udp]` with the value "1"; the direct modes of ssh and jupyter map ports of their own. */
function mappedPortsOf(request: CreateRequest): string[] {
  const ports = request.env.flatMap(([name, value]) => {
    const mapping = /^-p\s+\d+:(\d+)(\/udp)?$/.exec(name);
    return mapping === null || value !== '1' ? [] : [`${mapping[1]}${mapping[2] ?? '/tcp'}`];
  });
  const words = runtypeWords(request);
  const isDirect = words.some((word) => word.includes('_direc'));
  if (isDirect) ports.unshift('22/tcp');
  if (isDirect && words.some((word) => word.startsWith('jupyter'))) ports.push('8080/tcp');
  return [...new Set(ports)];
}

/** In the ssh and jupyter modes vast.ai's launcher replaces the entrypoint, and only `onstart` can call it. */
function runsImageBoot(request: CreateRequest, style: 'vast' | 'ai-dock'): boolean {
  const words = runtypeWords(request);
  if (words.some((word) => word.startsWith('ssh') || word.startsWith('jupyter')))
    return endsInBoot(request.onstart, style);
  // An entrypoint of its own, such as `sh -c`, has its script last.
  return request.onstart === '' || endsInBoot(request.args.at(-1) ?? request.onstart, style);
}

/**
 * The script is not run, so it is read strictly: its last line calls the boot of the image, and before it stand only
 * blocks in the background and assignments, since whatever else may wait for ever or end it.
 */
function endsInBoot(script: string, style: 'vast' | 'ai-dock'): boolean {
  const lines = script.split('\n').map((line) => line.trim());
  const commands = lines.filter((line) => line !== '' && !line.startsWith('#'));
  const boot =
    style === 'ai-dock' ? /^(exec )?(\S*\/)?init\.sh\b/ : /^(exec )?(\S*\/)?(entrypoint|boot_default)\.sh\b/;
  const before = commands.slice(0, -1).join('\n');
  return (
    boot.test(commands.at(-1) ?? '') && /^(\(\n[^]*?\n\)[^\n]*&(\n|$)|(export )?\w+=\S*(\n|$))*$/.test(before)
  );
}

/** The script is not run: what its loop would do is read from its first line, and only if the loop is there too. */
function deadManOf({ onstart }: CreateRequest): DeadManPlan | null {
  const line = /^# dead-man-switch limit=(\d+) first=(\d+) port=\d+ heartbeat=(\S+)$/m.exec(onstart);
  if (line === null || !/\bwhile sleep\b[^]*\bDELETE\b[^]*\bdone\b/.test(onstart)) return null;
  return { limitSeconds: Number(line[1]), firstSeconds: Number(line[2]), query: line[3] ?? '' };
}

function runtypeWords(request: CreateRequest): string[] {
  const words = request.runtype.split(/\s+/).filter((word) => word !== '');
  if (words.length > 0) return words;
  return request.args.length > 0 ? ['args'] : ['ssh'];
}

function imageStyle(image: string): 'vast' | 'ai-dock' {
  return splitImage(image).repository.includes('ai-dock/') ? 'ai-dock' : 'vast';
}

function planVastImage(
  request: CreateRequest,
  facts: PlatformFacts,
  mappedPorts: string[],
  isMapped: (port: number) => boolean,
): BootPlan {
  const services = portalServices(envValue(request, 'PORTAL_CONFIG') ?? '');
  const hasComfyUi = services.some((service) => service.name === 'ComfyUI');
  const commandLine =
    envValue(request, 'COMFYUI_ARGS') ?? '--disable-auto-launch --enable-cors-header --port 18188';
  const comfyUiArgs = hasComfyUi ? commandLine.split(/\s+/).filter((word) => word !== '') : null;
  const comfyUiPort = comfyUiArgs === null ? null : Number(argumentValue(comfyUiArgs, '--port') ?? 8188);
  const openPorts = new Set((envValue(request, 'AUTH_EXCLUDE') ?? '').split(',').map(Number));
  const isClosed = (envValue(request, 'ENABLE_AUTH') ?? 'true').toLowerCase() !== 'false';
  const credentials = vastCredentials(request, facts);
  const sites = services
    .filter(({ externalPort, internalPort }) => externalPort !== internalPort && isMapped(externalPort))
    .map((service) => ({
      ...service,
      servesComfyUi: service.internalPort === comfyUiPort,
      style: 'vast' as const,
      https: isTrue(request, 'ENABLE_HTTPS'),
      credentials: isClosed && !openPorts.has(service.externalPort) ? credentials : null,
    }));
  const log = [
    ...credentialLines(credentials),
    hasComfyUi
      ? `Starting ComfyUI with arguments: ${commandLine}`
      : 'Skipping comfyui startup (not in /etc/portal.yaml)',
  ];
  return { mappedPorts, sites, comfyUiArgs, log, deadMan: deadManOf(request) };
}

function vastCredentials(request: CreateRequest, facts: PlatformFacts): Credentials {
  const clean = (secret: string) => secret.replaceAll(/[\r\n;]/g, '');
  const password = clean(envValue(request, 'WEB_PASSWORD') || facts.token);
  return {
    username: envValue(request, 'WEB_USERNAME') ?? 'vastai',
    password,
    tokens: [password, facts.token],
    cookieName: `C.${facts.rentalId}_auth_token`,
  };
}

/** As the image prints them at boot, secrets included. */
function credentialLines({ username, password, tokens }: Credentials): string[] {
  return [
    '*****',
    "* Automatic login is enabled via the 'Open' button",
    `* Your web credentials are: ${username} / ${password}`,
    ...tokens
      .filter((token) => token !== password)
      .map((token) => `* Open button token is also valid: ${token}`),
    `* To make API requests, pass an Authorization header (Authorization: Bearer ${password})`,
    '*****',
  ];
}

/** ai-dock's ComfyUI of 2024: its proxy on 8188 needs no portal, sends browsers to a login page and has other names for everything. */
function planAiDock(
  request: CreateRequest,
  facts: PlatformFacts,
  mappedPorts: string[],
  isMapped: (port: number) => boolean,
): BootPlan {
  const token = envValue(request, 'WEB_TOKEN') || facts.token;
  const isClosed = (envValue(request, 'WEB_ENABLE_AUTH') ?? 'true').toLowerCase() !== 'false';
  const credentials: Credentials = {
    username: envValue(request, 'WEB_USER') ?? 'vastai',
    password: envValue(request, 'WEB_PASSWORD') || facts.token,
    tokens: [token],
    cookieName: envValue(request, 'CADDY_AUTH_COOKIE_NAME') ?? 'ai_dock_token',
  };
  const site: SitePlan = {
    externalPort: 8188,
    internalPort: 18_188,
    name: 'ComfyUI',
    servesComfyUi: true,
    style: 'ai-dock',
    https: isTrue(request, 'WEB_ENABLE_HTTPS'),
    credentials: isClosed ? credentials : null,
  };
  return {
    mappedPorts,
    sites: isMapped(8188) ? [site] : [],
    comfyUiArgs: ['--port', '18188'],
    log: [`Web token: ${token}`, 'Starting ComfyUI...'],
    deadMan: deadManOf(request),
  };
}

/** Whether a switch that is off by default is on. */
function isTrue(request: CreateRequest, name: string): boolean {
  return envValue(request, name)?.toLowerCase() === 'true';
}

/** PORTAL_CONFIG: `host:external:internal:path:Name` joined by `|`, split at the first four colons. */
function portalServices(config: string): { externalPort: number; internalPort: number; name: string }[] {
  return config.split('|').flatMap((entry) => {
    const parts = /^[^:]*:(\d+):(\d+):[^:]*:(.+)$/.exec(entry);
    if (parts === null) return [];
    return [{ externalPort: Number(parts[1]), internalPort: Number(parts[2]), name: parts[3] ?? '' }];
  });
}

/** The value of the last `name value` or `name=value`. */
export function argumentValue(args: string[], name: string): string | undefined {
  const at = args.lastIndexOf(name);
  return at === -1
    ? args.findLast((word) => word.startsWith(`${name}=`))?.slice(name.length + 1)
    : args[at + 1];
}
