/** Events of 0.3, 1, 10 and 200 KiB: events a second and what they weigh, beside the plain audit table with the same events. */
import type { Measurement } from './measurement.ts';
import { baselineRound, serviceRound, shortRoundPlan } from './observe.ts';
import { compare, describeSamples, median, type Sample } from './report.ts';
import { takeTurns } from './turns.ts';

interface Size {
  readonly bytes: number;
  /** A megabyte of them, at most 500. */
  readonly batch: number;
  /** Different ones: about 40 MB. */
  readonly events: number;
}

const SIZES: Readonly<Record<string, Size>> = {
  'events.0.3k': { bytes: 307, batch: 500, events: 40_000 },
  'events.1k': { bytes: 1024, batch: 500, events: 40_000 },
  'events.10k': { bytes: 10_240, batch: 100, events: 4000 },
  'events.200k': { bytes: 204_800, batch: 5, events: 200 },
};
const CONNECTIONS = 4;
/** Batches of a smoke run, one on each connection. */
const SMOKE_BATCHES = 4;

export const eventSizes: Measurement = {
  names: Object.keys(SIZES),
  async run({ options, shared, isWanted, report }) {
    const bench = await shared();
    const token = await bench.service.token('service', 'sized');
    for (const [index, [name, size]] of Object.entries(SIZES).entries()) {
      if (!isWanted(name)) continue;
      const { bytes, batch } = size;
      const events = { ...options.events, bytes, limit: options.smoke ? batch * SMOKE_BATCHES : size.events };
      const load = await bench.loadOf(events, [token]);
      const plain = await bench.plainOf(events);
      const service: Sample[] = [];
      const baseline: Sample[] = [];
      // The letters that no other measurement gives the plain table.
      const sending = (round: number) => ({
        ...{ ...shortRoundPlan(options, CONNECTIONS), batch, round },
        kind: String.fromCharCode('w'.charCodeAt(0) + index),
      });
      await takeTurns(options.rounds, [
        async (round) => service.push((await serviceRound(bench, sending(round), load)).sample),
        async (round) => baseline.push((await baselineRound(bench, 'audit-table', sending(round), plain)).sample),
      ]);
      load.stop();
      plain.stop();
      const rate = (samples: readonly Sample[]) => median(samples.map((sample) => sample.rate));
      const megabytes = (samples: readonly Sample[]) => ((rate(samples) * bytes) / 1e6).toFixed(1);
      console.log(`\n${name}: batches of ${batch}, ${CONNECTIONS} connections; median (and each round)`);
      console.log(describeSamples(`Sealog, ${megabytes(service)} MB/s`, service));
      console.log(describeSamples(`audit-table, ${megabytes(baseline)} MB/s`, baseline));
      report(compare(name, 'events/s', rate(service), rate(baseline)));
    }
  },
};
