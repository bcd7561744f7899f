/**
 * What a drop costs: a month of 1,000,000 entries against one of 1,000, while somebody sends without a pause and a reader holds a snapshot on another month.
 * The figures go to stderr, one line of JSON a size. Only as
 *
 *     SEALOG_TEST_HARD=1 npx vitest run test/drop-figures.test.ts
 *
 * which takes some minutes, most of them for writing the million. SEALOG_TEST_DROP_ENTRIES=20000 takes another number in its place.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { appendOld, monthsAgo } from './support/old-entries.ts';
import { startService, type TestService } from './support/service.ts';

const MANY = Number(process.env['SEALOG_TEST_DROP_ENTRIES'] ?? 1_000_000);
const AT_ONCE = 20_000;
const READS_FOR_MS = 3000;

interface Figures {
  readonly entries: number;
  readonly blocks: number;
  /** Of the drop alone, from the first try to the last, without a reader in its way. */
  readonly dropMs: number;
  /** The same where one held a snapshot for `READS_FOR_MS`: from when he let go. */
  readonly afterReaderMs: number;
  readonly attempts: number;
  /** Of one event after the other: before, and from the beginning of the pruning until it was done. */
  readonly ingestBefore: Latencies;
  readonly ingestMeanwhile: Latencies;
  readonly ingestBesideReader: Latencies;
}

interface Latencies {
  readonly events: number;
  readonly medianMs: number;
  readonly p99Ms: number;
  readonly slowestMs: number;
}

test.runIf(process.env['SEALOG_TEST_HARD'] !== undefined)(
  'a drop takes about as long for a million entries as for a thousand, and nobody who sends waits for it',
  async () => {
    const all: Figures[] = [];
    for (const entries of [1000, MANY]) {
      const figures = await measured(entries);
      process.stderr.write(`${JSON.stringify(figures)}\n`);
      all.push(figures);
    }
    const [few, many] = all;
    expect(many!.dropMs).toBeLessThan(Math.max(500, 5 * few!.dropMs));
    for (const { ingestMeanwhile, ingestBesideReader } of all)
      for (const { events, slowestMs } of [ingestMeanwhile, ingestBesideReader])
        expect([events > 3, slowestMs < 1500]).toEqual([true, true]);
  },
  1_800_000,
);

/** Two months of so many entries each: one goes with nobody in its way, the next while somebody reads. */
async function measured(entries: number): Promise<Figures> {
  const drops: { attempts: number; ms: number }[] = [];
  const write = (line: string): void => {
    const { msg, attempts, ms } = JSON.parse(line);
    if (msg === 'dropped a month') drops.push({ attempts, ms });
  };
  let isHeldBack = true;
  const service = await startService({
    environment: { SEALOG_ANCHOR_SECONDS: '1' },
    log: pino({ level: 'info' }, { write }),
    pruning: {
      timing: { soonMs: 3_600_000 },
      onStep: (step) => {
        if (step === 'archived' && isHeldBack) throw new Error('held back');
      },
    },
  });
  onTestFinished(() => service.stop());
  for (const months of [16, 15])
    for (let n = 0; n < entries; n += AT_ONCE)
      await appendOld(service, monthsAgo(months) + n, Math.min(AT_ONCE, entries - n));
  await appendOld(service, monthsAgo(2), 100);
  const { rows } = await service.adminPool.query(
    'SELECT count(*)::integer AS n FROM sealog.block WHERE drop_month > 1',
  );
  await signedUp(service);

  const sending = keepSending(service);
  const pass = (): Promise<unknown> => service.app.pruner.pass('figures').catch((error: Error) => error.message);
  const untilHeld = async (): Promise<void> => {
    isHeldBack = true;
    while ((await pass()) !== 'held back') await delay(200);
    isHeldBack = false;
  };
  // What comes before a drop, checking what is certified, grows with what is there, and keeps nobody waiting.
  await untilHeld();
  sending.reset();
  await delay(2000);
  const ingestBefore = sending.reset();
  await untilDropped(drops, 1, pass);
  const ingestMeanwhile = sending.reset();

  await untilHeld();
  const reader = await service.adminPool.connect();
  await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  await reader.query('SELECT count(*) FROM sealog.block WHERE drop_month = (SELECT max(drop_month) FROM sealog.block)');
  sending.reset();
  const passing = untilDropped(drops, 2, pass);
  await delay(READS_FOR_MS);
  expect(drops.length).toBe(1);
  await reader.query('COMMIT');
  reader.release();
  const letGo = performance.now();
  await passing;
  const afterReaderMs = Math.round(performance.now() - letGo);
  const ingestBesideReader = sending.reset();
  await sending.stop();
  return {
    ...{
      entries,
      blocks: Math.round(rows[0].n / 2),
      dropMs: drops[0]!.ms,
      afterReaderMs,
      attempts: drops[1]!.attempts,
    },
    ...{ ingestBefore, ingestMeanwhile, ingestBesideReader },
  };
}

async function untilDropped(drops: readonly unknown[], count: number, pass: () => Promise<unknown>): Promise<void> {
  while (drops.length < count) await pass();
}

/** One event after the other, each when the one before is answered. */
function keepSending(service: TestService): { reset(): Latencies; stop(): Promise<void> } {
  let taken: number[] = [];
  let isOver = false;
  const sending = (async () => {
    for (let n = 0; !isOver; n++) {
      const event = {
        ...{ id: `now-${n}`, category: 'user_authentication', action: 'auth.login', outcome: 'success' },
        ...{ occurredAt: '2026-01-01T10:00:00Z', source: { service: 'test' }, actor: { type: 'user', id: 'u-1' } },
      };
      const begun = performance.now();
      const { status } = await service.post('/v1/events', event);
      taken.push(performance.now() - begun);
      expect(status).toBe(201);
    }
  })();
  return {
    reset() {
      const sorted = taken.toSorted((a, b) => a - b);
      taken = [];
      const at = (share: number): number =>
        Math.round(10 * (sorted[Math.floor(share * (sorted.length - 1))] ?? 0)) / 10;
      return { events: sorted.length, medianMs: at(0.5), p99Ms: at(0.99), slowestMs: at(1) };
    },
    async stop() {
      isOver = true;
      await sending;
    },
  };
}

async function signedUp(service: TestService): Promise<void> {
  for (;;) {
    const { rows } = await service.adminPool.query(
      `SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
       WHERE s.size > 0 AND s.name = 'acme/data_access' AND c.size IS DISTINCT FROM s.size`,
    );
    if (rows.length === 0) return;
    await delay(100);
  }
}
