/**
 * Export: entries of a log that is there go to a sink from its beginning, followed by the service as any sink is; and how long a new entry takes
 * to a receiver.
 *
 * The baseline of the throughputs is what no export can do without, on one thread: the same entries read and opened, and neither encoded nor
 * sent. Run as a process of its own (see client-process.ts) this file is that baseline. The baseline of the latencies is the ingest of the
 * same events: from a request to its answer.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Client as DatabaseClient } from 'pg';
import { openBlock } from '../src/chain/open-block.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { keyById } from '../src/store/data-keys.ts';
import { asTenant, openDatabase } from '../src/store/database.ts';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import { blocksFrom } from '../src/store/log-reader.ts';
import { listStreams } from '../src/store/streams.ts';
import { answerRequests, type Client, startClient } from './client-process.ts';
import type { Delivery, Latency, ReceiverKind, ReceiverRequest, ReceiverResult } from './export-receiver.ts';
import type { FairnessRequest, FairnessResult } from './fairness-load.ts';
import type { Measurement } from './measurement.ts';
import type { Options } from './options.ts';
import { compare, median, type Row } from './report.ts';
import { quantile } from './round.ts';
import type { Workbench } from './workbench.ts';

interface Way {
  readonly kind: ReceiverKind;
  readonly throughput: string;
  readonly latency: string;
  sink(port: number): object;
}

const WAYS: readonly Way[] = [
  {
    kind: 'syslog',
    throughput: 'export.syslog.cef',
    latency: 'export.latency.syslog',
    sink: (port) => ({ type: 'syslog', format: 'cef', url: `tcp://127.0.0.1:${port}` }),
  },
  {
    kind: 'webhook',
    throughput: 'export.webhook.json',
    latency: 'export.latency.webhook',
    sink: (port) => ({ type: 'webhook', format: 'json', url: `http://127.0.0.1:${port}/in` }),
  },
];

const QUANTILES = { p50: 0.5, p99: 0.99 };

const EXPORTS: readonly string[] = WAYS.flatMap(({ throughput, latency }) => [
  throughput,
  ...Object.keys(QUANTILES).map((name) => `${latency}.${name}`),
]);

export const exporting: Measurement = {
  names: EXPORTS,
  byDefault: ['export.syslog.cef'],
  async run({ options, shared, isWanted, report }) {
    report(...(await measureExport(await shared(), isWanted, options)));
  },
};

/** All of a client's events, and nothing that the log notes of itself meanwhile. */
const CATEGORIES = [
  'configuration_change',
  'data_access',
  'data_modification',
  'security_event',
  'system_operation',
  'user_authentication',
];
const TENANT = 'exported';
/** Rounds in which code is compiled do not count. */
const WARM_UP = 1;
const LATENCY = { rate: 100, seconds: 20, smokeSeconds: 1, warmup: 3 };
/** A sink that was made is followed, and one that was deleted is not any more. */
const NOTICED_AFTER_MS = 2500;

interface Sides extends Pick<Options, 'events' | 'rounds' | 'smoke'> {
  readonly bench: Workbench;
  /** Of whom makes sinks. */
  readonly token: string;
  readonly receivers: Readonly<Record<ReceiverKind, Receiver>>;
}

interface Receiver {
  readonly client: Client<ReceiverRequest, ReceiverResult>;
  readonly port: number;
}

async function measureExport(bench: Workbench, isWanted: (name: string) => boolean, options: Options): Promise<Row[]> {
  const ways = WAYS.filter(({ throughput }) => isWanted(throughput));
  const slow = WAYS.filter(({ latency }) => Object.keys(QUANTILES).some((name) => isWanted(`${latency}.${name}`)));
  if (ways.length + slow.length === 0) return [];
  const file = fileURLToPath(new URL('export-receiver.ts', import.meta.url));
  const clients = {
    syslog: startClient<ReceiverRequest, ReceiverResult>(file),
    webhook: startClient<ReceiverRequest, ReceiverResult>(file),
  };
  try {
    const listen = async (kind: ReceiverKind): Promise<Receiver> => {
      const { port } = await clients[kind].ask({ do: 'listen', kind });
      return { client: clients[kind], port };
    };
    const receivers = { syslog: await listen('syslog'), webhook: await listen('webhook') };
    const token = await bench.service.token('it_security_admin', TENANT);
    const sides = { ...options, bench, token, receivers };
    const rows = ways.length === 0 ? [] : await measureThroughputs(sides, ways);
    for (const way of slow) rows.push(...(await measureLatency(sides, way)));
    return rows.filter(({ name }) => isWanted(name));
  } finally {
    clients.syslog.stop();
    clients.webhook.stop();
  }
}

async function measureThroughputs(sides: Sides, ways: readonly Way[]): Promise<Row[]> {
  await fill(sides);
  const reading = startClient<ReadingRequest, ReadingResult>(fileURLToPath(import.meta.url));
  try {
    await reading.ask({ do: 'prepare', dataDir: sides.bench.dataDir });
    const baseline: number[] = [];
    const rates = ways.map(() => [] as number[]);
    let entries = 0;
    const turns = [
      ...ways.map((way, index) => async () => rates[index]!.push(await exportAll(sides, way))),
      async () => {
        const read = await reading.ask({ do: 'round' });
        entries = read.entries;
        baseline.push(read.entries / read.seconds);
      },
    ];
    const { smoke, rounds } = sides;
    for (let round = smoke ? 0 : -WARM_UP; round < rounds; round++) {
      if (round === 0) for (const list of [baseline, ...rates]) list.length = 0;
      for (const turn of round % 2 === 0 ? turns : turns.toReversed()) await turn();
    }
    console.log(`\nexport: median (and each round), ${entries} entries`);
    const line = (who: string, list: readonly number[]) =>
      console.log(
        `  ${who.padEnd(34)} ${median(list).toFixed(0).padStart(7)}/s (${list.map((rate) => rate.toFixed(0)).join(' ')})`,
      );
    for (const [index, { throughput }] of ways.entries()) line(throughput, rates[index]!);
    line('read and opened, one thread', baseline);
    return ways.map(({ throughput }, index) =>
      compare(throughput, 'events/s', median(rates[index]!), median(baseline)),
    );
  } finally {
    reading.stop();
  }
}

/** Sends each event once, in batches. */
async function fill({ bench, events }: Sides): Promise<void> {
  const load = await bench.loadOf(events, [await bench.service.token('service', TENANT)]);
  await load.ask({ do: 'round', batch: 500, kind: 'x', round: 0, connections: 4, warmup: 0 });
  load.stop();
}

/**
 * Exports the log to a new sink, from its beginning. Returns entries a second: those behind the first delivery, over the time from that to the
 * last, so that neither the time until the sink is taken counts, nor an entry that was made ready in it.
 */
async function exportAll(sides: Sides, way: Way): Promise<number> {
  const { client: receiver } = sides.receivers[way.kind];
  await receiver.ask({ do: 'begin', reads: false });
  const remove = await makeSink(sides, way, 'beginning');
  const entries = await entriesOf(sides.bench.database);
  const { deliveries } = await receiver.ask({ do: 'wait', entries });
  await remove();
  const arrived = sum(deliveries);
  if (arrived !== entries) throw new Error(`${way.throughput}: ${arrived} entries arrived, of ${entries}`);
  const [first, ...others] = deliveries;
  return (sum(others) * 1000) / (others.at(-1)!.at - first!.at);
}

function sum(deliveries: readonly Delivery[]): number {
  return deliveries.reduce((total, { entries }) => total + entries, 0);
}

/** How long new entries take, at a gentle rate: from `recordedAt`, which the database gives just before its COMMIT, to the receiver. */
async function measureLatency(sides: Sides, way: Way): Promise<Row[]> {
  const { bench, events, smoke } = sides;
  const { client: receiver } = sides.receivers[way.kind];
  const load = startClient<FairnessRequest, FairnessResult>(
    fileURLToPath(new URL('fairness-load.ts', import.meta.url)),
  );
  try {
    const remove = await makeSink(sides, way, 'now');
    await sleep(NOTICED_AFTER_MS);
    await receiver.ask({ do: 'begin', reads: true });
    const { rate } = LATENCY;
    const seconds = smoke ? LATENCY.smokeSeconds : LATENCY.seconds;
    const warmup = smoke ? 0 : LATENCY.warmup;
    const before = await entriesOf(sides.bench.database);
    const begin = Date.now();
    const sent = await load.ask({
      ...{ events: { ...events, limit: Math.min(events.limit ?? Infinity, rate * (seconds + warmup) * 2) } },
      ...{ address: bench.service.address, tokens: [await bench.service.token('service', TENANT)] },
      ...{ batch: 1, connections: 8, rate, seconds, warmup, kind: way.kind[0]!, round: 0, mayBeRefused: false },
    });
    const { latencies } = await receiver.ask({ do: 'wait', entries: (await entriesOf(sides.bench.database)) - before });
    await remove();
    const measured = latencies.filter(({ recordedAt }: Latency) => recordedAt >= begin + warmup * 1000);
    const rising = (a: number, b: number): number => a - b;
    const exported = measured.map(({ ms }) => ms).sort(rising);
    const ingested = sent.latencies.toSorted(rising);
    console.log(
      `\n${way.latency}: ${exported.length} events, ${rate} a second, ms\n` +
        `  from COMMIT to the receiver  ${words(exported)}\n  from request to answer       ${words(ingested)}`,
    );
    return Object.entries(QUANTILES).map(([name, share]) =>
      // In whole milliseconds, the least of which is less than one.
      compare(`${way.latency}.${name}`, 'ms', Math.max(quantile(exported, share), 0.5), quantile(ingested, share)),
    );
  } finally {
    load.stop();
  }
}

function words(latencies: readonly number[]): string {
  const of = (share: number) => quantile(latencies, share).toFixed(1);
  return `p50 ${of(0.5)} p90 ${of(0.9)} p99 ${of(0.99)} max ${of(1)}`;
}

/** Makes a sink; returns what deletes it. */
async function makeSink({ bench, token, receivers }: Sides, way: Way, from: string): Promise<() => Promise<void>> {
  const call = async (method: string, path: string, body?: object): Promise<string> => {
    const { host, port } = bench.service.address;
    const answer = await fetch(`http://${host}:${port}/v1/sinks${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} /v1/sinks${path} answered ${answer.status}: ${text}`);
    return text;
  };
  const sink = { name: way.kind, ...way.sink(receivers[way.kind].port), from, filter: { categories: CATEGORIES } };
  const { id } = JSON.parse(await call('POST', '', sink)) as { id: string };
  return async () => {
    await call('DELETE', `/${id}`);
    await sleep(NOTICED_AFTER_MS);
  };
}

/** How many entries a sink has to deliver, as the superuser: asked over the API, the question would leave one. */
async function entriesOf(database: DatabaseClient): Promise<number> {
  const { rows } = await database.query<{ entries: string }>(
    `SELECT coalesce(sum(s.size), 0) AS entries FROM sealog.stream AS s JOIN sealog.tenant AS t ON t.id = s.tenant
     WHERE t.name = $1 AND s.category = ANY ($2)`,
    [TENANT, CATEGORIES],
  );
  return Number(rows[0]!.entries);
}

// ---- The baseline ----

const BLOCKS_A_READ = 32;

type ReadingRequest = { readonly do: 'prepare'; readonly dataDir: string } | { readonly do: 'round' };

interface ReadingResult {
  readonly entries: number;
  readonly seconds: number;
}

if (import.meta.main) {
  let readAll: (() => Promise<number>) | undefined;
  answerRequests<ReadingRequest, ReadingResult>(async (request) => {
    if (request.do === 'prepare') {
      readAll = await prepareReading(request.dataDir);
      return { entries: 0, seconds: 0 };
    }
    const began = performance.now();
    const entries = await readAll!();
    return { entries, seconds: (performance.now() - began) / 1000 };
  });
}

async function prepareReading(dataDir: string): Promise<() => Promise<number>> {
  const running = await readEmbeddedConnection(dataDir);
  if (running === undefined) throw new Error('the service does not run');
  const { app, logins } = running;
  const database = openDatabase({ connection: app, logins, readersMax: 1, log: { warn: () => {} } });
  const keys = new Keyring(fileMonthKeys(join(dataDir, 'keys', 'months')), {
    findOrStore: () => Promise.reject(new Error('reading makes no keys')),
    byId: (id) => keyById(database.verifier, id),
  });
  return async () => {
    const streams = (await listStreams(database.verifier)).filter(
      ({ name, category }) => name.startsWith(`${TENANT}/`) && CATEGORIES.includes(category),
    );
    let entries = 0;
    for (const { id, name, tenantId } of streams) {
      for (let nextSeq = 0; ; ) {
        const blocks = await asTenant(database.reader, tenantId, (asked) =>
          blocksFrom(asked, id, nextSeq, BLOCKS_A_READ),
        );
        if (blocks.length === 0) break;
        for (const block of blocks) {
          const { dataKey } = await keys.keysById(block.keyId);
          entries += openBlock(block, name, dataKey).length;
          nextSeq = block.firstSeq + block.entries;
        }
      }
    }
    return entries;
  };
}
