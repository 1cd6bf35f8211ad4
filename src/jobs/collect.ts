// Collecting: brings what a finished prompt produced into our own storage, one file at a time.
import type { ComfyClient, ComfyFile, ComfyOutput, HistoryEntry } from '../comfyui/client.ts';
import { ComfyError } from '../comfyui/errors.ts';
import { messageOf, ServiceError } from '../errors.ts';
import { curedText } from '../support/storable-text.ts';
import { storable } from './json-value.ts';
import { createNamer, outputKindOf } from './output.ts';
import type { Run } from './run-state.ts';
import { isStorageTrouble, withStoragePatience } from './storage-patience.ts';
import { AttemptEnd, type CollectedFile, type CollectedOutput } from './verdict.ts';
import { withoutOutputPrefix } from './workflow.ts';

type FileOutput = Extract<ComfyOutput, { kind: 'file' }>;

/** Everything here may be repeated: the same bytes are stored once, and the names come out the same. */
export async function collect(
  run: Run,
  client: ComfyClient,
  entry: HistoryEntry,
  signal: AbortSignal,
): Promise<CollectedOutput[]> {
  const nameFor = createNamer();
  const collected: CollectedOutput[] = [];
  for (const output of withoutRepetitions(entry.outputs)) {
    const nodeId = storable(output.nodeId);
    if (output.kind === 'text') {
      const name = nameFor(`${nodeId}-${output.key}.txt`, nodeId);
      const text = curedText(output.text);
      const facts = { kind: 'text', contentType: 'text/plain', sizeBytes: Buffer.byteLength(text) } as const;
      collected.push({ name, nodeId, ...facts, temporary: false, assetId: null, text });
      continue;
    }
    const name = nameFor(withoutOutputPrefix(output.file.filename, run.ref.attemptId), nodeId);
    const stored =
      run.collected.get(keyOf(output.file)) ??
      (await withStoragePatience(
        run,
        `"${name}" could not be stored`,
        () => store(run, client, output, name, signal),
        { giveUp: (detail) => unavailable(nodeId, detail), signal },
      ));
    run.collected.set(keyOf(output.file), stored);
    const temporary = output.file.type !== 'output';
    collected.push({ name, nodeId, ...stored, temporary, text: null });
  }
  return collected;
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
    if (error instanceof ServiceError && error.code === 'payload_too_large') {
      throw unavailable(
        nodeId,
        `"${file.filename}" of node ${nodeId} could not be stored. ${messageOf(error)}`,
      );
    }
    if (stream.errored !== null) {
      throw new ComfyError('unavailable', 'The download of a result broke off', { cause: error });
    }
    throw error;
  } finally {
    stream.destroy();
  }
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

function unavailable(nodeId: string, detail: string): AttemptEnd {
  return new AttemptEnd({ kind: 'failed', error: { code: 'output_unavailable', detail, nodeId } });
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
