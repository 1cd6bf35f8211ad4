// The order of the test files: the long ones first, so that none of them runs alone in the end.
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** The longest first; those that mostly wait between those that keep the processors busy. */
const longest = [
  'replicas',
  'job-outcomes',
  'reconcile',
  'instance-lives',
  'jobs-unreliable',
  'dead-man',
  'fleet',
  'jobs-run',
  'wedged',
  'embedded-postgres',
  'renting',
  'reconcile-service',
  'webhooks',
  'service-crash',
  'money',
  'bad-input',
  'jobs-events',
  'queues',
  'money-service',
  'data-export',
  'fencing',
  's3-store',
  'assets',
  'vast-provider',
  'fleet-service',
  'instances-service',
  'machines',
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
