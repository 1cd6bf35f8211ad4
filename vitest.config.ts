import { defineConfig } from 'vitest/config';

const project = (name: string, timeoutMs: number) => ({
  extends: true as const,
  test: { name, include: [`test/${name}/**/*.test.ts`], testTimeout: timeoutMs, hookTimeout: 60_000 },
});

export default defineConfig({
  test: {
    pool: 'forks',
    projects: [project('unit', 10_000), project('contract', 30_000), project('integration', 60_000)],
  },
});
