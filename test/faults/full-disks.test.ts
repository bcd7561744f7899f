/**
 * Full disks under load. Where PostgreSQL's data finds no room, each statement is refused and the server stays; where its WAL finds none, it
 * ends, and a supervisor starts it in vain until there is room; on one disk for both it may be either. Meanwhile writers are answered within
 * a second, nothing that had a receipt is lost, and with the first free bytes everything goes on without hands.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type PrivatePostgres, startPrivatePostgres } from '../support/private-postgres.ts';
import { HARD, someOf } from '../support/short-form.ts';
import { objectionOf, startFaultRun } from './fault-run.ts';
import { isWithoutDisks, makeDiskToFill } from './own-disk.ts';
import { describeTimes, say } from './say.ts';
import { describeCounts, expectKept } from './watched-load.ts';

const MIB = 2 ** 20;
const DISK_BYTES = 384 * MIB;
/** How often the disk is full, and for how long at least. */
const TIMES = HARD ? 10 : 1;
const FULL_MS = HARD ? 5000 : 1500;
/** The short form shares its processors with other tests. */
const ANSWER_MAX_MS = HARD ? 1000 : 3000;
/** Less than a segment of the WAL, which is taken whole. */
const FREE_BYTES = MIB / 2;
const BACK_MAX_MS = 30_000;
const PACE = { writers: 8, pauseMs: 5 };

describe.skipIf(await isWithoutDisks(() => makeDiskToFill(MIB)))('a full disk', () => {
  test.each(someOf(['data', 'wal', 'both'] as const))(
    `${TIMES} times for %s`,
    { timeout: HARD ? 1_800_000 : 120_000 },
    async (what) => {
      const disk = await makeDiskToFill(DISK_BYTES);
      onTestFinished(() => disk.remove());
      const other = await makeDiskToFill(DISK_BYTES);
      onTestFinished(() => other.remove());
      const data = join((what === 'wal' ? other : disk).folder, 'data');
      const wal = join((what === 'wal' ? disk : other).folder, 'wal');
      const postgres = await startPrivatePostgres({
        places: what === 'both' ? { data } : { data, wal },
        supervised: true,
        settings: { log_min_error_statement: 'panic', min_wal_size: '32MB', max_wal_size: '64MB' },
      });
      onTestFinished(() => postgres.stop());
      onTestFinished(() => postgres.kill());
      const run = await startFaultRun(postgres, PACE);
      const { load, service, watch } = run;

      const back: number[] = [];
      const slowest: number[] = [];
      const objections = new Map<string, number>();
      for (let time = 0; time < TIMES; time += 1) {
        await load.nextReceipt(BACK_MAX_MS);
        load.forget();
        await disk.fill(FREE_BYTES);
        for (const end = performance.now() + BACK_MAX_MS; !load.answers.has(503); await sleep(20)) {
          if (what === 'wal') await switchWal(postgres);
          if (performance.now() > end) throw new Error('the disk does not fill');
        }
        for (const end = performance.now() + FULL_MS; performance.now() < end; await sleep(50)) {
          const reason = await objectionOf(service);
          if (reason !== undefined) objections.set(reason, (objections.get(reason) ?? 0) + 1);
        }
        slowest.push(...[0, 503, 504].map((status) => load.slowest.get(status) ?? 0));
        await disk.empty();
        back.push(await load.nextReceipt(BACK_MAX_MS));
      }
      const judgement = await run.judge();
      say(
        `${TIMES} times no room for ${what}: ${describeCounts(judgement)}; ` +
          `slowest answer without a receipt ${Math.round(Math.max(...slowest))} ms, next receipt ${describeTimes(back)} after there was room; ` +
          `PostgreSQL was started ${postgres.starts} times; ${watch.notes.length} checkpoints kept; /readyz: ${JSON.stringify(Object.fromEntries(objections))}`,
      );
      expectKept(judgement);
      expect(Math.max(...slowest)).toBeLessThan(ANSWER_MAX_MS);
      expect(objections.size).toBeGreaterThan(0);
      expect(postgres.output()).toContain('No space left on device');
      if (what === 'data') expect(postgres.starts).toBe(1);
      if (what === 'wal') expect(postgres.starts).toBeGreaterThan(TIMES);
    },
  );
});

/** Goes on with the next segment, as behind 16 MiB of entries. */
async function switchWal({ admin }: PrivatePostgres): Promise<void> {
  const client = new pg.Client(admin);
  client.on('error', () => {});
  try {
    await client.connect();
    await client.query('SELECT pg_switch_wal()');
  } catch {
    // There is no segment any more, and so no server.
  } finally {
    await client.end().catch(() => {});
  }
}
