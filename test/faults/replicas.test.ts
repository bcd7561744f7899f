/**
 * Several replicas on one database, each appending to all streams: one freezes while it holds the streams that all want, and each is restarted
 * under load. No fork and no gap; the others go on, and what was accepted is answered.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { adminPool, createDatabase, urlOf } from '../support/postgres.ts';
import { HARD } from '../support/short-form.ts';
import { passAll, startProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import type { Line } from './ledger.ts';
import type { MixedLoad } from './mixed-load.ts';
import { describeTimes, say } from './say.ts';
import { makeDeployment, type ServiceProcess, startServiceProcess } from './service-process.ts';
import { describeCounts, expectKept, startWatchedLoad } from './watched-load.ts';

const REPLICAS = HARD ? 4 : 2;
const CATEGORIES = ['user_authentication', 'system_operation', 'security_event'];
/** Times three categories; one stream is the hot one. */
const TENANTS = Array.from({ length: HARD ? 335 : 21 }, (_, index) => `tenant-${index}`);
const WRITERS = HARD ? 64 : 16;
const PAUSE_MS = HARD ? 0 : 100;
const HOT = { tenant: TENANTS[0]!, category: CATEGORIES[0]! };
/** For how long: it is woken while it holds the streams, or when the server has taken them back. */
const FREEZES_MS = HARD ? Array.from({ length: 10 }, (_, index) => (index % 2 === 0 ? 3000 : 9000)) : [3000];
const ROUNDS = HARD ? 2 : 1;
/** docs/operations.md: the server takes back what a replica holds that rests so long; whoever waits tries again. */
const OTHERS_WAIT_MAX_MS = 8000;
/** Events that a replica has to answer when it is told to stop. */
const ACCEPTED = 200;
const DRAIN_MAX_MS = 8000;
const RATE_MS = 10_000;

test(`${REPLICAS}, of which one freezes and each is restarted`, { timeout: HARD ? 3_600_000 : 120_000 }, async () => {
  const database = await createDatabase();
  const deployment = await makeDeployment({ database });
  onTestFinished(() => deployment.remove());
  const proxy = await startProxy(database.appConfig);
  onTestFinished(() => proxy.close());
  const admin = adminPool(database.adminConfig);
  onTestFinished(() => admin.end());
  // The last one is that which freezes.
  const behind = urlOf({ ...database.appConfig, host: '127.0.0.1', port: proxy.port });
  const replicas = await Promise.all(
    Array.from({ length: REPLICAS }, async (_, index) => {
      const own = index === REPLICAS - 1 ? { DATABASE_URL: behind } : {};
      const replica = await startServiceProcess({ ...deployment.environment(index === 0), ...own });
      onTestFinished(() => replica.kill());
      return replica;
    }),
  );
  let serving: readonly ServiceProcess[] = replicas;
  const run = await startWatchedLoad(deployment, {
    urls: () => serving.map(({ url }) => url),
    ...{ tenants: TENANTS, categories: CATEGORIES, writers: WRITERS, pauseMs: PAUSE_MS, hot: 0.5 },
  });
  const { load, watch } = run;
  await load.nextReceipt(20_000);
  await streamsOf(load, TENANTS.length * CATEGORIES.length * 0.8);

  const rates = new Map<number, number>();
  for (const count of HARD ? [1, 2, 4] : []) {
    serving = replicas.slice(0, count);
    await sleep(RATE_MS / 10);
    rates.set(count, await rateOf(load, RATE_MS));
  }

  const frozen = replicas.at(-1)!;
  const waits: number[] = [];
  for (const forMs of FREEZES_MS) {
    serving = replicas;
    await load.nextReceipt(20_000);
    const began = await freezeHolding(frozen, proxy, admin, () => {
      serving = replicas.slice(0, -1);
    });
    await sleep(forMs - (performance.now() - began));
    const woken = performance.now();
    frozen.signal('SIGCONT');
    await load.nextReceipt(OTHERS_WAIT_MAX_MS);
    // Those that wait may just have begun to try again.
    waits.push(longestGap(load.lines, began, Math.max(woken, began + OTHERS_WAIT_MAX_MS)));
  }
  serving = replicas;
  await load.nextReceipt(20_000);

  const drains: number[] = [];
  await settled(load);
  load.forget();
  for (let round = 0; round < ROUNDS; round += 1)
    for (const replica of HARD ? replicas : replicas.slice(-1)) {
      // As a load balancer does: whoever is to stop gets nothing new. What it has, it answers.
      serving = replicas.filter((one) => one !== replica);
      // Over connections that are there: one that comes with the signal may find the door closed.
      await load.burst(replica.url, ACCEPTED);
      const isAtWork = Promise.withResolvers<void>();
      const answering = load.burst(replica.url, ACCEPTED, isAtWork.resolve);
      await isAtWork.promise;
      const began = performance.now();
      expect(await replica.stop()).toBe(0);
      expect(new Set(await answering)).toEqual(new Set([201]));
      drains.push(performance.now() - began);
      await replica.again();
      serving = replicas;
      await load.nextReceipt(20_000);
    }
  const whileRestarted = new Map(load.answers);
  const judgement = await run.judge();
  const ratios = [...rates].map(
    ([count, rate]) => `${count}: ${Math.round(rate)}/s (${(rate / rates.get(1)!).toFixed(2)})`,
  );
  say(
    `${REPLICAS} replicas, ${WRITERS} writers, a hot stream and ${receiptedStreams(load) - 1} quiet ones; ${ratios.length === 0 ? '' : `events by replicas that serve: ${ratios.join(', ')}; `}${FREEZES_MS.length} frozen while holding the hot stream, the others waited ${describeTimes(waits)}; ${drains.length} restarted, drained in ${describeTimes(drains)}, answers meanwhile ${JSON.stringify([...whileRestarted])}; ${describeCounts(judgement)}; ${watch.notes.length} checkpoints kept`,
  );
  expectKept(judgement);
  expect(receiptedStreams(load)).toBeGreaterThan(HARD ? 1000 : 50);
  // Else it held nothing that anybody wanted.
  expect(Math.min(...waits)).toBeGreaterThan(1000);
  expect(Math.max(...waits)).toBeLessThan(OTHERS_WAIT_MAX_MS);
  expect(Math.max(...drains)).toBeLessThan(DRAIN_MAX_MS);
  expect([...whileRestarted.keys()].filter((status) => status === 0 || status >= 500)).toEqual([]);
});

/**
 * Stops a replica between the locks that it asked for, that of the hot stream among them, and what it would do with them. Resolves once another
 * waits for it, with the time when it stopped.
 */
async function freezeHolding(
  replica: ServiceProcess,
  proxy: TcpProxy,
  admin: pg.Pool,
  onFrozen: () => void,
): Promise<number> {
  const { rows: streams } = await admin.query<{ id: number }>(
    `SELECT id FROM sealog.stream WHERE name = '${HOT.tenant}/${HOT.category}'`,
  );
  const hot = new RegExp(`[{,]${streams[0]!.id}[,}]`);
  for (let attempt = 0; ; attempt += 1) {
    const stopped = Promise.withResolvers<number>();
    let isHot = false;
    proxy.rule = (statement, before, message) => {
      if (statement === 'lock_streams') isHot = hot.test(message.toString('latin1'));
      // What travels behind it.
      if (!isHot || before !== 'lock_streams') return 'pass';
      proxy.rule = passAll;
      replica.signal('SIGSTOP');
      stopped.resolve(performance.now());
      return 'pass';
    };
    const began = await stopped.promise;
    onFrozen();
    while (performance.now() - began < 1500) {
      await sleep(50);
      const { rows } = await admin.query(
        `SELECT FROM pg_stat_activity AS waiting JOIN pg_stat_activity AS holding ON holding.pid = ANY (pg_blocking_pids(waiting.pid))
         WHERE waiting.wait_event_type = 'Lock' AND holding.state = 'idle in transaction'
           AND holding.state_change < clock_timestamp() - interval '150 milliseconds'`,
      );
      if (rows.length > 0) return began;
    }
    replica.signal('SIGCONT');
    if (attempt === 10) throw new Error('nobody waits for what it holds');
    await sleep(500);
  }
}

/** Returns the longest time without a receipt of the hot stream that began within two others. */
function longestGap(lines: readonly Line[], from: number, to: number): number {
  const times = lines
    .filter(({ tenant, event }) => tenant === HOT.tenant && event['category'] === HOT.category)
    .flatMap(({ acknowledgedAt }) => acknowledgedAt ?? [])
    .filter((time) => time > from && time < to)
    .toSorted((a, b) => a - b);
  return [from, ...times].reduce((longest, time, n, all) => Math.max(longest, (all[n + 1] ?? time) - time), 0);
}

async function rateOf({ lines }: MixedLoad, ms: number): Promise<number> {
  const from = performance.now();
  await sleep(ms);
  const to = performance.now();
  const count = lines.filter(({ acknowledgedAt = 0 }) => acknowledgedAt > from && acknowledgedAt <= to).length;
  return (count * 1000) / (to - from);
}

function receiptedStreams({ lines }: MixedLoad): number {
  return new Set(lines.flatMap(({ receipts }) => receipts[0]?.stream ?? [])).size;
}

async function streamsOf(load: MixedLoad, count: number): Promise<void> {
  for (const end = performance.now() + 120_000; receiptedStreams(load) < count; await sleep(100))
    if (performance.now() > end) throw new Error(`only ${receiptedStreams(load)} streams`);
}

/** Waits until what a frozen replica still had to answer is answered. */
async function settled(load: MixedLoad): Promise<void> {
  for (;;) {
    const before = load.answers.get(503) ?? 0;
    await sleep(500);
    if ((load.answers.get(503) ?? 0) === before) return;
  }
}
