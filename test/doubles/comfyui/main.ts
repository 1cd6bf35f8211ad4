// Runs the double by hand: `VERSION=0.3.64 PORT=8188 node test/doubles/comfyui/main.ts`. KNOBS takes knobs as JSON,
// DATA_DIR a folder whose files outlive the process.
import { once } from 'node:events';
import process from 'node:process';
import { startComfyDouble } from './index.ts';
import { readComfyKnobs } from './knobs.ts';
import { VERSIONS, type ComfyVersion } from './versions.ts';

const { PORT = '8188', HOST = '127.0.0.1', VERSION = '0.33.0', KNOBS = '{}', DATA_DIR } = process.env;
if (!isVersion(VERSION)) {
  throw new Error(`VERSION is ${VERSION}; it can be ${Object.keys(VERSIONS).join(' or ')}.`);
}
const double = await startComfyDouble({
  version: VERSION,
  host: HOST,
  port: Number(PORT),
  knobs: readComfyKnobs(JSON.parse(KNOBS)),
  ...(DATA_DIR === undefined ? {} : { dataDir: DATA_DIR }),
});
process.stdout.write(`${double.url}\n`);
await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')]);
await double.stop();

function isVersion(text: string): text is ComfyVersion {
  return Object.hasOwn(VERSIONS, text);
}
