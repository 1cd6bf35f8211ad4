// Runs one prompt: node after node, with the frames and status messages that ComfyUI gives on the way.
import type { Storage } from '../files/storage.ts';
import { textFrame } from '../frames.ts';
import type { ComfyCounters, ComfyKnobs } from '../knobs.ts';
import {
  nodeError,
  NodeError,
  ProcessEnded,
  ProcessingInterrupted,
  type NodeContext,
  type NodeDefinition,
} from '../nodes/definition.ts';
import type { NodeRegistry } from '../nodes/registry.ts';
import { simulatedNode } from '../nodes/simulated.ts';
import type { SocketHub } from '../sockets.ts';
import type { Dict, HistoryEntry, NodeUi, QueueItem, StatusMessage } from '../support/model.ts';
import { pyRepr } from '../support/python.ts';
import type { VersionTraits } from '../versions.ts';
import { errorData } from './error-data.ts';
import { callNode, gatherInputs } from './node-call.ts';
import { trackProgress, type PromptProgress } from './progress.ts';
import type { CachedResult, CacheView, ResultCache } from './result-cache.ts';
import { nodeOf, scheduleNodes } from './schedule.ts';

export interface ExecutorTools {
  readonly hub: SocketHub;
  readonly storage: Storage;
  readonly registry: NodeRegistry;
  readonly cache: ResultCache;
  readonly knobs: ComfyKnobs;
  readonly counters: ComfyCounters;
  readonly traits: VersionTraits;
  readonly interrupt: InterruptFlag;
  /** The client and node that a reconnecting socket is told about. */
  readonly current: { clientId: unknown; nodeId: string | null };
  readonly random: () => number;
  /** Waits; rejects when the played process ends. */
  wait(ms: number): Promise<void>;
}

export interface InterruptFlag {
  isSet: boolean;
}

interface Run {
  readonly item: QueueItem;
  readonly extraData: Dict;
  readonly clientId: unknown;
  readonly cache: CacheView;
  readonly progress: PromptProgress;
  readonly executed: string[];
  readonly outputs: Record<string, NodeUi>;
  readonly meta: Record<string, Dict>;
  readonly tools: ExecutorTools;
}

/** Throws where the real worker thread would die of the prompt; then nothing runs any more. */
export async function executePrompt(item: QueueItem, tools: ExecutorTools): Promise<HistoryEntry> {
  const { hub, current, interrupt, registry, traits } = tools;
  if (item.extraData === null) throw nodeError('TypeError', "argument of type 'NoneType' is not iterable");
  const clientId = item.extraData['client_id'] ?? null;
  // An interrupt that came between two prompts is forgotten here.
  interrupt.isSet = false;
  current.clientId = clientId;
  const messages: StatusMessage[] = [];
  const announce = (event: string, data: Dict, isBroadcast = false): void => {
    const stamped = { prompt_id: item.promptId, ...data, timestamp: Date.now() };
    messages.push([event, stamped]);
    if (clientId !== null || isBroadcast) hub.send(event, stamped, clientId);
  };

  announce('execution_start', {});
  const run: Run = {
    item,
    extraData: item.extraData,
    clientId,
    cache: await tools.cache.enter(item.graph),
    progress: trackProgress(hub, { promptId: item.promptId, clientId }, traits.throttlesProgress),
    executed: [],
    outputs: {},
    meta: {},
    tools,
  };
  const cached = Object.keys(item.graph).filter((id) => run.cache.get(id) !== undefined);
  announce('execution_cached', { nodes: cached });

  const schedule = scheduleNodes(item.graph, item.outputs, {
    isCached: (id) => run.cache.get(id) !== undefined,
    isOutput: (id) => registry.find(item.graph[id]?.class_type)?.isOutput === true,
  });
  const end = await runNodes(run, schedule);
  if (end === undefined) announce('execution_success', {});
  else announce(end.event, end.data, end.event === 'execution_interrupted');
  current.nodeId = null;
  return {
    item,
    outputs: run.outputs,
    meta: run.meta,
    status: { status_str: end === undefined ? 'success' : 'error', completed: end === undefined, messages },
  };
}

type BadEnd = { event: 'execution_error' | 'execution_interrupted'; data: Dict } | undefined;

async function runNodes(run: Run, schedule: ReturnType<typeof scheduleNodes>): Promise<BadEnd> {
  for (let id = schedule.next(); id !== undefined; id = schedule.next()) {
    const cached = run.cache.get(id);
    if (cached !== undefined) reuse(id, cached, run);
    else {
      const end = await runNode(id, run);
      if (end !== undefined) return end;
    }
    schedule.done(id);
  }
  return undefined;
}

/** Only cached output nodes come here: their old result is shown again. */
function reuse(id: string, cached: CachedResult, run: Run): void {
  const { clientId, tools, item } = run;
  const isLost = clientId === null && tools.knobs.emptyCachedOutputs;
  if (cached.ui !== undefined && !isLost) {
    run.outputs[id] = cached.ui;
    run.meta[id] = cached.meta ?? metaOf(id);
  }
  if (clientId !== null) {
    const output = cached.ui ?? null;
    tools.hub.send('executed', { node: id, display_node: id, output, prompt_id: item.promptId }, clientId);
  }
  run.progress.finish(id);
}

async function runNode(id: string, run: Run): Promise<BadEnd> {
  const { item, tools, clientId } = run;
  const node = nodeOf(item.graph, id);
  const definition = tools.registry.find(node.class_type) ?? goneNode(node.class_type);
  const checkInterrupt = (): void => {
    if (!tools.interrupt.isSet) return;
    tools.interrupt.isSet = false;
    throw new ProcessingInterrupted();
  };

  run.progress.start(id);
  tools.current.nodeId = id;
  if (clientId !== null) {
    tools.hub.send('executing', { node: id, display_node: id, prompt_id: item.promptId }, clientId);
  }
  const inputs = gatherInputs(node, definition, (source) => run.cache.get(source)?.values);
  try {
    tools.counters.nodesExecuted += 1;
    const result = await callNode(definition, inputs, nodeContext(id, run, checkInterrupt), checkInterrupt);
    const meta = result.ui === undefined ? undefined : metaOf(id);
    run.cache.set(id, { ...result, meta });
    show(id, result.ui, run);
    run.progress.finish(id);
    run.executed.push(id);
    return undefined;
  } catch (error) {
    const data = { node_id: id, node_type: node.class_type, executed: [...run.executed] };
    if (error instanceof ProcessingInterrupted) return { event: 'execution_interrupted', data };
    if (error instanceof ProcessEnded) throw error;
    const failure = error instanceof NodeError ? error : nodeError('RuntimeError', String(error));
    return {
      event: 'execution_error',
      data: { ...data, ...errorData(failure, id, inputs, { ...run, definition }) },
    };
  }
}

/** A knob took the class away while the prompt waited. */
const goneNode = (name: string): NodeDefinition =>
  simulatedNode(name, { durationMs: 0, error: { type: 'KeyError', message: pyRepr(name) } });

function show(id: string, ui: NodeUi | undefined, { item, outputs, meta, clientId, tools }: Run): void {
  if (ui === undefined) return;
  outputs[id] = ui;
  meta[id] = metaOf(id);
  if (clientId === null) return;
  tools.hub.send('executed', { node: id, display_node: id, output: ui, prompt_id: item.promptId }, clientId);
}

function nodeContext(id: string, run: Run, checkInterrupt: () => void): NodeContext {
  const { item, extraData, progress, tools } = run;
  const method = extraData['preview_method'];
  return {
    nodeId: id,
    promptId: item.promptId,
    graph: item.graph,
    extraData,
    storage: tools.storage,
    knobs: tools.knobs,
    wantsPreviews: typeof method === 'string' && !['none', 'default'].includes(method),
    random: tools.random,
    progress(value, max, preview) {
      checkInterrupt();
      progress.update(id, value, max, preview);
    },
    text: (text) => tools.hub.sendBinary(textFrame(id, text), null),
    spend: (ms) => tools.wait(ms),
  };
}

const metaOf = (id: string): Dict => ({ node_id: id, display_node: id, parent_node: null, real_node_id: id });
