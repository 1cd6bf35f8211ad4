// The check against requests that another site's page makes through a browser.
import type { IncomingMessage } from 'node:http';
import type { ComfyProcess } from '../process.ts';

const LOOPBACK = /^(?:localhost|127(?:\.\d+){3}|\[?::1\]?)$/u;

/** ComfyUI without a CORS flag: cross-site fetches (0.33), and a foreign Origin when Host is a loopback name. */
export function isForeignOrigin(
  { headers }: IncomingMessage,
  { knobs, traits }: Pick<ComfyProcess, 'knobs' | 'traits'>,
): boolean {
  if (!knobs.checksOrigin) return false;
  if (traits.refusesCrossSite && headers['sec-fetch-site'] === 'cross-site') return true;
  const { host, origin } = headers;
  if (host === undefined || origin === undefined || !URL.canParse(origin) || !URL.canParse(`http://${host}`))
    return false;
  const [asked, from] = [new URL(`http://${host}`), new URL(origin)];
  if (!LOOPBACK.test(asked.hostname) || from.host === '') return false;
  return from.port === '' ? asked.hostname !== from.hostname : asked.host !== from.host;
}
