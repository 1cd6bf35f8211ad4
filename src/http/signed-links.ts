// Links that open one file for a while without an API key: in a browser, in an <img>, for somebody else.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import type { Clock } from '../support/clock.ts';
import type { ApiKeys } from './api-keys.ts';

/** Turns the path of a file into the link that a caller is given. */
export type LinkTo = (path: string) => string;

/** What a link without a signature is: the path itself. */
export const plainLink: LinkTo = (path) => path;

export interface SignedLinks {
  /**
   * Makes links of the usual lifetime. They stay the same for a while, so that a page that asks again shows what its browser
   * has already. While there are no API keys nobody needs a signature, and the links are plain.
   */
  links: () => Promise<LinkTo>;
  /** One link with a lifetime of its own; `expiresAt` is null for a plain one. */
  link(path: string, lifetimeMs: number): Promise<{ url: string; expiresAt: Date | null }>;
  /** What a request's link is worth. `path` is as it was requested, without its query. */
  check(path: string, query: unknown): 'none' | 'valid' | 'expired' | 'wrong';
}

export interface SignedLinksOptions {
  /** The first signs, all are accepted. */
  secrets: readonly string[];
  lifetimeMs: number;
  apiKeys: Pick<ApiKeys, 'any'>;
  clock: Clock;
}

/** Links are the same for this part of their lifetime, and live up to as much longer. */
const STABLE_PART = 24;

export function createSignedLinks({ secrets, lifetimeMs, apiKeys, clock }: SignedLinksOptions): SignedLinks {
  const [newest] = secrets;
  if (newest === undefined) throw new Error('Links cannot be signed without a secret.');

  const sign = (path: string, expires: number): string =>
    `${path}?expires=${expires}&signature=${signatureOf(newest, path, expires).toString('base64url')}`;

  return {
    async links() {
      if (!(await apiKeys.any())) return plainLink;
      const stepMs = lifetimeMs / STABLE_PART;
      const expiresMs = Math.ceil((clock.now().getTime() + lifetimeMs) / stepMs) * stepMs;
      return (path) => sign(path, Math.ceil(expiresMs / 1000));
    },

    async link(path, ownLifetimeMs) {
      if (!(await apiKeys.any())) return { url: path, expiresAt: null };
      const expires = Math.ceil((clock.now().getTime() + ownLifetimeMs) / 1000);
      return { url: sign(path, expires), expiresAt: new Date(expires * 1000) };
    },

    check(path, query) {
      const { expires, signature }: { expires?: unknown; signature?: unknown } = Object(query);
      if (expires === undefined && signature === undefined) return 'none';
      if (typeof signature !== 'string' || typeof expires !== 'string' || !/^\d{1,12}$/.test(expires)) {
        return 'wrong';
      }
      const given = Buffer.from(signature, 'base64url');
      const known = secrets.filter((secret) => isEqual(signatureOf(secret, path, Number(expires)), given));
      if (known.length === 0) return 'wrong';
      return Number(expires) * 1000 < clock.now().getTime() ? 'expired' : 'valid';
    },
  };
}

/** The secrets of the settings, or else one that is made once and kept in the database, for all replicas. */
export async function linkSecrets(
  db: Kysely<Tables>,
  config: Pick<Config, 'LINK_SECRET'>,
): Promise<readonly string[]> {
  if (config.LINK_SECRET.length > 0) return config.LINK_SECRET;
  await db
    .insertInto('service_values')
    .values({ name: 'link_secret', value: randomBytes(32).toString('base64url') })
    // Whoever of several replicas comes first decides.
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const row = await db
    .selectFrom('service_values')
    .select('value')
    .where('name', '=', 'link_secret')
    .executeTakeFirstOrThrow();
  return [row.value];
}

function signatureOf(secret: string, path: string, expires: number): Buffer {
  return createHmac('sha256', secret)
    .update(`link 1\n${canonical(path)}\n${expires}`)
    .digest();
}

/** One spelling for each path: on its way a link may be decoded and encoded again. */
function canonical(path: string): string {
  return path.split('/').map(decoded).map(encodeURIComponent).join('/');
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** In constant time; that the lengths differ is no secret. */
function isEqual(signature: Buffer, given: Buffer): boolean {
  return signature.length === given.length && timingSafeEqual(signature, given);
}
