// npm run data:import -- --move | --copy FILE: reads an export into an empty database that no service uses.
import { createReadStream } from 'node:fs';
import { access } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { pino } from 'pino';
import { loadConfig } from '../src/config.ts';
import { startEmbeddedServer } from '../src/database/embedded.ts';
import { importData, type ImportKind } from '../src/database/transfer.ts';
import { runCommand, summaryOf } from './data-command.ts';

const consequences: Record<ImportKind, string> = {
  move: 'Do not start the old service again: both would manage, and end, the same machines.',
  copy: 'It is a deployment of its own: the machines and the unfinished jobs stay with the service that made the export.',
};

await runCommand<ImportKind>({
  name: 'data:import',
  choices: {
    move: 'takes over the machines and the jobs: the service that made the export must never start again',
    copy: 'leaves them to the service that made the export, and makes a deployment with a name of its own',
  },
  run: async (file, kind = 'copy') => {
    const log = pino({ level: 'warn' }, pino.destination(2));
    const { DATABASE_URL, DATA_DIR, LABEL_PREFIX, DEPLOYMENT } = loadConfig(process.env);
    const label = DEPLOYMENT === undefined ? null : `${LABEL_PREFIX}.${DEPLOYMENT}`;
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
      const counts = await importData(server.address, unpacked, { kind, label, log });
      return `Imported ${summaryOf(counts)}. ${consequences[kind]}`;
    } finally {
      await server.stop();
    }
  },
});
