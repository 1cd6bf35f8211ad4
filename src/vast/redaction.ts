// Text from the outside, made fit for logs, messages and evidence: no secrets, no control characters, no floods.

const REMOVED = '[removed]';

/** Applied in this order. What is kept of a match is its first group. */
const secretPatterns: RegExp[] = [
  // vast.ai's image prints its web credentials at boot.
  /(web credentials\b).*/gi,
  /(\bbearer\s+)[^\s"',;]+/gi,
  /(\bbasic\s+)[A-Za-z0-9+/=]{20,}/gi,
  /(:\/\/)[^\s/@:]+:[^\s/@]+(?=@)/g,
  /((?:password|passwd|token|secret|api_?key|access_?key)["']?\s*[:=]\s*["']?)[^\s"'&,;]+/gi,
  // Keys that vast.ai makes: jupyter_token, instance_api_key, account keys.
  /()\b[0-9a-f]{64}\b/gi,
];
/** The secrets that we make have 43 characters of base64url; something may stand right before or after. */
const longWord = /[\w-]{43,}/g;

/** The text without anything that is or looks like a secret, and of its control characters only with those that part lines and columns. */
export function withoutSecrets(text: string, secrets: readonly string[] = []): string {
  let clean = withoutControls(text);
  for (const secret of secrets) {
    if (secret.length >= 6) clean = clean.replaceAll(secret, REMOVED);
  }
  for (const pattern of secretPatterns) clean = clean.replace(pattern, `$1${REMOVED}`);
  return clean.replace(longWord, (word) => (/[a-z]/.test(word) && /[A-Z]/.test(word) ? REMOVED : word));
}

/** One line of at most `length` characters without secrets; null when nothing is left. */
export function briefText(
  text: string | null | undefined,
  secrets: readonly string[] = [],
  length = 300,
): string | null {
  if (text === null || text === undefined) return null;
  const line = withoutSecrets(text, secrets).replace(/\s+/g, ' ').trim();
  if (line === '') return null;
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}

/** A container writes what it likes: colours, and bytes that PostgreSQL takes in no text. */
function withoutControls(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/\u001b\[[0-9;?]*[A-Za-z]|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, '');
}
