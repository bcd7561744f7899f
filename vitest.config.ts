import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

// What the service's processes and threads run is read and compiled once, not by each of the hundreds that tests start.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules/.cache/compiled');

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    environment: 'node',
    // One real PostgreSQL for the whole run, a database of its own for each test file that asks for one.
    globalSetup: ['test/support/global-setup.ts'],
    // Processes, not threads: tests kill, signal and measure what they start.
    pool: 'forks',
    // A process runs file after file, with what it has loaded and compiled. Whoever changes what they share (the environment, a prototype) puts it back.
    isolate: false,
    // Node loads what is tested, as it does in the service: no other program rewrites it.
    experimental: { viteModuleRunner: false, nodeLoader: false },
    // On two processors: tests wait more than they work.
    maxWorkers: 4,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
