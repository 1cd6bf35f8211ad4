// npm run data:import -- FILE: reads an export into an empty database that no service uses.
import { createReadStream } from 'node:fs';
import { access } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { pino } from 'pino';
import { loadConfig } from '../src/config.ts';
import { startEmbeddedServer } from '../src/database/embedded.ts';
import { importData } from '../src/database/transfer.ts';
import { runCommand, summaryOf } from './data-command.ts';

await runCommand('data:import', async (file) => {
  const log = pino({ level: 'warn' }, pino.destination(2));
  const { DATABASE_URL, DATA_DIR } = loadConfig(process.env);
  await access(file);
  const server =
    DATABASE_URL === undefined
      ? await startEmbeddedServer(DATA_DIR, log)
      : { address: { connectionString: DATABASE_URL }, stop: async () => undefined };
  try {
    const unpacked = createGunzip();
    const reading = pipeline(createReadStream(file), unpacked);
    // The import sees the same failure, and says what it means for it.
    reading.catch(() => undefined);
    const counts = await importData(server.address, unpacked, log);
    return `Imported ${summaryOf(counts)}. Do not start the old service again: both would manage the same machines.`;
  } finally {
    await server.stop();
  }
});
