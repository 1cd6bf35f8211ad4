// How long one test may take, by its folder.
import { expect, vi } from 'vitest';

const limitsMs: Record<string, number> = { unit: 10_000, contract: 30_000, integration: 60_000 };
const folder = /\/test\/([^/]+)\//.exec(expect.getState().testPath ?? '')?.[1] ?? '';
const testTimeout = limitsMs[folder];
if (testTimeout === undefined) throw new Error(`No limit is set for the tests in test/${folder}.`);
vi.setConfig({ testTimeout });
