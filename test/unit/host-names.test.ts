import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { expect, it, onTestFinished } from 'vitest';
import { nameServers } from '../../src/support/host-names.ts';
import { collector } from '../support/collector.ts';

const TYPES = { A: 1, AAAA: 28 };
const known: Record<string, Partial<Record<keyof typeof TYPES, Buffer>>> = {
  'both.example': {
    A: Buffer.from([9, 9, 9, 9]),
    AAAA: Buffer.from('26200fe0000000000000000000000009', 'hex'),
  },
  'old.example': { A: Buffer.from([9, 9, 9, 10]) },
  'half.example': { A: Buffer.from([9, 9, 9, 11]) },
};

/** A name server of the names that are known; of `silent.example` it says nothing, of `half.example` nothing for IPv6. Resolves to its address. */
async function startNameServer(heard: (name: string) => void = () => undefined): Promise<string> {
  const server = createSocket('udp4');
  server.on('message', (query, { port, address }) => {
    const { name, type, end } = questionOf(query);
    heard(name);
    if (name === 'silent.example' || (name === 'half.example' && type === TYPES.AAAA)) return;
    const records = known[name];
    const record = records?.[type === TYPES.A ? 'A' : 'AAAA'];
    const head = Buffer.from(query.subarray(0, end));
    // An answer, recursive; 3: no such name.
    head.writeUInt16BE(0x8180 + (records === undefined ? 3 : 0), 2);
    head.writeUInt32BE(record === undefined ? 0 : 0x10000, 6);
    head.writeUInt16BE(0, 10);
    // The name of the question, its type, class IN, and for how long it holds.
    const answer = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, record?.length ?? 0]);
    server.send(record === undefined ? head : Buffer.concat([head, answer, record]), port, address);
  });
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  return `127.0.0.1:${server.address().port}`;
}

function questionOf(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 };
}

it('finds the addresses of a name, of either kind', async () => {
  const resolve = nameServers([await startNameServer()]);
  expect(await resolve('both.example')).toEqual([
    { address: '9.9.9.9', family: 4 },
    { address: '2620:fe0::9', family: 6 },
  ]);
  expect(await resolve('old.example')).toEqual([{ address: '9.9.9.10', family: 4 }]);
  await expect(resolve('none.example')).rejects.toThrow('ENOTFOUND');
});

it('waits for IPv6 addresses of which nothing is said no longer than for a question that was lost', async () => {
  const asked = collector<string>();
  const resolve = nameServers([await startNameServer(asked.add)]);
  const found = resolve('half.example');
  // Each kind once, and then again what was not answered.
  const askedAgain = asked.reach(3);
  expect(await Promise.race([found, askedAgain])).toEqual([{ address: '9.9.9.11', family: 4 }]);
});

it('keeps no other look-up waiting where name servers are silent', async () => {
  const resolve = nameServers([await startNameServer()]);
  let answered = 0;
  const waiting = Array.from({ length: 8 }, () => resolve('silent.example').finally(() => (answered += 1)));
  for (const one of waiting) one.catch(() => undefined);
  await lookup('localhost');
  expect(answered).toBe(0);
});
