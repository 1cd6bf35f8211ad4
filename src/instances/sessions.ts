// The open sessions with ComfyUI, one for each instance and process, opened when they are first needed.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { openLink, type Link, type LinkTarget } from '../comfyui/link.ts';
import { openSession, type ComfySession } from '../comfyui/session.ts';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import { loadState } from './records.ts';
import { linkTarget } from './target.ts';

export interface Sessions {
  /** The shared session of an instance that is ready or draining; rejects when it has none. */
  get(instanceId: string): Promise<ComfySession>;
  /** Closes the session of an instance that has ended. */
  drop(instanceId: string): Promise<void>;
  close(): Promise<void>;
}

interface OpenSession {
  /** What the session was opened with; another address or certificate needs another session. */
  target: LinkTarget;
  link: Link;
  session: ComfySession;
}

export function createSessions({
  db,
  config,
  log,
}: {
  db: Kysely<Tables>;
  config: Config;
  log: Logger;
}): Sessions {
  const open = new Map<string, OpenSession>();

  async function drop(instanceId: string): Promise<void> {
    const entry = open.get(instanceId);
    if (entry === undefined) return;
    open.delete(instanceId);
    await entry.session.close();
    await entry.link.close();
  }

  return {
    async get(instanceId) {
      const target = await findTarget(db, config, instanceId);
      const known = open.get(instanceId);
      if (known !== undefined && sameTarget(known.target, target)) return known.session;
      await drop(instanceId);
      // Somebody else may have opened it while the old one was closing.
      const other = open.get(instanceId);
      if (other !== undefined) return other.session;
      const link = openLink(target);
      const session = openSession(link, { log: log.child({ instanceId }) });
      open.set(instanceId, { target, link, session });
      return session;
    },
    drop,
    async close() {
      await Promise.all([...open.keys()].map(drop));
    },
  };
}

async function findTarget(db: Kysely<Tables>, config: Config, instanceId: string): Promise<LinkTarget> {
  const state = await loadState(db, instanceId);
  if (state === null || (state.instance.status !== 'ready' && state.instance.status !== 'draining')) {
    throw new Error(`Instance ${instanceId} is not ready.`);
  }
  return linkTarget(state.instance, state.rental, config);
}

function sameTarget(a: LinkTarget, b: LinkTarget): boolean {
  return (
    a.baseUrl === b.baseUrl && a.token === b.token && a.certificateFingerprint === b.certificateFingerprint
  );
}
