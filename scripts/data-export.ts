// npm run data:export -- FILE: writes the whole database to a compressed file, also beside a running service.
import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { pino } from 'pino';
import { loadConfig } from '../src/config.ts';
import { borrowEmbeddedServer } from '../src/database/embedded.ts';
import { exportData } from '../src/database/transfer.ts';
import { runCommand, summaryOf } from './data-command.ts';

await runCommand({
  name: 'data:export',
  run: async (file) => {
    const { DATABASE_URL, DATA_DIR } = loadConfig(process.env);
    const server =
      DATABASE_URL === undefined
        ? await borrowEmbeddedServer(DATA_DIR, pino({ level: 'warn' }, pino.destination(2)))
        : { address: { connectionString: DATABASE_URL }, stop: async () => undefined };
    // The name is taken only by a complete export. It holds the keys of rented machines, so nobody else may read it.
    const draft = `${file}.part`;
    try {
      const packed = createGzip();
      const written = pipeline(packed, createWriteStream(draft, { mode: 0o600 }));
      const [counts] = await Promise.all([
        exportData(server.address, packed).finally(() => packed.end()),
        written,
      ]);
      await rename(draft, file);
      return `Exported ${summaryOf(counts)} to ${file}. Stored files are not in it: copy them along.`;
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    } finally {
      await server.stop();
    }
  },
});
