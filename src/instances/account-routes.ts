// The route that shows ops every rental of the provider's account, also those of others.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import type { Tables } from '../database/tables.ts';
import { problems } from '../http/problems.ts';
import type { Clock } from '../support/clock.ts';
import { batched } from '../support/batched.ts';
import { listAccount, type AccountRental } from './account.ts';
import { ProviderError, type Provider } from './provider.ts';
import { needProvider, toServiceError } from './service.ts';

export interface AccountDeps {
  db: Kysely<Tables>;
  provider: Provider | null;
  labelPrefix: string;
  clock: Clock;
}

const LIST_TIMEOUT_MS = 30_000;

const accountRentalSchema = z
  .object({
    providerInstanceId: z.string(),
    label: z.string().nullable(),
    ownership: z
      .enum(['ours', 'orphan', 'foreign'])
      .describe(
        '`ours`: a record accounts for it. `orphan`: it has a label of this deployment and no live record. `foreign`: somebody else made it; it is never changed',
      ),
    instanceId: z.uuid().nullable().describe('The instance that it belongs to'),
    machineId: z.string().nullable(),
    pricePerHourUsd: z.number().nullable().describe('Price per hour, in US dollars'),
    condition: z
      .enum(['loading', 'running', 'failed'])
      .describe('`failed`: it will not come up, or has stopped, and still costs money'),
    message: z.string().nullable().describe("The provider's own words"),
    createdAt: z.iso.datetime().nullable(),
    contractEndsAt: z.iso.datetime().nullable().describe('When the host stops letting the machine out'),
  })
  .meta({ id: 'AccountRental', description: "A rental of the provider's account" });

export function accountRoutes({ db, provider, labelPrefix, clock }: AccountDeps): FastifyPluginAsyncZod {
  // Once for all who ask meanwhile: the reconciliation waits for its turn behind whatever is listed here.
  const list = batched(
    (prefixes: string[]) =>
      Promise.all(
        prefixes.map((prefix) =>
          listAccount(
            { db, provider: needProvider({ provider }), clock },
            prefix,
            AbortSignal.timeout(LIST_TIMEOUT_MS),
          ),
        ),
      ),
    { keyOf: (prefix) => prefix },
  );
  return async (app) => {
    app.get(
      '/rentals',
      {
        schema: {
          operationId: 'listRentals',
          tags: ['instances'],
          summary: "Every rental of the provider's account",
          description:
            'Asks the provider now. The list is complete, or the answer is an error. Orphans are brought back under control by the next reconciliations; rentals of others are never changed.',
          response: {
            200: z.object({ items: z.array(accountRentalSchema) }).meta({ id: 'AccountRentals' }),
            ...problems('provider_not_configured', 'provider_unavailable', 'insufficient_credit'),
          },
        },
      },
      async () => {
        try {
          const account = await list(labelPrefix);
          return { items: account.map(present) };
        } catch (error) {
          throw error instanceof ProviderError ? toServiceError(error) : error;
        }
      },
    );
  };
}

function present({ rental, ownership, instanceId }: AccountRental): z.output<typeof accountRentalSchema> {
  return {
    providerInstanceId: rental.providerInstanceId,
    label: rental.label,
    ownership,
    instanceId,
    machineId: rental.machineId,
    pricePerHourUsd: rental.pricePerHourUsd,
    condition: rental.condition.kind,
    message: rental.message,
    createdAt: rental.createdAt?.toISOString() ?? null,
    contractEndsAt: rental.endsAt?.toISOString() ?? null,
  };
}
