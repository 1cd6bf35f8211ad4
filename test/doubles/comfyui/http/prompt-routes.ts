// POST /prompt, and the number of prompts in hand.
import { randomUUID } from 'node:crypto';
import { invalidPromptIdError, noPromptError, type PromptError } from '../execution/validation-errors.ts';
import { validatePrompt } from '../execution/validation.ts';
import { nodeError } from '../nodes/definition.ts';
import type { ComfyProcess } from '../process.ts';
import type { Dict } from '../support/model.ts';
import { isObject, isTruthy, pyFloat, pyStr } from '../support/python.ts';
import { jsonAnswer, readJson, type Answer, type Exchange } from './exchange.ts';
import type { Route } from './router.ts';

const SECRETS = ['auth_token_comfy_org', 'api_key_comfy_org'];
const CANONICAL_UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/u;

export const isCanonicalUuid = (value: unknown): value is string =>
  typeof value === 'string' && CANONICAL_UUID.test(value);

export const promptRoutes = (server: ComfyProcess): Route[] => [
  { method: 'POST', path: '/prompt', handle: (exchange) => postPrompt(exchange, server) },
  {
    method: 'GET',
    path: '/prompt',
    handle: () => jsonAnswer({ exec_info: { queue_remaining: server.queue.remaining } }),
  },
];

async function postPrompt(exchange: Exchange, server: ComfyProcess): Promise<Answer> {
  const { traits, knobs, counters } = server;
  const body = await readJson(exchange);
  // Python's `in` works on lists and texts, which just do not hold the key, and on nothing else.
  if (body === null || typeof body === 'number' || typeof body === 'boolean') {
    throw nodeError('TypeError', 'argument is not iterable');
  }
  const fields: Dict = isObject(body) ? body : {};
  const number = takeNumber(fields, server);
  if (!('prompt' in fields)) return refuse(noPromptError(), {}, server);

  const wantedId = knobs.ownPromptIds ? undefined : fields['prompt_id'];
  const promptId = promptIdOf(wantedId, traits.strictPromptId);
  if (promptId === undefined) return refuse(invalidPromptIdError(), {}, server);
  const { error, graph, outputs, nodeErrors } = validatePrompt(
    fields['prompt'],
    fields['partial_execution_targets'],
    {
      registry: server.registry,
      storage: server.storage,
      traits,
      replacements: knobs.nodeReplacements,
    },
  );
  const extraData = extraDataOf(fields, exchange);
  if (error !== null) return refuse(error, nodeErrors, server);

  if (traits.stampsExtraData) stamp(extraData);
  server.queue.put({
    ...number,
    promptId,
    graph,
    extraData: isObject(extraData) ? extraData : null,
    outputs,
  });
  counters.promptsAccepted += 1;
  const shown = number.numberIsFloat ? pyFloat(number.number) : number.number;
  return jsonAnswer({ prompt_id: promptId, number: shown, node_errors: nodeErrors });
}

function refuse(error: PromptError, nodeErrors: object, { counters }: ComfyProcess): Answer {
  counters.promptsRejected += 1;
  return jsonAnswer({ error, node_errors: nodeErrors }, 400);
}

/** The counter moves with every request that brings no number of its own, also with refused ones. */
function takeNumber(fields: Dict, server: ComfyProcess): { number: number; numberIsFloat: boolean } {
  if ('number' in fields) return { number: asFloat(fields['number']), numberIsFloat: true };
  const number = isTruthy(fields['front']) ? -server.promptCounter : server.promptCounter;
  server.promptCounter += 1;
  return { number, numberIsFloat: false };
}

function asFloat(value: unknown): number {
  if (typeof value === 'number') return value;
  if (typeof value === 'boolean') return Number(value);
  const text = typeof value === 'string' ? value.trim() : '';
  const number = Number(text.replace(/^([+-]?)inf(?:inity)?$/iu, '$1Infinity'));
  if (text === '' || (Number.isNaN(number) && !/^[+-]?nan$/iu.test(text))) {
    throw nodeError('ValueError', `could not convert string to float: ${pyStr(value)}`);
  }
  return number;
}

function promptIdOf(value: unknown, isStrict: boolean): string | undefined {
  if (value === undefined || value === null) return randomUUID();
  if (!isStrict) return pyStr(value);
  return isCanonicalUuid(value) ? value : undefined;
}

function extraDataOf(fields: Dict, { request }: Exchange): unknown {
  const extraData = 'extra_data' in fields ? fields['extra_data'] : {};
  const source = request.headers['comfy-usage-source'];
  if ('client_id' in fields || source !== undefined) {
    if (!isObject(extraData))
      throw nodeError('TypeError', "'NoneType' object does not support item assignment");
    if ('client_id' in fields) extraData['client_id'] = fields['client_id'];
    if (source !== undefined) extraData['comfy_usage_source'] = source;
  }
  return extraData;
}

/** 0.3.69 and later: secrets go elsewhere, the time of arrival comes in. */
function stamp(extraData: unknown): void {
  if (!isObject(extraData)) throw nodeError('TypeError', "argument of type 'NoneType' is not iterable");
  for (const secret of SECRETS) delete extraData[secret];
  extraData['create_time'] = Date.now();
}
