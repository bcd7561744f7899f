/** Ingest: what the service takes, in batches and one by one, beside what the same PostgreSQL takes without it. */
import type { BaselineName } from './baselines.ts';
import type { Measurement, Stage } from './measurement.ts';
import { baselineRound, roundPlan, serviceRound } from './observe.ts';
import { compare, describeSamples, median, type Row, type Sample } from './report.ts';
import { takeTurns } from './turns.ts';

/** A throughput and what it is compared with. `kind` is one letter and keeps the ids of one side apart from another's. */
interface Throughput extends Side {
  readonly batch: number;
  readonly baseline: Baseline;
  /** Beside the first; the ratio is not theirs. */
  readonly others: readonly Baseline[];
}

interface Side {
  readonly kind: string;
  readonly connections: number;
}

interface Baseline extends Side {
  readonly name: BaselineName;
}

const BATCH: Throughput = {
  ...{ kind: 'b', batch: 500, connections: 4 },
  baseline: { name: 'audit-table', kind: 'b', connections: 4 },
  others: [
    { name: 'audit-table-encoded', kind: 'e', connections: 4 },
    { name: 'copy', kind: 'c', connections: 4 },
  ],
};

const SINGLE: Throughput = {
  ...{ kind: 's', batch: 1, connections: 64 },
  baseline: { name: 'application-chain', kind: 's', connections: 16 },
  others: [{ name: 'commit', kind: 'm', connections: 64 }],
};

const of = (samples: readonly Sample[], read: (sample: Sample) => number): number => median(samples.map(read));
const rate = (sample: Sample): number => sample.rate;
const p99 = (sample: Sample): number => sample.p99;

export const ingestBatch: Measurement = {
  names: ['ingest.batch', 'ingest.limit'],
  byDefault: ['ingest.batch', 'ingest.limit'],
  async run(stage) {
    const { service, baselines } = await measure(stage, 'ingest.batch', BATCH);
    const row = (name: string, than: BaselineName): Row =>
      compare(name, 'events/s', of(service, rate), of(baselines[than]!, rate));
    const encoded = row('', 'audit-table-encoded').ratio;
    console.log(`  against audit-table-encoded the ratio would be ${encoded.toFixed(2)}`);
    stage.report(row('ingest.batch', 'audit-table'), row('ingest.limit', 'copy'));
  },
};

export const ingestSingle: Measurement = {
  names: ['ingest.single', 'ingest.single.p99'],
  byDefault: ['ingest.single', 'ingest.single.p99'],
  async run(stage) {
    const { service, baselines } = await measure(stage, 'ingest.single', SINGLE);
    stage.report(
      compare('ingest.single', 'events/s', of(service, rate), of(baselines['application-chain']!, rate)),
      compare('ingest.single.p99', 'ms', of(service, p99), of(baselines['commit']!, p99)),
    );
  },
};

interface Samples {
  readonly service: readonly Sample[];
  readonly baselines: { readonly [name in BaselineName]?: readonly Sample[] };
}

/** Measures in rounds, and prints each side's figures. */
async function measure({ options, shared }: Stage, name: string, throughput: Throughput): Promise<Samples> {
  const bench = await shared();
  const sending = ({ kind, connections }: Side, round: number) => ({
    ...roundPlan(options, connections),
    ...{ batch: throughput.batch, kind, round },
  });
  const service: Sample[] = [];
  const baselines = [throughput.baseline, ...throughput.others].map((baseline) => ({
    baseline,
    samples: [] as Sample[],
  }));
  await takeTurns(options.rounds, [
    async (round) => service.push((await serviceRound(bench, sending(throughput, round))).sample),
    ...baselines.map(
      ({ baseline, samples }) =>
        async (round: number) =>
          samples.push((await baselineRound(bench, baseline.name, sending(baseline, round))).sample),
    ),
  ]);
  console.log(`\n${name}: median (and each round)`);
  console.log(describeSamples(`Sealog, ${throughput.connections} connections`, service));
  for (const { baseline, samples } of baselines)
    console.log(describeSamples(`${baseline.name}, ${baseline.connections} connections`, samples));
  return { service, baselines: Object.fromEntries(baselines.map(({ baseline, samples }) => [baseline.name, samples])) };
}
