// What a job has cost, as the API shows it.
import { z } from 'zod';

const usd = (description: string) => z.number().describe(`${description}, in US dollars`);

export const jobCostSchema = z
  .object({
    workUsd: usd('The price of the machine, disk included, while the job had its GPU, all attempts together'),
    gpuSeconds: z.number().describe('How long that was'),
    bootUsd: usd('Its part of the time before the machine was ready'),
    idleUsd: usd('Its part of the time in which no job had the GPU, until the machine was confirmed gone'),
    trafficUsd: usd('What its files cost to move'),
    totalUsd: usd('All of that'),
    final: z
      .boolean()
      .describe(
        'False while its machine lives: other jobs and idle time change the parts of boot and idle time',
      ),
  })
  .meta({
    id: 'JobCost',
    description:
      'What a job has cost. Boot and idle time of a machine are divided among its jobs by their time on the GPU, so the costs of all jobs of an instance add up to its own',
  });
export type JobCost = z.output<typeof jobCostSchema>;
