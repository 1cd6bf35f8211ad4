// The header Prefer, as in RFC 7240: how long a caller would like its request to be held open.
import type { FastifyReply } from 'fastify';
import { z } from 'zod';

/** The headers of a route that heeds `Prefer: wait`. */
export const preferHeadersSchema = z.looseObject({
  prefer: z
    .string()
    .optional()
    .describe(
      '`wait=N` holds the request open until the job has ended, N seconds at most; the service caps N, and `Preference-Applied` says at what. The answer is the job as it is then.',
    ),
});

/** A list of preferences; what is longer is not read. */
const MAX_LENGTH = 1000;
const wellFormed = /^(?:[^"]|"(?:[^"\\]|\\.)*")*$/;
const preferences = /(?:[^",]|"(?:[^"\\]|\\.)*")+/g;

/** The seconds that a caller would wait. Null where the header says nothing of it, or nothing that can be understood: a preference is never an error. */
export function preferredWaitSeconds(prefer: string | string[] | undefined): number | null {
  const text = Array.isArray(prefer) ? prefer.join(',') : (prefer ?? '');
  if (text.length > MAX_LENGTH || !wellFormed.test(text)) return null;
  // Of a preference that is given twice, the first counts.
  const wait = (text.match(preferences) ?? []).find((preference) =>
    /^\s*wait\s*(?:[=;]|$)/i.test(preference),
  );
  const seconds = wait === undefined ? undefined : /^[^=]*=\s*("?)(\d{1,9})\1\s*(?:;|$)/.exec(wait)?.[2];
  return seconds === undefined ? null : Number(seconds);
}

/** Tells the caller how long its request could have been held open. */
export function markWait(reply: FastifyReply, seconds: number): void {
  reply.header('preference-applied', `wait=${seconds}`);
}
