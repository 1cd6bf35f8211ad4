import { defineConfig } from 'vitest/config';

const project = (name: string, timeoutMs: number) => ({
  extends: true as const,
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    // Starting anew for each file took most of the time of the unit tests, and they leave nothing behind.
    isolate: name !== 'unit',
    testTimeout: timeoutMs,
    hookTimeout: 60_000,
  },
});

// Where the gate wants the counts as JSON too.
const json = process.env['VITEST_JSON'];

export default defineConfig({
  test: {
    reporters: [
      'default',
      ...(json === undefined ? [] : [['json', { outputFile: json }] as ['json', object]]),
    ],
    pool: 'forks',
    globalSetup: 'test/support/global-setup.ts',
    projects: [project('unit', 10_000), project('contract', 30_000), project('integration', 60_000)],
  },
});
