// What a path answers to methods that it does not have.
import type { FastifyInstance } from 'fastify';
import FindMyWay from 'find-my-way';
import { ServiceError } from '../errors.ts';

/**
 * 405 and not 404 for a path that exists, and what it answers for whoever asks by OPTIONS. Fastify knows only whole
 * routes, so the paths of those that are registered from here on are kept in a router of their own.
 */
export function refuseOtherMethods(app: FastifyInstance): void {
  const methods = new Map<string, Set<string>>();
  const paths = FindMyWay({ maxParamLength: app.initialConfig.routerOptions?.maxParamLength ?? 100 });
  app.addHook('onRoute', ({ url, method }) => {
    const known = methods.get(url) ?? new Set();
    for (const name of [method].flat()) known.add(name);
    if (methods.has(url)) return;
    methods.set(url, known);
    // Any method will do: what is looked up is the path.
    paths.on('GET', url, () => undefined, url);
  });
  // In a hook, so that the body is not read first.
  app.addHook('onRequest', async (request, reply) => {
    if (!request.is404) return undefined;
    const known = methods.get(String(paths.find('GET', request.url)?.store));
    if (known === undefined) return undefined;
    const allowed = [...known, 'OPTIONS'].toSorted().join(', ');
    reply.header('allow', allowed);
    if (request.method === 'OPTIONS') return reply.code(204).send();
    throw new ServiceError('method_not_allowed', `This path answers ${allowed}, not ${request.method}.`);
  });
}
