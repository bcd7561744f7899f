/**
 * A service that ends itself with SIGKILL between two steps of signing: `node signing-child.ts STEP N`, with the service's environment.
 * It signs what the database holds, and dies when the step comes for the Nth time; else it prints `survived`.
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
  onSignerStep: (now) => {
    if (now === step && --left === 0) process.kill(process.pid, 'SIGKILL');
  },
});
await delay(500);
await app.close();
process.stdout.write('survived\n');
