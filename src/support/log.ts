// The log: one JSON object a line, or text for a person, and never a secret.
import { unescape } from 'node:querystring';
import { pino, stdTimeFunctions, type DestinationStream } from 'pino';
import { prettyFactory } from 'pino-pretty';
import { configuredApiKeys, describeSettings, type Config } from '../config.ts';

export type Logger = pino.Logger;

/** The service's log, on standard output unless a destination is given. Every line is scrubbed just before it is written. */
export function createLogger(config: Config, destination?: DestinationStream): Logger {
  const scrub = createScrubber(secretsOf(config));
  const options: pino.LoggerOptions = {
    level: config.LOG_LEVEL,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
    hooks: { streamWrite: scrub },
  };
  const output = destination ?? pino.destination(process.stdout.fd);
  if (config.LOG_FORMAT === 'json') return pino(options, output);
  const format = prettyFactory({ colorize: destination === undefined && process.stdout.isTTY });
  return pino(options, { write: (line) => output.write(format(line)) });
}

const hidden = '[redacted]';
/** Shorter ones occur everywhere: hiding them would hide the log, not the secret. */
const shortestSecret = 4;

/** The name of a secret from its telling word on. What is before does not matter, and looking for it would take long in long lines. */
const secretName = String.raw`(?:secret|passw|token|api[-_]?key|authorization|cookie|signature)[\w.-]{0,64}`;

/** Ways in which a secret is written that are recognised without knowing it. Each keeps its first group. */
const secretShapes: RegExp[] = [
  // "WEB_PASSWORD":"…"
  new RegExp(String.raw`((?:${secretName}|"key)"\s*:\s*")(?:\\.|[^"\\])*`, 'gi'),
  // the same within a text
  new RegExp(String.raw`((?:${secretName}|\\"key)\\"\s*:\s*\\")[^"\\]*`, 'gi'),
  // ?token=…, WEB_PASSWORD=…
  new RegExp(String.raw`((?:${secretName}|\b(?:key|sig))=)[^\s"'&;,\\]+`, 'gi'),
  // Authorization: Bearer …
  /(\bbearer\s+|\bauthorization: \w{1,20}\s+)[\w.~+/=-]{8,}/gi,
  // https://user:password@host
  /(\b[a-z][a-z0-9+.-]{0,20}:\/\/)[^\s/"@\\]+(?=@)/gi,
];

/** A function that hides `secrets`, and whatever looks like one, in a line of text. */
function createScrubber(secrets: string[]): (line: string) => string {
  const spellings = new Set(
    secrets.flatMap((secret) => [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]),
  );
  // The longest first, so that a secret within another leaves nothing of the longer one behind.
  const known = [...spellings].toSorted((a, b) => b.length - a.length);
  return (line) => {
    const withoutKnown = known.reduce((text, secret) => text.replaceAll(secret, hidden), line);
    return secretShapes.reduce((text, shape) => text.replace(shape, `$1${hidden}`), withoutKnown);
  };
}

/** The values of the secret settings, one by one. */
function secretsOf(config: Config): string[] {
  const settings: Record<string, unknown> = config;
  const whole = describeSettings()
    .filter((setting) => setting.secret === true && setting.name !== 'API_KEYS')
    .flatMap((setting) => settings[setting.name])
    .filter((value) => typeof value === 'string');
  const keys = configuredApiKeys(config).map(({ key }) => key);
  const passwords = whole.flatMap(passwordOf);
  return [...whole, ...keys, ...passwords].filter((secret) => secret.length >= shortestSecret);
}

/** The password within a URL, as written and decoded. One that is also the user's name is no secret, and hiding it would mangle the log. */
function passwordOf(setting: string): string[] {
  if (!URL.canParse(setting)) return [];
  const { username, password } = new URL(setting);
  return password === username ? [] : [password, unescape(password)];
}
