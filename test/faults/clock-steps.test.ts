/**
 * The clocks of running processes step, of the service, of PostgreSQL, of both: nothing is stored, somebody is told, and what is stored
 * once the clock is back has the true time. (test/clocks.test.ts has clocks that are wrong at a start.)
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { type FakedClock, makeFakedClock, withoutFakedClocks } from '../support/faked-clock.ts';
import { startPrivatePostgres } from '../support/private-postgres.ts';
import { HARD, someOf } from '../support/short-form.ts';
import { describeTimes, say } from './say.ts';
import { makeDeployment, startServiceProcess } from './service-process.ts';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const STEPS = { '-1 h': -HOUR, '+1 h': HOUR, '+13 months': 396 * DAY };
const CASES = Object.entries(STEPS).flatMap(([name, ms]) =>
  (['service', 'database', 'both'] as const).map((clock) => ({ name, ms, clock })),
);
/** Why it is refused, by whose clock stepped. */
const REASONS = { service: /service's clock stepped/, database: /are -?\d+ s apart/, both: /service's clock stepped/ };
const NEAR_MS = 5000;
const ALARM_MAX_MS = 10_000;

const skipped = withoutFakedClocks;
if (skipped !== undefined) say(`clock steps are skipped: ${skipped}`);

test.skipIf(skipped !== undefined)(
  'nothing is stamped, and the next event has the true time',
  { timeout: HARD ? 300_000 : 60_000 },
  async () => {
    const [ofService, ofDatabase] = [await makeFakedClock(), await makeFakedClock()];
    onTestFinished(() => Promise.all([ofService.remove(), ofDatabase.remove()]).then(() => {}));
    const postgres = await startPrivatePostgres({ environment: ofDatabase.environment });
    onTestFinished(() => postgres.stop());
    const deployment = await makeDeployment({ database: await postgres.database() });
    onTestFinished(() => deployment.remove());
    const service = await startServiceProcess({ ...deployment.environment(true), ...ofService.environment });
    onTestFinished(() => service.kill());
    const began = Date.now();

    async function call(path: string, token: string, body?: unknown) {
      const response = await fetch(`${service.url}${path}`, {
        method: body === undefined ? 'GET' : 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      return { status: response.status, text: await response.text() };
    }
    // A token's time would be checked first.
    const made = await call('/v1/api-keys', await deployment.token('it_security_admin', 'acme'), {
      name: 'mes',
      expiresAt: new Date(began + 700 * DAY).toISOString(),
    });
    expect(made.status, made.text).toBe(201);
    const { key } = JSON.parse(made.text);
    let sent = 0;
    const event = () => ({
      ...{ id: `e-${++sent}`, category: 'user_authentication', action: 'user.login', outcome: 'success' },
      ...{ occurredAt: '2026-01-01T10:00:00Z', source: { service: 'mes' }, actor: { type: 'user', id: 'u-1' } },
    });
    const isAlarmed = async () => /^sealog_clock_wrong (\d)$/m.exec((await call('/metrics', key)).text)?.[1] === '1';
    async function storeNow(): Promise<void> {
      const { status, text } = await call('/v1/events', key, event());
      expect(status, text).toBe(201);
      expect(Math.abs(Date.parse(JSON.parse(text).recordedAt) - Date.now())).toBeLessThan(NEAR_MS);
    }
    async function waitFor(alarm: boolean): Promise<number> {
      const from = performance.now();
      while ((await isAlarmed()) !== alarm) {
        expect(performance.now() - from).toBeLessThan(ALARM_MAX_MS);
        await sleep(50);
      }
      return performance.now() - from;
    }

    await storeNow();
    const before = await kept(postgres.admin);
    const alarmed: number[] = [];
    const cases = someOf(CASES, 2);
    let refused = 0;
    for (const { ms, clock } of cases) {
      const clocks: FakedClock[] = [];
      if (clock !== 'database') clocks.push(ofService);
      if (clock !== 'service') clocks.push(ofDatabase);
      for (const one of clocks) await one.step(ms);
      const alarm = waitFor(true);
      for (const body of [event(), event(), [event(), event()]]) {
        const { status, text } = await call(Array.isArray(body) ? '/v1/events/batch' : '/v1/events', key, body);
        expect([status, text]).toEqual([503, expect.stringMatching(REASONS[clock])]);
        refused += 1;
      }
      const { status, text } = await call('/readyz', key);
      expect([status, text]).toEqual([503, expect.stringMatching(REASONS[clock])]);
      alarmed.push(await alarm);
      for (const one of clocks) await one.step(0);
      await storeNow();
      expect((await call('/readyz', key)).status).toBe(200);
      await waitFor(false);
    }
    say(
      `${cases.length} steps of clocks (${cases.map(({ name, clock }) => `${name} ${clock}`).join(', ')}): ${refused} calls refused, alarm after ${describeTimes(alarmed)}`,
    );

    expect(service.output().split('a clock is wrong').length - 1).toBe(cases.length);
    // No month, key or generation of another time was made.
    expect(await kept(postgres.admin)).toEqual(before);
    const auditor = await deployment.token('auditor', 'acme');
    const { items } = JSON.parse(
      (await call('/v1/events?category=user_authentication&order=asc&limit=1000', auditor)).text,
    );
    const stamps: number[] = items.map(({ log }: { log: { recordedAt: string } }) => Date.parse(log.recordedAt));
    expect(stamps).toEqual(stamps.toSorted((a, b) => a - b));
    expect([stamps[0]! >= began, stamps.at(-1)! <= Date.now()]).toEqual([true, true]);
    expect(stamps.length).toBe(1 + cases.length);
    const ofLog = await deployment.token('auditor', 'sealog');
    await expect
      .poll(async () => JSON.parse((await call('/v1/events?action=clock.wrong', ofLog)).text).items.length, {
        timeout: 10_000,
      })
      .toBe(cases.length);
  },
);

/** What is made for months that somebody stores in. */
async function kept(admin: ConstructorParameters<typeof Client>[0]): Promise<unknown> {
  const client = new Client(admin);
  await client.connect();
  try {
    const { rows } = await client.query(
      `SELECT (SELECT array_agg(DISTINCT drop_month ORDER BY drop_month) FROM sealog.data_key) AS keys,
         (SELECT count(*)::integer FROM sealog.key_generation) AS generations, (SELECT count(*)::integer FROM sealog.pruning) AS prunings,
         (SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname ~ '^block_[0-9]+$') AS months`,
    );
    return rows[0];
  } finally {
    await client.end();
  }
}
