// Did ComfyUI make anything anew for a prompt, or did it take everything from its cache?

interface Graph {
  [id: string]: { inputs?: Record<string, unknown> } | undefined;
}

/**
 * Whether all results come from an earlier run. A node that only saves them again counts as nothing new: its file has another name
 * in every attempt. `graph` is the prompt as the history has it, `outputNodes` are those with results there.
 */
export function reusesResults(
  graph: unknown,
  cachedNodes: readonly string[],
  outputNodes: readonly string[],
): boolean {
  if (!isGraph(graph) || outputNodes.length === 0) return false;
  const cached = new Set(cachedNodes);
  return outputNodes.every((id) => {
    if (cached.has(id)) return true;
    const inputs = graph[id]?.inputs ?? {};
    const sources = sourcesOf(inputs);
    const saves = typeof inputs['filename_prefix'] === 'string';
    return saves && sources.length > 0 && sources.every((source) => cached.has(source));
  });
}

function sourcesOf(inputs: Record<string, unknown>): string[] {
  return Object.values(inputs).flatMap((value) =>
    Array.isArray(value) && value.length === 2 && typeof value[0] === 'string' ? [value[0]] : [],
  );
}

function isGraph(value: unknown): value is Graph {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
