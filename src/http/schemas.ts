// Schemas that several routes share: ids, times, pages.
import { z } from 'zod';

export const idSchema = z.uuid();

/** The parameters of a route such as `/jobs/:id`. The id becomes what the database would write, which others may compare it with. */
export const idParamsSchema = z.strictObject({ id: idSchema.toLowerCase().describe('Its id') });

/** A time as the API writes it: ISO 8601 in UTC. */
export const time = (description: string) => z.iso.datetime().describe(description);

/** The query of a list. Extend it with the filters of the list. */
export const pageQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).describe('Entries of one page'),
  cursor: z
    .string()
    .min(1)
    .max(200)
    .optional()
    .describe('`nextCursor` of the page before; absent for the first page'),
});

/** `true` or `false` of a query, by the schema of the flag that it stands for. */
export const flagOfQuery = <S extends z.ZodType>(schema: S) =>
  z.preprocess((text) => z.stringbool().safeParse(text).data ?? text, schema);

/** The envelope of a list: one page, newest first unless the route says otherwise. */
export function pageOf<S extends z.ZodType>(item: S) {
  return z.object({
    items: z.array(item),
    nextCursor: z.string().nullable().describe('Cursor of the next page; null on the last'),
  });
}
