// The doubles by hand: a vast.ai whose rentals are ComfyUI doubles, and a ComfyUI of its own, until Ctrl+C.
// See test/doubles/README.md for the options and the knobs.
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { startComfyDouble, type ComfyKnobs, type ComfyVersion } from '../test/doubles/comfyui/index.ts';
import { readComfyKnobs } from '../test/doubles/comfyui/knobs.ts';
import { VERSIONS } from '../test/doubles/comfyui/versions.ts';
import { containerComfyUi } from '../test/doubles/vast/container-comfyui.ts';
import { startVastDouble, type PartialKnobs } from '../test/doubles/vast/index.ts';
import { readVastKnobs } from '../test/doubles/vast/knobs.ts';

interface Knobs {
  vast: PartialKnobs;
  comfyui: Partial<ComfyKnobs>;
}

try {
  await run();
} catch (error) {
  const isTaken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE';
  const hint = isTaken ? ' Choose others with --vast-port and --comfyui-port; 0 takes a free one.' : '';
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}${hint}\n`);
  process.exitCode = 1;
}

async function run(): Promise<void> {
  const options = readOptions();
  const knobs = readKnobs(await knobText(options.knobs));
  const version = readVersion(options.version);
  await using started = new AsyncDisposableStack();

  const comfyui = await startComfyDouble({
    version,
    host: options.host,
    port: portOf(options, 'comfyui-port'),
    knobs: knobs.comfyui,
  });
  started.defer(() => comfyui.stop());
  const vast = await startVastDouble({
    apiKey: options.key,
    host: options.host,
    port: portOf(options, 'vast-port'),
    knobs: knobs.vast,
    comfyKnobs: knobs.comfyui,
    startComfyUi: options.image === undefined ? undefined : containerComfyUi(options.image, knobs.comfyui),
  });
  started.defer(() => vast.stop());

  process.stdout.write(`\
vast.ai      ${vast.url}   key ${vast.apiKey}
ComfyUI      ${comfyui.url}   version ${version}

The service, renting from this vast.ai:
  VASTAI_API_KEY=${vast.apiKey} VAST_API_URL=${vast.url} VAST_PACING=none npm start
The service, with this ComfyUI:
  COMFYUI_URLS=${comfyui.url} npm start
vast.ai's own command line:
  VAST_API_KEY=${vast.apiKey} VAST_URL=${vast.url} vastai search offers

Ctrl+C ends them.
`);
  await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')]);
}

function readOptions() {
  return parseArgs({
    options: {
      knobs: { type: 'string', default: '{}' },
      key: { type: 'string', default: 'vast-double-key' },
      host: { type: 'string', default: '127.0.0.1' },
      'vast-port': { type: 'string', default: '8492' },
      'comfyui-port': { type: 'string', default: '8188' },
      version: { type: 'string', default: '0.33.0' },
      /** The image of test/doubles/comfyui/Dockerfile: every rental is then a container. */
      image: { type: 'string' },
    },
  }).values;
}

/** JSON as it is, or the file of that name. */
async function knobText(given: string): Promise<string> {
  return given.trimStart().startsWith('{') ? given : readFile(given, 'utf8');
}

function readKnobs(text: string): Knobs {
  const { vast = {}, comfyui = {}, ...others }: Record<string, unknown> = JSON.parse(text);
  const [unknown] = Object.keys(others);
  if (unknown !== undefined)
    throw new Error(`There are knobs of vast and of comfyui, but not of ${unknown}.`);
  return { vast: readVastKnobs(vast), comfyui: readComfyKnobs(comfyui) };
}

function readVersion(text: string): ComfyVersion {
  const version = Object.values(VERSIONS).find((traits) => traits.version === text)?.version;
  if (version === undefined) throw new Error(`--version can be ${Object.keys(VERSIONS).join(' or ')}.`);
  return version;
}

function portOf(options: ReturnType<typeof readOptions>, name: 'vast-port' | 'comfyui-port'): number {
  const port = Number(options[name]);
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new Error(`--${name} must be a port, or 0.`);
  return port;
}
