// The process: reads the settings, starts the service, and stops it in order.
import closeWithGrace from 'close-with-grace';
import { startService } from './app.ts';
import { ConfigError, loadConfig, type Config } from './config.ts';
import { reasonsOf } from './errors.ts';
import { createLogger } from './support/log.ts';

const config = readConfig();
const log = createLogger(config);

const longestStopMs = (config.DRAIN_SECONDS + config.SHUTDOWN_TIMEOUT_SECONDS + 10) * 1000;
const stopping = new AbortController();
const starting = startService(config, log, stopping.signal);

// From the first moment on: a start that were killed would leave its database behind.
closeWithGrace({ delay: longestStopMs }, async ({ signal, err }) => {
  if (err === undefined) log.info({ signal }, 'stopping');
  else log.fatal({ err }, 'stopping because of an error that nobody caught');
  stopping.abort();
  const service = await starting.catch(() => null);
  await service?.stop();
  log.info('stopped');
});

try {
  const service = await starting;
  log.info(
    { url: service.url, docs: `${service.url}/docs`, database: service.database.kind },
    'the service is up',
  );
} catch (error) {
  if (!stopping.signal.aborted) {
    log.fatal({ err: error }, 'the service could not start');
    stopWith(`The service could not start: ${reasonsOf(error)}`);
  }
}

function readConfig(): Config {
  try {
    const read = loadConfig(process.env);
    if (read.VASTAI_API_KEY === undefined && read.COMFYUI_URLS.length === 0) {
      stopWith(
        [
          'There is nothing to run workflows on. Set one of these and start again:',
          '  VASTAI_API_KEY   to rent machines on vast.ai',
          '  COMFYUI_URLS     to use ComfyUI servers that run already, such as http://127.0.0.1:8188',
          'To see it work without either: npm run demo',
        ].join('\n'),
      );
    }
    return read;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return stopWith(`The settings are not valid:\n${error.lines.map((line) => `  ${line}`).join('\n')}`);
  }
}

function stopWith(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
