/**
 * A service that ends itself with SIGKILL between two steps of pruning: `node pruning-child.ts STEP N`, with the service's environment. It
 * prunes what has expired, and dies when the step comes for the Nth time; else it prints `survived` after a while.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { createApp } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { connectionOf } from '../../src/store/connection.ts';

const [step, count] = process.argv.slice(2);
let left = Number(count);
const config = readConfig(process.env);
const app = await createApp({
  config,
  connection: connectionOf(config.databaseUrl!),
  tokens: { ...config.jwt, secret: config.jwt.secret! },
  log: pino({ level: 'silent' }),
  verification: { scrubber: false },
  exporting: false,
  pruning: {
    timing: { lookMs: 100, soonMs: 50 },
    onStep: (now) => {
      if (now === step && --left === 0) process.kill(process.pid, 'SIGKILL');
    },
  },
});
await delay(8000);
await app.close();
process.stdout.write('survived\n');
