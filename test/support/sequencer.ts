// The order of the test files: the long ones first, so that none of them runs alone in the end.
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** From the longest on; those that wait most of the time go beside those that have the processor. */
const longest = [
  'dead-man',
  'service-crash',
  'reconcile',
  'instances',
  'replicas',
  'money',
  'fleet',
  'machines',
  'data-export',
  'embedded-postgres',
  'jobs-run',
  'jobs-unreliable',
  'job-outcomes',
  'assets',
  'wedged',
  'bad-input',
].map((name) => `/${name}.test.ts`);

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).toSorted((a, b) => rankOf(a) - rankOf(b));
  }
}

function rankOf({ moduleId }: TestSpecification): number {
  const rank = longest.findIndex((name) => moduleId.endsWith(name));
  return rank === -1 ? longest.length : rank;
}
