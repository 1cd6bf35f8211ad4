// What is known of the nodes where a job may run, and whether every such place would refuse its workflow.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { NodeCatalog, NodeClass, NodeInput } from '../comfyui/object-info.ts';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import { messageOf, ServiceError } from '../errors.ts';
import { createCatalogs, imageOf, newestCatalog, type Catalogs } from '../instances/catalogs.ts';
import type { RequestedRequirements } from '../instances/requirements.ts';
import type { Sessions } from '../instances/sessions.ts';
import { isFresh, type Clock } from '../support/clock.ts';
import { expectedFacts, factColumns } from './facts.ts';
import type { JobInput, Workflow } from './job.ts';
import { firstFinding } from './findings.ts';
import { fits } from './matching.ts';
import { checkNodes, inputKey, type NodeErrors } from './node-check.ts';
import { applyInputs } from './workflow.ts';

export interface KnownNodesDeps {
  db: Kysely<Tables>;
  sessions: Pick<Sessions, 'get'>;
  /** Whether machines can be rented at all. */
  canRent: boolean;
  config: Config;
  clock: Clock;
  log: Logger;
}

/** Where a job may run. */
export interface JobPlaces {
  /** What the nodes of those places say of one input; empty where nothing is known. */
  inputs(nodeClass: string, input: string): NodeInput[];
  /** Rejects with `invalid_workflow` when every place would surely refuse the workflow with these inputs. */
  check(workflow: Workflow, inputs: readonly JobInput[]): Promise<void>;
}

export interface KnownNodes {
  placesFor(job: {
    instanceId?: string | undefined;
    requirements?: RequestedRequirements | undefined;
  }): Promise<JobPlaces>;
}

/** A place with its catalog; null where nothing is known of it. */
interface Place {
  /** An instance that is ready and can be asked again; null for machines that are not there yet. */
  instanceId: string | null;
  catalog: NodeCatalog | null;
  readAt: Date;
}

/** A caller waits meanwhile. */
const ASK_AGAIN_MS = 3000;
/** So many classes are asked for again; findings about more of them are not certain. */
const MAX_ASKED_AGAIN = 16;
const REMEMBERED_MS = 2000;

export function createKnownNodes(deps: KnownNodesDeps): KnownNodes {
  const catalogs = createCatalogs(deps.db);
  const recall = createRecall(deps);
  return {
    async placesFor(job) {
      const places = await findPlaces(deps, catalogs, job);
      return {
        inputs: (nodeClass, input) =>
          places.flatMap(({ catalog }) => {
            const known = catalog?.classes.get(nodeClass)?.inputs ?? {};
            return Object.hasOwn(known, input) ? (known[input] ?? []) : [];
          }),
        async check(workflow, inputs) {
          const refusal = await findRefusal(deps, recall, places, prepared(workflow, inputs));
          if (refusal !== null) throw refused(deps.config, refusal, inputs);
        },
      };
    },
  };
}

type Recall = (instanceId: string, name: string, comfyuiVersion: string) => Promise<NodeClass | null>;

/** A workflow as it will be submitted, but for the names of files. */
interface Prepared {
  workflow: Workflow;
  later: ReadonlySet<string>;
}

interface Refusal {
  place: Place;
  catalog: NodeCatalog;
  errors: NodeErrors;
}

function prepared(workflow: Workflow, inputs: readonly JobInput[]): Prepared {
  const values = inputs.flatMap(({ node, input, value }) =>
    value === undefined ? [] : [{ node, input, value }],
  );
  const later = inputs.filter(({ value }) => value === undefined);
  return {
    workflow: applyInputs(workflow, values),
    later: new Set(later.map(({ node, input }) => inputKey(node, input))),
  };
}

/** One refusal when every place refuses, and none otherwise. */
async function findRefusal(
  deps: KnownNodesDeps,
  recall: Recall,
  places: readonly Place[],
  { workflow, later }: Prepared,
): Promise<Refusal | null> {
  const refusals: Refusal[] = [];
  for (const place of places) {
    const { catalog, instanceId } = place;
    if (catalog === null) return null;
    const errors = checkNodes(workflow, catalog, { later, filesAreKnown: instanceId !== null });
    if (errors === null) return null;
    refusals.push({ place, catalog, errors });
  }
  const certain = await Promise.all(
    refusals.map((refusal) => confirm(deps, recall, refusal, { workflow, later })),
  );
  return certain.includes(null) ? null : (certain[0] ?? null);
}

/** Nodes and models may have come since a place was looked at. What cannot be asked again is not certain. */
async function confirm(
  deps: KnownNodesDeps,
  recall: Recall,
  refusal: Refusal,
  { workflow, later }: Prepared,
): Promise<Refusal | null> {
  const { catalog, errors } = refusal;
  const { instanceId } = refusal.place;
  if (instanceId === null) return refusal;
  const names = [...new Set(Object.values(errors).map((error) => error.class_type))].slice(
    0,
    MAX_ASKED_AGAIN,
  );
  const classes = new Map(catalog.classes);
  try {
    const now = await Promise.all(names.map((name) => recall(instanceId, name, catalog.comfyuiVersion)));
    for (const [index, name] of names.entries()) {
      const nodeClass = now[index] ?? null;
      if (nodeClass === null) classes.delete(name);
      else classes.set(name, nodeClass);
    }
  } catch (error) {
    deps.log.info({ instanceId, error: messageOf(error) }, 'an instance could not be asked for its nodes');
    return null;
  }
  const found = checkNodes(workflow, { ...catalog, classes }, { later, filesAreKnown: true });
  const sure = Object.entries(found ?? {}).filter(([, { class_type: name }]) => names.includes(name));
  if (sure.length > 0) return { ...refusal, errors: Object.fromEntries(sure) };
  // The catalog is out of date: the next look at the instance reads it again.
  await deps.db
    .updateTable('instances')
    .set({ catalog_read_at: null })
    .where('id', '=', instanceId)
    .execute();
  return null;
}

async function findPlaces(
  deps: KnownNodesDeps,
  catalogs: Catalogs,
  { instanceId, requirements }: Parameters<KnownNodes['placesFor']>[0],
): Promise<Place[]> {
  const { db, config, clock, canRent } = deps;
  let query = db
    .selectFrom('instances')
    .select([...factColumns, 'catalog_id', 'catalog_read_at'])
    .where('status', 'in', ['requested', 'provisioning', 'ready']);
  if (instanceId !== undefined) query = query.where('id', '=', instanceId);
  const places: Place[] = [];
  let rents = instanceId === undefined && canRent && config.MAX_INSTANCES > 0;
  for (const row of await query.execute()) {
    if (row.status !== 'ready') {
      // A machine on its way will be one of the image; of a server that is away nothing is known.
      if (row.provider === 'vast') rents = true;
      else places.push(unknownPlace(clock.now()));
      continue;
    }
    const job = { requirements: requirements ?? null, wantedInstanceId: instanceId ?? null };
    if (!fits(job, expectedFacts(row))) continue;
    const catalog = row.catalog_id === null ? null : await catalogs.get(row.catalog_id);
    places.push({ instanceId: row.id, catalog, readAt: row.catalog_read_at ?? clock.now() });
  }
  if (rents) places.push(await futurePlace(deps, catalogs));
  return places;
}

/** A machine that is not there yet, as far as the newest one of its image tells. */
async function futurePlace({ db, config, clock }: KnownNodesDeps, catalogs: Catalogs): Promise<Place> {
  const now = clock.now();
  const notBefore = new Date(now.getTime() - config.NODE_CATALOG_HOURS * 3_600_000);
  const newest = await newestCatalog(db, imageOf(config), notBefore);
  if (newest === null) return unknownPlace(now);
  return { instanceId: null, catalog: await catalogs.get(newest.id), readAt: newest.readAt };
}

function unknownPlace(now: Date): Place {
  return { instanceId: null, catalog: null, readAt: now };
}

/** Asks instances for node classes; who sends one bad workflow after the other does not keep a machine busy with it. */
function createRecall({ sessions, clock }: KnownNodesDeps): Recall {
  const asked = new Map<string, { at: Date; answer: Promise<NodeClass | null> }>();
  return async (instanceId, name, comfyuiVersion) => {
    const now = clock.now();
    for (const [key, { at }] of asked) {
      if (isFresh(at, REMEMBERED_MS, now)) break;
      asked.delete(key);
    }
    const key = JSON.stringify([instanceId, name]);
    const known = asked.get(key);
    if (known !== undefined) return known.answer;
    const answer = sessions
      .get(instanceId)
      .then(({ client }) => client.nodeClass(name, comfyuiVersion, AbortSignal.timeout(ASK_AGAIN_MS)));
    asked.set(key, { at: now, answer });
    return answer;
  };
}

function refused(
  config: Config,
  { place, catalog, errors }: Refusal,
  inputs: readonly JobInput[],
): ServiceError {
  const { nodeId, input, text } = firstFinding(errors) ?? { nodeId: '', input: undefined, text: '' };
  const who =
    place.instanceId === null
      ? `ComfyUI ${catalog.comfyuiVersion} of ${imageOf(config)}, as it was on ${place.readAt.toISOString()},`
      : `ComfyUI ${catalog.comfyuiVersion} of instance ${place.instanceId}`;
  const detail = `${who} would refuse the workflow. ${text}`;
  const field = fieldOf(nodeId, input, inputs);
  return new ServiceError('invalid_workflow', detail, { field, extra: { nodeErrors: errors } });
}

function fieldOf(node: string, input: string | undefined, inputs: readonly JobInput[]): string {
  if (input === undefined) return `workflow.${node}`;
  const index = inputs.findIndex((given) => given.node === node && given.input === input);
  return index === -1 ? `workflow.${node}.inputs.${input}` : `inputs[${index}]`;
}
