/**
 * Two and four replicas on one database, beside one. The first runs the database and signs; the others are told where it is, as the
 * deployment with several does. Batches go over four connections in all, spread evenly over those that are measured; the others are idle meanwhile.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ConnectionConfig } from '../src/store/embedded-postgres.ts';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import type { Measurement } from './measurement.ts';
import { shortRoundPlan } from './observe.ts';
import { compare, median } from './report.ts';
import type { RoundResult } from './round.ts';
import { type Service, startService } from './service.ts';
import { takeTurns } from './turns.ts';
import type { LoadClient } from './workbench.ts';

const COUNTS: Readonly<Record<string, number>> = { 'replicas.2': 2, 'replicas.4': 4 };
const CONNECTIONS = 4;
/** Each replica's client holds them all. */
const EVENTS = 20_000;

export const replicas: Measurement = {
  names: Object.keys(COUNTS),
  isAlone: true,
  async run({ options, own, folder, isWanted, report }) {
    const wanted = Object.entries(COUNTS).filter(([name]) => isWanted(name));
    const counts = [1, ...wanted.map(([, count]) => count)];
    const most = Math.max(...counts);
    const home = await folder('replicas');
    const events = { ...options.events, limit: Math.min(options.events.limit ?? EVENTS, EVENTS) };
    const bench = await own();
    const others: Service[] = [];
    try {
      const settings = await settingsOfReplicas(bench.dataDir);
      for (let n = 1; n < most; n++)
        others.push(await startService(join(home, `replica-${n}`), join(home, `replica-${n}.log`), settings));
      const tokens = [await bench.service.token('service', 'replicated')];
      const loads: LoadClient[] = [];
      for (const { address } of [bench.service, ...others]) loads.push(await bench.loadOf(events, tokens, address));

      const rates = new Map<number, number[]>(counts.map((count) => [count, []]));
      await takeTurns(
        options.rounds,
        counts.map((count) => async (round) => {
          await bench.database.query('CHECKPOINT');
          const results = await Promise.all(
            loads.slice(0, count).map((load, n) => {
              // The letter keeps apart what each of so many sends.
              const kind = String.fromCharCode('a'.charCodeAt(0) + counts.indexOf(count) * most + n);
              const plan = shortRoundPlan(options, CONNECTIONS / count);
              return load.ask({ do: 'round', batch: 500, kind, round, ...plan }) as Promise<RoundResult>;
            }),
          );
          rates.get(count)!.push(results.reduce((sum, result) => sum + result.events / result.seconds, 0));
        }),
      );
      console.log('\nreplicas: events/s, median (and each round)');
      for (const [count, all] of rates)
        console.log(`  ${count} ${median(all).toFixed(0)} (${all.map((rate) => rate.toFixed(0)).join(' ')})`);
      const of = (count: number) => median(rates.get(count)!);
      report(...wanted.map(([name, count]) => compare(name, 'events/s', of(count), of(1))));
    } finally {
      for (const other of others) await other.stop();
    }
  },
};

async function settingsOfReplicas(dataDir: string): Promise<Record<string, string>> {
  const running = await readEmbeddedConnection(dataDir);
  if (running === undefined) throw new Error('the first replica does not run');
  const { app, logins } = running;
  running.close();
  return {
    DATABASE_URL: urlOf(app),
    SEALOG_READER_DATABASE_URL: urlOf(logins.reader),
    SEALOG_VERIFIER_DATABASE_URL: urlOf(logins.verifier),
    SEALOG_SIGNER_DATABASE_URL: urlOf(logins.signer),
    SEALOG_MASTER_KEY: `file:${join(dataDir, 'keys', 'months')}`,
    SEALOG_JWT_SECRET: (await readFile(join(dataDir, 'keys', 'jwt-secret'), 'utf8')).trim(),
  };
}

/** The server listens on a socket alone. */
function urlOf({ host, port, user, password, database }: ConnectionConfig): string {
  return `postgresql://${user}:${encodeURIComponent(password)}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
}
