// Hands on the previews of one attempt to whoever wants them: not more often than they can be looked at, and nothing while nobody does.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import { createThrottle } from '../support/throttle.ts';
import type { AttemptRef } from './attempt.ts';
import { forgetPreview, previewsWantedForMs, showPreview, type Preview } from './previews.ts';

export interface PreviewLimits {
  /** Between two previews that are handed on, in milliseconds. */
  intervalMs: number;
  /** Larger ones are dropped. */
  maxBytes: number;
}

export interface PreviewWriter {
  offer(preview: Preview): void;
  /** Hands on no more, and forgets the last one. */
  stop(): Promise<void>;
}

export function previewLimits(
  config: Pick<Config, 'PREVIEWS_PER_SECOND' | 'PREVIEW_LIMIT_KB'>,
): PreviewLimits {
  return { intervalMs: 1000 / config.PREVIEWS_PER_SECOND, maxBytes: config.PREVIEW_LIMIT_KB * 1000 };
}

interface Options {
  db: Kysely<Tables>;
  ref: AttemptRef;
  limits: PreviewLimits;
  log: Logger;
}

/** What a browser shows and nothing can hide in. */
const imageTypes = new Set(['image/jpeg', 'image/png', 'image/webp']);

export function createPreviewWriter({ db, ref, limits, log }: Options): PreviewWriter {
  let newest: Preview | null = null;
  /** By the clock of `performance`. */
  let wantedUntil = -Infinity;
  let shown = false;
  const throttle = createThrottle(limits.intervalMs, show);

  /** A preview that does not arrive is no loss: the next one replaces it. */
  async function show(): Promise<void> {
    const preview = newest;
    newest = null;
    if (preview === null) return;
    try {
      if (wantedUntil <= performance.now()) {
        wantedUntil = performance.now() + (await previewsWantedForMs(db, ref.jobId));
      }
      if (wantedUntil <= performance.now()) return;
      if (await showPreview(db, ref, preview)) shown = true;
      else wantedUntil = -Infinity;
    } catch (error) {
      log.debug({ err: error }, 'a preview was not handed on');
    }
  }

  return {
    offer(preview) {
      if (preview.image.byteLength > limits.maxBytes || !imageTypes.has(preview.contentType)) return;
      newest = preview;
      throttle.ask();
    },
    async stop() {
      await throttle.stop();
      if (!shown) return;
      shown = false;
      await forgetPreview(db, ref.jobId).catch((error: unknown) =>
        log.debug({ err: error }, 'the last preview was not forgotten'),
      );
    },
  };
}
