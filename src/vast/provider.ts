// vast.ai as a provider of machines.
import type { BaseLogger } from 'pino';
import type { Config } from '../config.ts';
import type { Provider, ProviderInstance } from '../instances/provider.ts';
import { ProviderError } from '../instances/provider.ts';
import { createVastClient } from './client.ts';
import type { Intervals } from './endpoints.ts';
import { documentedIntervals, noIntervals } from './endpoints.ts';
import { createInstanceReader } from './instance-reader.ts';
import { findOffers } from './offers.ts';
import { createPacer } from './rate-limit.ts';
import type { RecipeConfig } from './recipe.ts';
import { createBody, mappedPorts, minCudaOf, pinnedComfyUi } from './recipe.ts';
import { withoutSecrets } from './redaction.ts';
import { rentalView } from './rental-view.ts';
import type { InstanceRow } from './schemas.ts';
import { sharedSearch } from './shared-search.ts';
import { createTransport } from './transport.ts';

export interface VastProviderOptions {
  config: RecipeConfig & Pick<Config, 'VASTAI_API_KEY' | 'VAST_API_URL' | 'VAST_PACING'>;
  log: Pick<BaseLogger, 'debug' | 'warn'>;
  /** How often calls may be made; what `VAST_PACING` says unless given. */
  intervals?: Intervals;
}

/** `close` gives up every call that waits or is under way. Throws when `VASTAI_API_KEY` is unset. */
export function createVastProvider({
  config,
  log,
  intervals = config.VAST_PACING === 'none' ? noIntervals : documentedIntervals,
}: VastProviderOptions): Provider & { close(): Promise<void> } {
  const apiKey = config.VASTAI_API_KEY;
  if (apiKey === undefined) throw new Error('VASTAI_API_KEY is not set');
  const closing = new AbortController();
  const until = (signal: AbortSignal | undefined) =>
    signal === undefined ? closing.signal : AbortSignal.any([closing.signal, signal]);

  const transport = createTransport();
  const pacer = createPacer(intervals.paces);
  const client = createVastClient({
    baseUrl: config.VAST_API_URL,
    apiKey,
    transport,
    pacer,
    intervals,
    log,
  });
  const addressRules = {
    port: config.VAST_COMFYUI_PORT,
    scheme: config.VAST_HTTPS ? ('https' as const) : ('http' as const),
  };
  const view = (row: InstanceRow) => rentalView(row, addressRules);
  const reader = createInstanceReader({
    client,
    pacer,
    closing: closing.signal,
    isComplete: (row) => {
      const { condition } = view(row);
      return condition.kind !== 'running' || condition.address !== null;
    },
  });

  const search = sharedSearch(
    (wanted, signal) =>
      findOffers((body) => client.search(body, signal), { ...wanted, needs: needsOf(config) }),
    closing.signal,
  );

  async function listAll(signal?: AbortSignal): Promise<ProviderInstance[]> {
    return (await client.list(() => ({}), until(signal))).map(view);
  }

  return {
    name: 'vast',
    comfyUiVersion: pinnedComfyUi(config),

    searchOffers: (requirements, { machineId, toRent = false, signal } = {}) =>
      givenUpAsError('Searching offers', search({ requirements, machineId }, until(signal), toRent)),

    async launch(request, { beforeSending, signal } = {}) {
      const rental = {
        offerId: request.offer.offerId,
        body: createBody(config, request),
        secret: request.secret,
        beforeSending,
      };
      return { providerInstanceId: await client.create(rental, until(signal)) };
    },

    async describe(providerInstanceId, signal) {
      const row = await givenUpAsError('Reading an instance', reader.read(providerInstanceId, until(signal)));
      return row === null ? { kind: 'absent' } : { kind: 'present', instance: view(row) };
    },

    listAll,

    async listByLabel(prefix, signal) {
      return (await listAll(signal)).filter(({ label }) => label?.startsWith(prefix) === true);
    },

    terminate: (providerInstanceId, signal) => client.destroy(providerInstanceId, until(signal)),

    async logs(providerInstanceId, lines, signal) {
      const text = withoutSecrets(await client.log(providerInstanceId, lines, until(signal)), [apiKey]);
      return text.trimEnd().split('\n').slice(-lines).join('\n');
    },

    async account(signal) {
      return { creditUsd: (await client.user(until(signal))).credit };
    },

    async close() {
      closing.abort(new Error('the service is stopping'));
      await transport.close();
    },
  };
}

/** SSH takes a port of its own, and vast.ai's hosts with a single open port are not worth the trouble. */
function needsOf(config: RecipeConfig): { ports: number; minCuda: number } {
  const ssh = config.VAST_RUNTYPE === 'args' ? 0 : 1;
  return { ports: Math.max(2, mappedPorts(config).length + ssh), minCuda: minCudaOf(config) };
}

/** An answer that is shared by several callers ends for one of them with that caller's own reason. */
async function givenUpAsError<T>(what: string, answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ProviderError) throw error;
    throw new ProviderError('unavailable', `${what}: given up`, { cause: error });
  }
}
