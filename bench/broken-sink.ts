/**
 * A broken sink: what whoever sends events notices of receivers that take nothing. Single events at a gentle rate, by turns without a sink that is
 * followed, and with three: one whose port nobody listens on, one that answers 503, and one that takes connections and reads nothing. All three have the whole log
 * of the tenant before them, so there is always a batch under way. What is measured is the time from request to answer, in the same run.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { sinksOf, startBrokenReceivers } from './broken-receivers.ts';
import { startClient } from './client-process.ts';
import type { FairnessRequest, FairnessResult } from './fairness-load.ts';
import type { Measurement } from './measurement.ts';
import type { Options } from './options.ts';
import { compare, median, type Row } from './report.ts';
import { quantile } from './round.ts';
import type { Service } from './service.ts';

const QUANTILES = { 'export.broken-sink.p50': 0.5, 'export.broken-sink.p99': 0.99 };

export const brokenSink: Measurement = {
  names: Object.keys(QUANTILES),
  async run({ options, shared, report }) {
    report(...(await measureBrokenSink((await shared()).service, options)));
  },
};

const TENANT = 'broken';
const RATE = 100;
const SECONDS = 8;
const WARMUP_SECONDS = 1;
/** A sink that was paused or resumed is noticed. */
const NOTICED_AFTER_MS = 3000;
/** It has failed some times: what is of interest is a receiver that is broken for long. */
const BROKEN_FOR_MS = 8000;
/** Enough that no id is sent twice in a round. */
const EVENTS = 2000;

async function measureBrokenSink(service: Service, { events, rounds, smoke }: Options): Promise<Row[]> {
  const load = startClient<FairnessRequest, FairnessResult>(
    fileURLToPath(new URL('fairness-load.ts', import.meta.url)),
  );
  const receivers = await startBrokenReceivers();
  try {
    const api = sinksOf(service, await service.token('it_security_admin', TENANT));
    const request = {
      events: { ...events, limit: Math.min(events.limit ?? EVENTS, EVENTS) },
      address: service.address,
      tokens: [await service.token('service', TENANT)],
      ...{ batch: 1, connections: 8, rate: RATE, mayBeRefused: false, kind: 'b' },
      seconds: smoke ? 0.3 : SECONDS,
      warmup: smoke ? 0.2 : WARMUP_SECONDS,
    };
    let round = 0;
    const send = async (): Promise<readonly number[]> => {
      const { latencies } = await load.ask({ ...request, round: round++ });
      return latencies.toSorted((a, b) => a - b);
    };
    // What the sinks have before them.
    await send();
    const ids = await Promise.all(receivers.sinks.map((sink) => api.make(sink)));
    const without: (readonly number[])[] = [];
    const beside: (readonly number[])[] = [];
    const turn = async (action: 'pause' | 'resume', measured: (readonly number[])[]): Promise<void> => {
      for (const id of ids) await api.act(id, action);
      await sleep(NOTICED_AFTER_MS + (action === 'resume' && !smoke ? BROKEN_FOR_MS : 0));
      measured.push(await send());
      if (action === 'resume') await api.mustRetry(ids);
    };
    const turns = [() => turn('pause', without), () => turn('resume', beside)];
    for (let n = 0; n < rounds; n++) for (const one of n % 2 === 0 ? turns : turns.toReversed()) await one();
    for (const id of ids) await api.act(id, 'pause');

    const of = (results: readonly (readonly number[])[], share: number): number =>
      median(results.map((sorted) => quantile(sorted, share)));
    const line = (results: readonly (readonly number[])[]): string =>
      Object.values(QUANTILES)
        .map((share) => {
          const each = results.map((sorted) => quantile(sorted, share).toFixed(1));
          return `p${share * 100} ${of(results, share).toFixed(1)} ms (${each.join(' ')})`;
        })
        .join('  ');
    console.log(`\nexport.broken-sink: ${RATE} single events/s, from request to answer; median (and each round)`);
    console.log(`  without a sink            ${line(without)}`);
    console.log(`  beside three broken ones  ${line(beside)}`);
    return Object.entries(QUANTILES).map(([name, share]) => compare(name, 'ms', of(beside, share), of(without, share)));
  } finally {
    load.stop();
    receivers.stop();
  }
}
