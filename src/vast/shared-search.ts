// Searches that ask alike go out as one: the endpoint gives few turns, and many instances look for the same at the same time.
import type { OfferSearch } from '../instances/provider.ts';
import { batched } from '../support/batched.ts';
import type { OfferQuery } from './offers.ts';
import { orAborted } from './rate-limit.ts';

type Wanted = Pick<OfferQuery, 'requirements' | 'machineId'>;
type Search = (wanted: Wanted, signal: AbortSignal) => Promise<OfferSearch>;
type SharedSearch = (wanted: Wanted, signal: AbortSignal, toRent: boolean) => Promise<OfferSearch>;

/**
 * Makes one search after the other, each for all who waited for it when it began, so that no answer is older than its question.
 * A search for which nobody waits any more is not made. Those who want to rent come first: whoever only looks, with ever other
 * wishes, would have them wait for minutes. `closing` ends the one that is under way.
 */
export function sharedSearch(search: Search, closing: AbortSignal): SharedSearch {
  /** Those who wait, by what they ask. */
  const waiting = new Map<string, { signal: AbortSignal; toRent: boolean }[]>();
  const ask = batched(
    (questions: Wanted[]) =>
      Promise.all(
        questions.map((wanted) => {
          const key = keyOf(wanted);
          const isWanted = waiting.get(key)?.some(({ signal }) => !signal.aborted) === true;
          waiting.delete(key);
          return search(wanted, isWanted ? closing : AbortSignal.abort());
        }),
      ),
    { keyOf, most: 1, isUrgent: (key) => waiting.get(key)?.some(({ toRent }) => toRent) === true },
  );
  return (wanted, signal, toRent) => {
    const key = keyOf(wanted);
    waiting.set(key, [...(waiting.get(key) ?? []), { signal, toRent }]);
    return orAborted(ask(wanted), signal);
  };
}

function keyOf(wanted: Wanted): string {
  return JSON.stringify(wanted);
}
