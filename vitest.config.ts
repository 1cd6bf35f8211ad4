import { defineConfig } from 'vitest/config';

const project = (name: string, timeoutMs: number) => ({
  extends: true as const,
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    // No test leaves anything behind that another would notice, and starting anew for each file took most of the time.
    isolate: false,
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
    // Most of the tests wait most of the time, so there may be more at once than there are cores.
    maxWorkers: 3,
    globalSetup: 'test/support/global-setup.ts',
    projects: [project('unit', 10_000), project('contract', 30_000), project('integration', 60_000)],
  },
});
