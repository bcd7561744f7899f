/**
 * Power cuts: PostgreSQL's data on an ext4 that is cut off under load (own-disk.ts), every process of it killed, the file system mounted
 * again, PostgreSQL started, and the service, which nobody touched, goes on. No receipt is lost.
 *
 * `kill -9` alone can not show that, since what a process wrote stays in the kernel's memory. So that this run is known to find losses, the
 * same cut must lose what PostgreSQL did not flush. The gate refuses such a server when Sealog starts, and each session asks for a synchronous
 * commit; so a superuser takes durability away behind its back, while it runs: the server's `fsync`, or in a trigger of his own each
 * transaction's `synchronous_commit`. Sealog itself finds out behind the cut, and takes nothing more until it was recovered.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type PrivatePostgres, startPrivatePostgres } from '../support/private-postgres.ts';
import { PROGRAM_ENVIRONMENT } from '../support/program-environment.ts';
import { HARD, someOf } from '../support/short-form.ts';
import { type FaultRun, objectionOf, startFaultRun } from './fault-run.ts';
import { type DiskToCut, isWithoutDisks, makeDiskToCut } from './own-disk.ts';
import { describeTimes, say } from './say.ts';
import type { ServiceProcess } from './service-process.ts';
import { describeCounts, expectKept } from './watched-load.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
const CUTS = HARD ? 30 : 1;
const BACK_MAX_MS = 30_000;
/** Between the cut and the end of PostgreSQL: what is acknowledged now, was not flushed. */
const LYING_MS = 300;
const PACE = { writers: 8, pauseMs: 5 };

/** What a superuser does to a server that Sealog found sound. */
const SABOTAGE = {
  'fsync=off': ['CHECKPOINT', 'ALTER SYSTEM SET fsync = off', 'SELECT pg_reload_conf()'],
  'synchronous_commit=off': [
    // The WAL writer would flush what the commits do not wait for, five times a second.
    `ALTER SYSTEM SET wal_writer_delay = '10s'`,
    'SELECT pg_reload_conf()',
    `CREATE FUNCTION public.hasten() RETURNS trigger LANGUAGE plpgsql AS
       $$BEGIN PERFORM pg_catalog.set_config('synchronous_commit', 'off', true); RETURN NULL; END$$`,
    'CREATE TRIGGER hasten AFTER UPDATE ON sealog.stream FOR EACH STATEMENT EXECUTE FUNCTION public.hasten()',
    'ALTER TABLE sealog.stream ENABLE ALWAYS TRIGGER hasten',
  ],
} as const;

interface CutRun extends FaultRun {
  readonly postgres: PrivatePostgres;
  readonly disk: DiskToCut;
}

/** The short form tries one of them. */
const TRIALS = someOf([undefined, 'fsync=off', 'synchronous_commit=off'] as const);

describe.skipIf(await isWithoutDisks(makeDiskToCut))('power cuts', () => {
  test.runIf(TRIALS.includes(undefined))(
    `${CUTS} times: nothing is lost`,
    { timeout: HARD ? 3_600_000 : 120_000 },
    async () => {
      const run = await startCutRun();
      const { postgres, disk, load, watch } = run;
      const back: number[] = [];
      const recovery: number[] = [];
      for (let cut = 0; cut < CUTS; cut += 1) {
        await load.nextReceipt(BACK_MAX_MS);
        await sleep(200 + Math.random() * 800);
        await cutPower(run);
        await disk.again();
        const began = performance.now();
        await postgres.restart();
        recovery.push(performance.now() - began);
        await load.nextReceipt(BACK_MAX_MS);
        back.push(performance.now() - began);
      }
      const judgement = await run.judge();
      say(
        `${CUTS} power cuts: ${describeCounts(judgement)}; ` +
          `PostgreSQL answers ${describeTimes(recovery)} after its start, next receipt after ${describeTimes(back)}; ${watch.notes.length} checkpoints kept`,
      );
      expectKept(judgement);
    },
  );

  // A cluster that was never flushed does not even start: what is taken away here is taken from a sound one.
  test.each(TRIALS.filter((what) => what !== undefined))(
    'with %s a cut loses receipts, and Sealog finds out',
    { timeout: 120_000 },
    async (what) => {
      const run = await startCutRun();
      const { postgres, disk, service, load, watch } = run;
      await asSuperuser(postgres, SABOTAGE[what]);
      await load.nextReceipt(BACK_MAX_MS);
      await sleep(1000);
      await cutPower(run);
      await disk.again();
      // Else the gate would not let Sealog in again.
      await postgres.restart({ fsync: 'on' });
      const objection = await findsOut(service);
      await load.stop(false);
      await watch.stop();
      await service.kill();
      await recover(run);
      await service.again();
      const { problems, verdict, acknowledged } = await run.judge('broken');
      const lost = problems.filter((problem) => problem.startsWith('lost:')).length;
      say(`a power cut with ${what}: ${acknowledged} receipts, ${lost} lost; /readyz: ${objection}`);
      expect(verdict).toBe('broken');
      expect(lost).toBeGreaterThan(0);
    },
  );
});

async function startCutRun(): Promise<CutRun> {
  const disk = await makeDiskToCut();
  onTestFinished(() => disk.remove());
  const postgres = await startPrivatePostgres({ places: { data: join(disk.folder, 'cluster') } });
  onTestFinished(() => postgres.stop());
  onTestFinished(() => postgres.kill());
  return { postgres, disk, ...(await startFaultRun(postgres, PACE)) };
}

async function cutPower({ disk, postgres }: CutRun): Promise<void> {
  await disk.cut();
  await sleep(LYING_MS * Math.random());
  await postgres.kill();
}

async function asSuperuser({ admin }: PrivatePostgres, statements: readonly string[]): Promise<void> {
  const client = new pg.Client(admin);
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

/** Returns the words with which it refuses a database that holds less than it did. */
async function findsOut(service: ServiceProcess): Promise<string> {
  for (const end = performance.now() + BACK_MAX_MS; ; await sleep(20)) {
    const objection = await objectionOf(service);
    if (objection?.includes('rewritten') === true) return objection;
    if (performance.now() > end) throw new Error(`Sealog goes on: ${objection}`);
  }
}

/** As the operator does. */
async function recover({ deployment }: CutRun): Promise<void> {
  await promisify(execFile)(process.execPath, ['src/cli/main.ts', 'recover', '--yes'], {
    cwd: REPOSITORY,
    env: { ...PROGRAM_ENVIRONMENT, ...deployment.environment(true) },
  });
}
