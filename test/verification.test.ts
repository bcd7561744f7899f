/** Verification as a job: asked for over HTTP, done by the service beside its work, resumed by whoever is there. */
import { mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { checkShape } from '../src/http/api-schema.ts';
import { SigningKeys } from '../src/signer/seeds.ts';
import { copied } from './support/copied.ts';
import { type Answer, type ServiceOptions, startService, type TestService } from './support/service.ts';
import { startWitness } from './support/witness.ts';

function tiny(category: string, n: number): object {
  return {
    id: `${category}-${n}`,
    category,
    action: `thing.act${n % 3}`,
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'mes' },
    actor: { type: 'user', id: `u${n % 5}` },
    target: { type: 'thing', id: `t${n % 7}` },
  };
}

async function fill(service: TestService, category: string, from: number, count: number, tenant = 'acme') {
  const events = Array.from({ length: count }, (_, i) => tiny(category, from + i));
  const { status, body } = await service.post('/v1/events/batch', events, {
    token: await service.token('service', tenant),
  });
  expect([status, body.errors], JSON.stringify(body).slice(0, 500)).toEqual([200, false]);
}

/** The adversary: one statement as superuser, without triggers. */
async function tamper(service: TestService, table: string, statement: string): Promise<void> {
  // What was not signed yet would be refused by the signer, and then nothing is appended, not even that somebody asked.
  await until(async () => {
    const { rows } = await service.adminPool.query(
      `SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
       WHERE s.size > 0 AND s.category <> 'anchor' AND c.size IS DISTINCT FROM s.size`,
    );
    return rows.length === 0 ? true : undefined;
  }, 'everything is signed');
  const client = await service.adminPool.connect();
  try {
    await client.query('BEGIN');
    await client.query(`ALTER TABLE sealog.${table} DISABLE TRIGGER ALL`);
    const { rowCount } = await client.query(statement);
    expect(rowCount).toBeGreaterThan(0);
    await client.query(`ALTER TABLE sealog.${table} ENABLE ALWAYS TRIGGER append_only`);
    await client.query(`ALTER TABLE sealog.${table} ENABLE ALWAYS TRIGGER no_truncate`);
    await client.query('COMMIT');
  } finally {
    client.release();
  }
}

async function request(service: TestService, body: unknown = {}, tenant = 'acme'): Promise<Answer> {
  return service.post('/v1/verifications', body, { token: await service.token('auditor', tenant) });
}

async function until<T>(look: () => Promise<T | undefined>, what: string, ms = 30_000): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(50);
  }
}

/** Asks for a verification, and waits for its end. */
async function verified(service: TestService, body: unknown = {}, tenant = 'acme') {
  const { status, headers, body: run } = await request(service, body, tenant);
  expect(status, JSON.stringify(run)).toBe(202);
  expect(headers['location']).toBe(`/v1/verifications/${run.id}`);
  return ended(service, run.id, tenant);
}

/** Waits beside the service: each look over HTTP is an entry of the log that is being verified. */
async function ended(service: TestService, id: string, tenant = 'acme') {
  await until(
    async () => (['done', 'failed'].includes((await row(service, id)).state) ? true : undefined),
    'the run ends',
  );
  return until(async () => {
    const { status, body } = await service.get(`/v1/verifications/${id}`, {
      token: await service.token('auditor', tenant),
    });
    // Its database may be away for a moment.
    if (status === 503) return undefined;
    expect([status, checkShape('Verification', body)]).toEqual([200, []]);
    return body;
  }, 'the run is read');
}

async function started(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService(options);
  onTestFinished(() => service.stop());
  return service;
}

async function row(service: TestService, id: string) {
  const { rows } = await service.adminPool.query('SELECT * FROM sealog.verification WHERE id = $1', [id]);
  return rows[0];
}

describe('a job', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService({ verification: { share: 1 } });
    await fill(service, 'user_authentication', 0, 300);
    await fill(service, 'system_operation', 0, 40);
    await fill(service, 'user_authentication', 0, 7, 'initech');
  });
  afterAll(() => service.stop());

  test('over a sound log says what was checked, and that nobody outside vouches for it', async () => {
    const run = await verified(service);
    expect(run).toMatchObject({
      state: 'done',
      category: null,
      verdict: 'not_provable',
      error: null,
      findings: [],
      unchecked: [],
      truncated: false,
      key: { trusted: 'signer' },
      progress: { entries: 341, of: 341, stream: null, streams: 3 },
    });
    expect(run.streams).toEqual([
      // That it was asked for is in the log that it is about.
      expect.objectContaining({ stream: 'acme/data_access', size: 1 }),
      expect.objectContaining({ stream: 'acme/system_operation', size: 40 }),
      {
        stream: 'acme/user_authentication',
        size: 300,
        verdict: 'not_provable',
        anchored: [],
        unanchored: { from: 0, to: 300 },
        ...{ pinned: [], lost: null, pruned: [], erased: [] },
      },
    ]);
    expect([run.requestedAt, run.startedAt, run.finishedAt]).toEqual(
      [run.requestedAt, run.startedAt, run.finishedAt].toSorted(),
    );
    expect((await row(service, run.id)).requested_by).toBe('test-auditor');
  });

  test('of one category leaves the others alone', async () => {
    const run = await verified(service, { category: 'system_operation' });
    expect(run).toMatchObject({ category: 'system_operation', verdict: 'not_provable', findings: [] });
    expect(run.streams.map(({ stream }: { stream: string }) => stream)).toEqual(['acme/system_operation']);
    const empty = await verified(service, { category: 'security_event' });
    expect(empty).toMatchObject({ verdict: 'intact', streams: [], progress: { entries: 0 } });
  });

  test('is a tenant’s own', async () => {
    const run = await verified(service, {}, 'initech');
    expect(run.streams).toMatchObject([
      { stream: 'initech/data_access', size: 1 },
      { stream: 'initech/user_authentication', size: 7 },
    ]);
    expect((await service.get(`/v1/verifications/${run.id}`)).body).toMatchObject({ code: 'not_found' });
    const { body } = await service.get('/v1/verifications?limit=100');
    expect(body.items.map(({ id }: { id: string }) => id)).not.toContain(run.id);
  });

  test.each([
    ['no JSON', 'x', 400, 'invalid_json'],
    ['a name twice', '{"category":"data_access","category":"data_access"}', 400, 'invalid_json'],
    ['no object', [], 400, 'invalid_request'],
    ['null', null, 400, 'invalid_request'],
    ['an unknown member', { categories: [] }, 400, 'invalid_request'],
    ['an unknown category', { category: 'x' }, 400, 'invalid_request'],
    ['a category that is no text', { category: null }, 400, 'invalid_request'],
    ['too much', `{"category":"${'x'.repeat(5000)}"}`, 413, 'too_large'],
  ])('is refused for %s', async (_, body, status, code) => {
    expect(await request(service, body)).toMatchObject({ status, body: { code } });
  });

  test('is refused to whoever may not, and where there is nothing to look at', async () => {
    for (const role of ['service', 'privacy_officer', 'plant_manager'] as const) {
      const token = await service.token(role);
      expect((await service.post('/v1/verifications', {}, { token })).status).toBe(403);
      expect((await service.get('/v1/verifications', { token })).status).toBe(403);
    }
    expect((await request(service, {}, 'nobody')).body).toMatchObject({ code: 'not_found' });
    expect((await service.get('/v1/verifications/1')).status).toBe(400);
    expect((await service.get('/v1/verifications/00000000-0000-0000-0000-000000000000')).status).toBe(404);
    const token = await service.token('auditor', 'nobody');
    expect((await service.get('/v1/verifications', { token })).body).toEqual({ items: [], next: null });
  });

  test('stays in the history, newest first, page by page', async () => {
    for (let i = 0; i < 3; i++) await verified(service, { category: 'system_operation' });
    const all = (await service.get('/v1/verifications?limit=100')).body;
    expect([checkShape('VerificationPage', all), all.next]).toEqual([[], null]);
    const seen: unknown[] = [];
    for (let cursor = ''; ; ) {
      const { body } = await service.get(`/v1/verifications?limit=2${cursor}`);
      seen.push(...body.items);
      if (body.next === null) break;
      expect(body.items).toHaveLength(2);
      cursor = `&cursor=${body.next}`;
    }
    expect(seen).toEqual(all.items);
    const times = all.items.map(({ requestedAt }: { requestedAt: string }) => requestedAt);
    expect(times).toEqual(times.toSorted().reverse());
    expect((await service.get('/v1/verifications?cursor=abc')).body).toMatchObject({ code: 'invalid_request' });
  });

  test('that is finished can not be corrected, nor another be made of one', async () => {
    const run = await verified(service, { category: 'system_operation' });
    for (const change of [`verdict = 'intact'`, `report = '{}'`, `state = 'running'`, `error = 'x'`, 'attempts = 7']) {
      const statement = `UPDATE sealog.verification SET ${change} WHERE id = $1`;
      await expect(service.adminPool.query(statement, [run.id])).rejects.toThrow(/is finished/);
      await expect(service.app.database.writer.query(statement, [run.id])).rejects.toThrow(/is finished/);
    }
    for (const statement of ['DELETE FROM sealog.verification', 'TRUNCATE sealog.verification'])
      await expect(service.adminPool.query(statement)).rejects.toThrow(/append-only/);
    await expect(service.app.database.writer.query(`UPDATE sealog.verification SET tenant = 1`)).rejects.toThrow(
      /permission denied/,
    );
    await expect(service.app.database.writer.query(`UPDATE sealog.verification SET number = 1`)).rejects.toThrow();
    await expect(service.app.database.reader.query(`DELETE FROM sealog.verification`)).rejects.toThrow();
  });
});

describe('what a job finds', () => {
  test('a changed record, by its entry, and in its own tenant alone', async () => {
    const service = await started({ verification: { share: 1 } });
    for (const tenant of ['acme', 'initech'])
      for (const category of ['user_authentication', 'system_operation']) await fill(service, category, 0, 20, tenant);
    await tamper(
      service,
      'block',
      `UPDATE sealog.block SET records = set_byte(records, 30, get_byte(records, 30) # 1)
       WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication')`,
    );
    const run = await verified(service);
    expect(run.verdict).toBe('tampered');
    expect(run.findings.length).toBeGreaterThan(0);
    for (const finding of run.findings) expect(finding).toMatchObject({ stream: 'acme/user_authentication' });
    const verdicts = run.streams.map((one: { stream: string; verdict: string }) => [one.stream, one.verdict]);
    expect(verdicts).toEqual([
      ['acme/data_access', 'not_provable'],
      ['acme/system_operation', 'not_provable'],
      ['acme/user_authentication', 'tampered'],
    ]);
    expect(await verified(service, { category: 'system_operation' })).toMatchObject({ verdict: 'not_provable' });
    expect(await verified(service, {}, 'initech')).toMatchObject({ verdict: 'not_provable', findings: [] });
  });

  test('a stream that is gone, by what the signer signed; also where it was the only one', async () => {
    const service = await started({ verification: { share: 1 } });
    await fill(service, 'user_authentication', 0, 20);
    await fill(service, 'system_operation', 0, 20);
    await until(
      async () => ((await service.adminPool.query('SELECT FROM sealog.checkpoint')).rowCount! >= 2 ? true : undefined),
      'both are signed',
    );
    const client = await service.adminPool.connect();
    await client.query('BEGIN');
    for (const table of ['block', 'entry_id', 'tile', 'data_key', 'checkpoint', 'anchor_leaf', 'stream']) {
      await client.query(`ALTER TABLE sealog.${table} DISABLE TRIGGER ALL`);
      const column = table === 'stream' ? 'id' : 'stream';
      await client.query(
        `DELETE FROM sealog.${table} WHERE ${column} = (SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication')`,
      );
    }
    await client.query('COMMIT');
    client.release();
    for (const body of [{}, { category: 'user_authentication' }]) {
      const run = await verified(service, body);
      expect(run.verdict).toBe('tampered');
      expect(run.findings).toContainEqual(
        expect.objectContaining({ stream: 'acme/user_authentication', kind: 'truncated' }),
      );
    }
    expect(await verified(service, { category: 'system_operation' })).toMatchObject({ verdict: 'not_provable' });
  });

  test('a key that is away: incomplete, never tampered', async () => {
    const service = await started({ verification: { share: 1 } });
    await fill(service, 'user_authentication', 0, 20);
    // That it was read is sealed with keys that the service has at hand from now on.
    expect((await service.get('/v1/streams')).status).toBe(200);
    const { monthKeysDir } = service.config;
    const keys = (await readdir(monthKeysDir)).filter((name) => name !== 'signer');
    for (const name of keys) await rename(join(monthKeysDir, name), join(monthKeysDir, `.${name}`));
    const run = await verified(service);
    expect(run).toMatchObject({ verdict: 'incomplete', findings: [] });
    expect(run.unchecked).toContainEqual(expect.objectContaining({ stream: 'acme/user_authentication', entries: 20 }));
    for (const name of keys) await rename(join(monthKeysDir, `.${name}`), join(monthKeysDir, name));
    expect(await verified(service)).toMatchObject({ verdict: 'not_provable', unchecked: [] });
  });

  test('anchors: what is not anchored yet is waited for, and then intact', async () => {
    const service = await anchored(await anchorsFile());
    await fill(service, 'user_authentication', 0, 20);
    const run = await verified(service);
    expect(run).toMatchObject({ verdict: 'intact', findings: [], unchecked: [] });
    expect(run.streams).toMatchObject([
      { stream: 'acme/data_access', anchored: [{ from: 0, to: 1 }], unanchored: null },
      { stream: 'acme/user_authentication', anchored: [{ from: 0, to: 20 }], unanchored: null },
    ]);
  });
});

/** A file that names one witness, and what makes it know the log. */
async function anchorsFile() {
  const witness = await startWitness({});
  onTestFinished(() => witness.close());
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-anchors-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'anchors.json');
  const anchor = { name: 'w', type: 'witness', url: witness.url, vkey: witness.vkey, everySeconds: 1 };
  await writeFile(file, JSON.stringify({ anchors: [anchor] }));
  return { file, know: (vkey: string) => witness.know(vkey) };
}

async function anchored(anchors: Awaited<ReturnType<typeof anchorsFile>>, options: ServiceOptions = {}) {
  const service = await started({
    verification: { share: 1 },
    ...options,
    environment: {
      SEALOG_ANCHORS_FILE: anchors.file,
      SEALOG_ANCHOR_SECONDS: '1',
      SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32',
    },
  });
  const seed = Buffer.from((await readFile(join(service.config.signerDir!, 'seed-0001'), 'utf8')).trim(), 'hex');
  anchors.know(new SigningKeys(seed).signer('log.example/sealog/anchor').vkey);
  return service;
}

describe('a job that is long', () => {
  /** A short stream, then one that takes its time, at the share of a processor that these jobs have: filled once, and stopped. */
  let filled: TestService;
  beforeAll(async () => {
    filled = await startService();
    await fill(filled, 'system_operation', 0, 500);
    for (let n = 0; n < 8000; n += 4000) await fill(filled, 'user_authentication', n, 4000);
    await filled.app.close();
  });
  afterAll(() => filled?.stop());

  /** What a service may start beside to have that log, and its signer, for itself. */
  async function aCopy(): Promise<TestService> {
    const { log, remove } = await copied(filled);
    onTestFinished(remove);
    return log;
  }

  async function long(options: ServiceOptions = {}): Promise<TestService> {
    return started({ verification: { share: 0.05 }, ...options, beside: await aCopy() });
  }

  /** Returns the run once it is in the middle of its last stream, behind the entry about its request and the short stream. */
  async function inTheMiddle(service: TestService, id: string) {
    await until(async () => {
      const { state, progress } = await row(service, id);
      const { entries, streams, stream } = progress;
      expect(state).not.toBe('done');
      return streams === 2 && entries > 501 && stream === 'acme/user_authentication' ? true : undefined;
    }, 'the last stream is being read');
    return (await service.get(`/v1/verifications/${id}`)).body;
  }

  test('tells how far it is, keeps others waiting, and at most three of a tenant', async () => {
    const service = await long();
    await fill(service, 'system_operation', 0, 5, 'initech');
    const { body: first } = await request(service);
    expect(first).toMatchObject({ state: 'waiting', startedAt: null, verdict: null, streams: [] });
    const middle = await inTheMiddle(service, first.id);
    expect(middle).toMatchObject({ state: 'running', verdict: null, finishedAt: null, progress: { of: 8501 } });
    expect(middle.streams).toMatchObject([
      { stream: 'acme/data_access', size: 1 },
      { stream: 'acme/system_operation', size: 500 },
    ]);
    for (let i = 0; i < 2; i++) expect((await request(service)).status).toBe(202);
    const refused = await request(service);
    expect(refused).toMatchObject({ status: 503, body: { code: 'busy' } });
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect((await request(service, {}, 'initech')).status).toBe(202);
    const states = (await service.get('/v1/verifications')).body.items.map(({ state }: { state: string }) => state);
    expect(states).toEqual(['waiting', 'waiting', 'running']);
    const begin = performance.now();
    await service.app.close();
    // The server's own grace is not needed: nobody asks.
    expect(performance.now() - begin).toBeLessThan(2500);
    expect(await row(service, first.id)).toMatchObject({ state: 'running', owner: null, heartbeat: null, attempts: 0 });
  });

  test('is gone on with by the next service, behind what is finished', async () => {
    const first = await long();
    const { body: run } = await request(first);
    await inTheMiddle(first, run.id);
    await first.app.close();
    // Who reads it again would find this. Who goes on does not look.
    await tamper(
      first,
      'block',
      `UPDATE sealog.block SET records = set_byte(records, 30, get_byte(records, 30) # 1)
       WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/system_operation')`,
    );
    const second = await started({ beside: first, verification: { share: 1 } });
    const end = await ended(second, run.id);
    expect(end).toMatchObject({
      verdict: 'not_provable',
      findings: [],
      progress: { entries: 8501, of: 8501, streams: 3 },
    });
    expect(end.streams.map(({ size }: { size: number }) => size)).toEqual([1, 500, 8000]);
    expect(await verified(second, { category: 'system_operation' })).toMatchObject({ verdict: 'tampered' });
  });

  test('who vouches for a stream that was finished before is looked for again at the end', async () => {
    const anchors = await anchorsFile();
    // It is not anchored while the first service runs: nobody told the witness of the log.
    const untold = { ...anchors, know: () => {} };
    const first = await anchored(untold, { verification: { share: 0.05 }, beside: await aCopy() });
    const { body: run } = await request(first);
    const middle = await inTheMiddle(first, run.id);
    expect(middle.streams).toMatchObject([{}, { verdict: 'not_provable', anchored: [] }]);
    await first.app.close();
    const second = await anchored(anchors, { beside: first });
    const end = await ended(second, run.id);
    expect(end).toMatchObject({ verdict: 'intact', findings: [], unchecked: [] });
    expect(end.streams).toMatchObject([
      { verdict: 'intact', anchored: [{ from: 0, to: 1 }], unanchored: null },
      { verdict: 'intact', anchored: [{ from: 0, to: 500 }], unanchored: null },
      { verdict: 'intact', anchored: [{ from: 0, to: 8000 }], unanchored: null },
    ]);
  });

  test('is not taken from who lives, and is from who died', async () => {
    const first = await long();
    const { body: run } = await request(first);
    await inTheMiddle(first, run.id);
    const second = await started({
      beside: first,
      verification: { share: 1, timing: { silentMs: 3000, lookMs: 100 } },
    });
    const { owner, heartbeat } = await row(first, run.id);
    expect(owner).not.toBeNull();
    await until(async () => ((await row(first, run.id)).heartbeat > heartbeat ? true : undefined), 'a heartbeat');
    await delay(500);
    expect((await row(first, run.id)).owner).toBe(owner);
    // As if it had been killed: somebody else's run, and silence.
    await first.adminPool.query(
      `UPDATE sealog.verification SET owner = gen_random_uuid(), heartbeat = clock_timestamp() - interval '2.5 seconds' WHERE id = $1`,
      [run.id],
    );
    const end = await ended(second, run.id);
    expect(end).toMatchObject({ state: 'done', verdict: 'not_provable', progress: { entries: 8501 } });
    expect((await row(first, run.id)).attempts).toBeLessThan(2);
  });

  test('goes on when its database connections were cut', async () => {
    const service = await long({ verification: { share: 0.04 } });
    const { body: run } = await request(service);
    await inTheMiddle(service, run.id);
    const cut = await service.adminPool.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sealog_%'`,
    );
    expect(cut.rowCount).toBeGreaterThan(0);
    const end = await ended(service, run.id);
    expect(end).toMatchObject({ state: 'done', verdict: 'not_provable', findings: [], error: null });
  });

  test('fails when it was begun again and again, and says nothing of the log', async () => {
    const service = await started({ verification: { share: 1, timing: { lookMs: 100 } } });
    await fill(service, 'system_operation', 0, 5);
    const { rows } = await service.adminPool.query(
      `INSERT INTO sealog.verification (kind, tenant, requested_by, attempts)
       SELECT 'job', id, 'test', 8 FROM sealog.tenant WHERE name = 'acme' RETURNING id`,
    );
    const end = await ended(service, rows[0].id);
    expect(end).toMatchObject({
      state: 'failed',
      verdict: null,
      findings: [],
      error: expect.stringContaining('8 times'),
    });
  });
});
