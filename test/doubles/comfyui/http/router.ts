// Finds the handler of a request among the declared routes.
import type { Answer, Exchange } from './exchange.ts';

export type Handler = (exchange: Exchange) => Answer | Promise<Answer>;

export interface Route {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** `/history/{id}`; a part in braces takes one path segment. */
  readonly path: string;
  readonly handle: Handler;
  /** Most routes answer at `/x` and `/api/x`; `once` ones only where they are declared. */
  readonly once?: boolean;
}

export interface RouteMatch {
  readonly route: Route;
  readonly params: Record<string, string>;
}

/** HEAD finds the GET routes. */
export function findRoute(routes: readonly Route[], method: string, path: string): RouteMatch | undefined {
  const wanted = method === 'HEAD' ? 'GET' : method;
  for (const route of routes) {
    const params = route.method === wanted ? paramsOf(route, path) : undefined;
    if (params !== undefined) return { route, params };
  }
  return undefined;
}

/** What `Allow` lists for a path; the static route answers GET and HEAD everywhere. */
export function allowedMethods(routes: readonly Route[], path: string): string[] {
  const declared = routes.filter((route) => paramsOf(route, path) !== undefined).map(({ method }) => method);
  return [...new Set(['GET', 'HEAD', ...declared])].sort();
}

const paramsOf = ({ path: pattern, once }: Route, path: string): Record<string, string> | undefined =>
  matchPath(pattern, path) ?? (once === true ? undefined : matchPath(`/api${pattern}`, path));

function matchPath(pattern: string, path: string): Record<string, string> | undefined {
  const [patternParts, pathParts] = [pattern.split('/'), path.split('/')];
  if (patternParts.length !== pathParts.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, part] of patternParts.entries()) {
    const given = pathParts[index] ?? '';
    if (!part.startsWith('{')) {
      if (part !== given) return undefined;
    } else if (given === '') return undefined;
    else params[part.slice(1, -1)] = decode(given);
  }
  return params;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
