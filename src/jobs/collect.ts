// Collecting: brings what a finished prompt produced into our own storage, one file at a time.
import { Readable } from 'node:stream';
import type { ComfyClient, ComfyFile, ComfyOutput, HistoryEntry } from '../comfyui/client.ts';
import { ComfyError } from '../comfyui/errors.ts';
import { MOST_OUTPUTS } from '../comfyui/history.ts';
import { messageOf, ServiceError } from '../errors.ts';
import { curedText } from '../support/storable-text.ts';
import { storable } from './json-value.ts';
import { createNamer, outputKindOf } from './output.ts';
import type { Run } from './run-state.ts';
import { isStorageTrouble, withStoragePatience } from './storage-patience.ts';
import { AttemptEnd, type CollectedFile, type CollectedOutput } from './verdict.ts';
import { withoutOutputPrefix } from './workflow.ts';

type FileOutput = Extract<ComfyOutput, { kind: 'file' }>;
type TextOutput = Extract<ComfyOutput, { kind: 'text' }>;

/** The texts of a job that are shown with it; what goes beyond this is kept in files. */
const SHOWN_TEXT_BYTES = 256_000;

/** Everything here may be repeated: the same bytes are stored once, and the names come out the same. */
export async function collect(
  run: Run,
  client: ComfyClient,
  entry: HistoryEntry,
  signal: AbortSignal,
): Promise<CollectedOutput[]> {
  if (entry.outputs.length > MOST_OUTPUTS) {
    throw unavailable(`ComfyUI reports more outputs than the ${MOST_OUTPUTS} that a job can have.`);
  }
  const nameFor = createNamer();
  let textBytesLeft = SHOWN_TEXT_BYTES;
  const collected: CollectedOutput[] = [];
  for (const output of withoutRepetitions(entry.outputs)) {
    const nodeId = storable(output.nodeId);
    const wanted =
      output.kind === 'text'
        ? `${nodeId}-${output.key}.txt`
        : withoutOutputPrefix(output.file.filename, run.ref.attemptId);
    const name = nameFor(wanted, nodeId);
    if (output.kind === 'text') {
      const text = curedText(output.text);
      const kept = await keepText(run, { ...output, text }, { name, mostBytes: textBytesLeft }, signal);
      if (kept.text !== null) textBytesLeft -= kept.sizeBytes;
      collected.push({ name, nodeId, temporary: false, ...kept });
      continue;
    }
    const stored = await storeOnce(run, keyOf(output.file), { name, nodeId, signal }, () =>
      store(run, client, output, name, signal),
    );
    const temporary = output.file.type !== 'output';
    collected.push({ name, nodeId, ...stored, temporary, text: null });
  }
  return collected;
}

/** As it is where it has at most `mostBytes`, else in a file. */
async function keepText(
  run: Run,
  { text, nodeId }: TextOutput,
  { name, mostBytes }: { name: string; mostBytes: number },
  signal: AbortSignal,
): Promise<CollectedFile & Pick<CollectedOutput, 'text'>> {
  const bytes = Buffer.from(text);
  const facts = { kind: 'text', contentType: 'text/plain', sizeBytes: bytes.length } as const;
  if (bytes.length <= mostBytes) return { ...facts, assetId: null, text };
  const stored = await storeOnce(run, name, { name, nodeId, signal }, async () => {
    const options = { fileName: name, contentType: facts.contentType, isResult: true, signal };
    const { asset } = await run.deps.assets.save(Readable.from([bytes]), options).catch((error: unknown) => {
      throw isTooLarge(error) ? tooLarge(name, nodeId, error) : error;
    });
    return { ...facts, assetId: asset.id };
  });
  return { ...stored, text: null };
}

/** What was stored under this key before, or what `work` stores, with patience. */
async function storeOnce(
  run: Run,
  key: string,
  { name, nodeId, signal }: { name: string; nodeId: string; signal: AbortSignal },
  work: () => Promise<CollectedFile>,
): Promise<CollectedFile> {
  const stored =
    run.collected.get(key) ??
    (await withStoragePatience(run, `"${name}" could not be stored`, work, {
      giveUp: (detail) => unavailable(detail, nodeId),
      signal,
    }));
  run.collected.set(key, stored);
  return stored;
}

async function store(
  run: Run,
  client: ComfyClient,
  { file, nodeId }: FileOutput,
  name: string,
  signal: AbortSignal,
): Promise<CollectedFile> {
  const { stream, contentType, sizeBytes } = await download(client, file, nodeId, signal);
  try {
    const { asset } = await run.deps.assets.save(stream, {
      fileName: name,
      contentType,
      isResult: true,
      signal,
    });
    if (sizeBytes !== null && asset.sizeBytes !== sizeBytes) {
      throw new ComfyError('unavailable', `A file arrived with ${asset.sizeBytes} of ${sizeBytes} bytes`);
    }
    const { id: assetId, contentType: foundType } = asset;
    const kind = outputKindOf(name, foundType);
    return { assetId, kind, contentType: foundType, sizeBytes: asset.sizeBytes };
  } catch (error) {
    signal.throwIfAborted();
    if (isStorageTrouble(error)) throw error;
    if (isTooLarge(error)) throw tooLarge(file.filename, nodeId, error);
    if (stream.errored !== null) {
      throw new ComfyError('unavailable', 'The download of a result broke off', { cause: error });
    }
    throw error;
  } finally {
    stream.destroy();
  }
}

function isTooLarge(error: unknown): error is ServiceError {
  return error instanceof ServiceError && error.code === 'payload_too_large';
}

function tooLarge(fileName: string, nodeId: string, error: ServiceError): AttemptEnd {
  return unavailable(`"${fileName}" of node ${nodeId} could not be stored. ${messageOf(error)}`, nodeId);
}

async function download(client: ComfyClient, file: ComfyFile, nodeId: string, signal: AbortSignal) {
  try {
    return await client.download(file, signal);
  } catch (error) {
    if (!(error instanceof ComfyError) || error.kind !== 'not_found') throw error;
    // Taken from ComfyUI's cache perhaps, and removed since: without the cache it is made again.
    const detail = `ComfyUI reports the file "${file.filename}" of node ${nodeId} but does not have it.`;
    throw new AttemptEnd({ kind: 'again', error: { code: 'output_unavailable', detail, nodeId } });
  }
}

function unavailable(detail: string, nodeId?: string): AttemptEnd {
  const node = nodeId === undefined ? {} : { nodeId };
  return new AttemptEnd({ kind: 'failed', error: { code: 'output_unavailable', detail, ...node } });
}

/** Some nodes list one file under several keys. */
function withoutRepetitions(outputs: readonly ComfyOutput[]): ComfyOutput[] {
  const seen = new Set<string>();
  return outputs.filter((output) => {
    if (output.kind === 'text') return true;
    const key = keyOf(output.file);
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

function keyOf({ type, subfolder, filename }: ComfyFile): string {
  return JSON.stringify([type, subfolder, filename]);
}
