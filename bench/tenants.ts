/** Ten and a thousand tenants who send by turns, beside one who sends as much alone. */
import type { Measurement } from './measurement.ts';
import { serviceRound, shortRoundPlan } from './observe.ts';
import { compare, describeSamples, median, type Sample } from './report.ts';
import { takeTurns } from './turns.ts';
import type { LoadClient } from './workbench.ts';

const COUNTS: Readonly<Record<string, number>> = { 'tenants.10': 10, 'tenants.1000': 1000 };
/** So that a smoke run is one of seconds. */
const SMOKE_MAX = 20;
/** A batch is one tenant's: what each of a thousand has to send is little. */
const BATCH = 100;
const CONNECTIONS = 16;
const EVENTS = 20_000;

interface Side {
  readonly count: number;
  readonly load: LoadClient;
  readonly samples: Sample[];
}

export const tenants: Measurement = {
  names: Object.keys(COUNTS),
  async run({ options, shared, isWanted, report }) {
    const bench = await shared();
    const events = { ...options.events, limit: Math.min(options.events.limit ?? EVENTS, EVENTS) };
    const wanted = Object.entries(COUNTS).filter(([name]) => isWanted(name));
    const sides: Side[] = [];
    for (const count of [1, ...wanted.map(([, each]) => each)]) {
      const names = Array.from(
        { length: options.smoke ? Math.min(count, SMOKE_MAX) : count },
        (_, n) =>
          // Of one length, as their tokens have to be.
          `many-${String(count).padStart(4, '0')}-${String(n).padStart(4, '0')}`,
      );
      const tokens = await Promise.all(names.map((tenant) => bench.service.token('service', tenant)));
      const load = await bench.loadOf(events, tokens);
      // A tenant's streams, and their keys, are made by its first events.
      const first = { batch: BATCH, kind: 'v', round: 0, events: BATCH * names.length } as const;
      await load.ask({ do: 'round', ...first, connections: CONNECTIONS, warmup: 0 });
      sides.push({ count, load, samples: [] });
    }
    await takeTurns(
      options.rounds,
      sides.map(({ load, samples }) => async (round) => {
        const sending = { ...shortRoundPlan(options, CONNECTIONS), batch: BATCH, kind: 't', round };
        samples.push((await serviceRound(bench, sending, load)).sample);
      }),
    );
    console.log(`\ntenants: batches of ${BATCH}, ${CONNECTIONS} connections; median (and each round)`);
    for (const { count, samples } of sides) console.log(describeSamples(`${count}`, samples));
    const rate = (count: number) =>
      median(sides.find((side) => side.count === count)!.samples.map((sample) => sample.rate));
    report(...wanted.map(([name, count]) => compare(name, 'events/s', rate(count), rate(1))));
    for (const { load } of sides) load.stop();
  },
};
