// Preloaded into a service that tests kill: once it listens, it writes down what it compiled, for the starts that follow.
import { subscribe } from 'node:diagnostics_channel';
import { flushCompileCache } from 'node:module';

subscribe('tracing:net.server.listen:asyncEnd', () => flushCompileCache());
