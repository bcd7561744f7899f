/**
 * A service that ends itself with SIGKILL between two steps of signing, erasing or rotating month keys: `node signing-child.ts STEP N [MS]`, with
 * the service's environment. It does what the database has for it, and dies when the step comes for the Nth time; else it prints `survived`.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { createApp } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { connectionOf } from '../../src/store/connection.ts';

const [step, count, forMs = '500'] = process.argv.slice(2);
let left = Number(count);
const dieAt = (now: string): void => {
  if (now === step && --left === 0) process.kill(process.pid, 'SIGKILL');
};
const config = readConfig(process.env);
const app = await createApp({
  config,
  connection: connectionOf(config.databaseUrl!),
  tokens: { ...config.jwt, secret: config.jwt.secret! },
  log: pino({ level: 'silent' }),
  onSignerStep: dieAt,
  keyTiming: { onStep: dieAt },
});
await delay(Number(forMs));
await app.close();
process.stdout.write('survived\n');
