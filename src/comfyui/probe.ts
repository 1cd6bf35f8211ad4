// Is the machine's ComfyUI ready, and is it closed to everybody else?
import { randomUUID } from 'node:crypto';
import { ask, tryParse, type Answer, type AnswerLimits } from './answer.ts';
import { readFrame } from './events.ts';
import { LinkError, openLink, type Link, type LinkTarget } from './link.ts';
import { systemStatsSchema } from './schemas.ts';

export type Probe =
  | {
      kind: 'ready';
      version: string;
      devices: { name: string; type: string; vramTotalBytes: number }[];
    }
  /** The proxy answers, ComfyUI does not yet. */
  | { kind: 'starting'; detail: string }
  /** Nothing listens, or the connection breaks at once. */
  | { kind: 'refused' }
  | { kind: 'timeout' }
  /** The proxy does not accept our token. */
  | { kind: 'unauthorized' }
  /** Plain http where https was asked for, another certificate than the pinned one, or one that is not trusted. */
  | { kind: 'insecure'; detail: string }
  | { kind: 'unexpected'; detail: string };

const limits: AnswerLimits = { deadlineMs: 15_000, maxBytes: 1024 * 1024 };
const webSocketTimeoutMs = 15_000;

/** Asks ComfyUI for its state. Rejects only with the signal's reason. */
export async function probe(link: Link, signal?: AbortSignal): Promise<Probe> {
  try {
    return readProbe(await ask(link, { method: 'GET', path: '/system_stats', signal }, limits));
  } catch (error) {
    if (error instanceof LinkError) return readLinkError(error);
    throw error;
  }
}

/**
 * Asks the same without our token; the certificate is checked all the same. `open` means that anybody can use the
 * machine, `unclear` that the answer proves nothing. Rejects only with the signal's reason.
 */
export async function probeWithoutCredentials(
  target: LinkTarget,
  signal?: AbortSignal,
): Promise<'closed' | 'open' | 'unclear'> {
  const link = openLink({ ...target, token: null });
  try {
    const answer = await ask(link, { method: 'GET', path: '/system_stats', signal }, limits);
    if (isRefusal(answer.status)) return 'closed';
    return answer.status >= 200 && answer.status < 300 && !answer.isPlaceholder ? 'open' : 'unclear';
  } catch (error) {
    if (error instanceof LinkError) return 'unclear';
    throw error;
  } finally {
    await link.close();
  }
}

/** True once ComfyUI's WebSocket opens and sends its first frame. Rejects only with the signal's reason. */
export async function probeWebSocket(link: Link, signal?: AbortSignal): Promise<boolean> {
  signal?.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = link.openWebSocket(`/ws?clientId=${randomUUID()}`, {
    message(data) {
      if (readFrame(data)?.kind === 'status') resolve(true);
    },
    closed: () => resolve(false),
  });
  const end = () => resolve(false);
  const timer = setTimeout(end, webSocketTimeoutMs);
  signal?.addEventListener('abort', end, { once: true });
  try {
    const works = await promise;
    signal?.throwIfAborted();
    return works;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
    socket.terminate();
  }
}

function readProbe(answer: Answer): Probe {
  const { status, text, isPlaceholder } = answer;
  if (isPlaceholder || status === 502 || status === 503 || status === 504) {
    return { kind: 'starting', detail: `The proxy of the machine answers with status ${status}.` };
  }
  if (isRefusal(status)) return { kind: 'unauthorized' };
  if (status !== 200) return { kind: 'unexpected', detail: `The machine answers with status ${status}.` };
  const stats = tryParse(systemStatsSchema, text);
  if (stats === null) return { kind: 'unexpected', detail: 'Something answers, but it is not ComfyUI.' };
  return {
    kind: 'ready',
    version: stats.system.comfyui_version,
    devices: stats.devices.map(({ name, type, vram_total }) => ({ name, type, vramTotalBytes: vram_total })),
  };
}

/** ai-dock's image sends strangers to a login page, vast.ai's answers 401. */
function isRefusal(status: number): boolean {
  return status === 401 || status === 403 || (status >= 300 && status < 400);
}

function readLinkError(error: LinkError): Probe {
  switch (error.kind) {
    case 'refused':
    // Until the container listens, the host may accept a connection and drop it.
    case 'reset':
      return { kind: 'refused' };
    case 'timeout':
      return { kind: 'timeout' };
    case 'tls':
    case 'certificate_changed':
    case 'plain_http':
      return { kind: 'insecure', detail: `${error.message}.` };
    default:
      return { kind: 'unexpected', detail: `${error.message}.` };
  }
}
