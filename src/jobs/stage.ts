// Staging: brings the inputs of a job to the instance, and makes the workflow that is submitted there.
import { extname } from 'node:path';
import { extension } from 'mime-types';
import type { Asset } from '../assets/service.ts';
import type { ComfyClient } from '../comfyui/client.ts';
import { ComfyError } from '../comfyui/errors.ts';
import { messageOf, ServiceError } from '../errors.ts';
import { backoffMs } from '../support/backoff.ts';
import { sleep } from '../support/sleep.ts';
import { AttemptEnd } from './verdict.ts';
import { withFileName } from './inputs.ts';
import type { JobErrorCode, JobInput, Workflow } from './job.ts';
import { AttemptTaken, type Run } from './run-state.ts';
import { isStorageTrouble, withStoragePatience } from './storage-patience.ts';
import { applyInputs, withOutputPrefix } from './workflow.ts';

const FETCH_TRIES = 3;

/** Everything here may be repeated: a fetched file is remembered, and an upload of the same bytes changes nothing. */
export async function stageInputs(run: Run, client: ComfyClient, signal: AbortSignal): Promise<Workflow> {
  const inputs = await fetchInputs(run, signal);
  const names = new Map<string, string>();
  const values: { node: string; input: string; value: unknown }[] = [];
  for (const { node, input, assetId, fileName, value } of inputs) {
    if (assetId === undefined) {
      values.push({ node, input, value });
      continue;
    }
    const key = JSON.stringify([assetId, fileName]);
    const name = names.get(key) ?? (await uploadAsset(run, client, { assetId, fileName }, signal));
    names.set(key, name);
    values.push({ node, input, value: name });
  }
  return withOutputPrefix(applyInputs(run.workflow, values), run.ref.attemptId);
}

/** The inputs with every URL fetched. What was fetched is written to the job at once, so that another try does not fetch it again. */
async function fetchInputs(run: Run, signal: AbortSignal): Promise<JobInput[]> {
  const { inputs } = run;
  for (const [index, input] of inputs.entries()) {
    if (input.url === undefined || input.assetId !== undefined) continue;
    const asset = await fetchInput(run, input.url, `inputs[${index}].url`, signal);
    inputs[index] = withFileName({ ...input, assetId: asset.id }, asset);
    await rememberInputs(run, inputs);
  }
  return inputs;
}

async function fetchInput(run: Run, url: string, field: string, signal: AbortSignal): Promise<Asset> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await withStoragePatience(
        run,
        `${field} could not be stored`,
        () => run.deps.assets.saveFromUrl(url, { signal, field }),
        { giveUp: unavailable, signal },
      );
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof ServiceError)) throw error;
      if (tries >= FETCH_TRIES) throw unavailable(`${field}: ${messageOf(error)}`);
      run.log.info({ err: error, field, tries }, 'an input could not be fetched; trying again');
      await sleep(backoffMs(tries, { baseMs: run.timing.retryMs * 2, capMs: run.timing.retryCapMs }), signal);
    }
  }
}

async function rememberInputs({ deps, ref }: Run, inputs: JobInput[]): Promise<void> {
  const result = await deps.db
    .updateTable('jobs')
    .set({ inputs: JSON.stringify(inputs) })
    .where('id', '=', ref.jobId)
    .where('attempt_id', '=', ref.attemptId)
    .where('status', 'in', ['running', 'canceling'])
    .executeTakeFirst();
  if (result.numUpdatedRows !== 1n) throw new AttemptTaken();
}

/** Uploads under a name made of the content, so that ComfyUI keeps one copy however often it comes. */
async function uploadAsset(
  run: Run,
  client: ComfyClient,
  { assetId, fileName }: { assetId: string; fileName: string | undefined },
  signal: AbortSignal,
): Promise<string> {
  const asset = await run.deps.assets.get(assetId);
  if (asset === null) throw unavailable(`Asset ${assetId} is no longer stored. Upload it again.`);
  const name = uploadName(asset, fileName ?? asset.fileName);
  try {
    return await withStoragePatience(
      run,
      `Asset ${assetId} could not be read`,
      () => sendAsset(run, client, { ...asset, name }, signal),
      { giveUp: unavailable, signal },
    );
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    throw unavailable(messageOf(error));
  }
}

/** Rejects with the trouble of the storage where it was that which broke off: a file that cannot be read is our fault and not the machine's. */
async function sendAsset(
  { deps }: Run,
  client: ComfyClient,
  { id, name, contentType, sizeBytes }: Asset & { name: string },
  signal: AbortSignal,
): Promise<string> {
  const bytes = await deps.assets.read(id);
  try {
    return await client.upload({ name, contentType, sizeBytes, stream: () => bytes }, signal);
  } catch (error) {
    if (isStorageTrouble(bytes.errored)) throw bytes.errored;
    if (error instanceof ComfyError && error.kind === 'too_large') {
      throw fail('invalid_input', `Asset ${id} has ${sizeBytes} bytes, more than its ComfyUI takes.`);
    }
    throw error;
  } finally {
    bytes.destroy();
  }
}

function uploadName({ id, contentType }: Asset, fileName: string | null): string {
  const own = extname(fileName ?? '').toLowerCase();
  const byType = extension(contentType);
  const suffix = /^\.[a-z0-9]{1,10}$/.test(own) ? own : byType === false ? '' : `.${byType}`;
  return `cf-${id.slice(0, 16)}${suffix}`;
}

function unavailable(detail: string): AttemptEnd {
  return fail('input_unavailable', detail);
}

function fail(code: JobErrorCode, detail: string): AttemptEnd {
  return new AttemptEnd({ kind: 'failed', error: { code, detail } });
}
