/**
 * A service that ends itself with SIGKILL between two steps of a hold's life: `node hold-child.ts STEP ID`, with the service's environment. It places
 * a hold of the actor `ID`, or releases the hold `ID` (where STEP is of releasing), or else prunes what has expired, and dies when the step comes.
 * Else it prints `survived` after a while.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { createApp } from '../../src/app.ts';
import { signToken } from '../../src/auth/tokens.ts';
import { readConfig } from '../../src/config.ts';
import { connectionOf } from '../../src/store/connection.ts';

const [step = '', id = ''] = process.argv.slice(2);
const config = readConfig(process.env);
const tokens = { ...config.jwt, secret: config.jwt.secret! };
const isPruning = !/^(hold|release)/.test(step);
const app = await createApp({
  ...{ config, connection: connectionOf(config.databaseUrl!), tokens, log: pino({ level: 'silent' }) },
  ...{ verification: { scrubber: false }, exporting: false },
  pruning: {
    timing: { lookMs: isPruning ? 100 : 3_600_000, soonMs: 50 },
    holds: { everyMs: 3_600_000, silentMs: 3_600_000 },
    onStep: (now) => {
      if (now === step) process.kill(process.pid, 'SIGKILL');
    },
  },
});
const post = async (subject: string, url: string, payload: object): Promise<void> => {
  const token = await signToken(tokens, { tenant: 'acme', roles: ['it_security_admin'], subject, ttlSeconds: 3600 });
  await app.server.inject({ method: 'POST', url, payload, headers: { authorization: `Bearer ${token}` } });
};
await app.server.ready();
if (step.startsWith('hold')) await post('ada', '/v1/holds', { actor: id, reason: 'case 13' });
if (step.startsWith('release')) {
  await post('ada', `/v1/holds/${id}/release`, { reason: 'settled' });
  await post('bob', `/v1/holds/${id}/release/approve`, {});
}
await delay(8000);
await app.close();
process.stdout.write('survived\n');
