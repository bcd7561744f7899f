/**
 * `npm run bench`: what Sealog does with real audit events, beside what the same PostgreSQL does with them without Sealog.
 *
 * The service runs as a user would start it; the baselines run on its database server, in a database of their own. The method and how to read
 * the figures: bench/README.md.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import { type BaselineRequest, type BaselineResult, createTables, explainBaselines, withClient } from './baselines.ts';
import { BROKEN_SINK, measureBrokenSink } from './broken-sink.ts';
import { startClient } from './client-process.ts';
import { EVENT_ORDERS, type EventOrder, type EventSource, hasCorpus, loadEvents } from './corpus.ts';
import { EXPORTS, measureExport } from './export.ts';
import { FAIRNESS, measureFairness } from './fairness.ts';
import type { HttpRequest, HttpResult } from './http-load.ts';
import { describeDatabase, describeMachine } from './machine.ts';
import { fillOnce, measureDisk, measureThroughput, type Stage, THROUGHPUTS } from './measurements.ts';
import { measureProofs, PROOFS } from './proofs.ts';
import { formatTable, type Row } from './report.ts';
import { type Service, startService } from './service.ts';
import { measureVerification } from './verification.ts';

const NAMES: readonly string[] = [
  'disk',
  'verify',
  ...THROUGHPUTS.map(({ name }) => name),
  ...PROOFS,
  ...EXPORTS,
  ...BROKEN_SINK,
  ...FAIRNESS,
];

const USAGE = `usage: npm run bench -- [options]
  --json       end with one line { "results": [{ name, value, unit, baseline, ratio }] }
  --smoke      a few hundred events, one pass each: shows that everything works, not how fast
  --seconds N  measured seconds of a round (8)
  --rounds N   rounds of a measurement (3)
  --only NAME  ${NAMES.join(', ')}; may be repeated
  --order HOW  order of the events: ${EVENT_ORDERS.join(', ')} (shuffled)
  --events N   use only the first N events`;

const SMOKE_EVENTS = 700;
const BASELINE_DATABASE = 'sealog_bench';
const EXPLAINED_EVENTS = 500;

interface Options {
  readonly json: boolean;
  readonly smoke: boolean;
  readonly seconds: number;
  readonly rounds: number;
  readonly only: readonly string[];
  readonly events: EventSource;
}

/** What is to be undone at the end, in reverse. */
type Endings = (() => Promise<void> | void)[];

await main();

async function main(): Promise<void> {
  const options = readOptions();
  if (options === undefined) {
    console.error(USAGE);
    process.exitCode = 64;
    return;
  }
  const endings: Endings = [];
  const end = async () => {
    for (const ending of endings.splice(0).reverse()) await ending();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void end().finally(() => process.exit(1)));
  }
  try {
    const rows = await bench(options, endings);
    console.log(`\n${formatTable(rows)}`);
    if (options.json) console.log(JSON.stringify({ results: rows }));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  } finally {
    await end();
  }
}

async function bench(options: Options, endings: Endings): Promise<Row[]> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-bench-'));
  endings.push(() => rm(folder, { recursive: true, force: true }));
  const dataDir = join(folder, 'data');
  const service = await startService(dataDir, join(folder, 'service.log'));
  endings.push(() => service.stop());
  try {
    return await benchService(service, dataDir, options, endings);
  } catch (error) {
    console.error(`the service's last output:\n${service.output()}`);
    throw error;
  }
}

async function benchService(service: Service, dataDir: string, options: Options, endings: Endings): Promise<Row[]> {
  const server = await readEmbeddedConnection(dataDir);
  if (server === undefined) throw new Error('the service is ready, but its embedded PostgreSQL was not found');
  endings.push(() => server.close());
  const load = startClient<HttpRequest, HttpResult>(fileURLToPath(new URL('http-load.ts', import.meta.url)));
  endings.push(() => load.stop());
  const plain = startClient<BaselineRequest, BaselineResult>(fileURLToPath(new URL('baselines.ts', import.meta.url)));
  endings.push(() => plain.stop());

  return withClient(server.admin, async (database) => {
    // As the service's own database is made, so that neither side sorts by dearer rules.
    await database.query(`CREATE DATABASE ${BASELINE_DATABASE} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`);
    const baselineConnection = { ...server.admin, database: BASELINE_DATABASE };
    await createTables(baselineConnection);
    await plain.ask({ do: 'prepare', events: options.events, connection: baselineConnection });
    const { address } = service;
    const token = await service.token('service');
    const loaded = await load.ask({ do: 'prepare', events: options.events, address, token });

    console.log(describeMachine());
    console.log(`PostgreSQL: ${await describeDatabase(database)}`);
    console.log(`service: ready ${(service.readyAfter / 1000).toFixed(1)} s after its start on an empty data folder`);
    if ('bytes' in loaded) console.log(describeEvents(options.events, loaded));
    if (options.smoke) console.log('a smoke run: it shows that everything works; its figures say nothing');

    const stage: Stage = {
      servicePid: service.pid,
      databasePid: server.pid,
      database,
      baselineConnection,
      load,
      plain,
      seconds: options.smoke ? undefined : options.seconds,
      rounds: options.rounds,
      acknowledged: 0,
    };
    const rows = await measure(stage, options, dataDir);
    rows.push(...(await measureProofs(service, (name) => isWanted(options.only, name), options.smoke)));
    rows.push(
      ...(await measureExport(service, { dataDir, database }, (name) => isWanted(options.only, name), options)),
    );
    rows.push(...(await measureBrokenSink(service, (name) => isWanted(options.only, name), options)));
    rows.push(...(await measureFairness(service, (name) => isWanted(options.only, name), options)));
    const stored = await service.countEntries(database);
    if (stored !== stage.acknowledged)
      throw new Error(`${stage.acknowledged} events were acknowledged, ${stored} are stored`);
    console.log(`\nthe service's streams hold the ${stored} events that it acknowledged, no more and no less`);

    const explained = loadEvents({ ...options.events, limit: EXPLAINED_EVENTS });
    for (const { name, plan } of await explainBaselines(baselineConnection, explained)) {
      console.log(`\nplan of ${name} (rolled back)\n${plan}`);
    }
    return rows;
  });
}

async function measure(stage: Stage, { only, smoke }: Options, dataDir: string): Promise<Row[]> {
  const rows: Row[] = [];
  // First, into empty tables. What it leaves behind, each event once, is what is verified.
  if (isWanted(only, 'disk')) rows.push(...(await measureDisk(stage)));
  else if (isWanted(only, 'verify')) await fillOnce(stage);
  if (isWanted(only, 'verify')) rows.push(await measureVerification(dataDir, stage.rounds, smoke));
  for (const throughput of THROUGHPUTS) {
    if (isWanted(only, throughput.name)) rows.push(await measureThroughput(stage, throughput));
  }
  return rows;
}

function isWanted(only: readonly string[], name: string): boolean {
  return only.length === 0 || only.includes(name);
}

function describeEvents(
  { testData, order }: EventSource,
  { events, bytes }: { events: number; bytes: number },
): string {
  const origin = testData === undefined ? 'generated (SEALOG_TEST_DATA is not set)' : `real, from ${testData}/corpus`;
  return `events: ${events}, ${(bytes / events).toFixed(0)} bytes on average, ${order}, ${origin}`;
}

/** The options, or undefined where they can not be understood. */
function readOptions(): Options | undefined {
  try {
    const { values } = parseArgs({
      options: {
        json: { type: 'boolean', default: false },
        smoke: { type: 'boolean', default: false },
        seconds: { type: 'string', default: '8' },
        rounds: { type: 'string' },
        only: { type: 'string', multiple: true, default: [] },
        order: { type: 'string', default: 'shuffled' },
        events: { type: 'string' },
      },
    });
    const { json, smoke, only, order } = values;
    const seconds = Number(values.seconds);
    const rounds = Number(values.rounds ?? (smoke ? 1 : 3));
    const limit = values.events === undefined ? (smoke ? SMOKE_EVENTS : undefined) : Number(values.events);
    const testData = process.env.SEALOG_TEST_DATA;
    if (!(seconds > 0) || !isCount(rounds) || !(limit === undefined || isCount(limit))) return undefined;
    if (!isOrder(order) || only.some((name) => !NAMES.includes(name))) return undefined;
    const events = { order, ...(limit !== undefined && { limit }), ...(hasCorpus(testData) && { testData }) };
    return { json, smoke, seconds, rounds, only, events };
  } catch {
    return undefined;
  }
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value > 0;
}

function isOrder(value: string): value is EventOrder {
  return EVENT_ORDERS.some((order) => order === value);
}
