// Noting which node classes an instance has, so that a workflow can be checked before a job of it is accepted.
import { askNodeCatalog } from '../../comfyui/object-info.ts';
import type { Link } from '../../comfyui/link.ts';
import { messageOf } from '../../errors.ts';
import { imageOf, keepCatalog, packCatalog } from '../catalogs.ts';
import type { Step } from './step.ts';

/** The next look at the instance waits for it, and with it the news that the machine is gone. */
const READ_LIMIT_MS = 10_000;
/** After a try that gave nothing. */
const TRY_AGAIN_MS = 600_000;

/**
 * Reads the node classes of an instance that is ready, where they are not known or may have changed: it was away, or is another
 * ComfyUI now. An instance without them is as good as any; its jobs are only not checked before they run.
 */
export async function noteCatalog(step: Step, link: Link, comfyuiVersion: string): Promise<void> {
  const { deps, instance, rental, log, signal, now } = step;
  if (!isDue(step, comfyuiVersion)) return;
  try {
    const inTime = AbortSignal.any([signal, AbortSignal.timeout(READ_LIMIT_MS)]);
    const catalog = await askNodeCatalog(link, comfyuiVersion, inTime);
    const image = rental === null ? null : imageOf(deps.config);
    const packed = await packCatalog(image, catalog);
    await deps.db
      .transaction()
      .execute((trx) => keepCatalog(trx, { instanceId: instance.id, image, packed, now }));
    log.info({ classes: catalog.classes.size, bytes: packed.content.length }, 'its node classes are known');
  } catch (error) {
    signal.throwIfAborted();
    log.warn({ error: messageOf(error) }, 'its node classes could not be read');
    await deps.db
      .updateTable('instances')
      .set({ catalog_id: null, catalog_read_at: now })
      .where('id', '=', instance.id)
      .execute();
  }
}

function isDue({ instance, now }: Step, comfyuiVersion: string): boolean {
  if (instance.catalog_read_at === null || instance.unreachable_since !== null) return true;
  if (instance.comfyui_version !== comfyuiVersion) return true;
  return instance.catalog_id === null && now.getTime() - instance.catalog_read_at.getTime() >= TRY_AGAIN_MS;
}
