/**
 * Appending over a wire that breaks: whatever happens between the service and PostgreSQL, an answer is the truth.
 *
 * 201 and 200: it is stored. 503: nothing was stored. 504 `outcome_unknown`: nobody knows, and repeating it with the same id settles it.
 */
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { migrate } from '../src/store/migrate.ts';
import { startPrivatePostgres } from './support/private-postgres.ts';
import { type Answer, startService, type TestService } from './support/service.ts';
import { type Fate, onceAt, passAll, startProxy, type TcpProxy } from './support/tcp-proxy.ts';

type Json = Record<string, unknown>;

/** The client's limit for an answer of the database (src/store/database.ts), and as much again for what comes before and after it. */
const ANSWER_MAX_MS = 5000;
const SLACK_MS = 2500;

/** The service with a sound wire: migrates, checks, and stores what others must find. */
let sound: TestService;
/** A replica of it behind the proxy. */
let service: TestService;
let proxy: TcpProxy;
let count = 0;

beforeEach(async () => {
  sound = await startService();
  const { appConfig } = sound.database;
  proxy = await startProxy(appConfig);
  const behind = { ...sound.database, appConfig: { ...appConfig, host: '127.0.0.1', port: proxy.port } };
  service = await startService({ beside: { ...sound, database: behind } });
  // Opens stream, key and connection, so that what follows is one transaction.
  expect((await service.post('/v1/events', event())).status).toBe(201);
});

afterEach(async () => {
  proxy.rule = passAll;
  await service.stop();
  await proxy.close();
  await sound.checkLog();
  await sound.stop();
});

function event(more: Json = {}): Json {
  count += 1;
  return {
    id: `fault-${count}`,
    category: 'system_operation',
    action: 'thing.happen',
    outcome: 'success',
    occurredAt: '2026-11-22T21:04:05Z',
    source: { service: 'test' },
    details: { count },
    ...more,
  };
}

async function size(): Promise<number> {
  const { rows } = await sound.adminPool.query('SELECT coalesce(sum(size), 0)::int AS size FROM sealog.stream');
  return rows[0].size;
}

async function timed<T>(work: Promise<T>): Promise<[T, number]> {
  const start = performance.now();
  return [await work, performance.now() - start];
}

async function eventually(work: () => Promise<boolean>, withinMs: number): Promise<number> {
  const start = performance.now();
  while (!(await work())) {
    if (performance.now() - start > withinMs) throw new Error(`not within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return performance.now() - start;
}

const ready = async () => (await service.get('/readyz', { token: null })).status === 200;

function expectNothingStored(answer: Answer): void {
  expect(answer.status).toBe(503);
  expect(['busy', 'not_ready']).toContain(answer.body.code);
  expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
}

describe('the answer to COMMIT', () => {
  it('lost: outcome_unknown; repeating it gives the receipt of what was stored, once', async () => {
    proxy.rule = onceAt('COMMIT', 'cut_answer');
    const sent = event();
    const lost = await service.post('/v1/events', sent);
    expect([lost.status, lost.body.code]).toEqual([504, 'outcome_unknown']);
    await eventually(async () => (await size()) === 2, 2000);

    const again = await service.post('/v1/events', sent);
    expect([again.status, again.body.seq]).toEqual([200, 1]);
    const elsewhere = await sound.post('/v1/events', sent);
    expect([elsewhere.status, elsewhere.text]).toEqual([200, again.text]);
    expect((await sound.post('/v1/events', { ...sent, outcome: 'failure' })).status).toBe(409);
    expect((await service.post('/v1/events', event())).body.seq).toBe(2);
    expect(await size()).toBe(3);
  });

  it('lost for a group: each of its requests hears it, and each repeat finds its entry', async () => {
    proxy.rule = onceAt('COMMIT', 'cut_answer');
    const events = Array.from({ length: 20 }, () => event());
    const answers = await Promise.all(events.map((one) => service.post('/v1/events', one)));
    const unknown = answers.filter((answer) => answer.status === 504);
    expect(unknown.length).toBeGreaterThan(0);
    for (const answer of answers) expect([201, 504]).toContain(answer.status);

    const again = await Promise.all(events.map((one) => service.post('/v1/events', one)));
    for (const [n, answer] of again.entries()) {
      expect(answer.status).toBe(200);
      if (answers[n]!.status === 201) expect(answer.text).toBe(answers[n]!.text);
    }
    expect(new Set(again.map((answer) => answer.body.seq)).size).toBe(20);
    expect(await size()).toBe(21);
  });

  it.each(['', '?atomic=true'])('lost for a batch%s: the repeat gives all receipts', async (query) => {
    proxy.rule = onceAt('COMMIT', 'cut_answer');
    const events = [event(), event({ category: 'security_event', severity: 3 }), event()];
    // The first of a category makes its stream, which is another transaction; this one is the group's.
    const lost = await service.post(`/v1/events/batch${query}`, events);
    expect([lost.status, lost.body.code]).toEqual([504, 'outcome_unknown']);
    const again = await service.post(`/v1/events/batch${query}`, events);
    expect(again.body.items.map((item: Json) => item.status)).toEqual([200, 200, 200]);
    expect(await size()).toBe(4);
  });

  it('a backend ended while it commits: stored or outcome_unknown, and the repeat settles it', async () => {
    let ending: Promise<void> | undefined;
    proxy.rule = (statement) => {
      if (statement === 'COMMIT') ending ??= endBackends();
      return 'pass';
    };
    const sent = event();
    const answer = await service.post('/v1/events', sent);
    proxy.rule = passAll;
    await ending;
    // Which of the two was first is nobody's to say; whatever is said must be true.
    expect([201, 503, 504]).toContain(answer.status);
    const again = await repeated(sent);
    if (answer.status === 201) expect([again.status, again.text]).toEqual([200, answer.text]);
    if (answer.status === 503) expect(again.status).toBe(201);
    expect(again.body.seq).toBe(1);
    expect(await size()).toBe(2);
  });

  it.each<[string, Fate]>([
    ['write', 'cut'],
    ['write', 'cut_answer'],
    ['COMMIT', 'cut'],
  ])(
    'that may have arrived, with a cut at %s (%s): outcome_unknown, and the repeat settles it',
    async (statement, fate) => {
      // The write and the COMMIT travel together.
      proxy.rule = onceAt(statement, fate);
      const sent = event();
      const lost = await service.post('/v1/events', sent);
      expect([lost.status, lost.body.code]).toEqual([504, 'outcome_unknown']);
      const again = await repeated(sent);
      expect([200, 201]).toContain(again.status);
      expect(again.body.seq).toBe(1);
      expect((await service.post('/v1/events', sent)).text).toBe(again.text);
      expect(await size()).toBe(2);
    },
  );
});

describe('a break before COMMIT', () => {
  it.each<[string, Fate]>([
    ['BEGIN', 'cut'],
    ['BEGIN', 'cut_answer'],
    ['lock_streams', 'cut'],
    ['lock_streams', 'cut_answer'],
    ['seen', 'cut'],
    ['seen', 'cut_answer'],
  ])('at %s (%s): 503 at once, nothing stored, and a retry works', async (statement, fate) => {
    proxy.rule = onceAt(statement, fate);
    const sent = event();
    const [answer, ms] = await timed(service.post('/v1/events', sent));
    expectNothingStored(answer);
    expect(ms).toBeLessThan(1500);
    expect(await size()).toBe(1);
    const again = await service.post('/v1/events', sent);
    expect([again.status, again.body.seq]).toEqual([201, 1]);
    expect(await size()).toBe(2);
  });

  it('a backend that is ended while it waits for the lock: 503, nothing stored, and a retry works', async () => {
    await whileLocked(async () => {
      const sent = event();
      const answering = service.post('/v1/events', sent);
      await eventually(async () => (await lockWaiters()) === 1, 10_000);
      await endBackends();
      expectNothingStored(await answering);
      expect(await size()).toBe(1);
    });
    // All backends were ended: another idle connection may be found dead by a request, which then is a 503 of its own.
    const sent = event();
    await eventually(async () => (await service.post('/v1/events', sent)).status === 201, 5000);
    expect(await size()).toBe(2);
  });

  it('backends ended while idle: the next events are stored, or 503 and stored when repeated', async () => {
    await endBackends();
    const sent = event();
    const answer = await service.post('/v1/events', sent);
    if (answer.status !== 201) expectNothingStored(answer);
    expect([200, 201]).toContain((await repeated(sent)).status);
    expect(await size()).toBe(2);
  });

  it('a stream locked by somebody else: 503 busy, and stored when it is free', async () => {
    const sent = event();
    await whileLocked(async () => {
      const [answer, ms] = await timed(service.post('/v1/events', sent));
      expectNothingStored(answer);
      expect(answer.body.code).toBe('busy');
      expect(ms).toBeLessThan(3500);
    });
    expect((await service.post('/v1/events', sent)).status).toBe(201);
  });
});

describe('the database is down', () => {
  it('503 within seconds for writers, readyz red, and back by itself', async () => {
    expect(await ready()).toBe(true);
    await proxy.down();
    for (let n = 0; n < 3; n++) {
      const [answer, ms] = await timed(service.post('/v1/events', event()));
      expectNothingStored(answer);
      expect(ms).toBeLessThan(3000);
    }
    const [batch, batchMs] = await timed(service.post('/v1/events/batch', [event(), event()]));
    expectNothingStored(batch);
    expect(batchMs).toBeLessThan(3000);
    const [health, healthMs] = await timed(service.get('/readyz', { token: null }));
    expect([health.status, health.body.code]).toEqual([503, 'not_ready']);
    expect(healthMs).toBeLessThan(3000);
    expect((await service.get('/healthz', { token: null })).status).toBe(200);
    expect(await size()).toBe(1);

    await proxy.up();
    expect((await service.post('/v1/events', event())).status).toBe(201);
    await eventually(ready, 3000);
    expect(await size()).toBe(2);
  });

  // Ten seconds long.
  it.skipIf(process.env.SEALOG_TEST_HARD === undefined)('is ready without an event once it is back', async () => {
    await proxy.down();
    expectNothingStored(await service.post('/v1/events', event()));
    expect(await ready()).toBe(false);
    await proxy.up();
    // The last refusal is remembered for ten seconds, since nobody sends to a service that is not ready.
    await eventually(ready, 12_000);
  });

  it('503 for readers', async () => {
    await proxy.down();
    for (const path of ['/v1/events', '/v1/streams', '/v1/events/fault-1']) {
      const [answer, ms] = await timed(service.get(path));
      expect([path, answer.status, answer.body.code]).toEqual([path, 503, 'not_ready']);
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
      expect(ms).toBeLessThan(3000);
    }
    await proxy.up();
    // Without what the log tells of this read itself.
    expect((await service.get('/v1/events?action=thing.happen')).body.items).toHaveLength(1);
  });

  it('under load: every 201 is stored, every 503 is not, and what was unknown is settled by repeating', async () => {
    const answers: { sent: Json; status: number }[] = [];
    let running = true;
    const writers = Array.from({ length: 8 }, async () => {
      while (running) {
        const sent = event();
        answers.push({ sent, status: (await service.post('/v1/events', sent)).status });
      }
    });
    for (let n = 0; n < 4; n++) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      await proxy.down();
      await new Promise((resolve) => setTimeout(resolve, 100));
      await proxy.up();
    }
    running = false;
    await Promise.all(writers);
    const { rows } = await sound.adminPool.query('SELECT sum(cardinality(ids))::int AS count FROM sealog.entry_id');
    const count = (status: number) => answers.filter((answer) => answer.status === status).length;
    expect(answers.every(({ status }) => [201, 503, 504].includes(status))).toBe(true);
    expect(count(201)).toBeGreaterThan(0);
    expect(count(503)).toBeGreaterThan(0);
    expect(rows[0].count).toBeGreaterThanOrEqual(count(201) + 1);
    expect(rows[0].count).toBeLessThanOrEqual(count(201) + count(504) + 1);
    for (const { sent, status } of answers.filter((_, n) => n % 7 === 0)) {
      const again = await sound.post('/v1/events', sent);
      if (status === 201) expect(again.status).toBe(200);
      else if (status === 503) expect(again.status).toBe(201);
      else expect([200, 201]).toContain(again.status);
    }
  });
});

describe('a repeat that can not be compared, since its entry can not be read now', () => {
  /** Cuts the reader's connections from the next COMMIT on. */
  function cutReaders(): void {
    let committed = false;
    proxy.rule = (statement) => {
      committed ||= statement === 'COMMIT' || statement === 'ROLLBACK';
      return committed && /^(begin|start transaction)/i.test(statement) ? 'cut' : 'pass';
    };
  }

  it('by itself: 503, and its receipt later', async () => {
    const sent = event();
    const first = await service.post('/v1/events', sent);
    cutReaders();
    const answer = await service.post('/v1/events', sent);
    expectNothingStored(answer);
    proxy.rule = passAll;
    expect((await service.post('/v1/events', sent)).text).toBe(first.text);
  });

  it('in a batch: what was stored is not denied', async () => {
    const known = event();
    await service.post('/v1/events', known);
    const { id: _, ...fresh } = event();
    cutReaders();
    const answer = await service.post('/v1/events/batch', [fresh, known]);
    expect(await size()).toBe(3);
    // Without an id nobody could repeat it: either its receipt comes all the same, or nobody knows.
    if (answer.status === 200) expect(answer.body.items[0].status).toBe(201);
    else expect([answer.status, answer.body.code]).toEqual([504, 'outcome_unknown']);
  });
});

describe('a standby that has to have it', () => {
  it('and a wait for it that is cancelled: outcome_unknown; the repeat gives the receipt', async () => {
    const postgres = await startPrivatePostgres();
    let other: TestService | undefined;
    try {
      const admin = postgres.admin;
      const app = { ...admin, user: 'sealog_app', password: 'only-for-tests' };
      const client = new pg.Client(admin);
      await client.connect();
      try {
        await client.query("CREATE ROLE sealog_app LOGIN NOINHERIT PASSWORD 'only-for-tests'");
        await migrate(admin, app.user);
        other = await startService({
          beside: { ...sound, database: { ...sound.database, adminConfig: admin, appConfig: app, appRole: app.user } },
        });
        expect((await other.post('/v1/events', event())).status).toBe(201);
        await client.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
        await client.query('SELECT pg_reload_conf()');
        // Commits wait once the checkpointer has read the setting too, which nothing shows.
        await eventually(async () => {
          const { rows } = await client.query('SHOW synchronous_standby_names');
          return rows[0].synchronous_standby_names === 'nobody';
        }, 5000);
        await new Promise((resolve) => setTimeout(resolve, 2000));
        const sent = event();
        const answering = other.post('/v1/events', sent);
        const cancelled = async () => {
          const { rows } = await client.query(
            "SELECT pg_cancel_backend(pid) AS done FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
          );
          return rows.length > 0;
        };
        await eventually(cancelled, 3000);
        const answer = await answering;
        expect([answer.status, answer.body.code]).toEqual([504, 'outcome_unknown']);
        // Nor is any other statement that commits.
        const changing = expect(
          other.app.database.writer.query("SELECT pg_logical_emit_message(true, 'test', '')"),
        ).rejects.toThrow('the commit is not where it has to be');
        await eventually(cancelled, 3000);
        await changing;
        await client.query('ALTER SYSTEM RESET synchronous_standby_names');
        await client.query('SELECT pg_reload_conf()');
        await eventually(async () => (await other!.post('/v1/events', sent)).status === 200, 5000);
        expect((await other.post('/v1/events', event())).body.seq).toBe(2);
        await other.checkLog();
      } finally {
        await client.end();
      }
    } finally {
      await other?.stop();
      await postgres.stop();
    }
  });
});

describe('a half-open connection', () => {
  it('from the lock on: 503 after the time that an answer may take, then as before', async () => {
    proxy.rule = onceAt('lock_streams', 'swallow');
    const sent = event();
    const [answer, ms] = await timed(service.post('/v1/events', sent));
    expectNothingStored(answer);
    expect(ms).toBeLessThan(ANSWER_MAX_MS + SLACK_MS);
    const again = await service.post('/v1/events', sent);
    expect([again.status, again.body.seq]).toEqual([201, 1]);
    expect(await size()).toBe(2);
  });

  it.each<[string, Fate]>([
    ['write', 'swallow'],
    ['COMMIT', 'swallow_answer'],
  ])('from %s on (%s): outcome_unknown after that time, and the repeat settles it', async (statement, fate) => {
    proxy.rule = onceAt(statement, fate);
    const sent = event();
    const [answer, ms] = await timed(service.post('/v1/events', sent));
    expect([answer.status, answer.body.code]).toEqual([504, 'outcome_unknown']);
    expect(ms).toBeLessThan(ANSWER_MAX_MS + SLACK_MS);
    const again = await repeated(sent);
    expect([again.status, again.body.seq]).toEqual([fate === 'swallow' ? 201 : 200, 1]);
    expect(await size()).toBe(2);
  });
});

/** Sends it until the answer is something else than 503: what was broken may take a moment to be found out. */
async function repeated(sent: Json): Promise<Answer> {
  for (let n = 0; ; n++) {
    const answer = await service.post('/v1/events', sent);
    if (answer.status !== 503 || n === 20) return answer;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Ends the writer's backends that are reached through the proxy. */
async function endBackends(): Promise<void> {
  await sound.adminPool.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'sealog_writer' AND pid <> pg_backend_pid()`,
  );
}

async function lockWaiters(): Promise<number> {
  const { rows } = await sound.adminPool.query(
    `SELECT count(*)::int AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  );
  return rows[0].count;
}

async function whileLocked(work: () => Promise<void>): Promise<void> {
  const holder = await sound.adminPool.connect();
  try {
    await holder.query('BEGIN');
    await holder.query('SELECT FROM sealog.stream FOR UPDATE');
    await work();
    await holder.query('ROLLBACK');
  } finally {
    holder.release();
  }
}
