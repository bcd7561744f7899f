/**
 * `npm run simulate`: forty months in minutes. Writes, prunes, erases, changes policies and lets clocks jump, month by month, on a real
 * PostgreSQL and the real application; verifies each state; has each count recounted by another program (recount.ts) from the policies alone.
 *
 *     npm run simulate -- [--json] [--months N | --short] [--plan FILE]
 *
 * `--json`: a summary as JSON on the last line. `--short`: what the tests do, three months in seconds. `--plan FILE`: keeps the plan, as the recount
 * gets it. Exit 1 on any deviation.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { lockDataDir } from '../src/store/data-dir-lock.ts';
import { startEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { fewMonths, fortyMonths } from './plan.ts';
import { differences, recount } from './recounted.ts';
import { simulate } from './simulation.ts';

const DIFFERENCES_SHOWN = 20;

const { values } = parseArgs({
  options: {
    json: { type: 'boolean' },
    months: { type: 'string' },
    short: { type: 'boolean' },
    plan: { type: 'string' },
  },
});
const say = (line: string): void => void process.stdout.write(`${line}\n`);
const begun = performance.now();
const folder = await mkdtemp(join(tmpdir(), 'sealog-simulation-'));
const lock = await lockDataDir(folder);
const server = await startEmbeddedPostgres({ dataDir: folder, log: { info: () => {}, warn: () => {} } });
// Ctrl-C leaves no server behind, and no folder.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void clear().finally(() => process.exit(1)));
try {
  const plan = values.short
    ? fewMonths()
    : fortyMonths(values.months === undefined ? undefined : Number(values.months));
  if (values.plan !== undefined) await writeFile(values.plan, JSON.stringify(plan));
  const { admin, app, logins } = server;
  const place = {
    ...{ superuser: admin, connection: app, logins, folder: join(folder, 'keys-and-marks') },
    roles: { writer: app.user, reader: logins.reader.user, verifier: logins.verifier.user, signer: logins.signer.user },
  };
  const { counts, deviations, ...did } = await simulate(place, plan, say);
  const differing = differences(counts, await recount(plan));
  for (const one of differing.slice(0, DIFFERENCES_SHOWN)) say(one);
  const aMonth = plan.tenants.length * Object.keys(plan.defaults).length;
  const sumIn = (month: number, of: 'pruned' | 'held' | 'erased'): number =>
    counts.slice(aMonth * month, aMonth * (month + 1)).reduce((all, one) => all + one[of], 0);
  const sum = (of: 'pruned' | 'erased'): number => sumIn(counts.length / aMonth - 1, of);
  // At the end nothing is: the most that was at the end of a month.
  const held = Math.max(...Array.from({ length: counts.length / aMonth }, (_, month) => sumIn(month, 'held')));
  const summary = {
    ...{ ok: deviations.length + differing.length === 0, months: plan.months, tenants: plan.tenants.length },
    ...{ seconds: Math.round((performance.now() - begun) / 1000), deeds: plan.deeds.length, ...did },
    ...{ counts: counts.length, pruned: sum('pruned'), held, erased: sum('erased') },
    ...{ deviations: deviations.length, differences: differing.length },
  };
  for (const [name, value] of Object.entries(summary)) say(`${name.padEnd(14)} ${value}`);
  if (values.json === true) say(JSON.stringify(summary));
  if (!summary.ok) process.exitCode = 1;
} finally {
  await clear();
}

async function clear(): Promise<void> {
  await server.stop();
  await lock.release();
  await rm(folder, { recursive: true, force: true });
}
