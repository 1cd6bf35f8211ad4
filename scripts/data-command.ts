// What the commands that move data have in common: one file as argument, one sentence as result.
import { parseArgs } from 'node:util';
import { reasonsOf } from '../src/errors.ts';

export interface DataCommand<C extends string> {
  name: string;
  /** What there is to choose from, each with its meaning; just one must be given, as `--choice`. Absent: nothing. */
  choices?: Record<C, string>;
  run: (file: string, choice: C | undefined) => Promise<string>;
}

/** Runs a command with the file that it was given; prints its result, or what went wrong. */
export async function runCommand<C extends string>({ name, choices, run }: DataCommand<C>): Promise<void> {
  const given = argumentsOf(choices);
  if (given === null) {
    console.error(usageOf(name, choices ?? {}));
    process.exitCode = 2;
    return;
  }
  try {
    console.log(await run(given.file, given.choice));
  } catch (error) {
    console.error(reasonsOf(error));
    process.exitCode = 1;
  }
}

export function summaryOf(counts: Record<string, number>): string {
  return Object.entries(counts)
    .map(([table, count]) => `${count} ${table}`)
    .join(', ');
}

/** Null where they are not what the command takes. */
function argumentsOf<C extends string>(
  choices: Record<C, string> | undefined,
): { file: string; choice: C | undefined } | null {
  const isChoice = (word: string): word is C => choices !== undefined && Object.hasOwn(choices, word);
  const { tokens } = parseArgs({ strict: false, allowPositionals: true, tokens: true });
  const files = tokens.flatMap((token) => (token.kind === 'positional' ? [token.value] : []));
  const options = tokens.flatMap((token) => (token.kind === 'option' ? [token.name] : []));
  const [[file], [choice]] = [files, options.filter(isChoice)];
  const expected = choices === undefined ? 0 : 1;
  if (file === undefined || files.length > 1 || options.length !== expected) return null;
  if (expected === 1 && choice === undefined) return null;
  return { file, choice };
}

function usageOf(name: string, choices: Record<string, string>): string {
  const names = Object.keys(choices).map((choice) => `--${choice}`);
  const usage = ['Usage: npm run', name, '--', ...(names.length > 0 ? [names.join(' | ')] : []), 'FILE'].join(
    ' ',
  );
  return [usage, ...Object.entries(choices).map(([choice, meaning]) => `  --${choice}  ${meaning}`)].join(
    '\n',
  );
}
