import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    environment: 'node',
    // One real PostgreSQL for the whole run, a database of its own for each test file that asks for one.
    globalSetup: ['test/support/global-setup.ts'],
    // Processes, not threads: tests kill, signal and measure what they start.
    pool: 'forks',
    // On two processors: tests wait more than they work.
    maxWorkers: 4,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
