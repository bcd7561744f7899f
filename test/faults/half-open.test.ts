/**
 * The way to the database is half-open: nothing passes, and nobody is told. Whoever asks hears so in time, nothing is promised that is not so,
 * and once the way is back everything goes on as before, without a connection too many.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { adminPool, createDatabase, urlOf } from '../support/postgres.ts';
import { HARD, someOf } from '../support/short-form.ts';
import { startBreakableWire, type Way } from './breakable-wire.ts';
import { say } from './say.ts';
import { makeDeployment, startServiceProcess } from './service-process.ts';
import { describeCounts, expectKept, startWatchedLoad } from './watched-load.ts';

const HALF_OPEN_MS = HARD ? 60_000 : 5500;
/** What docs/operations.md states: the answer to an event or a read, /readyz red, its answer, and the first receipt behind it. */
const ANSWER_MAX_MS = 12_000;
const RED_MAX_MS = 5000;
const READY_ANSWER_MAX_MS = 5000;
const BACK_MAX_MS = 5000;
const AT_REST_MAX_MS = 10_000;

test.each(someOf<Way>(['stalled', 'dead']))(
  `for ${HALF_OPEN_MS / 1000} s, the connections then %s`,
  { timeout: 2 * HALF_OPEN_MS + 120_000 },
  async (way) => {
    const database = await createDatabase();
    const { host, port } = database.appConfig;
    const wire = await startBreakableWire(host.startsWith('/') ? `${host}/.s.PGSQL.${port}` : port);
    onTestFinished(() => wire.close());
    const appUrl = urlOf({ ...database.appConfig, host: '127.0.0.1', port: wire.port });
    const deployment = await makeDeployment({ database: { ...database, appUrl } });
    onTestFinished(() => deployment.remove());
    const service = await startServiceProcess(deployment.environment(true));
    onTestFinished(() => service.kill());
    const run = await startWatchedLoad(deployment, { urls: () => [service.url], writers: 16, pauseMs: 20 });
    const { load } = run;
    const auditor = await deployment.token('auditor', 'acme');
    const admin = adminPool(database.adminConfig);
    onTestFinished(() => admin.end());
    const counts = async (): Promise<Counts> => ({
      backends: (
        await admin.query(`SELECT count(*)::int AS n FROM pg_stat_activity WHERE usename = $1`, [database.appRole])
      ).rows[0].n,
      sockets: await socketsTo(service.pid, wire.port),
      pooled: await pooled(service.url),
      carried: wire.connections,
    });
    await load.nextReceipt(10_000);
    await sleep(500);
    const before = await atRest(counts);

    const reads = ask(() => `${service.url}/v1/events?limit=1`, auditor);
    load.forget();
    const began = performance.now();
    await wire.turn(way);
    const ready = ask(() => `${service.url}/readyz`, undefined);
    await sleep(HALF_OPEN_MS);
    await wire.turn('pass');
    const first = await load.nextReceipt(BACK_MAX_MS);
    const unknown = load.answers.get(504) ?? 0;
    const slowest = Math.max(...load.slowest.values());
    const green = await ready.until(200, BACK_MAX_MS);
    await Promise.all([ready.stop(), reads.stop()]);
    await load.stop(true);
    const after = await atRest(counts);

    const red = ready.answers.find(({ status }) => status === 503);
    const broken = reads.answers.filter(({ status }) => status !== 200);
    const judgement = await run.judge();
    const longest = (answers: readonly Answer[]): number => Math.max(...answers.map(({ ms }) => ms));
    say(
      `a way ${way} for ${HALF_OPEN_MS / 1000} s: ${load.answers.get(503) ?? 0} refused, ${unknown} outcome_unknown, the slowest answer after ${seconds(slowest)}; ${broken.length} reads refused, the slowest after ${seconds(longest(reads.answers))}; /readyz red after ${seconds(red!.at - began)}, its slowest answer after ${seconds(longest(ready.answers))}; then the first receipt after ${seconds(first)}, green after ${seconds(green)}; ${describeCounts(judgement)}; connections ${JSON.stringify(before)} before, ${JSON.stringify(after)} after`,
    );
    expectKept(judgement);
    expect((load.answers.get(503) ?? 0) + unknown).toBeGreaterThan(0);
    // The connection of one who asks ends when the answer is too late for him.
    expect(load.answers.get(0)).toBeUndefined();
    expect(slowest).toBeLessThan(ANSWER_MAX_MS);
    expect(longest(reads.answers)).toBeLessThan(ANSWER_MAX_MS);
    expect(broken.length).toBeGreaterThan(0);
    expect(broken.every(({ status }) => status === 503)).toBe(true);
    expect(red!.at - began).toBeLessThan(RED_MAX_MS);
    expect(red!.text).toContain('the database does not answer');
    expect(longest(ready.answers)).toBeLessThan(READY_ANSWER_MAX_MS);
  },
);

interface Counts {
  /** Of the server. */
  readonly backends: number;
  /** Of the service. */
  readonly sockets: number;
  /** Of those, in its pools; the signer has one of its own. */
  readonly pooled: number;
  readonly carried: number;
}

/** Waits until all sides agree on how many connections there are. */
async function atRest(counts: () => Promise<Counts>): Promise<Counts> {
  for (const end = performance.now() + AT_REST_MAX_MS; ; await sleep(100)) {
    const seen = await counts();
    const { backends, sockets, pooled: own, carried } = seen;
    if (backends === sockets && carried === sockets && own + 1 === sockets) return seen;
    if (performance.now() > end) throw new Error(`connections are left over: ${JSON.stringify(seen)}`);
  }
}

/** Returns how many TCP sockets of a process lead to a port, in whatever state. */
async function socketsTo(pid: number, port: number): Promise<number> {
  const names = await readdir(`/proc/${pid}/fd`);
  const links = await Promise.all(names.map((name) => readlink(`/proc/${pid}/fd/${name}`).catch(() => '')));
  const own = new Set(links.flatMap((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []));
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const rows = (await readFile(`/proc/${pid}/net/tcp`, 'utf8')).trim().split('\n').slice(1);
  return rows.map((row) => row.trim().split(/\s+/)).filter((row) => row[2]!.endsWith(wanted) && own.has(row[9]!))
    .length;
}

async function pooled(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const values = [...text.matchAll(/^sealog_database_connections\{[^}]*\} (\d+)$/gm)].map((match) => Number(match[1]));
  expect(values.length).toBeGreaterThan(0);
  return values.reduce((sum, value) => sum + value, 0);
}

interface Answer {
  readonly at: number;
  readonly ms: number;
  /** 0: none came. */
  readonly status: number;
  readonly text: string;
}

interface Asking {
  readonly answers: readonly Answer[];
  /** Resolves with the milliseconds until an answer has this status. */
  until(status: number, maxMs: number): Promise<number>;
  stop(): Promise<void>;
}

/** Asks again and again. */
function ask(url: () => string, token: string | undefined): Asking {
  const answers: Answer[] = [];
  let stopped = false;
  const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
  async function run(): Promise<void> {
    for (; !stopped; await sleep(200)) {
      const began = performance.now();
      const response = await fetch(url(), { headers, signal: AbortSignal.timeout(20_000) }).catch(() => undefined);
      const text = (await response?.text().catch(() => '')) ?? '';
      const at = performance.now();
      answers.push({ at, ms: at - began, status: response?.status ?? 0, text });
    }
  }
  const running = run();
  return {
    answers,
    async until(status, maxMs) {
      const began = performance.now();
      for (const from = answers.length; ; await sleep(20)) {
        if (answers.slice(from).some((answer) => answer.status === status)) return performance.now() - began;
        if (performance.now() - began > maxMs) throw new Error(`no ${status} from ${url()} within ${maxMs} ms`);
      }
    },
    async stop() {
      stopped = true;
      await running;
    },
  };
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
