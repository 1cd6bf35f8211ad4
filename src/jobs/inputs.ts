// The inputs of a job: values and files that are put into its workflow.
import type { Assets } from '../assets/service.ts';
import { ServiceError } from '../errors.ts';
import { checkJsonValue } from './json-value.ts';
import type { JobInput, Workflow } from './job.ts';
import { nodeOf } from './workflow.ts';

/** An input as it is requested: exactly one source is set. */
export interface RequestedInput {
  node: string;
  input: string;
  value?: unknown;
  assetId?: string | undefined;
  url?: string | undefined;
  /** Name of a file part of the same request; gone once that part is stored. */
  file?: string | undefined;
}

const SOURCES = ['value', 'assetId', 'url', 'file'] as const;

/** Checks inputs against the workflow that they are for. Throws `invalid_input` with the field at fault. */
export function checkInputs(workflow: Workflow, inputs: readonly RequestedInput[]): JobInput[] {
  const seen = new Set<string>();
  return inputs.map((requested, index) => {
    const at = `inputs[${index}]`;
    const { node, input } = requested;
    if (nodeOf(workflow, node) === undefined) {
      throw invalid(`The workflow has no node ${node}.`, `${at}.node`);
    }
    const key = JSON.stringify([node, input]);
    if (seen.has(key)) throw invalid(`Input ${input} of node ${node} is given twice.`, at);
    seen.add(key);
    return checkSource(requested, at);
  });
}

/** Checks that the files that inputs name are stored. Rejects with `invalid_input`. */
export async function checkAssets(assets: Pick<Assets, 'get'>, inputs: readonly JobInput[]): Promise<void> {
  for (const [index, { assetId }] of inputs.entries()) {
    if (assetId === undefined || (await assets.get(assetId)) !== null) continue;
    throw invalid(
      `There is no asset ${assetId}. Upload the file first with POST /assets.`,
      `inputs[${index}].assetId`,
    );
  }
}

function checkSource(requested: RequestedInput, at: string): JobInput {
  const { node, input, value, assetId, url, file } = requested;
  const given = SOURCES.filter((source) => requested[source] !== undefined);
  if (given.length !== 1) {
    const found = given.length === 0 ? 'it has none' : `it has ${given.join(' and ')}`;
    throw invalid(`An input needs exactly one of ${SOURCES.join(', ')}; ${found}.`, at);
  }
  if (file !== undefined) {
    const detail = `There is no file part "${file}". Send the job as multipart/form-data with its JSON in the field "job" and the file in a field of that name.`;
    throw invalid(detail, `${at}.file`);
  }
  if (assetId !== undefined) return { node, input, assetId };
  if (url !== undefined) return { node, input, url };
  const fault = checkJsonValue(value, `${at}.value`);
  if (fault !== null) throw invalid(fault.detail, fault.field);
  return { node, input, value };
}

function invalid(detail: string, field: string): ServiceError {
  return new ServiceError('invalid_input', detail, { field });
}
