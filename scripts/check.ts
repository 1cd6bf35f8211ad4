// The gate: everything that must be green at every commit, one line for each part. With --without-tests all but the
// tests, for whoever has run them already.
import { spawnSync } from 'node:child_process';

const steps: [name: string, command: string][] = [
  ['format', 'prettier --check --log-level warn .'],
  ['lint', 'oxlint --type-aware --deny-warnings'],
  ['types', 'tsc -p .'],
  ['dead code', 'knip'],
  ['openapi', 'node scripts/openapi.ts --check'],
  ['settings docs', 'node scripts/settings-docs.ts'],
  ['tests', 'vitest run'],
];

if (Number(process.versions.node.split('.')[0]) < 24) {
  process.stderr.write(
    `The gate runs on Node 24 or newer; this is ${process.version}. Run it as "npm run check".\n`,
  );
  process.exit(1);
}

const withoutTests = process.argv.includes('--without-tests');
const wanted = steps.filter(([name]) => !(withoutTests && name === 'tests'));

let failed = 0;
for (const [name, command] of wanted) {
  const started = performance.now();
  const { status } = spawnSync(command, { shell: true, stdio: 'inherit' });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(`check: ${name} ${status === 0 ? 'ok' : 'FAILED'} (${seconds} s)\n`);
  if (status !== 0) failed += 1;
}
process.stdout.write(`check: ${wanted.length - failed} parts ok, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;
