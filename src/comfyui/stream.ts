// One connection to ComfyUI's event stream, from its opening to its loss.
import { readFrame, type PromptEvent } from './events.ts';
import type { Link, LinkError } from './link.ts';

export interface StreamOptions {
  /** How often the server is asked for a sign of life; after three without one the stream counts as lost. */
  pingIntervalMs: number;
  /** How long it may take until ComfyUI's first frame. */
  openTimeoutMs: number;
  /** ComfyUI has registered the client id: its prompts' events will come. */
  opened(clientId: string): void;
  event(promptId: string, event: PromptEvent): void;
}

export interface StreamEnd {
  /** Null where the server closed, or did not show life. */
  error: LinkError | null;
  wasOpen: boolean;
}

export interface Stream {
  /** Never rejects. */
  readonly ended: Promise<StreamEnd>;
  terminate(): void;
}

const silentPings = 3;

/** ComfyUI 0.33 answers this, the first message, with its own; previews then carry the prompt they belong to. */
const featureFlags = JSON.stringify({ type: 'feature_flags', data: { supports_preview_metadata: true } });

export function openStream(link: Link, clientId: string, options: StreamOptions): Stream {
  const { promise: ended, resolve } = Promise.withResolvers<StreamEnd>();
  let wasOpen = false;
  const socket = link.openWebSocket(`/ws?clientId=${clientId}`, {
    opened: () => socket.send(featureFlags),
    message(data) {
      const frame = readFrame(data);
      if (frame === null) return;
      if (frame.kind === 'prompt') return options.event(frame.promptId, frame.event);
      if (wasOpen) return;
      wasOpen = true;
      options.opened(clientId);
    },
    closed(error) {
      clearTimeout(opening);
      clearInterval(heartbeat);
      resolve({ error, wasOpen });
    },
  });
  const opening = setTimeout(() => wasOpen || socket.terminate(), options.openTimeoutMs);
  const heartbeat = setInterval(watchLife(socket), options.pingIntervalMs);
  return { ended, terminate: () => socket.terminate() };
}

/** A connection whose other end has vanished looks open for many minutes; only silence after pings gives it away. */
function watchLife(socket: ReturnType<Link['openWebSocket']>): () => void {
  let bytes = 0;
  let silent = 0;
  return () => {
    silent = socket.bytesRead() === bytes ? silent + 1 : 0;
    bytes = socket.bytesRead();
    if (silent >= silentPings) socket.terminate();
    else socket.ping();
  };
}
