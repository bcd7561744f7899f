/**
 * Pauses: the longest time that a single event waited for its answer while the service, or its database, did what it has to do from time to time,
 * under a steady load; beside the longest in as long a time without, right after. Of a service of its own, whose log holds every event once.
 */

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { makeSeed, seedCount } from '../src/signer/seeds.ts';
import { openDatabase } from '../src/store/database.ts';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import { appendOld, monthsAgo } from '../test/support/old-entries.ts';
import { ask } from './api.ts';
import { type Client, startClient } from './client-process.ts';
import type { Measurement } from './measurement.ts';
import type { Options } from './options.ts';
import { compare, type Row } from './report.ts';
import { quantile } from './round.ts';
import type { Answered, SteadyRequest } from './steady-load.ts';
import type { Workbench } from './workbench.ts';

interface Disturbance {
  /** What has to be there before. */
  prepare?(place: Place): Promise<void>;
  /** Goes on until it is over, or for long enough. */
  disturb(place: Place): Promise<void>;
}

interface Place {
  readonly bench: Workbench;
  readonly smoke: boolean;
}

const TENANT = 'steady';
const PER_SECOND = 100;
const CONNECTIONS = 16;
/** Enough that no request is under way twice. */
const EVENTS = 2000;
/** Before and between what is measured; and how long is measured at least, for the longest of too few says nothing. */
const SETTLE_MS = 1000;
const WINDOW_MIN_MS = 2000;
const SMOKE_MS = 200;
const LOOK_MS = 50;
const WAIT_MAX_MS = 300_000;
const SCRUBBED_MAX_MS = 60_000;
/** What is pruned: a month of entries whose time came long ago. */
const EXPIRED = { months: 16, entries: 100_000, smokeEntries: 200, atOnce: 20_000, blockEntries: 500 };
/** Policies that are changed one after the other, and how many months each keeps more: for each, so many new partitions of every table. */
const POLICIES = { count: 12, from: 100, step: 4 };

const DISTURBANCES: Readonly<Record<string, Disturbance>> = {
  // First, because the first pass begins by itself, a minute after the start, and the next would be one of the others' hour.
  'pause.scrub': { prepare: untilScrubbing, disturb: untilScrubbed },
  'pause.pruning': { prepare: storeExpired, disturb: prune },
  'pause.partition': { disturb: makePartitions },
  'pause.rotation': { disturb: rotateKeys },
  'pause.autovacuum': { disturb: vacuum },
};

export const pauses: Measurement = {
  names: Object.keys(DISTURBANCES),
  isAlone: true,
  async run({ options, own, isWanted, report }) {
    const { smoke } = options;
    const bench = await own();
    const load: Client<SteadyRequest, readonly Answered[]> = startClient(
      fileURLToPath(new URL('steady-load.ts', import.meta.url)),
    );
    try {
      const place = { bench, smoke };
      const filling = await bench.loadOf(options.events, [await bench.service.token('service', 'filled')]);
      await filling.ask({ do: 'round', batch: 500, kind: 'p', round: 0, connections: 4, warmup: 0 });
      filling.stop();
      console.log(`\npauses: ${PER_SECOND} single events/s; ms from when each was due to its answer`);
      for (const [index, [name, disturbance]] of Object.entries(DISTURBANCES).entries()) {
        if (!isWanted(name)) {
          // The pass that nobody measures is not to fall into what somebody measures.
          if (name === 'pause.scrub' && !smoke) await untilScrubbing(place).then(() => untilScrubbed(place));
          continue;
        }
        const kind = String.fromCharCode('a'.charCodeAt(0) + index);
        report(await measure(name, disturbance, place, options, load, kind));
      }
    } finally {
      load.stop();
    }
  },
};

async function measure(
  name: string,
  { prepare, disturb }: Disturbance,
  place: Place,
  { events, smoke }: Options,
  load: Client<SteadyRequest, readonly Answered[]>,
  kind: string,
): Promise<Row> {
  await prepare?.(place);
  const { address, token } = place.bench.service;
  await load.ask({
    ...{ do: 'begin', events: { ...events, limit: Math.min(events.limit ?? EVENTS, EVENTS) }, address, kind },
    ...{ token: await token('service', TENANT), perSecond: PER_SECOND, connections: CONNECTIONS },
  });
  await sleep(smoke ? SMOKE_MS : SETTLE_MS);
  const began = now();
  await Promise.all([disturb(place), sleep(smoke ? SMOKE_MS : WINDOW_MIN_MS)]);
  const ended = now();
  await sleep(smoke ? SMOKE_MS : SETTLE_MS);
  const calm = now();
  await sleep(ended - began);
  const answered = await load.ask({ do: 'end' });

  const within = (from: number) =>
    answered
      .filter(({ at }) => at >= from && at <= from + (ended - began))
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
  const [meanwhile, without] = [within(began), within(calm)];
  const words = (all: readonly number[]) =>
    `p50 ${quantile(all, 0.5).toFixed(1)} p99 ${quantile(all, 0.99).toFixed(1)} longest ${quantile(all, 1).toFixed(1)}`;
  console.log(
    `  ${name}: ${((ended - began) / 1000).toFixed(1)} s  meanwhile ${words(meanwhile)}  without ${words(without)}`,
  );
  return compare(name, 'ms', quantile(meanwhile, 1), quantile(without, 1));
}

/** By the clock that the load's process has, too. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

async function until(what: string, isSo: () => Promise<boolean>, maxMs = WAIT_MAX_MS): Promise<void> {
  const end = performance.now() + maxMs;
  while (!(await isSo())) {
    if (performance.now() > end) throw new Error(`${what} did not happen within ${maxMs / 1000} s`);
    await sleep(LOOK_MS);
  }
}

// ---- Scrubbing ----

function untilScrubbing({ bench }: Place): Promise<void> {
  return until('the first pass of the scrubber', async () => (await scrubs(bench)).length > 0);
}

/** Until the pass has read everything, or for a minute of it. */
async function untilScrubbed({ bench }: Place): Promise<void> {
  const end = performance.now() + SCRUBBED_MAX_MS;
  while ((await scrubs(bench)).includes('running') && performance.now() < end) await sleep(LOOK_MS);
}

/** Of passes that were begun. */
async function scrubs({ database }: Workbench): Promise<string[]> {
  const { rows } = await database.query<{ state: string }>(
    `SELECT state FROM sealog.verification WHERE kind = 'scrub' AND started_at IS NOT NULL`,
  );
  return rows.map(({ state }) => state);
}

// ---- Pruning ----

/** Entries as if of long ago, appended beside the service as another replica would, whose clock is that late. */
async function storeExpired({ bench, smoke }: Place): Promise<void> {
  const running = await readEmbeddedConnection(bench.dataDir);
  if (running === undefined) throw new Error('the service does not run');
  const { app, logins } = running;
  const database = openDatabase({ connection: app, logins, readersMax: 1, log: { warn: () => {} } });
  try {
    const log = { app: { database }, config: { monthKeysDir: join(bench.dataDir, 'keys', 'months') } };
    const entries = smoke ? EXPIRED.smokeEntries : EXPIRED.entries;
    for (let n = 0; n < entries; n += EXPIRED.atOnce)
      await appendOld(log, monthsAgo(EXPIRED.months) + n, Math.min(EXPIRED.atOnce, entries - n), {
        tenant: 'expired',
        blockEntries: EXPIRED.blockEntries,
      });
  } finally {
    await database.close();
    running.close();
  }
}

/** From the request until all of it is certified, anchored, dropped, its keys destroyed, and that told. */
async function prune({ bench: { service, database } }: Place): Promise<void> {
  const token = await service.token('it_security_admin', 'sealog');
  await ask(service.address, token, 'POST', '/v1/retention/runs?dryRun=false', { reason: 'the benchmark' });
  await until('the pruning', async () => {
    const { rows } = await database.query<{ state: string }>('SELECT state FROM sealog.pruning');
    return rows.length > 0 && rows.every(({ state }) => state === 'done');
  });
}

// ---- Partitions ----

/** A policy that keeps entries for longer needs the partitions of months that nobody needed before. */
async function makePartitions({ bench: { service } }: Place): Promise<void> {
  const token = await service.token('it_security_admin', TENANT);
  for (let n = 0; n < POLICIES.count; n++)
    await ask(service.address, token, 'PUT', '/v1/retention/data_access', {
      ...{ months: POLICIES.from + n * POLICIES.step, evidence: 'refuse', reason: 'the benchmark' },
    });
}

// ---- Keys ----

/** New signing keys, as `sealog keys rotate` makes them, until all that signs does so with them; and new month keys, until they wrap every data key. */
async function rotateKeys({ bench: { service, dataDir } }: Place): Promise<void> {
  const { address } = service;
  const token = await service.token('it_security_admin', 'sealog');
  const folder = join(dataDir, 'signer');
  const generation = (await seedCount(folder)) + 1;
  await makeSeed(folder, generation);
  await ask(address, token, 'POST', '/v1/keys/months/rotations', { reason: 'the benchmark' });
  await until('the rotation of keys', async () => {
    const { items } = await ask<{ items: { generation: number; to: object | null }[] }>(
      ...([address, token, 'GET', '/v1/keys'] as const),
    );
    const { generations } = await ask<{ generations: { generation: number; rewrappedAt: string | null }[] }>(
      ...([address, token, 'GET', '/v1/keys/months'] as const),
    );
    const newest = generations.toSorted((a, b) => b.generation - a.generation)[0];
    const signing = items.filter(({ to }) => to === null);
    return newest?.rewrappedAt !== null && signing.every((key) => key.generation === generation);
  });
}

// ---- Vacuum ----

/** Every table once, as slowly as autovacuum does it by default. */
async function vacuum({ bench: { database } }: Place): Promise<void> {
  const { rows } = await database.query<{ name: string }>(
    `SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname = 'sealog'`,
  );
  await database.query(`SET vacuum_cost_delay = '2ms'`);
  for (const { name } of rows) await database.query(`VACUUM (ANALYZE) ${name}`);
  await database.query('RESET vacuum_cost_delay');
}
