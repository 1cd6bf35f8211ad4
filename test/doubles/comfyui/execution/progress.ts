// The progress of the nodes of one prompt, and the frames that report it.
import { previewFrame, previewWithMetadataFrame, type Preview } from '../frames.ts';
import type { SocketHub } from '../sockets.ts';
import type { Dict } from '../support/model.ts';
import { pyFloat, type PyFloat } from '../support/python.ts';

export interface PromptProgress {
  start(nodeId: string): void;
  update(nodeId: string, value: number, max: number, preview?: Preview): void;
  finish(nodeId: string): void;
}

interface NodeState {
  value: number | PyFloat;
  max: number | PyFloat;
  state: 'running' | 'finished';
}

const MIN_INTERVAL_MS = 100;
const MIN_SHARE = 0.005;

/** Frames go to the client that submitted the prompt; to everybody when it named none. */
export function trackProgress(
  hub: SocketHub,
  prompt: { promptId: string; clientId: unknown },
  throttles: boolean,
): PromptProgress {
  const { promptId, clientId } = prompt;
  const nodes = new Map<string, NodeState>();
  const lastSent = new Map<string, { at: number; value: number }>();

  const sendState = (): void => {
    const shown = new Map([...nodes].map(([id, state]) => [id, { ...state, ...identity(id, promptId) }]));
    hub.send('progress_state', { prompt_id: promptId, nodes: shown }, clientId);
  };
  const isDue = (nodeId: string, value: number, max: number): boolean => {
    const last = lastSent.get(nodeId);
    if (last === undefined || value >= max) return true;
    return Date.now() - last.at >= MIN_INTERVAL_MS && (value - last.value) / max >= MIN_SHARE;
  };

  return {
    start(nodeId) {
      nodes.set(nodeId, { value: pyFloat(0), max: pyFloat(1), state: 'running' });
      sendState();
    },
    update(nodeId, value, max, preview) {
      nodes.set(nodeId, { value, max, state: 'running' });
      if (throttles && preview === undefined && !isDue(nodeId, value, max)) return;
      lastSent.set(nodeId, { at: Date.now(), value });
      sendState();
      const withMetadata = hub.supportsPreviewMetadata(clientId);
      const recipient = typeof clientId === 'string' ? clientId : null;
      if (preview !== undefined && withMetadata) {
        hub.sendBinary(previewWithMetadataFrame(preview, { nodeId, promptId }), recipient);
      }
      hub.send('progress', { value, max, prompt_id: promptId, node: nodeId }, clientId);
      if (preview !== undefined && !withMetadata) hub.sendBinary(previewFrame(preview), recipient);
    },
    finish(nodeId) {
      // A cached node was never started, and then counts in whole numbers.
      const { max } = nodes.get(nodeId) ?? { max: 1 };
      nodes.set(nodeId, { value: max, max, state: 'finished' });
      sendState();
    },
  };
}

const identity = (nodeId: string, promptId: string): Dict => ({
  node_id: nodeId,
  prompt_id: promptId,
  display_node_id: nodeId,
  parent_node_id: null,
  real_node_id: nodeId,
});
