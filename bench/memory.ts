/**
 * Memory: what the service holds after minutes at full load, beside what it holds idle. Full load is batches of 500 over 4 connections and
 * single events over 64, each as fast as answers come, while three sinks of the tenant fail and an auditor has its whole log verified, again and again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ask } from './api.ts';
import { sinksOf, startBrokenReceivers } from './broken-receivers.ts';
import { familyMegabytes, residentMegabytes } from './machine.ts';
import type { Measurement } from './measurement.ts';
import type { Options } from './options.ts';
import { compare, median, type Row } from './report.ts';
import type { RoundResult } from './round.ts';
import type { Service } from './service.ts';
import type { Workbench } from './workbench.ts';

const TENANT = 'full';
const IDLE_SECONDS = 30;
const SMOKE_IDLE_SECONDS = 0.5;
const SAMPLE_MS = 500;
const LOOK_MS = 500;
/** Of the samples under load, those at the end that count. */
const LAST_SHARE = 0.1;

export const memory: Measurement = {
  names: ['memory'],
  isAlone: true,
  async run({ options, own, report }) {
    const receivers = await startBrokenReceivers();
    try {
      report(await measure(await own(), options, receivers.sinks));
    } finally {
      receivers.stop();
    }
  },
};

async function measure(bench: Workbench, options: Options, sinks: readonly object[]): Promise<Row> {
  const { service, databasePid } = bench;
  const idle = await watch(service, (options.smoke ? SMOKE_IDLE_SECONDS : IDLE_SECONDS) * 1000);
  const databaseIdle = familyMegabytes(databasePid);

  const tokens = [await service.token('service', TENANT)];
  const loads = [await bench.loadOf(options.events, tokens), await bench.loadOf(options.events, tokens)];
  const api = sinksOf(service, await service.token('it_security_admin', TENANT));
  const ids = await Promise.all(sinks.map((sink) => api.make(sink)));
  const seconds = options.minutes * 60;
  const audit = { isOver: false };
  const auditing = verifyAgainAndAgain(service, audit);
  const loading = Promise.all([
    loads[0]!.ask({ do: 'round', batch: 500, kind: 'b', round: 0, connections: 4, warmup: 0, seconds }),
    loads[1]!.ask({ do: 'round', batch: 1, kind: 's', round: 0, connections: 64, warmup: 0, seconds }),
  ]);
  const watching = watch(service, seconds * 1000);
  const [results, samples] = await Promise.all([loading, watching]);
  const databaseLoaded = familyMegabytes(databasePid);
  audit.isOver = true;
  const verifications = await auditing;
  for (const id of ids) await api.act(id, 'pause');
  for (const load of loads) load.stop();

  const last = samples.slice(-Math.max(1, Math.ceil(samples.length * LAST_SHARE)));
  const rates = results.map((result) => ((result as RoundResult).acknowledged / seconds).toFixed(0));
  const quarters = [0.25, 0.5, 0.75, 1].map((share) => samples[Math.ceil(share * samples.length) - 1]!.toFixed(0));
  console.log(
    `\nmemory: ${options.minutes} minutes at ${rates.join(' + ')} events/s, ${verifications} verifications ended`,
  );
  console.log(`  the service, MB: idle ${median(idle).toFixed(0)}, after each quarter ${quarters.join(' ')}`);
  console.log(`  at most ${Math.max(...samples).toFixed(0)}, in the last tenth ${Math.max(...last).toFixed(0)}`);
  console.log(`  its PostgreSQL, MB: idle ${databaseIdle.toFixed(0)}, at the end ${databaseLoaded.toFixed(0)}`);
  return compare('memory', 'MB', Math.max(...last), median(idle));
}

async function watch({ pid }: Service, ms: number): Promise<number[]> {
  const samples = [residentMegabytes(pid)];
  const end = performance.now() + ms;
  while (performance.now() < end) {
    await sleep(Math.min(SAMPLE_MS, ms / 4));
    samples.push(residentMegabytes(pid));
  }
  return samples;
}

/** Returns how many verifications came to their end. */
async function verifyAgainAndAgain({ address, token }: Service, state: { readonly isOver: boolean }): Promise<number> {
  const auditor = await token('auditor', TENANT);
  let ended = 0;
  while (!state.isOver) {
    const { id } = await ask<{ id: string }>(address, auditor, 'POST', '/v1/verifications', {});
    for (;;) {
      if (state.isOver) return ended;
      const run = await ask<{ state: string; verdict: string | null }>(
        address,
        auditor,
        'GET',
        `/v1/verifications/${id}`,
      );
      if (run.state === 'failed' || run.verdict === 'tampered')
        throw new Error(`a verification ended with ${JSON.stringify(run)}`);
      if (run.state === 'done') break;
      await sleep(LOOK_MS);
    }
    ended += 1;
  }
  return ended;
}
