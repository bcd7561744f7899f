/**
 * Fairness: nine tenants that send a few events a second each, alone and beside a tenth that floods. What they notice of it is the 99th
 * percentile of the time to their answers, in the same run, by turns. Where the tenth has a quota, what he is owed is not his flood: the baseline is
 * then what the nine notice of him when he keeps to it, and how they fare alone is printed beside.
 *
 * The flood is ten times the tenth's quota (single events, and batches of 500), or, without a quota, all that it can send. Who sends it would be another
 * machine; here it runs on the same processors as the service and the database, with a lower priority, so that the nine notice the flood and not
 * the making of it.
 */
import { fileURLToPath } from 'node:url';
import { startClient } from './client-process.ts';
import type { EventSource } from './corpus.ts';
import type { FairnessRequest, FairnessResult } from './fairness-load.ts';
import type { Measurement } from './measurement.ts';
import type { Options } from './options.ts';
import { compare, median, type Row } from './report.ts';
import { quantile } from './round.ts';
import type { Service } from './service.ts';

interface Flood {
  readonly name: string;
  readonly kind: string;
  readonly batch: number;
  readonly connections: number;
  /** Events a second; undefined = none, and as fast as answers come. */
  readonly quota?: number;
}

/** `quota`: one that the service could well keep, ten times of which it could not, or only just. */
const FLOODS: readonly Flood[] = [
  { name: 'fairness.single', kind: 'q', batch: 1, connections: 64, quota: 200 },
  { name: 'fairness.batch', kind: 'r', batch: 500, connections: 8, quota: 2000 },
  { name: 'fairness.single.unlimited', kind: 't', batch: 1, connections: 64 },
  { name: 'fairness.batch.unlimited', kind: 'u', batch: 500, connections: 8 },
];

export const fairness: Measurement = {
  names: FLOODS.map(({ name }) => name),
  async run({ options, shared, isWanted, report }) {
    report(...(await measureFairness((await shared()).service, isWanted, options)));
  },
};

const OTHERS = 9;
/** Events a second of each of the nine. */
const RATE = 20;
const TIMES_QUOTA = 10;
const FLOODER_NICE = 10;
const SECONDS = 5;
const WARMUP_SECONDS = 1;
/** Enough that no id is sent twice in a round, whoever sends. */
const EVENTS = 2000;

async function measureFairness(
  service: Service,
  isWanted: (name: string) => boolean,
  { events, rounds, smoke }: Options,
): Promise<Row[]> {
  const wanted = FLOODS.filter(({ name }) => isWanted(name));
  const file = fileURLToPath(new URL('fairness-load.ts', import.meta.url));
  const others = startClient<FairnessRequest, FairnessResult>(file);
  const flooder = startClient<FairnessRequest, FairnessResult>(file, FLOODER_NICE);
  try {
    const operator = await service.token('operator', 'sealog');
    const tokens = await Promise.all(Array.from({ length: OTHERS }, (_, n) => service.token('service', `calm-${n}`)));
    const used: EventSource = { ...events, limit: Math.min(events.limit ?? EVENTS, EVENTS) };
    const seconds = smoke ? 0.3 : SECONDS;
    const warmup = smoke ? 0.2 : WARMUP_SECONDS;
    const calm = {
      events: used,
      address: service.address,
      tokens,
      batch: 1,
      rate: RATE,
      connections: 8,
      seconds,
      warmup,
    };
    let round = 0;
    const rows: Row[] = [];
    for (const flood of wanted) {
      const tenant = `flood-${flood.kind}`;
      if (flood.quota !== undefined) await setQuota(service, operator, tenant, flood.quota);
      const floodTokens = [await service.token('service', tenant)];
      const alone: FairnessResult[] = [];
      const within: FairnessResult[] = [];
      const beside: FairnessResult[] = [];
      const floods: FairnessResult[] = [];
      const asked = (): FairnessRequest => ({ ...calm, kind: 'c', round: round++, mayBeRefused: false });
      const besideTheTenth = async (times: number): Promise<[FairnessResult, FairnessResult]> => {
        const { batch, connections, quota, kind } = flood;
        const rate = quota === undefined ? {} : { rate: (times * quota) / batch };
        const load = { events: used, address: service.address, tokens: floodTokens, batch, connections, kind, ...rate };
        return Promise.all([
          others.ask(asked()),
          flooder.ask({ ...load, seconds, warmup, round: round++, mayBeRefused: true }),
        ]);
      };
      const turns = [
        async () => void alone.push(await others.ask(asked())),
        async () => {
          const [noticed, sent] = await besideTheTenth(TIMES_QUOTA);
          beside.push(noticed);
          floods.push(sent);
        },
        async () => {
          if (flood.quota !== undefined) within.push((await besideTheTenth(1))[0]);
        },
      ];
      for (let n = 0; n < rounds; n++) for (const turn of n % 2 === 0 ? turns : turns.toReversed()) await turn();
      rows.push(report(flood, { alone, within, beside, floods }, seconds));
    }
    return rows;
  } finally {
    others.stop();
    flooder.stop();
  }
}

function report(
  { name, batch, quota }: Flood,
  {
    alone,
    within,
    beside,
    floods,
  }: Readonly<Record<'alone' | 'within' | 'beside' | 'floods', readonly FairnessResult[]>>,
  seconds: number,
): Row {
  const of = (results: readonly FairnessResult[], share: number): number =>
    median(
      results.map(({ latencies }) =>
        quantile(
          latencies.toSorted((a, b) => a - b),
          share,
        ),
      ),
    );
  const rate = (read: (result: FairnessResult) => number): string =>
    ((median(floods.map(read)) * batch) / seconds).toFixed(0);
  const line = (results: readonly FairnessResult[]): string =>
    `p50 ${of(results, 0.5).toFixed(1)} p99 ${of(results, 0.99).toFixed(1)} ms (p99 of each round: ${results
      .map((result) => of([result], 0.99).toFixed(1))
      .join(' ')})`;
  console.log(`\n${name}: ${OTHERS} tenants at ${RATE} events/s each; medians of the rounds`);
  console.log(`  alone             ${line(alone)}`);
  if (within.length > 0) console.log(`  beside its quota  ${line(within)}`);
  console.log(`  beside the flood  ${line(beside)}`);
  console.log(
    `  the flood, events/s: ${rate(({ sent }) => sent)} sent, ${rate(({ stored }) => stored)} stored, ${rate(({ refused }) => refused)} refused` +
      `; its quota: ${quota ?? 'none'}`,
  );
  return compare(name, 'ms', of(beside, 0.99), of(quota === undefined ? alone : within, 0.99));
}

/** Opens the tenant with a quota, whose burst is a second of it. */
async function setQuota({ address }: Service, token: string, name: string, quota: number): Promise<void> {
  const answer = await fetch(`http://${address.host}:${address.port}/v1/tenants`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name, quota: { eventsPerSecond: quota, burstEvents: quota }, reason: 'the benchmark' }),
  });
  if (answer.status !== 201) throw new Error(`POST /v1/tenants answered ${answer.status}: ${await answer.text()}`);
}
