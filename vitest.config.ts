import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    environment: 'node',
    // One real PostgreSQL for the whole run, a database of its own for each test file that asks for one.
    globalSetup: ['test/support/global-setup.ts'],
    // Processes, not threads: tests kill, signal and measure what they start.
    pool: 'forks',
    // Each worker keeps a server busy as well, and timing is part of some tests.
    maxWorkers: 3,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
