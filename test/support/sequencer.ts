// The order of the test files: the long ones first, so that none of them runs alone in the end.
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** From the longest on. */
const longest = [
  'reconcile',
  'instance-lives',
  'instances',
  'dead-man',
  'money',
  'replicas',
  'wedged',
  'fleet',
  'service-crash',
  'job-outcomes',
  'jobs-unreliable',
  'jobs-run',
  'webhooks',
  'data-export',
  'bad-input',
  'embedded-postgres',
  'machines',
  'fencing',
  'jobs-events',
  's3-store',
  'assets',
  'vast-provider',
  'queues',
  'vast-double-edge',
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
