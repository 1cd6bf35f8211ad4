import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/support/sequencer.ts';
import { TESTS_AT_ONCE } from './test/support/tests-at-once.ts';

// Where the gate wants the counts as JSON too.
const json = process.env['VITEST_JSON'];

export default defineConfig({
  test: {
    include: ['test/{unit,contract,integration}/**/*.test.ts'],
    // One project for all folders: a worker is used again only for files of the same one.
    setupFiles: 'test/support/timeouts.ts',
    hookTimeout: 60_000,
    // A second, the default, is too short where other tests have the machine.
    expect: { poll: { timeout: 15_000 } },
    reporters: [
      'default',
      ...(json === undefined ? [] : [['json', { outputFile: json }] as ['json', object]]),
    ],
    pool: 'forks',
    // Starting anew for each file took most of the time of the unit tests, and files leave nothing behind.
    isolate: false,
    // Most tests wait for others most of the time: the database, the doubles, a moment that must come. A worker more compiles
    // all code once more, so a file's tests rather run beside each other. More at once only wait for the processors, and ask meanwhile.
    maxWorkers: Number(process.env['TEST_WORKERS'] ?? 5),
    maxConcurrency: TESTS_AT_ONCE,
    sequence: { sequencer: LongestFirst },
    globalSetup: 'test/support/global-setup.ts',
  },
});
