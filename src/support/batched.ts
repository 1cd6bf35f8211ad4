// Many small questions at about the same time, asked as few large ones.

interface Waiting<Q, A> extends PromiseWithResolvers<A> {
  question: Q;
}

export interface BatchOptions<Q> {
  /** Questions with the same key have the same answer; those that wait at the same time are asked once. */
  keyOf: (question: Q) => string;
  /** The most questions at a time. */
  most?: number;
  /** By its key, whether a question goes before those that are not. */
  isUrgent?: (key: string) => boolean;
}

/**
 * Makes a function that answers one question by `answerAll`, which gets all that were asked in the same turn of the event
 * loop, and then those that came while it was at work. It is never at work twice at once. Its answers are in the order of
 * the questions; its failure fails them all.
 */
export function batched<Q, A>(
  answerAll: (questions: Q[]) => Promise<A[]>,
  { keyOf, most = 500, isUrgent = () => false }: BatchOptions<Q>,
): (question: Q) => Promise<A> {
  const waiting = new Map<string, Waiting<Q, A>>();
  let working = false;

  async function work(): Promise<void> {
    while (waiting.size > 0) {
      const batch = [...waiting.entries()]
        .toSorted(([a], [b]) => Number(isUrgent(b)) - Number(isUrgent(a)))
        .slice(0, most);
      for (const [key] of batch) waiting.delete(key);
      await settle(batch.map(([, one]) => one));
    }
    working = false;
  }

  async function settle(batch: Waiting<Q, A>[]): Promise<void> {
    try {
      const answers = await answerAll(batch.map(({ question }) => question));
      if (answers.length !== batch.length) throw new Error('Not every question was answered');
      for (const [index, answer] of answers.entries()) batch[index]?.resolve(answer);
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }

  return (question) => {
    const key = keyOf(question);
    const known = waiting.get(key);
    if (known !== undefined) return known.promise;
    const asked = { question, ...Promise.withResolvers<A>() };
    waiting.set(key, asked);
    if (!working) {
      working = true;
      setImmediate(() => void work());
    }
    return asked.promise;
  };
}
