// Runs the double by hand: PORT, HOST and VAST_DOUBLE_KEY come from the environment; it ends with SIGTERM or Ctrl-C.
import { once } from 'node:events';
import { startVastDouble } from './index.ts';

const vast = await startVastDouble({
  port: Number(process.env['PORT'] ?? 8492),
  host: process.env['HOST'] ?? '127.0.0.1',
  apiKey: process.env['VAST_DOUBLE_KEY'] ?? 'vast-double-key',
});
console.log(`vast.ai double: VAST_API_URL=${vast.url} VASTAI_API_KEY=${vast.apiKey}`);
await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')]);
await vast.stop();
