// How to reach the ComfyUI of an instance: its address, its secret, its pinned certificate.
import type { LinkTarget } from '../comfyui/link.ts';
import type { Config } from '../config.ts';
import type { InstanceRow, RentalRow } from '../database/tables.ts';

/** What a rental tells of it; all null for a server that nobody rents. */
export type Reachable = Pick<RentalRow, 'address_url' | 'certificate_fingerprint'> & {
  secret: string | null;
};

/** Throws when a rented machine has no address, or speaks HTTPS and its certificate is not pinned yet. */
export function linkTarget(
  instance: Pick<InstanceRow, 'id' | 'static_url'>,
  rental: Reachable | null,
  config: Config,
): LinkTarget {
  if (instance.static_url !== null) {
    return {
      baseUrl: instance.static_url,
      token: config.COMFYUI_TOKEN ?? null,
      certificateFingerprint: null,
    };
  }
  const url = rental?.address_url ?? null;
  if (rental === null || url === null) throw new Error(`Instance ${instance.id} has no address yet.`);
  if (url.startsWith('https:') && rental.certificate_fingerprint === null) {
    throw new Error(`The certificate of instance ${instance.id} is not pinned yet.`);
  }
  return { baseUrl: url, token: rental.secret, certificateFingerprint: rental.certificate_fingerprint };
}
