/**
 * A primary and its standby behind one address, which moves when the primary is lost: PostgreSQL's streaming replication, and what a
 * cluster manager does with it.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, type QueryResultRow } from 'pg';
import { type TestDatabase, urlOf } from '../support/postgres.ts';
import { type PrivatePostgres, startPrivatePostgres } from '../support/private-postgres.ts';
import { startBreakableWire } from './breakable-wire.ts';

export interface PostgresPair {
  /** Another after each failover. */
  readonly primary: PrivatePostgres;
  /** The superuser beside the address, the service through it. */
  database(): Promise<TestDatabase>;
  /** Whether a commit waits for the standby. */
  setSynchronous(isSynchronous: boolean): Promise<void>;
  /** Kills the primary, whose standby has then received nothing for so long, promotes the standby, and moves the address. */
  failOver(lagMs: number): Promise<void>;
  /** Kills the standby. */
  loseStandby(): Promise<void>;
  /** Gives the primary a fresh standby, and waits until that one has all there is. */
  replaceStandby(): Promise<void>;
  stop(): Promise<void>;
}

const STANDBY = 'standby';
const FOLLOWS_MAX_MS = 30_000;
const PROMOTED_MAX_S = 60;
/** No archive: a fresh standby takes from the primary what was written while it was copied. */
const SETTINGS = { wal_keep_size: '512MB', wal_retrieve_retry_interval: '200ms', shared_buffers: '64MB' };

/** Starts both; commits wait for the standby. */
export async function startPostgresPair(): Promise<PostgresPair> {
  let primary = await startPrivatePostgres({ settings: SETTINGS });
  let standby: PrivatePostgres | undefined;
  const wire = await startBreakableWire(primary.port);
  let isSynchronous = true;

  async function setNames(server: PrivatePostgres): Promise<void> {
    const names = isSynchronous ? `FIRST 1 (${STANDBY})` : '';
    await ask(server, `ALTER SYSTEM SET synchronous_standby_names = '${names}'`);
    await ask(server, 'SELECT pg_reload_conf()');
  }

  async function follows(): Promise<void> {
    const wanted = isSynchronous ? 'sync' : 'async';
    for (const end = performance.now() + FOLLOWS_MAX_MS; ; await sleep(20)) {
      const [row] = await ask<{ state: string; sync_state: string }>(
        primary,
        `SELECT state, sync_state FROM pg_stat_replication WHERE application_name = '${STANDBY}'`,
      );
      if (row?.state === 'streaming' && row.sync_state === wanted) return;
      if (performance.now() > end) throw new Error(`the standby does not follow: ${JSON.stringify(row)}`);
    }
  }

  async function replaceStandby(): Promise<void> {
    const folder = await mkdtemp(join(dirname(dirname(primary.cluster)), 'sealog-test-copy-'));
    try {
      const backup = join(folder, 'cluster');
      await primary.backUp(backup);
      standby = await startPrivatePostgres({ settings: SETTINGS, standby: { of: primary, backup, name: STANDBY } });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    await follows();
  }

  async function stop(): Promise<void> {
    await wire.close();
    await standby?.stop();
    await primary.stop();
  }

  try {
    await setNames(primary);
    await replaceStandby();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    get primary() {
      return primary;
    },
    async database() {
      const own = await primary.database();
      const appConfig = { ...own.appConfig, host: '127.0.0.1', port: wire.port };
      return { ...own, appConfig, appUrl: urlOf(appConfig) };
    },
    async setSynchronous(yes) {
      isSynchronous = yes;
      await setNames(primary);
      await setNames(standby!);
      await follows();
    },
    async failOver(lagMs) {
      const next = standby!;
      const receiver = lagMs > 0 ? await receiverOf(next) : undefined;
      if (receiver !== undefined) process.kill(receiver.pid, 'SIGSTOP');
      await sleep(lagMs);
      await primary.kill();
      // Some move the address first: the service then meets a server that only reads.
      if (Math.random() < 0.5) wire.aim(next.port);
      const promoted = ask(next, `SELECT pg_promote(true, ${PROMOTED_MAX_S})`);
      // Told to end before it goes on, it takes nothing that was already on its way.
      if (receiver !== undefined) {
        while ((await receiverOf(next))?.status === 'streaming') await sleep(10);
        process.kill(receiver.pid, 'SIGCONT');
      }
      await promoted;
      wire.aim(next.port);
      await primary.stop();
      [primary, standby] = [next, undefined];
    },
    async loseStandby() {
      await standby!.kill();
      await standby!.stop();
      standby = undefined;
    },
    replaceStandby,
    stop,
  };
}

async function receiverOf(standby: PrivatePostgres): Promise<{ pid: number; status: string } | undefined> {
  return (await ask<{ pid: number; status: string }>(standby, 'SELECT pid, status FROM pg_stat_wal_receiver'))[0];
}

async function ask<Row extends QueryResultRow>(server: PrivatePostgres, text: string): Promise<Row[]> {
  const client = new Client(server.admin);
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<Row>(text)).rows;
  } finally {
    await client.end();
  }
}
