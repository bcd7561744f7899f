/**
 * Sinks whose receivers are killed, stopped, cut off and refuse, under load, while the service itself is killed: what `sealog serve` gave receipts
 * for arrives at each of them, in order, and whatever comes again comes as it was.
 *
 * The short form has seconds a fault; the long one (SEALOG_TEST_HARD=1) two minutes, in which every time limit of a delivery passes, and some
 * twenty in all.
 */
import { randomInt } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, onTestFinished, test } from 'vitest';
import { checkArrivals, type Placed } from './faults/arrivals.ts';
import { type FragileReceiver, fragileSyslog, fragileWebhook } from './faults/receivers.ts';
import { type Deployment, makeDeployment, type ServiceProcess, startServiceProcess } from './faults/service-process.ts';
import { type SteadyLoad, startSteadyLoad } from './faults/steady-load.ts';
import { withoutReceivers } from './support/syslog-receivers.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const FAULT_MS = HARD ? 120_000 : 2000;
/** Back-off is a minute at most, and a call that nobody answers half of one; after seconds of a fault it is seconds. */
const BACK_MAX_MS = HARD ? 120_000 : 40_000;
/** Well behind `silentMs`, on a machine that other tests share. */
const TAKEOVER_MAX_MS = 15_000;
const RATE = 60;

const TENANTS = ['acme', 'zeta'];
const CATEGORIES = ['user_authentication', 'system_operation', 'security_event'];

if (withoutReceivers !== undefined)
  process.stderr.write(`export-faults.test.ts is without real receivers: ${withoutReceivers}\n`);

describe('the checker', () => {
  const at = (stream: string, seq: number): Placed => ({
    id: `${stream}-${seq}`,
    stream,
    seq,
    hash: `h-${stream}-${seq}`,
  });
  const receipts = [at('a', 1), at('a', 0), at('a', 2), at('b', 0)];
  const sound = [at('a', 0), at('b', 0), at('a', 1), at('a', 0), at('a', 1), at('a', 2), at('b', 0)];

  test('takes what came in order, and what came again', () => {
    expect(checkArrivals(receipts, sound)).toEqual({ problems: [], firsts: 4, repeats: 3 });
  });

  test.each<[string, RegExp, readonly Placed[]]>([
    ['one that is missing', /^missing: 1 of a, the first is 2/, sound.filter(({ seq }) => seq !== 2)],
    ['a stream that is missing', /^missing: 1 of b/, sound.filter(({ stream }) => stream !== 'b')],
    [
      'two in the other order',
      /^order: a 1 came first when 0 was due/,
      [at('a', 1), at('a', 0), at('a', 2), at('b', 0)],
    ],
    ['a gap that is filled late', /^order: a 2/, [at('a', 0), at('a', 2), at('a', 1), at('b', 0)]],
    ['a repeat with another hash', /^changed: a 0/, [...sound, { ...at('a', 0), hash: 'other' }]],
    ['a first arrival with another id', /^changed: b 0/, [{ ...at('b', 0), id: 'other' }, ...sound]],
    ['an entry that was never accepted', /^forged: a 3/, [...sound, at('a', 3)]],
    ['a stream that nobody knows', /^forged: c 0/, [...sound, at('c', 0)]],
  ])('finds %s', (_, problem, arrivals) => {
    expect(checkArrivals(receipts, arrivals).problems).toContainEqual(expect.stringMatching(problem));
  });

  test('does not go by receipts that have a gap', () => {
    expect(checkArrivals([at('a', 0), at('a', 2)], [at('a', 0), at('a', 2)]).problems).toContainEqual(
      expect.stringMatching(/^receipts: /),
    );
  });
});

test.skipIf(withoutReceivers !== undefined)(
  'receivers break in every way, and the service is killed twice: everything arrives, in order',
  { timeout: HARD ? 3_600_000 : 180_000 },
  async () => {
    const { deployment, folder } = await made();
    const service = await startServiceProcess(deployment.environment(true));
    onTestFinished(() => service.kill());
    const wired = { leavesDead: HARD };
    const receivers: FragileReceiver[] = [];
    onTestFinished(async () => void (await Promise.all(receivers.map((receiver) => receiver.stop()))));
    for (const start of [
      () => fragileSyslog('rsyslog', undefined),
      () => fragileSyslog('syslog-ng', wired),
      () => fragileWebhook(folder, wired),
    ])
      receivers.push(await start());
    const load = await startLoad(deployment, () => service.url);
    for (const { name, sink } of receivers)
      for (const tenant of TENANTS) await makeSink(deployment, service, tenant, { name, ...sink });
    await within(20_000, 'the first deliveries', () => receivers.every((receiver) => receiver.arrivals().length > 100));

    const kinds = Math.max(...receivers.map(({ faults }) => faults.length));
    // The short form tries three of each receiver's, others in each run.
    const rounds = HARD ? kinds : 3;
    const first = randomInt(kinds);
    let kills = 0;
    const killService = async (): Promise<void> => {
      kills += 1;
      await service.kill();
      await sleep(300);
      await service.again();
    };
    for (let round = 0; round < rounds; round += 1) {
      // Each receiver has another fault, and each fault its turn with each.
      const faults = receivers.map(
        (receiver, index) => receiver.faults[(first + round + 2 * index) % receiver.faults.length]!,
      );
      load.phase = 'broken';
      await Promise.all(receivers.map((receiver, index) => receiver.break(faults[index]!)));
      await sleep(FAULT_MS / 2);
      if (round === 1) await killService();
      await sleep(FAULT_MS / 2);
      await Promise.all(receivers.map((receiver, index) => receiver.heal(faults[index]!)));
      load.phase = 'back';
      say(`${faults.join(', ')}: back after ${(await back(receivers, load)).join(', ')}`);
      load.phase = 'healthy';
      await sleep(HARD ? 20_000 : 500);
      if (round === 2) {
        load.phase = 'killed';
        await killService();
        say(`the service was killed: back after ${(await back(receivers, load)).join(', ')}`);
      }
    }
    expect(kills).toBe(2);
    await load.stop();
    await caughtUp(deployment, service);

    say(`${load.receipts.length} events, ${load.repeated} sent again; ${describeLatencies(load)}`);
    for (const { name, arrivals } of receivers) {
      const { problems, firsts, repeats } = checkArrivals(load.receipts, arrivals());
      say(`${name}: ${firsts} arrived, ${repeats} again`);
      expect(problems.slice(0, 20), name).toEqual([]);
      expect(firsts).toBe(load.receipts.length);
    }
    // Of a machine that others use too: a bench says it more exactly (export.broken-sink).
    const [healthy, broken] = ['healthy', 'broken'].map((phase) => quantile(load, phase, 0.5));
    expect(broken).toBeLessThan(4 * healthy! + 20);
  },
);

test('a replica that is killed, or comes back after it was given up, is taken over within seconds', {
  timeout: 180_000,
}, async () => {
  const { deployment, folder } = await made();
  const first = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => first.kill());
  const receiver = await fragileWebhook(folder, { leavesDead: false });
  onTestFinished(() => receiver.stop());
  let target = first;
  // One sink, so that whoever delivers follows all.
  const tenants = ['acme'];
  const load = await startLoad(deployment, () => target.url, tenants);
  await makeSink(deployment, first, tenants[0]!, { name: 'soc', ...receiver.sink });
  await within(20_000, 'the first delivery', () => receiver.arrivals().length > 0);
  const second = await startServiceProcess(deployment.environment(false));
  onTestFinished(() => second.kill());

  // The first is followed by the second, which must not notice when the first goes on.
  target = second;
  first.signal('SIGSTOP');
  const [stopped] = await back([receiver], load);
  first.signal('SIGCONT');
  await sleep(2000);
  await second.kill();
  target = first;
  const [killed] = await back([receiver], load);
  await load.stop();
  await caughtUp(deployment, first, tenants);
  const { problems, firsts, repeats } = checkArrivals(load.receipts, receiver.arrivals());
  say(
    `takeover after ${stopped} of one that was stopped, ${killed} of one that was killed; ${firsts} arrived, ${repeats} again`,
  );
  expect(problems.slice(0, 20)).toEqual([]);
  for (const seconds of [stopped!, killed!]) expect(Number.parseFloat(seconds) * 1000).toBeLessThan(TAKEOVER_MAX_MS);
});

async function made(): Promise<{ deployment: Deployment; folder: string }> {
  const deployment = await makeDeployment();
  onTestFinished(() => deployment.remove());
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-receivers-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return { deployment, folder };
}

async function startLoad(deployment: Deployment, url: () => string, tenants = TENANTS): Promise<SteadyLoad> {
  const tokens = await Promise.all(tenants.map((tenant) => deployment.token('service', tenant)));
  const load = startSteadyLoad({ url, tokens, categories: CATEGORIES, rate: RATE });
  onTestFinished(() => load.drop());
  return load;
}

async function makeSink(deployment: Deployment, { url }: ServiceProcess, tenant: string, sink: object): Promise<void> {
  const token = await deployment.token('it_security_admin', tenant);
  const response = await fetch(`${url}/v1/sinks`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ ...sink, from: 'beginning', filter: { categories: CATEGORIES } }),
  });
  expect(response.status, await response.text()).toBe(201);
}

/** Waits until each receiver has got something that was sent from now on, and says after how many seconds that was. */
async function back(receivers: readonly FragileReceiver[], load: SteadyLoad): Promise<string[]> {
  const began = performance.now();
  const seen = new Map(receivers.map(({ name, arrivals }) => [name, arrivals().length]));
  const old = load.receipts.length;
  const after = new Map<string, string>();
  await within(BACK_MAX_MS, 'a delivery', () => {
    const fresh = new Set(load.receipts.slice(old).map(({ id }) => id));
    for (const { name, arrivals } of receivers)
      if (
        !after.has(name) &&
        arrivals()
          .slice(seen.get(name))
          .some(({ id }) => fresh.has(id))
      )
        after.set(name, `${((performance.now() - began) / 1000).toFixed(1)} s`);
    return after.size === receivers.length;
  });
  return receivers.map(({ name }) => after.get(name)!);
}

/** Waits until all sinks say that they have delivered all, and run. */
async function caughtUp(deployment: Deployment, { url }: ServiceProcess, tenants = TENANTS): Promise<void> {
  await within(BACK_MAX_MS, 'all are delivered', async () => {
    for (const tenant of tenants) {
      const token = await deployment.token('it_security_admin', tenant);
      const response = await fetch(`${url}/v1/sinks`, { headers: { authorization: `Bearer ${token}` } });
      const { items } = (await response.json()) as { items: { state: string; lag: { entries: number } }[] };
      if (items.length === 0 || items.some(({ state, lag }) => state !== 'running' || lag.entries > 0)) return false;
    }
    return true;
  });
}

async function within(ms: number, what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + ms; !(await condition()); await sleep(100))
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
}

function quantile({ latencies }: SteadyLoad, phase: string, share: number): number {
  const sorted = (latencies.get(phase) ?? []).toSorted((a, b) => a - b);
  return sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN;
}

function describeLatencies(load: SteadyLoad): string {
  return [...load.latencies.keys()]
    .map(
      (phase) =>
        `${phase} p50 ${quantile(load, phase, 0.5).toFixed(1)} p99 ${quantile(load, phase, 0.99).toFixed(1)} ms`,
    )
    .join(', ');
}

function say(words: string): void {
  process.stderr.write(`export-faults: ${words}\n`);
}
