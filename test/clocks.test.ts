/**
 * Clocks that are wrong over a restart, of service and database alike, which nobody can hold to each other: nothing goes early, no stamp goes back, and a jump of a
 * year or more stamps nothing. While the service runs, test/sequencer.test.ts, test/pruning.test.ts and the simulation have the same jumps.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { SimulatedClock } from '../simulate/clock.ts';
import { SigningKeys } from '../src/signer/seeds.ts';
import { appendOld, monthsAgo } from './support/old-entries.ts';
import { createDatabase } from './support/postgres.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';
import { startWitness } from './support/witness.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;

interface Place {
  readonly clock: SimulatedClock;
  /** The service as it is started now. */
  restart(environment?: ServiceOptions['environment']): Promise<TestService>;
}

async function begin(
  environment: ServiceOptions['environment'] = {},
): Promise<Place & { readonly first: TestService }> {
  const database = await createDatabase();
  const clock = await SimulatedClock.takeOver(database.adminConfig, Date.now(), () => {});
  const clocks = { wallClock: clock.wall, monotonic: clock.monotonic };
  const settings = { SEALOG_CHECKPOINT_MS: '50', SEALOG_ANCHOR_SECONDS: '1', ...environment };
  const first = await startService({ database, ...clocks, environment: settings });
  onTestFinished(async () => {
    await clock.close();
    await first.stop();
  });
  let running = first;
  return {
    first,
    clock,
    async restart(more = {}) {
      await running.app.close();
      running = await startService({ beside: first, ...clocks, environment: { ...settings, ...more } });
      const { app } = running;
      onTestFinished(() => app.close());
      return running;
    },
  };
}

let sent = 0;
async function send(service: TestService) {
  const event = {
    ...{ id: `e-${++sent}`, category: 'user_authentication', action: 'user.login', outcome: 'success' },
    ...{ occurredAt: '2026-01-01T10:00:00Z', source: { service: 'test' }, actor: { type: 'user', id: 'u-1' } },
  };
  const { status, body } = await service.post('/v1/events', event);
  return { status, detail: body.detail as string | undefined, recordedAt: Date.parse(body.recordedAt) };
}

/** What a jump must leave alone. */
async function kept(service: TestService) {
  const { rows } = await service.adminPool.query(
    `SELECT (SELECT count(*)::integer FROM sealog.pruning) AS runs, (SELECT count(*)::integer FROM sealog.data_key) AS keys,
       (SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname ~ '^block_[0-9]+$') AS months,
       (SELECT max(retired_at) FROM sealog.key_generation) AS retired`,
  );
  return { ...rows[0], files: (await readdir(service.config.monthKeysDir)).sort() };
}

test('years ahead at a start: nothing is stamped, made, pruned or destroyed, until the clock is right or somebody says so', async () => {
  const { first, clock, restart } = await begin({ SEALOG_KEY_RETIRE_DAYS: '30' });
  await appendOld(first, monthsAgo(11), 5);
  expect((await send(first)).status).toBe(201);
  const admin = { token: await first.token('it_security_admin', 'sealog') };
  expect((await first.post('/v1/keys/months/rotations', { reason: 'x' }, admin)).status).toBe(201);
  await expect
    .poll(
      async () =>
        (await first.adminPool.query('SELECT FROM sealog.key_generation WHERE rewrapped_at IS NOT NULL')).rowCount,
    )
    .toBe(1);
  expect(await first.app.pruner.pass('test')).toBe('later');
  const before = await kept(first);
  // A setting that was left from another day confirms nothing.
  const left = { SEALOG_CLOCK_CONFIRMED: new Date().toISOString().slice(0, 10) };
  for (const days of HARD ? [396, 36_525] : [Math.random() < 0.5 ? 396 : 36_525]) {
    const after = await clock.whileWrong(days * DAY, 'both', async () => {
      const service = await restart(left);
      const refused = await send(service);
      expect([refused.status, refused.detail]).toEqual([503, expect.stringContaining(`${days} days ahead`)]);
      expect((await service.get('/readyz')).status).toBe(503);
      for (let n = 0; n < 2; n++) expect(await service.app.pruner.pass('test')).toBe('later');
      expect(await service.app.pruner.clockObjection()).toBeDefined();
      return kept(service);
    });
    expect(after).toEqual(before);
  }
  const again = await restart();
  const { status, recordedAt } = await send(again);
  expect([status, Math.abs(recordedAt - Date.now()) < 60_000]).toEqual([201, true]);
  await again.checkLog();

  // It stood still for that long.
  const late = Date.now() + 396 * DAY;
  await clock.whileWrong(396 * DAY, 'both', async () => {
    const service = await restart({ SEALOG_CLOCK_CONFIRMED: new Date(late).toISOString().slice(0, 10) });
    expect(Math.abs((await send(service)).recordedAt - late)).toBeLessThan(60_000);
    await service.checkLog();
  });
}, 60_000);

test('an hour behind or ahead at a start: nothing is stamped behind what the log holds, and it goes on by itself', async () => {
  const { clock, first, restart } = await begin();
  const known = await send(first);
  await clock.whileWrong(-HOUR, 'both', async () => {
    const service = await restart();
    const refused = await send(service);
    expect([refused.status, refused.detail]).toEqual([
      503,
      expect.stringContaining('behind what the log already holds'),
    ]);
    expect(await service.app.pruner.pass('test')).toBe('later');
  });
  // Nobody can tell it from a machine that was switched off; what it stamps is no earlier than what comes after.
  const ahead = await clock.whileWrong(HOUR, 'both', async () => send(await restart()));
  expect(Math.abs(ahead.recordedAt - known.recordedAt - HOUR)).toBeLessThan(60_000);
  const service = await restart();
  expect((await send(service)).status).toBe(503);
  await clock.moveTo(Date.now() + HOUR + 60_000);
  const after = await send(service);
  expect([after.status, after.recordedAt > ahead.recordedAt]).toEqual([201, true]);
  await service.checkLog();
}, 60_000);

test.each(someOf([false, true]))(
  'two months ahead at a start: what would have expired by that clock stays (outside times: %s)',
  async (hasOutside) => {
    const outside = hasOutside ? await witnessed() : undefined;
    const { clock, first, restart } = await begin(outside?.environment);
    // Kept until this month: it goes when the next one has begun.
    await appendOld(first, monthsAgo(12), 5);
    await send(first);
    await outside?.stated(first);
    expect(await first.app.pruner.pass('test')).toBe('later');
    await clock.whileWrong(62 * DAY, 'both', async () => {
      const service = await restart();
      const { pruner } = service.app;
      expect(await pruner.pass('test')).toBe('later');
      const why = hasOutside ? /^the last time that was stated outside is of/ : /confirm the date$/;
      expect((await pruner.plan()).stops).toEqual([expect.stringMatching(why)]);
      // Who says the true date is told that the clock has another; and with times from outside nobody's word counts.
      await expect(pruner.confirmClock(Date.now())).rejects.toThrow();
      if (hasOutside) await pruner.confirmClock(clock.wall());
      expect(await pruner.pass('test')).toBe('later');
      expect((await kept(service)).runs).toBe(0);
    });
    const service = await restart();
    expect(await service.app.pruner.pass('test')).toBe('later');
    expect((await kept(service)).runs).toBe(0);
    await service.checkLog();
  },
  60_000,
);

/** A witness whose clock is right, and waits for its word. */
async function witnessed() {
  const witness = await startWitness({});
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-clocks-'));
  onTestFinished(async () => {
    await witness.close();
    await rm(folder, { recursive: true, force: true });
  });
  const file = join(folder, 'anchors.json');
  const anchor = { name: 'w', type: 'witness', url: witness.url, vkey: witness.vkey, everySeconds: 1 };
  await writeFile(file, JSON.stringify({ anchors: [anchor] }));
  return {
    environment: { SEALOG_ANCHORS_FILE: file, SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' },
    async stated(service: TestService): Promise<void> {
      const seed = await readFile(join(service.config.signerDir!, 'seed-0001'), 'utf8');
      witness.know(new SigningKeys(Buffer.from(seed.trim(), 'hex')).signer('log.example/sealog/anchor').vkey);
      await expect
        .poll(async () => (await service.adminPool.query('SELECT FROM sealog.outside_evidence')).rowCount, {
          timeout: 20_000,
        })
        .toBeGreaterThan(0);
    },
  };
}
