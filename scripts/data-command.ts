// What the commands that move data have in common: one file as argument, one sentence as result.

/** Runs a command with the file that it was given; prints its result, or what went wrong. */
export async function runCommand(name: string, command: (file: string) => Promise<string>): Promise<void> {
  const [file] = process.argv.slice(2);
  if (file === undefined) {
    console.error(`Usage: npm run ${name} -- FILE`);
    process.exitCode = 2;
    return;
  }
  try {
    console.log(await command(file));
  } catch (error) {
    for (let cause = error; cause instanceof Error; cause = cause.cause) console.error(cause.message);
    process.exitCode = 1;
  }
}

export function summaryOf(counts: Record<string, number>): string {
  return Object.entries(counts)
    .map(([table, count]) => `${count} ${table}`)
    .join(', ');
}
