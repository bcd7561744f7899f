/** The scrubber: reads everything, all the time; raises an alarm when something is wrong, and takes it back when it is right again. */
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { Pace } from '../src/verification/pace.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';

/** A pass each half second, as fast as it goes. */
const EAGER = { firstAfterMs: 0, everyMs: 500, lookMs: 100, entriesPerSecondMin: 1e9, share: 1 };

async function started(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService({ verification: { scrubber: EAGER }, ...options });
  onTestFinished(() => service.stop());
  return service;
}

async function fill(service: TestService, category: string, count: number, tenant = 'acme'): Promise<void> {
  const events = Array.from({ length: count }, (_, n) => ({
    id: `${category}-${n}`,
    category,
    action: 'thing.act',
    outcome: 'success',
    severity: 3,
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'mes' },
    actor: { type: 'user', id: `u${n % 5}` },
    target: { type: 'thing', id: `t${n % 7}` },
    ...(category === 'configuration_change' ? { changes: { before: null, after: n } } : {}),
  }));
  const token = await service.token('service', tenant);
  const { status, body } = await service.post('/v1/events/batch', events, { token });
  expect([status, body.errors], JSON.stringify(body).slice(0, 500)).toEqual([200, false]);
}

async function until<T>(look: () => Promise<T | undefined>, what: string, ms = 20_000): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(50);
  }
}

/** Flips a bit of the first record, or flips it back. */
async function flip(service: TestService, stream: string): Promise<void> {
  const client = await service.adminPool.connect();
  try {
    await client.query('BEGIN');
    await client.query('ALTER TABLE sealog.block DISABLE TRIGGER ALL');
    const { rowCount } = await client.query(
      `UPDATE sealog.block SET records = set_byte(records, 30, get_byte(records, 30) # 1)
       WHERE first_seq = 0 AND stream = (SELECT id FROM sealog.stream WHERE name = $1)`,
      [stream],
    );
    expect(rowCount).toBe(1);
    await client.query('ALTER TABLE sealog.block ENABLE ALWAYS TRIGGER append_only');
    await client.query('ALTER TABLE sealog.block ENABLE ALWAYS TRIGGER no_truncate');
    await client.query('COMMIT');
  } finally {
    client.release();
  }
}

async function metric(service: TestService, name: string): Promise<number | undefined> {
  const text = await (await fetch(`${service.url}/metrics`)).text();
  const line = text.split('\n').find((one) => one.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.split(' ')[1]);
}

async function ready(service: TestService): Promise<number> {
  return (await service.get('/readyz', { token: null })).status;
}

/** Waits until so many more passes are over. */
async function passes(service: TestService, count = 1): Promise<void> {
  const done = async () =>
    Number(
      (
        await service.adminPool.query(
          `SELECT count(*) FROM sealog.verification WHERE kind = 'scrub' AND state = 'done'`,
        )
      ).rows[0].count,
    );
  const before = await done();
  await until(async () => ((await done()) >= before + count ? true : undefined), `${count} more passes`);
}

async function alarms(service: TestService, tenant = 'acme') {
  const { body } = await service.get('/v1/events?category=security_event&action=log.verification_failed', {
    token: await service.token('auditor', tenant),
  });
  return body.items;
}

test('each full pass is in the history and in the log, and /metrics says when', async () => {
  const service = await started();
  await fill(service, 'data_access', 300);
  await fill(service, 'data_access', 20, 'initech');
  const before = Date.now() / 1000;
  await passes(service, 2);
  const { rows } = await service.adminPool.query(
    `SELECT * FROM sealog.verification WHERE kind = 'scrub' AND state = 'done' ORDER BY number DESC LIMIT 1`,
  );
  expect(rows[0]).toMatchObject({ tenant: null, verdict: 'not_provable', error: null });
  expect(rows[0].report).toMatchObject({ findings: [], incomplete: 0, truncated: false });
  expect(rows[0].report.entries).toBeGreaterThanOrEqual(320);
  await until(async () => {
    const at = await metric(service, 'sealog_scrub_last_full_pass_timestamp_seconds');
    return at !== undefined && at > before ? true : undefined;
  }, 'the metric of the pass');
  expect(await metric(service, 'sealog_scrub_oldest_unread_seconds')).toBeLessThan(20);
  expect(await metric(service, 'sealog_scrub_streams_tampered')).toBe(0);
  expect(await ready(service)).toBe(200);
  // Nobody's token reads the log's own streams: there it is all the same.
  const { rows: own } = await service.adminPool.query(
    `SELECT size FROM sealog.stream WHERE name = 'sealog/log_administration'`,
  );
  expect(Number(own[0].size)).toBeGreaterThanOrEqual(2);
  // Passes are no tenant's.
  expect((await service.get('/v1/verifications')).body.items).toEqual([]);
  // What it wrote itself is sound as well.
  await service.app.close();
  await service.checkLog();
});

test('something wrong: told once, to its tenant; unready until it is right again; also after a restart', async () => {
  const service = await started();
  await fill(service, 'data_access', 30);
  await fill(service, 'data_access', 30, 'initech');
  await passes(service);
  expect(await ready(service)).toBe(200);

  await flip(service, 'acme/data_access');
  const { body } = await until(async () => {
    const answer = await service.get('/readyz', { token: null });
    return answer.status === 503 ? answer : undefined;
  }, 'unready');
  expect(body).toMatchObject({ code: 'not_ready', detail: expect.stringMatching(/something wrong with a stream/) });
  expect(body.detail).not.toContain('acme');
  const [told] = await until(async () => {
    const found = await alarms(service);
    return found.length > 0 ? found : undefined;
  }, 'the event');
  expect(told).toMatchObject({
    action: 'log.verification_failed',
    outcome: 'failure',
    severity: 10,
    source: { service: 'sealog' },
    details: { stream: 'acme/data_access' },
  });
  expect(told.details.findings.length).toBeGreaterThan(0);
  for (const finding of told.details.findings)
    expect(finding).toMatchObject({ kind: expect.any(String), detail: expect.any(String) });
  expect(told.details.findings[0]).toHaveProperty('seq');
  expect(await metric(service, 'sealog_scrub_streams_tampered')).toBe(1);
  expect(await metric(service, 'sealog_scrub_findings')).toBeGreaterThan(0);
  await passes(service, 2);
  expect(await alarms(service)).toHaveLength(1);
  expect(await alarms(service, 'initech')).toEqual([]);
  // Only readiness: what is sent is still stored.
  await fill(service, 'system_operation', 3);

  await service.app.close();
  const calm = { ...EAGER, firstAfterMs: 60_000 };
  const second = await started({ beside: service, verification: { scrubber: calm } });
  expect(await ready(second)).toBe(503);
  expect(await metric(second, 'sealog_scrub_streams_tampered')).toBe(1);
  await second.app.close();

  const third = await started({ beside: service });
  await passes(third, 2);
  expect(await ready(third)).toBe(503);
  expect(await alarms(third)).toHaveLength(1);
  await flip(service, 'acme/data_access');
  await until(async () => ((await ready(third)) === 200 ? true : undefined), 'ready again');
  expect(await metric(third, 'sealog_scrub_streams_tampered')).toBe(0);
  await passes(third);
  expect(await alarms(third)).toHaveLength(1);
  // Wrong again is another alarm.
  await flip(service, 'acme/data_access');
  await until(async () => ((await alarms(third)).length === 2 ? true : undefined), 'a second event');
});

test('another replica knows of it too', async () => {
  const service = await started();
  await fill(service, 'data_access', 10);
  const other = await started({ beside: service, verification: { scrubber: { ...EAGER, firstAfterMs: 60_000 } } });
  await flip(service, 'acme/data_access');
  await until(async () => ((await ready(other)) === 503 ? true : undefined), 'unready');
  await flip(service, 'acme/data_access');
  await until(async () => ((await ready(other)) === 200 ? true : undefined), 'ready again');
});

test('the security_event stream itself: the alarm stands, whatever becomes of the event', async () => {
  const service = await started();
  await fill(service, 'security_event', 10);
  await passes(service);
  await flip(service, 'acme/security_event');
  const tampered = async () => ((await metric(service, 'sealog_scrub_streams_tampered')) === 1 ? true : undefined);
  await until(tampered, 'the alarm');
  const size = async () =>
    Number(
      (await service.adminPool.query(`SELECT size FROM sealog.stream WHERE name = 'acme/security_event'`)).rows[0].size,
    );
  // A pass that can not store the event leaves that to the next.
  await until(async () => ((await size()) > 10 ? true : undefined), 'the event');
  await passes(service, 2);
  expect(await ready(service)).toBe(503);
  // Told once, though the stream that it is about grew by it.
  expect(await size()).toBe(11);
});

test('a key that is away: no alarm, but counted', async () => {
  const service = await started();
  await fill(service, 'configuration_change', 10);
  await passes(service);
  await service.app.close();
  const { monthKeysDir } = service.config;
  // Not that of the log's own streams: with it away nothing could be stored, and unready would be right.
  const { rows } = await service.adminPool.query(
    `SELECT month_key FROM sealog.data_key
     WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/configuration_change')`,
  );
  const keys = (await readdir(monthKeysDir)).filter((name) => name.startsWith(rows[0].month_key));
  expect(keys).toHaveLength(1);
  const second = await started({ beside: service });
  // A start without it would be refused.
  for (const name of keys) await rename(join(monthKeysDir, name), join(monthKeysDir, `.${name}`));
  await passes(second);
  expect(await ready(second)).toBe(200);
  expect(await metric(second, 'sealog_scrub_streams_tampered')).toBe(0);
  expect(await alarms(second)).toEqual([]);
  await until(
    async () => (((await metric(second, 'sealog_scrub_streams_incomplete')) ?? 0) > 0 ? true : undefined),
    'counted',
  );
});

test('a pass is done in slices, by whoever is there, and none of it twice', async () => {
  const service = await started({ verification: { scrubber: { ...EAGER, everyMs: 3_600_000, sliceMs: 0 } } });
  for (const category of ['data_access', 'system_operation', 'user_authentication']) await fill(service, category, 50);
  const begin = async () =>
    (await service.adminPool.query(`SELECT * FROM sealog.verification WHERE kind = 'scrub'`)).rows;
  const [pass] = await until(async () => {
    const rows = await begin();
    return rows[0]?.state === 'done' ? rows : undefined;
  }, 'the pass is over');
  expect(pass.report.findings).toEqual([]);
  expect(await begin()).toHaveLength(1);
});

test('the pace keeps to its share, and to so many entries a second', () => {
  let now = 0;
  const pace = new Pace({ share: 0.25, entriesPerSecond: 1000 }, () => now);
  let worked = 0;
  for (let i = 0; i < 100; i++) {
    now += 5;
    worked += 5;
    now += pace.restAfter(1);
    pace.goOn();
  }
  expect(worked / now).toBeLessThan(0.27);
  expect(worked / now).toBeGreaterThan(0.24);
  const begin = now;
  for (let i = 0; i < 100; i++) {
    now += 1;
    now += pace.restAfter(100);
    pace.goOn();
  }
  expect((100 * 100) / ((now - begin) / 1000)).toBeGreaterThan(950);
  expect((100 * 100) / ((now - begin) / 1000)).toBeLessThan(1050);
});
