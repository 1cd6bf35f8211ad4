// One long-lived event stream for each instance, and the client that goes with it.
import { randomUUID } from 'node:crypto';
import { backoffMs } from '../support/backoff.ts';
import type { Logger } from '../support/log.ts';
import { sleep } from '../support/sleep.ts';
import { orAborted } from './abortable.ts';
import { createComfyClient, type ComfyClient, type ComfyClientOptions } from './client.ts';
import type { PromptEvent } from './events.ts';
import type { Link } from './link.ts';
import { openStream } from './stream.ts';

export type { NodeProgress, PromptEvent } from './events.ts';

export interface ComfySession {
  readonly client: ComfyClient;
  /** The client id to submit new prompts under; waits for an open stream. Rejects with the signal's reason, or once closed. */
  clientId(signal?: AbortSignal): Promise<string>;
  /**
   * Hands the events of one prompt to the listener until the returned function is called. Watch before submitting, or
   * the first events are missed. When the stream of `clientId` is gone, now or later, the listener gets `stream_lost`.
   */
  watch(promptId: string, clientId: string, listener: (event: PromptEvent) => void): () => void;
  readonly connected: boolean;
  close(): Promise<void>;
}

export interface SessionOptions extends ComfyClientOptions {
  log: Logger;
  /** How often the server is asked for a sign of life; after three without one the stream counts as lost. */
  pingIntervalMs?: number;
  /** How long a connection may take until ComfyUI's first frame. */
  openTimeoutMs?: number;
  /** The first wait before another connection; doubles up to `reconnectCapMs`. */
  reconnectBaseMs?: number;
  reconnectCapMs?: number;
}

interface Watcher {
  clientId: string;
  tell(event: PromptEvent): void;
}

/** Connects at once, and again whenever the stream is lost, until it is closed. The link stays the caller's to close. */
export function openSession(link: Link, options: SessionOptions): ComfySession {
  const { log, pingIntervalMs = 20_000, openTimeoutMs = 15_000 } = options;
  const backoff = { baseMs: options.reconnectBaseMs ?? 500, capMs: options.reconnectCapMs ?? 30_000 };
  const watchers = new Map<string, Set<Watcher>>();
  const closing = new AbortController();
  /** The client id of the open stream; null while there is none. */
  let openId: string | null = null;
  let opened = Promise.withResolvers<string>();

  /** A client id serves one connection only: ComfyUI 0.33 cuts off its next one when it notices the end of the last. */
  async function keepStreaming(): Promise<void> {
    let waitMs = 0;
    for (let failures = 1; !closing.signal.aborted; failures += 1) {
      const clientId = randomUUID();
      const begun = performance.now();
      const end = await followStream(clientId);
      loseStream(clientId);
      if (closing.signal.aborted) return;
      // One that was not worth the wait for it is no better than none: it may be cut off at once, each time.
      if (end.wasOpen && performance.now() - begun >= waitMs) failures = 1;
      log.warn(
        { reason: end.error?.message, wasOpen: end.wasOpen },
        'The event stream of ComfyUI is lost; connecting again',
      );
      waitMs = backoffMs(failures, backoff);
      await sleep(waitMs, closing.signal).catch(() => undefined);
    }
  }

  async function followStream(clientId: string) {
    const stream = openStream(link, clientId, {
      pingIntervalMs,
      openTimeoutMs,
      opened() {
        openId = clientId;
        opened.resolve(clientId);
      },
      event(promptId, event) {
        for (const watcher of watchers.get(promptId) ?? []) watcher.tell(event);
      },
    });
    const stop = () => stream.terminate();
    closing.signal.addEventListener('abort', stop, { once: true });
    const end = await stream.ended;
    closing.signal.removeEventListener('abort', stop);
    return end;
  }

  function loseStream(clientId: string): void {
    if (openId === clientId) {
      openId = null;
      opened = Promise.withResolvers();
    }
    for (const watcher of [...watchers.values()].flatMap((set) => [...set])) {
      if (watcher.clientId === clientId) watcher.tell({ kind: 'stream_lost' });
    }
  }

  const streaming = keepStreaming();

  return {
    client: createComfyClient(link, options),
    get connected() {
      return openId !== null;
    },
    async clientId(signal) {
      const stop = signal === undefined ? closing.signal : AbortSignal.any([closing.signal, signal]);
      return orAborted(opened.promise, stop);
    },
    watch(promptId, clientId, listener) {
      const set = watchers.get(promptId) ?? new Set();
      const watcher: Watcher = { clientId, tell: (event) => callSafely(listener, event, log) };
      watchers.set(promptId, set.add(watcher));
      if (openId !== clientId) {
        queueMicrotask(() => set.has(watcher) && watcher.tell({ kind: 'stream_lost' }));
      }
      return () => {
        set.delete(watcher);
        if (set.size === 0 && watchers.get(promptId) === set) watchers.delete(promptId);
      };
    },
    async close() {
      closing.abort(new Error('The session with ComfyUI is closed'));
      await streaming;
    },
  };
}

function callSafely(listener: (event: PromptEvent) => void, event: PromptEvent, log: Logger): void {
  try {
    listener(event);
  } catch (error) {
    log.error({ err: error }, 'A listener of ComfyUI events failed');
  }
}
