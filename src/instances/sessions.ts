// The open sessions with ComfyUI, one for each instance and process, opened when they are first needed.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { ComfyError } from '../comfyui/errors.ts';
import { openLink, type Link, type LinkTarget } from '../comfyui/link.ts';
import { openSession, type ComfySession } from '../comfyui/session.ts';
import type { Config } from '../config.ts';
import type { InstanceRow, Tables } from '../database/tables.ts';
import { messageOf } from '../errors.ts';
import type { InstanceStatus } from './instance.ts';
import { linkTarget, type Reachable } from './target.ts';

export interface Sessions {
  /**
   * The shared session of an instance that is ready or draining. Rejects with an `unavailable` `ComfyError` when it has none, and otherwise
   * only with what the database has against it.
   */
  get(instanceId: string): Promise<ComfySession>;
  /** Closes the session of an instance that has ended, at once. */
  drop(instanceId: string): Promise<void>;
  close(): Promise<void>;
}

interface OpenSession {
  /** What the session was opened with; another address or certificate needs another session. */
  target: LinkTarget;
  link: Link;
  session: ComfySession;
}

export interface SessionsOptions {
  db: Kysely<Tables>;
  config: Config;
  log: Logger;
  /** How often sessions are looked for whose instance has ended: its last step, which drops it, may run in another process. */
  pruneEveryMs?: number;
}

export function createSessions({ db, config, log, pruneEveryMs = 30_000 }: SessionsOptions): Sessions {
  const open = new Map<string, OpenSession>();
  const pruning = setInterval(() => {
    prune().catch((error: unknown) =>
      log.debug({ err: error }, 'sessions of ended instances were not looked for'),
    );
  }, pruneEveryMs);
  pruning.unref();

  async function drop(instanceId: string): Promise<void> {
    const entry = open.get(instanceId);
    if (entry === undefined) return;
    open.delete(instanceId);
    await entry.session.close();
    await entry.link.close();
  }

  async function prune(): Promise<void> {
    const ids = [...open.keys()];
    if (ids.length === 0) return;
    const living = await db
      .selectFrom('instances')
      .select('id')
      .where('id', 'in', ids)
      .where('status', 'in', usableStatuses)
      .execute();
    const kept = new Set(living.map(({ id }) => id));
    await Promise.all(ids.filter((id) => !kept.has(id)).map(drop));
  }

  return {
    async get(instanceId) {
      const usable = await findUsable(db, instanceId);
      const target = orUnavailable(() => targetOf(instanceId, usable, config));
      const known = open.get(instanceId);
      if (known !== undefined && sameTarget(known.target, target)) return known.session;
      await drop(instanceId);
      // Somebody else may have opened it while the old one was closing.
      const other = open.get(instanceId);
      if (other !== undefined) return other.session;
      const link = orUnavailable(() => openLink(target));
      const session = openSession(link, {
        log: log.child({ instanceId }),
        answerMs: config.COMFYUI_TIMEOUT_SECONDS * 1000,
      });
      open.set(instanceId, { target, link, session });
      return session;
    },
    drop,
    async close() {
      clearInterval(pruning);
      await Promise.all([...open.keys()].map(drop));
    },
  };
}

/** Statuses of an instance whose ComfyUI may be asked. */
const usableStatuses: InstanceStatus[] = ['ready', 'draining'];

type Usable = Pick<InstanceRow, 'id' | 'static_url'> & Reachable;

async function findUsable(db: Kysely<Tables>, instanceId: string): Promise<Usable | undefined> {
  return db
    .selectFrom('instances')
    .leftJoin('rentals', 'rentals.id', 'instances.rental_id')
    .select(['instances.id', 'static_url', 'address_url', 'secret', 'certificate_fingerprint'])
    .where('instances.id', '=', instanceId)
    .where('instances.status', 'in', usableStatuses)
    .executeTakeFirst();
}

function targetOf(instanceId: string, usable: Usable | undefined, config: Config): LinkTarget {
  if (usable === undefined) throw new Error(`Instance ${instanceId} is not ready.`);
  return linkTarget(usable, usable, config);
}

/** Where there is no way to the machine it is as if it did not answer. */
function orUnavailable<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new ComfyError('unavailable', messageOf(error), { cause: error });
  }
}

function sameTarget(a: LinkTarget, b: LinkTarget): boolean {
  return (
    a.baseUrl === b.baseUrl && a.token === b.token && a.certificateFingerprint === b.certificateFingerprint
  );
}
