// What fields hold that their schema does not describe well enough: workflows, ids of what there is, addresses.
import fc from 'fast-check';
import { emptyImage, failingRegex, failingSave, scaledImage } from '../support/workflows.ts';
import type { Operation } from './api.ts';
import { nastyText } from './nasty.ts';
import { idOf, type Kind, type Special } from './values.ts';

const workflows = fc.oneof(
  { weight: 6, arbitrary: fc.nat(0xffffff).map((color) => withColor(color)) },
  { weight: 3, arbitrary: fc.constantFrom<unknown>(failingSave, failingRegex, scaledImage) },
  { weight: 2, arbitrary: fc.constantFrom<unknown>({}, { nodes: [], links: [] }, { '1': ['1', 0] }) },
  {
    weight: 2,
    arbitrary: fc.dictionary(
      fc.string({ maxLength: 5 }),
      fc.record({
        class_type: fc.string({ maxLength: 10 }),
        inputs: fc.dictionary(fc.string({ maxLength: 5 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3 }),
      }),
      { maxKeys: 4 },
    ),
  },
);

function withColor(color: number): unknown {
  const copy = structuredClone(emptyImage);
  for (const node of Object.values(copy)) if ('color' in node.inputs) node.inputs['color'] = color;
  return copy;
}

const inputs = fc.oneof(
  { weight: 5, arbitrary: fc.constant<unknown[]>([]) },
  {
    weight: 2,
    arbitrary: fc.array(
      fc.record({
        node: fc.constantFrom('1', '2'),
        input: fc.constantFrom('width', 'color', 'image'),
        value: fc.nat(2048),
      }),
      { maxLength: 3 },
    ),
  },
  { weight: 2, arbitrary: idOf('assets').map((assetId) => [{ node: '1', input: 'image', assetId }]) },
  { weight: 1, arbitrary: fc.constant([{ node: '1', input: 'image', file: 'picture' }]) },
);

/** None of them leads anywhere: names that do not exist, and addresses that may not be reached. */
const urls = fc.constantFrom(
  'https://example.invalid/picture.png',
  'http://127.0.0.1:1/picture.png',
  'http://localhost:9/',
  'http://169.254.169.254/latest/meta-data',
  'http://[::1]:1/',
  'http://0x7f000001/',
  'https://user:pass@example.invalid/',
);

export function specialsFor({ path }: Operation): Special {
  const own = Object.entries(kindsOfPaths).find(([start]) => path.startsWith(start))?.[1];
  const kind = own ?? 'jobs';
  return {
    id: sometimesOther(idOf(kind)),
    cursor: sometimesOther(idOf(kind)),
    instanceId: sometimesOther(idOf('instances')),
    jobId: sometimesOther(idOf('jobs')),
    batchId: sometimesOther(idOf('batches')),
    assetId: sometimesOther(idOf('assets')),
    name: nastyText,
    workflow: workflows,
    inputs,
    url: urls,
    webhookUrl: urls,
    timeLimitSeconds: fc.integer({ min: 1, max: 30 }),
    waitLimitSeconds: fc.integer({ min: 1, max: 10 }),
    prefer: fc.constantFrom(
      'wait=0',
      'wait=1',
      'respond-async',
      'wait=x',
      'wait=-1',
      'wait=1;a="b\\"',
      'wait, wait=1',
    ),
    'idempotency-key': fc.oneof(fc.constantFrom('a', 'b', 'c'), fc.uuid()),
    'last-event-id': fc.oneof(fc.nat(500).map(String), fc.constantFrom('-1', '1e3', '99999999999999999999')),
    signature: fc.constantFrom('', 'x', 'AAAA', '0'.repeat(64)),
  };
}

const kindsOfPaths: Readonly<Record<string, Kind>> = {
  '/instances': 'instances',
  '/assets': 'assets',
  '/batches': 'batches',
  '/webhooks': 'deliveries',
};

function sometimesOther(id: fc.Arbitrary<string>): fc.Arbitrary<string> {
  return fc.oneof({ weight: 8, arbitrary: id }, { weight: 1, arbitrary: fc.uuid() });
}
