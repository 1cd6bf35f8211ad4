// Writes openapi/openapi.json from the routes. With --check, fails where the file is not what the routes say.
import { readFile, writeFile } from 'node:fs/promises';
import { openApiDocument } from '../src/app.ts';

const file = new URL('../openapi/openapi.json', import.meta.url);
const document = `${JSON.stringify(await openApiDocument(), null, 2)}\n`;

if (process.argv.includes('--check')) {
  const written = await readFile(file, 'utf8').catch(() => 'null');
  if (written !== document) {
    const where = firstDifference(JSON.parse(written), JSON.parse(document)) ?? 'its formatting';
    process.stderr.write(
      `openapi/openapi.json is not what the routes say; the first difference is at ${where}. Run: node scripts/openapi.ts\n`,
    );
    process.exitCode = 1;
  }
} else {
  await writeFile(file, document);
}

/** A JSON pointer to the first value that differs; undefined where all are equal. */
function firstDifference(written: unknown, wanted: unknown, path = '#'): string | undefined {
  if (!isContainer(written) || !isContainer(wanted)) return Object.is(written, wanted) ? undefined : path;
  for (const key of new Set([...Object.keys(wanted), ...Object.keys(written)])) {
    const found = firstDifference(written[key], wanted[key], `${path}/${key.replaceAll('/', '~1')}`);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** An object or a list; of a list, the keys are the positions. */
function isContainer(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
