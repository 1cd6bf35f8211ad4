// What we read of vast.ai's answers, and nothing else. A field that is not what it should be counts as not given.
import { z } from 'zod';

const given = <S extends z.ZodType>(schema: S) =>
  schema
    .nullish()
    .catch(null)
    .transform((value) => value ?? null);
const number = () => given(z.number());
/** A machine for nothing would count for nothing against the limits. */
const price = () => given(z.number().positive());
/** Who is paid for what he takes would seem to have money left. */
const cost = () => given(z.number().nonnegative());
const text = () => given(z.string());
const truth = () => given(z.boolean());
const id = () => z.union([z.int().nonnegative(), z.string().regex(/^\d+$/)]).transform(String);
const optionalId = () => given(id());

/** One row of POST /bundles/. Units are vast.ai's own: MB, Mbit/s, seconds, dollars per hour. */
export const offerRowSchema = z.object({
  id: id(),
  machine_id: id(),
  gpu_name: z.string(),
  num_gpus: z.int().positive(),
  gpu_ram: z.number().positive(),
  dph_total: z.number().positive(),
  gpu_frac: number(),
  cpu_ram: number(),
  cpu_cores_effective: number(),
  cpu_arch: text(),
  disk_space: number(),
  inet_down: number(),
  inet_up: number(),
  inet_down_cost: cost(),
  inet_up_cost: cost(),
  storage_total_cost: cost(),
  reliability2: number(),
  reliability: number(),
  verification: text(),
  cuda_max_good: number(),
  compute_cap: number(),
  direct_port_count: number(),
  geolocation: text(),
  duration: number(),
  is_bid: truth(),
  rentable: truth(),
  rented: truth(),
  external: truth(),
});
export type OfferRow = z.output<typeof offerRowSchema>;

export const searchAnswerSchema = z.object({ offers: z.array(z.unknown()) });

export const createAnswerSchema = z.object({ new_contract: id() });

/** What of an instance decides the next step. The credentials are read only to be taken out of `status_msg`. */
export const instanceRowSchema = z.object({
  id: id(),
  machine_id: optionalId(),
  label: text(),
  actual_status: text(),
  intended_status: text(),
  status_msg: text(),
  is_bid: truth(),
  public_ipaddr: text(),
  /** Docker's map of ports, although vast.ai's OpenAPI calls it an array of numbers; checked where it is used. */
  ports: z.unknown().optional(),
  dph_total: price(),
  /** Seconds since 1970. */
  start_date: number(),
  end_date: number(),
  jupyter_token: text(),
  /** Pairs of name and value today, an object in old data. */
  extra_env: z.unknown().optional(),
});
export type InstanceRow = z.output<typeof instanceRowSchema>;

/** GET /instances/{id}/: the key is plural, the value one object, null for an unknown id, in places an array. */
export const showAnswerSchema = z.object({
  instances: z.union([instanceRowSchema, z.array(instanceRowSchema).max(1), z.null()]),
});

/** GET /api/v1/instances/. A null list does not pass: it is not known to mean "none". */
export const listAnswerSchema = z.object({
  instances: z.array(instanceRowSchema),
  total_instances: z.int().nonnegative(),
  next_token: z
    .string()
    .min(1)
    .nullish()
    .transform((value) => value ?? null),
});

export const logsAnswerSchema = z.object({ result_url: z.url() });

export const userAnswerSchema = z.object({ credit: number() });
