// Those in this process who watch previews: their wishes are renewed together, and an image that many want is read once.
import type { Kysely } from 'kysely';
import type { Notifications } from '../database/notifications.ts';
import type { Tables } from '../database/tables.ts';
import { batched } from '../support/batched.ts';
import { watchPreview } from './events.ts';
import { readPreviews, WISH_SECONDS, wantPreviews, type StoredPreview } from './previews.ts';

/** A preview as a browser can show it: `data:${contentType};base64,${dataBase64}`. */
export interface PreviewData {
  nodeId: string;
  contentType: string;
  dataBase64: string;
}

export interface PreviewView {
  /** The newest preview, unless it was taken before or there is none. */
  take(): Promise<PreviewData | null>;
  stop(): void;
}

export interface PreviewWatch {
  /** Wants the previews of a job, and calls `listener` when there may be a new one. */
  watch(jobId: string, listener: () => void): PreviewView;
}

export function createPreviewWatch(db: Kysely<Tables>, notifications: Notifications): PreviewWatch {
  const wanted = new Set<{ jobId: string }>();
  let renewing: NodeJS.Timeout | undefined;
  const want = batched(
    async (jobIds: string[]) => {
      await wantPreviews(db, jobIds);
      return jobIds;
    },
    { keyOf: (jobId) => jobId },
  );
  const read = batched(
    async (seen: { jobId: string; id: string | null }[]) => (await readPreviews(db, seen)).map(dataOf),
    { keyOf: ({ jobId, id }) => `${jobId} ${id}`, most: 20 },
  );

  /** A wish that is not written is written with the next renewal. */
  function wish(jobId: string): void {
    want(jobId).catch(() => undefined);
  }

  return {
    watch(jobId, listener) {
      const own = { jobId };
      let seen: string | null = null;
      let isNew = true;
      const unwatch = watchPreview(notifications, jobId, () => {
        isNew = true;
        listener();
      });
      wanted.add(own);
      wish(jobId);
      renewing ??= setInterval(
        () => {
          for (const { jobId: id } of wanted) wish(id);
        },
        (WISH_SECONDS * 1000) / 3,
      ).unref();
      return {
        async take() {
          if (!isNew) return null;
          isNew = false;
          const preview = await read({ jobId, id: seen });
          if (preview === null) return null;
          seen = preview.id;
          return preview.data;
        },
        stop() {
          unwatch();
          wanted.delete(own);
          if (wanted.size > 0) return;
          clearInterval(renewing);
          renewing = undefined;
        },
      };
    },
  };
}

function dataOf(preview: StoredPreview | null): { id: string; data: PreviewData } | null {
  if (preview === null) return null;
  const { id, nodeId, contentType, image } = preview;
  return { id, data: { nodeId, contentType, dataBase64: Buffer.from(image).toString('base64') } };
}
