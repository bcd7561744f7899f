/** Policies of retention, over a real service: who changes them, from which entry on they hold, and what becomes of the epochs. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { decodeRecords, unpackPayload } from '../src/chain/block.ts';
import type { ClientCategory } from '../src/chain/category.ts';
import { decodeRecord, type Rec } from '../src/chain/record.ts';
import { addMonths } from '../src/chain/retain-until.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { readMark } from '../src/signer/mark.ts';
import { keyById } from '../src/store/data-keys.ts';
import { typesOfDatabase } from '../src/store/database.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import type { Tables } from '../src/store/tables.ts';
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { verifyLog } from '../src/verify/verify-log.ts';
import { Adversary, disarm } from './support/adversary.ts';
import { adminPool, copyDatabase } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { type Answer, type ServiceOptions, startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';

const run = promisify(execFile);
const PATH = '/v1/retention';
const DAY_MS = 86_400_000;
const FLOORS = { SEALOG_RETENTION_FLOORS: 'data_access=1,user_authentication=1' };
const NO_SIGNER = { SEALOG_SIGNER_DIR: undefined };

async function start({ environment, ...options }: ServiceOptions = {}): Promise<TestService> {
  const service = await startService({ ...options, environment: { ...FLOORS, ...environment } });
  onTestFinished(() => service.stop());
  return service;
}

interface Policy {
  readonly months?: number;
  readonly evidence?: string;
  readonly reason?: string;
}

async function put(service: TestService, category: string, policy: Policy) {
  const response = await fetch(`${service.url}${PATH}/${category}`, {
    method: 'PUT',
    headers: {
      authorization: `Bearer ${await service.token('it_security_admin')}`,
      'content-type': 'application/json',
    },
    body: JSON.stringify({ evidence: 'refuse', ...policy }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: answers of every shape
  return { status: response.status, body: (await response.json()) as any };
}

async function set(service: TestService, category: string, policy: Policy): Promise<Answer['body']> {
  const { status, body } = await put(service, category, { reason: 'a test', ...policy });
  expect(status, JSON.stringify(body)).toBe(200);
  return body;
}

async function policy(service: TestService, category: string): Promise<Answer['body']> {
  const { status, body } = await service.get(PATH);
  expect(status).toBe(200);
  return body.items.find((item: { category: string }) => item.category === category);
}

async function until(check: () => Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 10_000;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within 10 s: ${what}`);
    await delay(20);
  }
}

/** Asks the database: a read leaves an entry, and between two epochs of its stream there is no place for it. */
function untilTurned(service: TestService, category: string): Promise<void> {
  return until(async () => {
    const { rows } = await service.adminPool.query<{ done: boolean }>(
      `SELECT size > 0 AND retention_next IS NULL AS done FROM sealog.stream WHERE name LIKE 'acme/' || $1 || '%' ORDER BY epoch DESC LIMIT 1`,
      [category],
    );
    return rows[0]!.done;
  }, `${category} is in force`);
}

function event(id: string, category: ClientCategory = 'data_access', more: object = {}): object {
  return {
    id,
    category,
    action: 'report.view',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: 'u-1' },
    target: { type: 'report', id: 'r' },
    ...more,
  };
}

async function send(service: TestService, id: string, category?: ClientCategory): Promise<Answer['body']> {
  const { status, body } = await service.post('/v1/events', event(id, category));
  expect([200, 201], JSON.stringify(body)).toContain(status);
  return body;
}

/** Months of calendar between an entry's two times; by the day, since months end differently. */
function monthsOf({ recordedAt, retainUntil }: { recordedAt: string; retainUntil?: string }): number {
  const until = Date.parse(retainUntil!);
  let months = 0;
  while (addMonths(Date.parse(recordedAt), months + 1) <= until + DAY_MS) months += 1;
  return months;
}

/** What is stored of a stream, in order. */
async function records(service: TestService, stream: string): Promise<Rec[]> {
  const { rows } = await service.adminPool.query<{ records: Buffer }>(
    `SELECT b.records FROM sealog.block AS b JOIN sealog.stream AS s ON s.id = b.stream WHERE s.name = $1 ORDER BY b.first_seq`,
    [stream],
  );
  return rows.flatMap((row) => decodeRecords(unpackPayload(row.records)).map(decodeRecord));
}

/** Of the tenant's log of administration, what it says of retention, oldest first. */
async function told(service: TestService): Promise<Answer['body'][]> {
  const { body } = await service.get('/v1/events?category=log_administration&order=asc&limit=1000');
  return body.items.filter(({ action }: { action: string }) => action.startsWith('retention.'));
}

function adversarysPool(service: TestService): pg.Pool {
  const pool = adminPool(service.database.adminConfig, { types: typesOfDatabase });
  onTestFinished(() => pool.end());
  return pool;
}

/** Verifies the log as a whole, with the deployment's key as the database states it; with the signer's own record where it is given. */
function verified(service: TestService, pool: pg.Pool, mark?: Awaited<ReturnType<typeof readMark>>) {
  const database = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  const keyring = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('no keys are made')),
    byId: (id) => keyById(database, id),
  });
  return verifyLog(logWideSource(database, keyring, 'log.example'), mark === undefined ? {} : { mark });
}

async function findingsOf(service: TestService, pool: pg.Pool, mark?: Awaited<ReturnType<typeof readMark>>) {
  const { streams, findings } = await verified(service, pool, mark);
  return [...streams.flatMap((report) => report.findings), ...findings].map(
    ({ stream, kind, seq }) => `${stream} ${kind}@${seq}`,
  );
}

describe('a policy', () => {
  test('is the default until somebody sets another, is told before it is made, and is refused by name where it can not be', async () => {
    const service = await start();
    const { items } = (await service.get(PATH)).body;
    expect(items.map((one: { category: string; months: number }) => [one.category, one.months])).toEqual([
      ...[['user_authentication', 12] as const, ['data_access', 12] as const, ['configuration_change', 24] as const],
      ...[['data_modification', 24] as const, ['security_event', 36] as const, ['system_operation', 12] as const],
    ]);
    expect(items[1]).toEqual({
      ...{ category: 'data_access', months: 12, evidence: 'refuse', state: 'in_force', monthsNow: 12 },
      ...{ monthsDefault: 12, floor: 1, changedAt: null, changedBy: null, reason: null },
    });

    const wrong: readonly (readonly [string, Policy, string])[] = [
      ['data_access', {}, 'months'],
      ['data_access', { months: 0 }, 'months'],
      ['data_access', { months: 12.5 }, 'months'],
      ['data_access', { months: 1201 }, 'months'],
      ['data_access', { months: 12, evidence: 'ignore' }, 'evidence'],
      ['data_access', { months: 12, reason: '' }, 'reason'],
      ['data_access', { months: 12, more: 1 } as Policy, 'more'],
      // Shorter: not without a reason, and not below the floor, which is the default where the operator said nothing.
      ['data_access', { months: 6 }, 'reason'],
      ['system_operation', { months: 11, reason: 'less' }, 'months'],
      ['security_event', { months: 12, reason: 'less' }, 'months'],
      ['log_administration', { months: 12, reason: 'less' }, 'category'],
      ['anchor', { months: 12, reason: 'less' }, 'category'],
    ];
    for (const [category, asked, field] of wrong) {
      const { status, body } = await put(service, category, asked);
      expect([category, status, body.errors?.map((one: { field: string }) => one.field)]).toEqual([
        category,
        400,
        [field],
      ]);
    }
    expect(await told(service)).toEqual([]);

    const answer = await set(service, 'system_operation', { months: 60, reason: 'the plant asks for it' });
    expect(answer).toMatchObject({ months: 60, monthsNow: 60, state: 'in_force', changedBy: 'test-it_security_admin' });
    expect((await told(service))[0]).toMatchObject({
      ...{ action: 'retention.changed', outcome: 'success', reason: 'the plant asks for it' },
      target: { type: 'retention', id: 'system_operation' },
      changes: { before: { months: 12, evidence: 'refuse' }, after: { months: 60, evidence: 'refuse' } },
    });
    // Another tenant's policy is another, and before an entry is there its partitions are.
    const other = await service.get(PATH, { token: await service.token('auditor', 'globex') });
    expect(other.body.items[5]).toMatchObject({ months: 12, changedBy: null });
    const { rows } = await service.adminPool.query<{ month: number }>(
      `SELECT substring(relname FROM 7)::integer AS month FROM pg_class WHERE relname ~ '^block_[0-9]+$' ORDER BY 1 DESC LIMIT 4`,
    );
    const ahead = addMonths(Date.now(), 60 + 1);
    const first = new Date(ahead).getUTCFullYear() * 100 + new Date(ahead).getUTCMonth() + 1;
    expect(rows.map(({ month }) => month)).toContain(first);
    expect(monthsOf(await send(service, 'first', 'system_operation'))).toBe(60);
    await service.checkLog();
  });

  test('that several set at once follows one from another: each is made, or refused and told so', async () => {
    const service = await start({ environment: NO_SIGNER });
    await send(service, 'first');
    const asked = [13, 14, 15, 16, 17, 18];
    const answers = await Promise.all(
      asked.map((months) => put(service, 'data_access', { months, reason: 'all at once' })),
    );
    const made = answers.filter(({ status }) => status === 200).length;
    expect(made).toBeGreaterThan(0);
    for (const { status, body } of answers) {
      if (status !== 200 && status !== 400) expect([status, body.code]).toEqual([503, 'busy']);
    }
    const { rows } = await service.adminPool.query<{ number: number; months: number }>(
      'SELECT number, months FROM sealog.retention_policy ORDER BY number',
    );
    expect(rows.map(({ number }) => number)).toEqual(rows.map((_, i) => i + 1));
    expect(rows).toHaveLength(made);
    expect(await policy(service, 'data_access')).toMatchObject({ months: rows.at(-1)!.months });
    // What the log says was set follows one from another, too.
    const entries = await told(service);
    const busy = answers.filter(({ status }) => status === 503).length;
    expect(entries.filter(({ outcome }) => outcome === 'failure')).toHaveLength(busy);
    expect(entries.filter(({ outcome }) => outcome === 'success')).toHaveLength(made + busy);
  });

  test('can not be made shorter by whoever appends: not by statements of his own either', async () => {
    const service = await start({ environment: { SEALOG_RETENTION_FLOORS: undefined } });
    await send(service, 'first');
    const writer = new pg.Client({ ...service.database.appConfig, options: '-c role=sealog_writer' });
    await writer.connect();
    onTestFinished(() => writer.end());
    const refused = [
      'UPDATE sealog.stream SET retention_months = 1',
      'UPDATE sealog.stream SET retention_next = 1',
      'UPDATE sealog.stream SET closed = true',
      'UPDATE sealog.stream SET turned = true',
      `INSERT INTO sealog.stream (tenant, category, epoch, name) SELECT tenant, category, 2, name || '/e2' FROM sealog.stream WHERE category = 'data_access'`,
      `SELECT sealog.turn_epoch('acme/data_access')`,
      `SELECT sealog.set_stream_retention()`,
      'UPDATE sealog.retention_policy SET months = 1',
      `INSERT INTO sealog.retention_policy (tenant, category, number, months, evidence, by) SELECT tenant, category, 1, 1, 'refuse', 'me' FROM sealog.stream`,
      'DELETE FROM sealog.retention_policy',
      `INSERT INTO sealog.retention_floor VALUES ('data_access', 1)`,
      'UPDATE sealog.retention_floor SET months = 1',
    ];
    for (const statement of refused)
      await expect(writer.query(statement), statement).rejects.toMatchObject({ code: '42501' });
    // What it may say is what is wanted, of streams that are there and of those to come; the signer keeps to the floor, and new streams do.
    for (const category of ['data_access', 'user_authentication'])
      await writer.query(
        `SELECT sealog.set_retention(id, $1, 0, 1, 'refuse', 'me', 'mine') FROM sealog.tenant WHERE name = 'acme'`,
        [category],
      );
    await delay(400);
    expect(monthsOf(await send(service, 'second'))).toBe(12);
    expect(monthsOf(await send(service, 'third', 'user_authentication'))).toBe(12);
    const { rows } = await service.adminPool.query(`SELECT name FROM sealog.stream WHERE epoch > 1`);
    expect(rows).toEqual([]);
    expect(await policy(service, 'data_access')).toMatchObject({
      months: 1,
      state: 'waiting',
      monthsNow: 12,
      floor: 12,
    });
  });
});

describe('a longer time', () => {
  test('holds from its place in the stream on, whichever replica appends, in a flood', async () => {
    const one = await start();
    const two = await start({ beside: one, environment: NO_SIGNER });
    let flooding = true;
    let n = 0;
    const receipts: { id: string; seq: number; months: number; sentAt: number }[] = [];
    const flood = async (service: TestService, name: string): Promise<void> => {
      while (flooding) {
        const sentAt = performance.now();
        const isBatch = n % 3 === 0;
        const events = Array.from({ length: isBatch ? 40 : 1 }, () => event(`${name}-${n++}`));
        const { status, body } = await (isBatch
          ? service.post('/v1/events/batch', events)
          : service.post('/v1/events', events[0]));
        expect([200, 201], JSON.stringify(body)).toContain(status);
        for (const item of isBatch ? body.items : [body]) {
          const { id, seq } = item;
          receipts.push({ id, seq, months: monthsOf(item), sentAt });
        }
      }
    };
    const floods = [one, one, two, two].map((service, i) => flood(service, `f${i}`));
    const changes: { months: number; at: number }[] = [];
    for (const months of [18, 30, 40]) {
      const before = receipts.length;
      await until(async () => receipts.length > before + 50, 'the flood goes on');
      await set(one, 'data_access', { months });
      changes.push({ months, at: performance.now() });
    }
    const last = receipts.length;
    await until(async () => receipts.length > last + 50, 'the flood goes on');
    flooding = false;
    await Promise.all(floods);
    const stored = await records(one, 'acme/data_access');
    // In the order of the stream the months only rise: no entry behind a change was stamped by an older policy.
    const months = stored.map(monthsOf);
    expect(months).toEqual(months.toSorted((a, b) => a - b));
    expect([...new Set(months)]).toEqual([12, 18, 30, 40]);
    // Whoever was told that it is set, or sent after that, gets it.
    for (const { sentAt, months: got } of receipts)
      for (const change of changes) if (sentAt > change.at) expect(got).toBeGreaterThanOrEqual(change.months);
    expect(receipts.filter(({ seq, id }) => stored[seq]!.id !== id)).toEqual([]);
    await one.checkLog();
  });

  test('finds what was sent before it, also where the entry lies in a month of the policy before', async () => {
    const one = await start();
    const two = await start({ beside: one, environment: NO_SIGNER });
    const first = await send(one, 'early');
    await send(two, 'of-two');
    // The other replica remembers the months before, and a batch is sealed under them ahead: what the stream's row says counts.
    await set(one, 'data_access', { months: 20 });
    expect(monthsOf(await send(two, 'behind'))).toBe(20);
    await set(one, 'data_access', { months: 33 });
    const ahead = await two.post('/v1/events/batch', [event('ahead-0'), event('ahead-1')]);
    expect(ahead.body.items.map(monthsOf)).toEqual([33, 33]);
    for (const service of [one, two]) {
      const repeated = await service.post('/v1/events', event('early'));
      expect([repeated.status, repeated.body]).toEqual([200, first]);
      const batch = await service.post('/v1/events/batch', [
        event('early'),
        event(`new ${service.port}`.replace(' ', '-')),
      ]);
      expect(batch.body.items.map(({ status }: { status: number }) => status)).toEqual([200, 201]);
      expect(monthsOf(batch.body.items[1])).toBe(33);
      const other = await service.post('/v1/events', event('early', 'data_access', { action: 'report.print' }));
      expect([other.status, other.body.code]).toEqual([409, 'id_conflict']);
    }
    // A replica that comes later knows it from the stream's row.
    const three = await start({ beside: one, environment: NO_SIGNER });
    expect((await three.post('/v1/events', event('early'))).body).toEqual(first);
    await one.checkLog();
  });
});

describe('a shorter time', () => {
  test('opens an epoch in a flood: nothing is lost, nothing stands twice, nothing behind it is kept longer', async () => {
    const one = await start();
    const two = await start({ beside: one, environment: NO_SIGNER });
    let flooding = true;
    let n = 0;
    let waited = 0;
    const receipts = new Map<string, { stream: string; seq: number }>();
    const flood = async (service: TestService, name: string): Promise<void> => {
      while (flooding) {
        const events = Array.from({ length: n % 2 === 0 ? 30 : 1 }, () => `${name}-${n++}`);
        for (;;) {
          const { status, body } = await (events.length > 1
            ? service.post(
                '/v1/events/batch',
                events.map((id) => event(id)),
              )
            : service.post('/v1/events', event(events[0]!)));
          if (status === 503) {
            waited += 1;
            await delay(10);
            continue;
          }
          expect([200, 201], JSON.stringify(body)).toContain(status);
          for (const item of events.length > 1 ? body.items : [body]) receipts.set(item.id, item);
          break;
        }
      }
    };
    // Others' streams are no matter of it: nobody of them is refused.
    const beside = async (): Promise<void> => {
      for (let i = 0; flooding; i++) {
        const { status } = await one.post(
          '/v1/events',
          event(`beside-${i}`, 'configuration_change', { changes: { before: 1, after: 2 } }),
        );
        expect([201, 503]).toContain(status);
        expect(status).toBe(201);
      }
    };
    const floods = [...[one, one, two, two].map((service, i) => flood(service, `f${i}`)), beside()];
    const more = async (): Promise<void> => {
      const before = receipts.size;
      await until(async () => receipts.size > before + 50, 'the flood goes on');
    };
    await more();
    const answer = await set(one, 'data_access', { months: 6 });
    expect(answer).toMatchObject({ months: 6 });
    await untilTurned(two, 'data_access');
    await more();
    await set(two, 'data_access', { months: 3 });
    await untilTurned(one, 'data_access');
    await more();
    flooding = false;
    await Promise.all(floods);
    const epochs = await Promise.all(['', '/e2', '/e3'].map((name) => records(one, `acme/data_access${name}`)));
    expect(epochs.map((all) => [...new Set(all.map(monthsOf))])).toEqual([[12], [6], [3]]);
    for (const [i, all] of epochs.entries()) {
      expect(all.length).toBeGreaterThan(1);
      expect(all.map(({ action }) => action).lastIndexOf('epoch.opened')).toBe(i === 0 ? -1 : 0);
    }
    // What is there is what was receipted: at its place, and once. (Reading the policy is in this category, too.)
    const stored = epochs.flatMap((all, i) =>
      all.map(({ id, seq, source }) => ({
        id,
        seq,
        own: source['service'] === 'sealog',
        stream: `acme/data_access${['', '/e2', '/e3'][i]}`,
      })),
    );
    const sent = stored.filter(({ own }) => !own);
    expect(sent).toHaveLength(receipts.size);
    expect(new Set(sent.map(({ id }) => id)).size).toBe(receipts.size);
    expect(
      sent.filter(({ id, seq, stream }) => receipts.get(id)!.seq !== seq || receipts.get(id)!.stream !== stream),
    ).toEqual([]);
    expect(waited).toBeLessThan(1000);
    await one.checkLog();
    const pool = adversarysPool(one);
    expect(await findingsOf(one, pool, await readMark(one.config.signerDir!))).toEqual([]);
  });

  test('keeps what was: found, read, proven, exported, bundled, sent on, recognised', async () => {
    const arrived: { id: string; log: { stream: string } }[] = [];
    const receiver = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        arrived.push(...JSON.parse(Buffer.concat(chunks).toString()));
        response.writeHead(200).end();
      });
    });
    await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => {
      receiver.closeAllConnections();
      receiver.close();
    });
    const service = await start({
      environment: { SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' },
      exporting: {
        timing: { beatMs: 100, silentMs: 1000 },
        followerTiming: { lookMs: 300, retryMinMs: 50, retryMaxMs: 200 },
      },
    });
    const admin = { token: await service.token('it_security_admin') };
    const sink = await service.post(
      '/v1/sinks',
      {
        ...{
          name: 'soc',
          type: 'webhook',
          format: 'json',
          from: 'now',
          filter: { categories: ['user_authentication'] },
        },
        url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/in`,
      },
      admin,
    );
    expect(sink.status, sink.text).toBe(201);
    const of = 'user_authentication';
    const old = await send(service, 'old', of);
    const checkpoint = (await service.post('/v1/events?wait=checkpoint', event('kept', of))).body.checkpoint as string;
    await set(service, of, { months: 4 });
    await untilTurned(service, of);
    const fresh = (await service.post('/v1/events?wait=checkpoint', event('new', of))).body;
    expect([old.stream, fresh.stream, fresh.seq]).toEqual([`acme/${of}`, `acme/${of}/e2`, 1]);
    expect(fresh.checkpoint.split('\n')[0]).toBe(`log.example/acme/${of}/e2`);

    const found = await service.get(`/v1/events?category=${of}&order=asc`);
    expect(found.body.items.map(({ id }: { id: string }) => id.split(':')[0])).toEqual([
      'old',
      'kept',
      'epoch.opened',
      'new',
    ]);
    const newest = await service.get(`/v1/events?category=${of}&limit=1`);
    expect(newest.body.items[0].id).toBe('new');
    const opening = found.body.items[2];
    expect(opening).toMatchObject({
      ...{ action: 'epoch.opened', outcome: 'success', source: { service: 'sealog' } },
      details: {
        closed: { consistentSize: 2, lastSize: 2, stream: `acme/${of}` },
        lost: null,
        policy: { before: 12, after: 4 },
        reappended: 0,
      },
    });
    expect(Buffer.from(opening.details.closed.lastRoot, 'hex').toString('base64')).toBe(checkpoint.split('\n')[2]);
    for (const [id, seq, stream] of [
      ['old', 0, `acme/${of}`],
      ['new', 1, `acme/${of}/e2`],
    ]) {
      expect((await service.get(`/v1/events/${id}`)).body.log).toMatchObject({ seq, stream });
      expect((await service.get(`/v1/events/${id}/proof`)).body).toMatchObject({ seq, stream });
    }
    const lines = (
      await fetch(`${service.url}/v1/export?format=ndjson&category=${of}`, {
        headers: { authorization: `Bearer ${admin.token}` },
      }).then((answer) => answer.text())
    )
      .trimEnd()
      .split('\n');
    expect(lines.map((line) => JSON.parse(line).id?.split(':')[0])).toEqual([
      'old',
      'kept',
      'epoch.opened',
      'new',
      undefined,
    ]);
    const bundle = await fetch(`${service.url}/v1/bundle?category=${of}`, {
      headers: { authorization: `Bearer ${await service.token('auditor')}` },
    });
    expect(bundle.status).toBe(200);
    const { items } = (await service.get('/v1/keys')).body;
    const { vkey } = items.find(({ origin }: { origin: string }) => origin === 'log.example');
    const report = await verifyBundle(Buffer.from(await bundle.arrayBuffer()), {
      key: vkey,
      checkpoints: [],
      authorities: [],
      witnesses: [],
    });
    expect(report).toMatchObject({ verdict: 'not_provable', findings: [] });
    expect(report.streams.map(({ stream }) => stream)).toEqual([`acme/${of}`, `acme/${of}/e2`]);
    await until(async () => arrived.length >= 4, 'the sink has both epochs');
    expect(arrived.map(({ id }) => id.split(':')[0])).toEqual(['old', 'kept', 'epoch.opened', 'new']);

    // An id of the old epoch finds its receipt in the new, and in the one behind that.
    await set(service, of, { months: 2 });
    await untilTurned(service, of);
    expect(monthsOf(await send(service, 'third', of))).toBe(2);
    const again = await service.post('/v1/events', event('old', of));
    expect([again.status, again.body]).toEqual([200, old]);
    const batch = await service.post('/v1/events/batch', [event('new', of), event('old', of), event('fourth', of)]);
    expect(batch.body.items.map(({ status, stream }: { status: number; stream: string }) => [status, stream])).toEqual([
      ...[[200, `acme/${of}/e2`] as const, [200, `acme/${of}`] as const, [201, `acme/${of}/e3`] as const],
    ]);
    const other = await service.post('/v1/events', event('old', of, { action: 'user.logout' }));
    expect([other.status, other.body.code]).toEqual([409, 'id_conflict']);
    const atomic = await service.post('/v1/events/batch?atomic=true', [
      event('fifth', of),
      event('old', of, { action: 'user.logout' }),
    ]);
    expect(atomic.status).toBe(409);
    expect((await service.get('/v1/events/fifth')).status).toBe(404);

    // Set longer again: in the same epoch.
    await set(service, of, { months: 9 });
    expect(monthsOf(await send(service, 'sixth', of))).toBe(9);
    expect((await send(service, 'seventh', of)).stream).toBe(`acme/${of}/e3`);
    expect(
      (await told(service)).map(({ action, changes }) => [action, changes.before.months, changes.after.months]),
    ).toEqual([
      ...[
        ['retention.changed', 12, 4] as const,
        ['retention.shortened', 12, 4] as const,
        ['retention.changed', 4, 2] as const,
      ],
      ...[['retention.shortened', 4, 2] as const, ['retention.changed', 2, 9] as const],
    ]);
    await service.checkLog();
  });

  test('waits for a signer, and can be taken back until then', async () => {
    const first = await start();
    await send(first, 'a');
    await first.app.close();
    const idle = await start({ beside: first, environment: NO_SIGNER });
    expect(await set(idle, 'data_access', { months: 5 })).toMatchObject({ months: 5, state: 'waiting', monthsNow: 12 });
    expect(monthsOf(await send(idle, 'b'))).toBe(12);
    // Where nothing was stamped yet nothing is to be closed.
    expect(await set(idle, 'user_authentication', { months: 5 })).toMatchObject({ state: 'in_force', monthsNow: 5 });
    expect(monthsOf(await send(idle, 'c', 'user_authentication'))).toBe(5);
    expect(await set(idle, 'data_access', { months: 12 })).toMatchObject({
      months: 12,
      state: 'in_force',
      monthsNow: 12,
    });
    const again = await start({ beside: first });
    await delay(300);
    expect((await send(again, 'd')).stream).toBe('acme/data_access');
    await again.checkLog();
  });

  test('is a beginning that a verifier knows: what is forged about it is found', async () => {
    const service = await start();
    for (let i = 0; i < 6; i++) await send(service, `e-${i}`, 'user_authentication');
    await set(service, 'user_authentication', { months: 6 });
    await untilTurned(service, 'user_authentication');
    await send(service, 'behind', 'user_authentication');
    await service.app.close();
    const mark = await readMark(service.config.signerDir!);
    const pool = adversarysPool(service);
    const on = new Adversary(pool, 'log.example');
    const [old, next] = ['acme/user_authentication', 'acme/user_authentication/e2'];
    expect(await findingsOf(service, pool, mark)).toEqual([]);
    const forge = async (change: () => Promise<void>): Promise<[string[], string[]]> => {
      await on.run('BEGIN');
      await disarm(pool);
      try {
        await change();
        return [await findingsOf(service, pool), await findingsOf(service, pool, mark)];
      } finally {
        await on.run('ROLLBACK');
      }
    };
    const unsign = async (name: string): Promise<void> => {
      await on.run('DELETE FROM sealog.checkpoint WHERE stream = (SELECT id FROM sealog.stream WHERE name = $1)', [
        name,
      ]);
      await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = (SELECT id FROM sealog.stream WHERE name = $1)', [
        name,
      ]);
    };
    const of = (found: readonly string[]): string[] => found.filter((one) => !one.startsWith('sealog/anchor'));

    // The old epoch is put back to before its last entries, with everything that was signed of it: the new one says what it had.
    const [shortened] = await forge(async () => {
      await on.rollBack(await on.home(old), 4);
      await unsign(old);
    });
    expect(of(shortened)).toContain(`${old} truncated@4`);
    // Rewritten, consistently.
    const [rewritten] = await forge(async () => {
      await on.rewrite(await on.home(old), 2, () => ({ outcome: 'failure' }));
      await unsign(old);
    });
    expect(of(rewritten)).toContain(`${old} inconsistent@5`);
    // An epoch that nobody opened.
    const [unopened] = await forge(async () => {
      await on.rewrite(await on.home(next), 0, (_, seq) => (seq === 0 ? { action: 'thing.act' } : {}));
      await unsign(next);
    });
    expect(of(unopened)).toContain(`${next} inconsistent@0`);
    // The new one is gone, with its row and all: what is signed of it is found missing by the signer's own record.
    const [, gone] = await forge(async () => {
      await unsign(next);
      for (const table of ['block', 'entry_id', 'tile', 'data_key'])
        await on.run(`DELETE FROM sealog.${table} WHERE stream = (SELECT id FROM sealog.stream WHERE name = $1)`, [
          next,
        ]);
      await on.run('DELETE FROM sealog.stream WHERE name = $1', [next]);
    });
    expect(of(gone)).toContain(`${next} truncated@undefined`);
  });

  test('is known to a signer whose mark was put back, and missed in a database that was', async () => {
    const of = 'user_authentication';
    const first = await start();
    expect((await first.post('/v1/events?wait=checkpoint', event('a', of))).status).toBe(201);
    await first.app.close();
    const backup = await copyDatabase(first.database);
    onTestFinished(() => backup.drop());
    const path = join(first.config.signerDir!, 'mark.log');
    const older = await readFile(path);
    const turning = await start({ beside: first });
    await set(turning, of, { months: 6 });
    await untilTurned(turning, of);
    expect((await turning.post('/v1/events?wait=checkpoint', event('b', of))).status).toBe(201);
    await turning.app.close();

    const newer = await readFile(path);
    await writeFile(path, older);
    const forgetful = await start({ beside: first });
    expect((await forgetful.get('/readyz')).status).toBe(200);
    expect((await send(forgetful, 'c', of)).stream).toBe(`acme/${of}/e2`);
    await forgetful.app.close();
    // The mark knows it now, as it would have: an epoch that somebody opens again is found.
    const setTurned = (stream: string, turned: boolean) =>
      first.adminPool.query(
        `SET ROLE sealog_owner; UPDATE sealog.stream SET closed = ${turned}, turned = ${turned} WHERE name = '${stream}'; RESET ROLE`,
      );
    await setTurned(`acme/${of}`, false);
    const opened = await start({ beside: first });
    expect((await opened.get('/readyz')).status).toBe(503);
    await opened.app.close();
    await setTurned(`acme/${of}`, true);
    // And one that somebody closed: no step of the signer's own.
    await setTurned(`acme/${of}/e2`, true);
    const closed = await start({ beside: first });
    expect((await closed.get('/readyz')).status).toBe(503);
    await closed.app.close();

    await writeFile(path, newer);
    const restored = { ...first, database: backup, environment: { ...first.environment, DATABASE_URL: backup.appUrl } };
    const refused = await start({ beside: restored });
    expect((await refused.get('/readyz')).status).toBe(503);
    await refused.app.close();
    const main = join(import.meta.dirname, '../src/cli/main.ts');
    const env = { ...PROGRAM_ENVIRONMENT, ...restored.environment };
    await run(process.execPath, [main, 'recover', '--yes'], { env });
    const recovered = await start({ beside: restored });
    expect((await recovered.get('/readyz')).status).toBe(200);
    expect((await send(recovered, 'd', of)).stream).toBe(`acme/${of}/e3`);
    await recovered.checkLog();
  }, 60_000);

  test('survives kill -9 of the signer between any two steps: one epoch, opened once, told once', async () => {
    const first = await start();
    await send(first, 'e-0');
    await first.app.close();
    // A replica without a signer, which lives through all of it.
    const idle = await start({ beside: first, environment: NO_SIGNER });
    let [epoch, months] = [1, 12];
    const steps = someOf(['turning', 'closed', 'closing signed', 'opened'], 2);
    for (const step of steps) {
      months -= 1;
      const asked = await set(idle, 'data_access', { months });
      expect(asked.state).toBe('waiting');
      const child = join(import.meta.dirname, 'support/signing-child.ts');
      const env = { ...PROGRAM_ENVIRONMENT, ...first.environment, ...FLOORS };
      const died = await run(process.execPath, [child, step, '1'], { env }).then(
        ({ stdout }) => stdout,
        (error: { signal: string }) => error.signal,
      );
      expect([step, died]).toEqual([step, 'SIGKILL']);
      // Nobody appends between the epochs, and nothing is stamped by the old months behind the new epoch's begin.
      // (The first call finds out that the epoch is another.)
      await idle.post('/v1/events', event(`other-${months}`));
      const between = await idle.post('/v1/events', event(`between-${months}`));
      const isBetween = step === 'closed' || step === 'closing signed';
      expect([step, between.status]).toEqual([step, isBetween ? 503 : 201]);

      epoch += 1;
      const again = await start({ beside: first });
      await untilTurned(again, 'data_access');
      const receipt = (await again.post('/v1/events', event(`between-${months}`))).body;
      expect(receipt.stream).toBe(step === 'turning' ? streamOf(epoch - 1) : streamOf(epoch));
      expect(monthsOf(await send(again, `e-${months}`))).toBe(months);
      const opened = (await records(again, streamOf(epoch))).map(({ action }) => action === 'epoch.opened');
      expect([opened[0], opened.lastIndexOf(true)]).toEqual([true, 0]);
      await again.stop();
    }
    const last = await start({ beside: first });
    expect((await last.get('/readyz')).status).toBe(200);
    expect((await told(idle)).filter(({ action }) => action === 'retention.shortened')).toHaveLength(steps.length);
    const { rows } = await last.adminPool.query(
      `SELECT epoch FROM sealog.stream WHERE name ~ '^acme/data_access' ORDER BY epoch`,
    );
    expect(rows.map((row) => row.epoch)).toEqual([1, 2, 3, 4, 5].slice(0, steps.length + 1));
    await last.checkLog();
    expect(await findingsOf(last, adversarysPool(last))).toEqual([]);
  }, 120_000);
});

function streamOf(epoch: number): string {
  return epoch === 1 ? 'acme/data_access' : `acme/data_access/e${epoch}`;
}

describe('an event without its evidence', () => {
  test('is refused, or taken and marked, as the policy says: alone, in batches, on both replicas, and for ever', async () => {
    const one = await start();
    const two = await start({ beside: one, environment: NO_SIGNER });
    const { actor: _, ...bare } = event('bare') as { actor: object };
    const refused = await one.post('/v1/events', bare);
    expect([refused.status, refused.body.errors[0].field]).toEqual([400, 'actor']);
    await set(one, 'data_access', { months: 12, evidence: 'flag' });
    const taken = await one.post('/v1/events', bare);
    expect(taken.status, taken.text).toBe(201);
    // What is wrong beside that is refused as ever, and what lacks nothing is not marked.
    const wrong = await one.post('/v1/events', { ...bare, id: 'wrong', severity: 11 });
    expect([wrong.status, wrong.body.errors.map(({ field }: { field: string }) => field).sort()]).toEqual([
      400,
      ['actor', 'severity'],
    ]);
    const { target: __, ...barer } = bare as { target?: object };
    const batch = await one.post('/v1/events/batch', [
      { ...barer, id: 'b-1' },
      event('b-2'),
      { ...bare, id: 'b-3', colour: 'red' },
    ]);
    expect(batch.body.items.map(({ status }: { status: number }) => status)).toEqual([201, 201, 400]);
    // The other category's rule is its own.
    expect((await one.post('/v1/events', { ...bare, category: 'user_authentication' })).status).toBe(400);

    for (const [id, evidence] of [
      ['bare', 'incomplete'],
      ['b-1', 'incomplete'],
      ['b-2', undefined],
    ] as const) {
      const { body } = await one.get(`/v1/events/${id}`);
      expect([id, body.log.evidence, body.evidence]).toEqual([id, evidence, undefined]);
    }
    const { body: page } = await one.get('/v1/events?category=data_access&action=report.view&order=asc');
    expect(page.items.map(({ log }: { log: { evidence?: string } }) => log.evidence)).toEqual([
      'incomplete',
      'incomplete',
      undefined,
    ]);
    expect((await records(one, 'acme/data_access')).filter(({ evidence }) => evidence === 'incomplete')).toHaveLength(
      2,
    );
    const csv = await fetch(`${one.url}/v1/export?format=csv&category=data_access&action=report.view`, {
      headers: { authorization: `Bearer ${await one.token('auditor')}` },
    });
    expect((await csv.text()).split('\n').filter((line) => line.includes(',"incomplete",'))).toHaveLength(2);
    // Another replica learns of it when it looks again.
    await until(
      async () => (await two.post('/v1/events', { ...bare, id: 'on-two' })).status === 201,
      'the other replica takes it',
    );
    await set(two, 'data_access', { months: 12, evidence: 'refuse' });
    expect((await two.post('/v1/events', { ...bare, id: 'late' })).status).toBe(400);
    // A repeat of what was taken is what it was.
    expect((await one.post('/v1/events', bare)).status).toBe(200);
    await one.checkLog();
  });
});
