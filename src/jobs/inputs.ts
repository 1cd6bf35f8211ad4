// The inputs of a job: values and files that are put into its workflow.
import type { Asset, Assets } from '../assets/service.ts';
import { ServiceError } from '../errors.ts';
import { parsePublicUrl } from '../support/public-url.ts';
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
  /** A number that is drawn for the job. */
  random?: true | undefined;
}

const SOURCES = ['value', 'assetId', 'url', 'file', 'random'] as const;

/** The field of a form that holds its JSON. */
export type FormField = 'job' | 'batch';

/** Checks inputs against the workflow that they are for. Throws `invalid_input` with the field at fault. */
export function checkInputs(
  workflow: Workflow,
  inputs: readonly RequestedInput[],
  formField: FormField = 'job',
): JobInput[] {
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
    return checkSource(requested, at, formField);
  });
}

/** Checks that the files that inputs name are stored, and sees to it that they stay. The inputs then have their names. Rejects with `invalid_input`. */
export async function checkAssets(
  assets: Pick<Assets, 'use'>,
  inputs: readonly JobInput[],
): Promise<JobInput[]> {
  const checked: JobInput[] = [];
  for (const [index, input] of inputs.entries()) {
    const { assetId } = input;
    const asset = assetId === undefined ? null : await assets.use(assetId);
    if (assetId !== undefined && asset === null) {
      const detail = `There is no asset ${assetId}. Upload the file first with POST /assets.`;
      throw invalid(detail, `inputs[${index}].assetId`);
    }
    checked.push(withFileName(input, asset));
  }
  return checked;
}

/** Remembers what a file is called for this job. */
export function withFileName(input: JobInput, asset: Pick<Asset, 'fileName'> | null): JobInput {
  return asset?.fileName == null ? input : { ...input, fileName: asset.fileName };
}

/** Checks that URLs may be fetched, as far as that shows without a look-up of their hosts. Throws `invalid_input`. */
export function checkUrls(inputs: readonly JobInput[], allowedHosts: readonly string[]): void {
  for (const [index, { url }] of inputs.entries()) {
    if (url !== undefined) parsePublicUrl(url, { allowedHosts, field: `inputs[${index}].url` });
  }
}

function checkSource(requested: RequestedInput, at: string, formField: FormField): JobInput {
  const { node, input, value, assetId, url, file, random } = requested;
  const given = SOURCES.filter((source) => requested[source] !== undefined);
  if (given.length !== 1) {
    const found = given.length === 0 ? 'it has none' : `it has ${given.join(' and ')}`;
    throw invalid(`An input needs exactly one of ${SOURCES.join(', ')}; ${found}.`, at);
  }
  if (file !== undefined) {
    const detail = `There is no file part "${file}". Send the ${formField} as multipart/form-data with its JSON in the field "${formField}" and the file in a field of that name.`;
    throw invalid(detail, `${at}.file`);
  }
  if (assetId !== undefined) return { node, input, assetId };
  if (url !== undefined) return { node, input, url };
  if (random !== undefined) return { node, input, random };
  const fault = checkJsonValue(value, `${at}.value`);
  if (fault !== null) throw invalid(fault.detail, fault.field);
  return { node, input, value };
}

function invalid(detail: string, field: string): ServiceError {
  return new ServiceError('invalid_input', detail, { field });
}
