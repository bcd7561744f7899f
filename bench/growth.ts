/**
 * What a large log costs that a small one does not: ingest, search, proofs, the start, and bytes an event.
 *
 * There are two services, each with its own log of the same events, sent again and again: one with 100,000 entries, one with the large size.
 * They are asked by turns in the same minutes, so that a machine that changes changes for both. Starts are compared with those on an empty log.
 */
import { join } from 'node:path';
import { ask, send, type Timed } from './api.ts';
import { type BenchEvent, type EventSource, loadEvents, markId, passMark } from './corpus.ts';
import { compareSizes } from './disk.ts';
import type { Measurement, Stage } from './measurement.ts';
import { serviceRound } from './observe.ts';
import type { Options } from './options.ts';
import { checkProof, untilSigned } from './proofs.ts';
import { compare, median, type Row } from './report.ts';
import { quantile, type RoundResult } from './round.ts';
import { countEntries, type Service, startService } from './service.ts';
import { takeTurns } from './turns.ts';
import { type LoadClient, openWorkbench, type Workbench } from './workbench.ts';

const TENANT = 'grown';
const SMALL = 100_000;
const SMALL_FOR_PROOFS = 10_000;
/** Where the large size is less than all that, the small ones are these parts of it. */
const SMALL_SHARE = 0.2;
/** Of one round of ingest: few, for the small log grows by them. */
const INGEST_EVENTS = 25_000;
/** Pairs of questions of each kind. */
const ASKED = 200;
const SMOKE_ASKED = 5;
/** More entries in the plain table change nothing of their bytes, and take minutes. */
const PLAIN_MAX = 2_000_000;
const BATCH = { batch: 500, connections: 4, warmup: 0 } as const;

export const growth: Measurement = {
  names: ['disk.large', 'proof.growth', 'search.growth', 'ingest.growth', 'start.growth'],
  isAlone: true,
  async run(stage) {
    const { options, isWanted, report } = stage;
    const folder = await stage.folder('large');
    const events = loadEvents(options.events);
    const benches = { small: await stage.own(), large: await openWorkbench(folder, options.events) };
    try {
      const few = Math.min(SMALL, Math.ceil(options.entries * SMALL_SHARE));
      const small = await fill('small', benches.small, options.events, events.length, few);
      const large = await fill('large', benches.large, options.events, events.length, options.entries);
      // Before anything is asked, which leaves entries too.
      const size = isWanted('disk.large') ? await measureSize(large) : undefined;
      if (size !== undefined) report(size);
      const logs: Logs = { small, large, events };
      if (isWanted('proof.growth')) report(await measureProofs(stage, logs));
      if (isWanted('search.growth')) report(await measureSearches(stage, logs));
      if (isWanted('ingest.growth')) report(await measureIngest(stage, logs));
    } finally {
      await benches.large.close();
    }
    if (isWanted('start.growth')) report(await measureStarts(stage, folder));
  },
};

/** A log, and with what marks it was filled. */
interface Log {
  readonly bench: Workbench;
  readonly load: LoadClient;
  readonly entries: number;
  /** Each pass over the events: its mark, and how many of them were sent. */
  readonly passes: readonly { readonly mark: string; readonly count: number }[];
  /** Milliseconds since 1970 from which to which it was filled. */
  readonly from: number;
  readonly to: number;
}

interface Logs {
  readonly small: Log;
  readonly large: Log;
  readonly events: readonly BenchEvent[];
}

async function fill(
  name: string,
  bench: Workbench,
  events: EventSource,
  perPass: number,
  entries: number,
): Promise<Log> {
  const load = await bench.loadOf(events, [await bench.service.token('service', TENANT)]);
  const passes: { mark: string; count: number }[] = [];
  const from = Date.now();
  let acknowledged = 0;
  while (acknowledged < entries) {
    const round = passes.length;
    const sending = { ...BATCH, kind: 'g', round, events: Math.min(perPass, entries - acknowledged) };
    const pass = (await load.ask({ do: 'round', ...sending })) as RoundResult;
    acknowledged += pass.acknowledged;
    passes.push({ mark: passMark('g', round, 0), count: pass.acknowledged });
  }
  const to = Date.now();
  const stored = await countEntries(bench.database, TENANT);
  if (stored !== acknowledged) throw new Error(`${acknowledged} events were acknowledged, ${stored} are stored`);
  const rate = acknowledged / ((to - from) / 1000);
  console.log(`\nthe ${name} log: ${acknowledged} entries, filled with ${rate.toFixed(0)} events/s`);
  return { bench, load, entries: acknowledged, passes, from, to };
}

async function measureSize({ bench, entries }: Log): Promise<Row> {
  const plain = await bench.plain();
  const sending = { ...BATCH, kind: 'g', round: 0, events: Math.min(entries, PLAIN_MAX) };
  const { acknowledged } = (await plain.ask({ do: 'round', baseline: 'audit-table', ...sending })) as RoundResult;
  plain.stop();
  return compareSizes('disk.large', bench, entries, acknowledged);
}

/** The proof of one event, drawn at random from all of the large log, beside one of a log of 10,000 entries. */
async function measureProofs({ options }: Stage, { small, large, events }: Logs): Promise<Row> {
  const { bench } = small;
  const few = Math.min(SMALL_FOR_PROOFS, Math.ceil((options.entries * SMALL_SHARE) / 2), events.length);
  const tenant = 'few';
  const load = await bench.loadOf(options.events, [await bench.service.token('service', tenant)]);
  await load.ask({ do: 'round', ...BATCH, kind: 'g', round: 0, events: few });
  load.stop();
  const fewPasses = [{ mark: passMark('g', 0, 0), count: few }];
  const sides = [
    await asker(bench.service, tenant, () => proofPath(events, fewPasses)),
    await asker(large.bench.service, TENANT, () => proofPath(events, large.passes)),
  ];
  for (const { address, token } of sides) await untilSigned(address, token);
  const [at, atLarge] = await compareAnswers(options, sides, checkProof);
  describe('proof.growth', at!, atLarge!);
  return compare('proof.growth', 'ms', median(atLarge!), median(at!));
}

function proofPath(events: readonly BenchEvent[], passes: Log['passes']): string {
  const { mark, count } = passes[Math.floor(Math.random() * passes.length)]!;
  return `/v1/events/${markId(events[Math.floor(Math.random() * count)]!, mark)}/proof`;
}

const PAGE = 20;
const SEARCHES = ['actor', 'action', 'target', 'time'] as const;

/** The newest page of four questions; the row is the one that grew most. */
async function measureSearches({ options }: Stage, { small, large, events }: Logs): Promise<Row> {
  const inSmall = events.slice(0, small.passes[0]!.count);
  const rows: Row[] = [];
  console.log(`\nsearch.growth: the newest page of ${PAGE}, ms`);
  for (const kind of SEARCHES) {
    const questions = kind === 'time' ? undefined : frequent(inSmall, kind);
    const question = ({ from, to }: Log): string => {
      // Recorded before a moment that is drawn from all of the log.
      if (questions === undefined) return `to=${new Date(from + Math.random() * (to - from)).toISOString()}`;
      return `${kind}=${encodeURIComponent(questions[Math.floor(Math.random() * questions.length)]!)}`;
    };
    const side = (log: Log) => asker(log.bench.service, TENANT, () => `/v1/events?limit=${PAGE}&${question(log)}`);
    const sides = [await side(small), await side(large)];
    const [at, atLarge] = await compareAnswers(options, sides, checkPage);
    describe(`by ${kind}`, at!, atLarge!);
    rows.push(compare('search.growth', 'ms', median(atLarge!), median(at!)));
  }
  return rows.toSorted((a, b) => b.ratio - a.ratio)[0]!;
}

/** The values of events, each as often as it is there, that fill a page also where the events were sent once. */
function frequent(events: readonly BenchEvent[], member: 'actor' | 'action' | 'target'): string[] {
  const values = events.flatMap((event) => event[member] ?? []);
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const often = values.filter((value) => counts.get(value)! >= PAGE);
  return often.length > 0 ? often : values;
}

function checkPage({ status, text }: Timed): void {
  if (status !== 200) throw new Error(`a search was answered ${status}: ${text.slice(0, 500)}`);
}

interface Asker {
  readonly address: Service['address'];
  readonly token: string;
  /** The next question. */
  path(): string;
}

async function asker(service: Service, tenant: string, path: () => string): Promise<Asker> {
  return { address: service.address, token: await service.token('auditor', tenant), path };
}

/** Asks both sides in pairs; returns the milliseconds of each side's answers. */
async function compareAnswers(
  { smoke }: Options,
  sides: readonly Asker[],
  check: (answer: Timed) => void,
): Promise<number[][]> {
  const asked = smoke ? SMOKE_ASKED : ASKED;
  const ms = sides.map(() => [] as number[]);
  // The first ones are a warm-up.
  await takeTurns(
    asked + Math.ceil(asked / 5),
    sides.map(({ address, token, path }, side) => async (round) => {
      const answer = await send(address, token, 'GET', path());
      check(answer);
      if (round >= Math.ceil(asked / 5)) ms[side]!.push(answer.ms);
    }),
  );
  return ms;
}

function describe(what: string, small: readonly number[], large: readonly number[]): void {
  const words = (all: readonly number[]) => {
    const sorted = all.toSorted((a, b) => a - b);
    return `p50 ${median(sorted).toFixed(2)} p90 ${quantile(sorted, 0.9).toFixed(2)}`;
  };
  console.log(
    `  ${what.padEnd(13)} small ${words(small)}  large ${words(large)}  ${(median(large) / median(small)).toFixed(2)}`,
  );
}

/** The same batches go to both. Twice as many rounds as of others: each is short. */
async function measureIngest({ options }: Stage, { small, large, events }: Logs): Promise<Row> {
  const rates = { small: [] as number[], large: [] as number[] };
  const side =
    ({ bench, load }: Log, into: number[]) =>
    async (round: number) => {
      const sending = { ...BATCH, kind: 'i', round, events: Math.min(INGEST_EVENTS, events.length) };
      into.push((await serviceRound(bench, sending, load)).sample.rate);
    };
  await takeTurns(options.smoke ? 1 : 2 * options.rounds, [side(small, rates.small), side(large, rates.large)]);
  const line = (who: string, all: readonly number[]) =>
    console.log(`  ${who} ${median(all).toFixed(0)}/s (${all.map((rate) => rate.toFixed(0)).join(' ')})`);
  console.log('\ningest.growth: median (and each round)');
  line('small', rates.small);
  line('large', rates.large);
  return compare('ingest.growth', 'events/s', median(rates.large), median(rates.small));
}

/** From the start of the process to the first receipt: on the large log, and on one that holds nothing but earlier starts. */
async function measureStarts(stage: Stage, large: string): Promise<Row> {
  const empty = await stage.folder('empty');
  await (await startService(join(empty, 'data'), join(empty, 'service.log'))).stop();
  const taken = { empty: [] as number[], large: [] as number[] };
  const side = (folder: string, into: number[]) => async (round: number) => {
    const service = await startService(join(folder, 'data'), join(folder, 'service.log'));
    try {
      const token = await service.token('service', 'started');
      await ask(service.address, token, 'POST', '/v1/events', firstEvent(round));
      into.push(performance.now() - service.startedAt);
    } finally {
      await service.stop();
    }
  };
  await takeTurns(stage.options.rounds, [side(empty, taken.empty), side(large, taken.large)]);
  console.log('\nstart.growth: ms from the start to the first receipt, each round');
  for (const [who, all] of Object.entries(taken)) console.log(`  ${who} ${all.map((ms) => ms.toFixed(0)).join(' ')}`);
  return compare('start.growth', 'ms', median(taken.large), median(taken.empty));
}

function firstEvent(round: number): object {
  return {
    ...{ id: `started-${round}`, category: 'system_operation', action: 'service.start', outcome: 'success' },
    ...{ occurredAt: '2026-11-22T21:04:05Z', source: { service: 'historian' } },
  };
}
