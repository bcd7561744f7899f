/** The sequencer at work: many writers, several replicas, full queues, clocks that are wrong, and the edges of blocks and tiles. */
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ClockGuard } from '../src/chain/clock-guard.ts';
import { type PendingEntry, pendingEntry, type StreamRef } from '../src/chain/entry.ts';
import { sealWith } from '../src/chain/sealed-run.ts';
import { type AppendStore, type Receipt, Sequencer } from '../src/chain/sequencer.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { dropMonthsAhead } from '../src/retention/partitions.ts';
import { retentionMonths } from '../src/retention/policy.ts';
import { appendStore } from '../src/store/append.ts';
import { ensureDropMonth, findOrStoreKey, keyById } from '../src/store/data-keys.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { Directory } from '../src/store/directory.ts';
import { type EventInput, type GeneratedCategory, generateEvents } from './support/events.ts';
import { type Answer, startService, type TestService, withoutTrail } from './support/service.ts';

type Json = Record<string, unknown>;

const KiB = 1024;
const NDJSON = { headers: { 'content-type': 'application/x-ndjson' } };
const silent = pino({ level: 'silent' });

let count = 0;

function tiny(more: Json = {}): Json {
  count += 1;
  return {
    id: `tiny-${count}`,
    category: 'system_operation',
    action: 'a.b',
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 's' },
    ...more,
  };
}

async function sizeOf(service: TestService, stream?: string): Promise<number> {
  const { rows } = await service.adminPool.query(
    'SELECT coalesce(sum(size), 0)::int AS size FROM sealog.stream WHERE $1::text IS NULL OR name = $1',
    [stream ?? null],
  );
  return rows[0].size;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What was sent, when, and what came back: one event, or several in one request. */
interface Sent {
  readonly sentAt: number;
  readonly answeredAt: number;
  /** New entries and repeats, in order. */
  readonly receipts: readonly Receipt[];
}

/** Sends one event, or a batch, and notes what is needed to judge the answer afterwards. */
async function sendNoted(
  service: TestService,
  events: readonly EventInput[],
  tenant: string,
  atomic = false,
): Promise<Sent> {
  const token = await service.token('service', tenant);
  const path = events.length === 1 ? '/v1/events' : `/v1/events/batch${atomic ? '?atomic=true' : ''}`;
  const body = events.length === 1 ? events[0] : events;
  const sentAt = performance.now();
  let answer = await service.post(path, body, { token });
  // On a machine that is busy with other things a client may have to try again; its receipt is the same.
  for (let n = 0; answer.status === 503 && n < 10; n++) {
    await pause(200);
    answer = await service.post(path, body, { token });
  }
  const answeredAt = performance.now();
  expect([200, 201]).toContain(answer.status);
  const receipts =
    events.length === 1 ? [answer.body] : answer.body.items.map(({ status: _, ...receipt }: Json) => receipt);
  expect(receipts.map((receipt: Receipt) => receipt.id)).toEqual(events.map((event) => event.id));
  return { sentAt, answeredAt, receipts };
}

/** No fork, gap or duplicate: the receipts of each stream are its entries, each of one id, and whoever was answered first stands first. */
async function expectOneHistory(service: TestService, sent: readonly Sent[]): Promise<void> {
  const byStream = Map.groupBy(
    sent.flatMap((one) => one.receipts.map((receipt) => ({ ...one, receipt }))),
    ({ receipt }) => receipt.stream,
  );
  for (const [stream, all] of byStream) {
    const byId = Map.groupBy(all, ({ receipt }) => receipt.id);
    for (const same of byId.values()) expect(new Set(same.map(({ receipt }) => JSON.stringify(receipt))).size).toBe(1);
    const receipts = [...byId.values()].map(([first]) => first!.receipt).toSorted((a, b) => a.seq - b.seq);
    expect(receipts.map(({ seq }) => seq)).toEqual(receipts.map((_, seq) => seq));
    // Here is also what reading left.
    if (!stream.endsWith('/data_access')) expect(await sizeOf(service, stream)).toBe(receipts.length);
    expect(new Set(receipts.map(({ hash }) => hash)).size).toBe(receipts.length);
    const times = receipts.map(({ recordedAt }) => recordedAt);
    expect(times).toEqual(times.toSorted());
    expectOrder(all);
  }
  // What readers get is what the receipts said.
  for (const stream of byStream.keys()) {
    const [tenant, category] = stream.split('/') as [string, string];
    const token = await service.token('auditor', tenant);
    const known = new Map(byStream.get(stream)!.map(({ receipt }) => [receipt.id, receipt]));
    let cursor = '';
    let previous = '0'.repeat(64);
    let last = previous;
    const found = new Set<string>();
    do {
      const { body } = await service.get(`/v1/events?category=${category}&order=asc&limit=1000${cursor}`, { token });
      for (const item of body.items) {
        const { id, log } = item;
        expect(log.previous).toBe(previous);
        previous = log.hash;
        if (withoutTrail([item]).length === 0) continue;
        expect(log.hash).toBe(known.get(id)?.hash);
        found.add(id);
        last = log.hash;
      }
      cursor = body.next === null ? '' : `&cursor=${body.next}`;
    } while (cursor !== '');
    expect(found.size).toBe(known.size);
    expect(last).toBe([...known.values()].toSorted((a, b) => b.seq - a.seq)[0]!.hash);
  }
  await service.checkLog();
}

/** If A was answered before B was sent, then A stands before B, unless B is a repeat. */
function expectOrder(all: readonly (Sent & { readonly receipt: Receipt })[]): void {
  const firsts = new Map<string, Sent & { readonly receipt: Receipt }>();
  for (const one of all.toSorted((a, b) => a.sentAt - b.sentAt))
    if (!firsts.has(one.receipt.id)) firsts.set(one.receipt.id, one);
  const answered = [...all].sort((a, b) => a.answeredAt - b.answeredAt);
  let next = 0;
  let newest = -1;
  for (const one of [...firsts.values()].sort((a, b) => a.sentAt - b.sentAt)) {
    for (; next < answered.length && answered[next]!.answeredAt < one.sentAt; next++)
      newest = Math.max(newest, answered[next]!.receipt.seq);
    expect(one.receipt.seq).toBeGreaterThan(newest);
  }
}

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

/** Work for a writer: mostly single events, some batches, some atomic ones, of one tenant's categories. */
function portions(seed: number, categories: readonly GeneratedCategory[], requests: number): EventInput[][] {
  const events = generateEvents({ seed, count: requests * 8, categories });
  return Array.from({ length: requests }, (_, n) => {
    const size = n % 5 < 3 ? 1 : 1 + ((seed * 7 + n * 3) % 8);
    return events.slice(n * 8, n * 8 + size);
  });
}

const TENANTS: readonly { readonly name: string; readonly categories: readonly GeneratedCategory[] }[] = [
  {
    name: 'one',
    categories: [
      'user_authentication',
      'data_access',
      'configuration_change',
      'data_modification',
      'security_event',
      'system_operation',
    ],
  },
  { name: 'two', categories: ['data_access', 'security_event', 'system_operation', 'configuration_change'] },
];

describe('64 writers on ten streams', () => {
  it('make one history: no fork, gap or duplicate; each id sent five times is one entry and five equal receipts', async () => {
    const service = await startService();
    try {
      const sent: Sent[] = [];
      await Promise.all(
        Array.from({ length: 64 }, async (_, writer) => {
          const { name, categories } = TENANTS[writer % TENANTS.length]!;
          for (const [n, events] of portions(100 + writer, categories, HARD ? 8 : 3).entries()) {
            const times = n % 4 === 0 ? 5 : 1;
            const all = await Promise.all(
              Array.from({ length: times }, () => sendNoted(service, events, name, n % 5 === 4)),
            );
            sent.push(...all);
          }
        }),
      );
      expect(new Set(sent.flatMap(({ receipts }) => receipts.map(({ stream }) => stream))).size).toBe(10);
      await expectOneHistory(service, sent);

      // Receipts never change.
      const again = await Promise.all(
        Array.from({ length: 6 }, (_, writer) => {
          const { name, categories } = TENANTS[writer % TENANTS.length]!;
          return Promise.all(
            portions(100 + writer, categories, HARD ? 8 : 3).map((events) => sendNoted(service, events, name)),
          );
        }),
      );
      await expectOneHistory(service, [...sent, ...again.flat()]);
    } finally {
      await service.stop();
    }
  });

  it('on two replicas and a third started meanwhile make one history', async () => {
    const first = await startService();
    const second = await startService({ beside: first, wallClock: () => Date.now() + 4 * 60_000 });
    let third: TestService | undefined;
    try {
      const sent: Sent[] = [];
      const starting = pause(300).then(async () => {
        third = await startService({ beside: first });
      });
      await Promise.all(
        Array.from({ length: 24 }, async (_, writer) => {
          const { name, categories } = TENANTS[writer % TENANTS.length]!;
          for (const [n, events] of portions(300 + writer, categories, HARD ? 12 : 5).entries()) {
            const replicas = [first, second, third ?? first];
            // A third of them to several replicas at once.
            const chosen = n % 3 === 0 ? replicas : [replicas[(writer + n) % 3]!];
            sent.push(...(await Promise.all(chosen.map((replica) => sendNoted(replica, events, name, n % 5 === 4)))));
          }
        }),
      );
      await starting;
      await expectOneHistory(first, sent);
    } finally {
      await third?.stop();
      await second.stop();
      await first.stop();
    }
  });
});

describe('a full queue', () => {
  let service: TestService;

  afterEach(async () => {
    await service.checkLog();
    await service.stop();
  });

  /** Keeps the streams' rows locked while `work` runs: nothing can be appended, everything waits. */
  async function whileLocked<T>(work: () => Promise<T>): Promise<T> {
    const holder = await service.adminPool.connect();
    try {
      await holder.query('BEGIN');
      await holder.query('SELECT FROM sealog.stream FOR UPDATE');
      return await work();
    } finally {
      await holder.query('ROLLBACK');
      holder.release();
    }
  }

  /** Waits until so many have been answered, which only refusals can be while the rows are locked. */
  async function refusals(all: readonly Promise<Answer>[], wanted: number): Promise<void> {
    let answered = 0;
    for (const one of all) void one.then(() => (answered += 1));
    for (let n = 0; answered < wanted && n < 150; n++) await pause(10);
    expect(answered).toBeGreaterThanOrEqual(wanted);
  }

  function expectBusy(answer: Answer): void {
    expect([answer.status, answer.body.code]).toEqual([503, 'busy']);
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
  }

  it('refuses with 503 busy, stores nothing of it, and keeps what it took', async () => {
    service = await startService({ limits: { queueEntriesMax: 20 } });
    await service.post('/v1/events', tiny());
    const events = Array.from({ length: 120 }, () => tiny());
    const answering = await whileLocked(async () => {
      const all = events.map((event) => service.post('/v1/events', event));
      await refusals(all, 100);
      return all;
    });
    const answers = await Promise.all(answering);
    const taken = answers.filter((answer) => answer.status === 201);
    expect(taken).toHaveLength(20);
    for (const answer of answers.filter((one) => one.status !== 201)) expectBusy(answer);
    expect(await sizeOf(service)).toBe(21);

    const again = await Promise.all(events.slice(0, 15).map((event) => service.post('/v1/events', event)));
    expect(again.every((answer) => answer.status === 200 || answer.status === 201)).toBe(true);
  });

  it('counts bytes as well', async () => {
    service = await startService({ limits: { queueBytesMax: 256 * KiB } });
    await service.post('/v1/events', tiny());
    const large = () => tiny({ details: { pad: 'x'.repeat(50 * KiB) } });
    const answering = await whileLocked(async () => {
      const all = Array.from({ length: 30 }, () => service.post('/v1/events', large()));
      await refusals(all, 24);
      return all;
    });
    const answers = await Promise.all(answering);
    const taken = answers.filter((answer) => answer.status === 201).length;
    // Five fit; one more may pass when what waited was just taken up.
    expect(taken).toBeGreaterThanOrEqual(5);
    expect(taken).toBeLessThanOrEqual(6);
    for (const answer of answers.filter((one) => one.status !== 201)) expectBusy(answer);
    expect(await sizeOf(service)).toBe(1 + taken);
  });

  it('takes a batch that is larger than itself when nothing else waits, and none behind it', async () => {
    service = await startService({ limits: { queueEntriesMax: 20 } });
    await service.post('/v1/events', tiny());
    const batch = () =>
      service.post(
        '/v1/events/batch',
        Array.from({ length: 60 }, () => tiny()),
      );
    expect((await batch()).body.errors).toBe(false);
    const answering = await whileLocked(async () => {
      const all = Array.from({ length: 6 }, batch);
      await refusals(all, 4);
      return all;
    });
    const answers = await Promise.all(answering);
    const taken = answers.filter((answer) => answer.status === 200);
    expect(taken.length).toBeGreaterThan(0);
    expect(taken.length).toBeLessThanOrEqual(2);
    for (const answer of answers.filter((one) => one.status !== 200)) expectBusy(answer);
    expect(await sizeOf(service)).toBe(61 + 60 * taken.length);
  });
});

describe('a clock that is wrong', () => {
  it.each([6 * 60_000, -6 * 60_000, 365 * 86_400_000])(
    'by %i ms: 503 not_ready, nothing stored, readyz red; right again: everything as before',
    async (error) => {
      let skew = 0;
      const service = await startService({ wallClock: () => Date.now() + skew });
      try {
        const first = await service.post('/v1/events', tiny());
        expect(first.status).toBe(201);
        expect((await service.get('/readyz', { token: null })).status).toBe(200);

        skew = error;
        for (const [path, body] of [
          ['/v1/events', tiny()],
          ['/v1/events/batch', [tiny(), tiny()]],
          ['/v1/events/batch?atomic=true', [tiny(), tiny()]],
        ] as const) {
          const answer = await service.post(path, body);
          expect([answer.status, answer.body.code]).toEqual([503, 'not_ready']);
          expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
          expect(answer.body.detail).toMatch(/clock/);
        }
        const red = await service.get('/readyz', { token: null });
        expect([red.status, red.body.code]).toEqual([503, 'not_ready']);
        expect(red.body.detail).toMatch(/clock/);
        expect(await sizeOf(service)).toBe(1);
        // Reading leaves an entry, which can not be stamped either.
        const unread = await service.get('/v1/events');
        expect([unread.status, unread.body.code, unread.body.items]).toEqual([503, 'not_ready', undefined]);

        skew = 0;
        expect(withoutTrail((await service.get('/v1/events')).body.items)).toHaveLength(1);
        const later = await service.post('/v1/events', tiny());
        expect(later.status).toBe(201);
        expect(later.body.recordedAt >= first.body.recordedAt).toBe(true);
        expect((await service.get('/readyz', { token: null })).status).toBe(200);
        await service.checkLog();
      } finally {
        await service.stop();
      }
    },
  );

  it('by less than five minutes does not matter: stamps are the database’s', async () => {
    let skew = 0;
    const service = await startService({ wallClock: () => Date.now() + skew });
    try {
      for (skew of [4.5 * 60_000, -4.5 * 60_000, 0]) {
        const { status, body } = await service.post('/v1/events', tiny());
        expect(status).toBe(201);
        expect(Math.abs(Date.parse(body.recordedAt) - Date.now())).toBeLessThan(30_000);
      }
      await service.checkLog();
    } finally {
      await service.stop();
    }
  });
});

describe('a stream whose row went with a primary that had told nobody', () => {
  const event = (more: Json) => tiny({ category: 'security_event', severity: 5, ...more });

  it.each([
    ['is gone', `DELETE FROM sealog.stream WHERE name = 'acme/security_event'`],
    [
      'has a number that is another stream’s now',
      `INSERT INTO sealog.tenant (name) VALUES ('zeta'); UPDATE sealog.stream SET name = 'zeta/security_event',
         tenant = (SELECT id FROM sealog.tenant WHERE name = 'zeta') WHERE name = 'acme/security_event'`,
    ],
  ])('%s: made anew, and nobody else’s', async (_, lost) => {
    let skew = 0;
    const service = await startService({ wallClock: () => Date.now() + skew });
    try {
      skew = 3_600_000;
      expect((await service.post('/v1/events', event({}))).status).toBe(503);
      skew = 0;
      await service.adminPool.query(
        `ALTER TABLE sealog.stream DISABLE TRIGGER ALL; ${lost};
         ALTER TABLE sealog.stream ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER no_truncate`,
      );
      const sent = event({});
      const first = await service.post('/v1/events', sent);
      expect([first.status, first.body.detail]).toEqual([503, expect.stringContaining('not in this database')]);
      const { status, body } = await service.post('/v1/events', sent);
      expect([status, body.stream, body.seq]).toEqual([201, 'acme/security_event', 0]);
      expect(await sizeOf(service, 'zeta/security_event')).toBe(0);
      await service.checkLog();
    } finally {
      await service.stop();
    }
  });
});

describe('blocks and tiles', () => {
  let service: TestService;

  beforeAll(async () => {
    service = await startService();
  });

  afterAll(async () => {
    await service.checkLog();
    await service.stop();
  });

  async function append(to: TestService, tenant: string, n: number): Promise<void> {
    const token = await to.token('service', tenant);
    const { id: _, ...event } = tiny();
    const line = JSON.stringify(event);
    const { status, body } = await to.post('/v1/events/batch', Array(n).fill(line).join('\n'), { token, ...NDJSON });
    expect([status, body.errors]).toEqual([200, false]);
  }

  async function tilesOf(tenant: string): Promise<number[][]> {
    const { rows } = await service.adminPool.query(
      `SELECT level, tile_index::int FROM sealog.tile JOIN sealog.stream ON stream.id = tile.stream
       WHERE name = $1 ORDER BY level, tile_index`,
      [`${tenant}/system_operation`],
    );
    return rows.map((row) => [row.level, row.tile_index]);
  }

  async function blocksOf(tenant: string): Promise<{ entries: number; bytes: number }[]> {
    const { rows } = await service.adminPool.query(
      `SELECT entries, octet_length(records) + octet_length(parts) AS bytes FROM sealog.block JOIN sealog.stream ON stream.id = block.stream
       WHERE name = $1 ORDER BY first_seq`,
      [`${tenant}/system_operation`],
    );
    return rows;
  }

  it.each([
    ['255, 256 and 257 entries', [255, 1, 1], 1],
    ['256 at once', [256], 1],
    ['257 at once', [257], 1],
    ['a tile filled exactly, then another', [256, 256], 2],
    ['an edge crossed in one batch', [200, 400], 2],
    ['several tiles in one batch', [10, 1500], 5],
    ['one by one over an edge', [254, 1, 1, 1, 1], 1],
  ])('with %s', async (what, batches, tiles) => {
    const tenant = what.replaceAll(/[^a-z0-9]+/g, '-');
    for (const n of batches) await append(service, tenant, n);
    expect(await tilesOf(tenant)).toEqual(Array.from({ length: tiles }, (_, index) => [0, index]));
    await service.checkLog();
  });

  it('whose edge another replica moved, or a start forgot', async () => {
    const other = await startService({ beside: service });
    let restarted: TestService | undefined;
    try {
      await append(service, 'moved', 100);
      await append(other, 'moved', 100);
      await append(service, 'moved', 100);
      await append(other, 'moved', 250);
      await append(service, 'moved', 200);
      restarted = await startService({ beside: service });
      await append(restarted, 'moved', 17);
      await append(restarted, 'moved', 1);
      await append(restarted, 'moved', 10);
      expect(await tilesOf('moved')).toEqual([
        [0, 0],
        [0, 1],
        [0, 2],
      ]);
      await service.checkLog();
    } finally {
      await restarted?.stop();
      await other.stop();
    }
  });

  it('of tiny events are cut at 1024 entries', async () => {
    await append(service, 'small', 5000);
    const entries = (await blocksOf('small')).map((block) => block.entries);
    expect(entries.reduce((a, b) => a + b)).toBe(5000);
    expect(Math.max(...entries)).toBeLessThanOrEqual(1024);
  });

  it('hold a large event alone', async () => {
    const token = await service.token('service', 'alone');
    const noise = (n: number) =>
      Array.from({ length: n }, (_, i) =>
        Math.sin(i + 1)
          .toString(36)
          .slice(2),
      ).join('');
    // Almost as large as an event may be, and as a block.
    const large = tiny({ details: { noise: noise(25_000).slice(0, 261_600) } });
    expect(JSON.stringify(large).length).toBeGreaterThan(255.5 * KiB);
    const events = [tiny(), tiny(), large, tiny(), { ...large, id: 'large-2' }, { ...large, id: 'large-3' }, tiny()];
    const { body } = await service.post('/v1/events/batch', events, { token });
    expect(body.errors).toBe(false);
    expect((await blocksOf('alone')).map((block) => block.entries)).toEqual([2, 1, 1, 1, 1, 1]);
    const reader = await service.token('auditor', 'alone');
    const { log: _, ...sent } = (await service.get('/v1/events/large-2', { token: reader })).body;
    expect(sent).toEqual({ ...large, id: 'large-2' });
  });

  it('of a second level: 65,536 entries and more', async () => {
    for (let n = 0; n < 6; n++) await append(service, 'high', 10_000);
    await append(service, 'high', 5500);
    await append(service, 'high', 35);
    expect((await tilesOf('high')).filter(([level]) => level === 1)).toEqual([]);
    await append(service, 'high', 2);
    expect((await tilesOf('high')).filter(([level]) => level === 1)).toEqual([[1, 0]]);
    await append(service, 'high', 300);
  });
});

describe('by itself', () => {
  let service: TestService;
  let database: Database;
  let keyring: Keyring;
  let directory: Directory;

  beforeEach(async () => {
    service = await startService();
    database = openDatabase({ connection: service.database.appConfig, readersMax: 2, log: silent });
    keyring = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
      findOrStore: (stream, month, make) => findOrStoreKey(database.writer, stream, month, make),
      byId: (id) => keyById(database.verifier, id),
    });
    directory = new Directory({ writer: database.writer, makeTenants: true });
  });

  afterEach(async () => {
    await service.checkLog();
    await database.close();
    await service.stop();
  });

  /** A sequencer whose service says that it is `wall.now`, and whose database `base.now`. */
  function sequencerAt(
    wall: { now: number },
    base: { now: number },
    store: AppendStore = appendStore(database),
  ): Sequencer {
    return new Sequencer({
      store: {
        transact: (streamIds, queries, work, onWritten) =>
          store.transact(streamIds, queries, (transaction) => work({ ...transaction, now: base.now }), onWritten),
      },
      seal: sealWith((stream, month) => keyring.keysFor(stream, month)),
      clock: new ClockGuard({ wall: () => base.now, monotonic: () => base.now }),
      wallClock: () => wall.now,
      repeatDays: 30,
      queueEntriesMax: 10_000,
      queueBytesMax: 64 * KiB * KiB,
      log: silent,
    });
  }

  function entry(stream: StreamRef, id: string): PendingEntry {
    const event = {
      id,
      action: 'a.b',
      outcome: 'success',
      occurredAt: '2026-01-01T00:00:00Z',
      source: { service: 's' },
    } as const;
    return pendingEntry(stream, { ...event, parts: { details: { id } } }, true);
  }

  async function append(sequencer: Sequencer, entries: readonly PendingEntry[]): Promise<(Receipt | number)[]> {
    const outcomes = await sequencer.append({ kind: 'open', entries, atomic: false });
    return outcomes.map((outcome) => (outcome?.kind === 'appended' ? outcome.receipt : outcome!.seq));
  }

  async function makeMonths(now: number): Promise<void> {
    for (const month of dropMonthsAhead(now)) await ensureDropMonth(database.writer, month);
  }

  it.each([
    ['the service is behind', '2027-01-31T23:59:59.999Z', '2027-02-01T00:00:00.000Z'],
    ['the service is ahead', '2027-02-01T00:02:00.000Z', '2027-01-31T23:58:00.000Z'],
    ['a year turns', '2026-12-31T23:59:59.000Z', '2027-01-01T00:00:03.000Z'],
    ['before a February', '2028-02-29T23:59:59.999Z', '2028-03-01T00:00:00.000Z'],
  ])('the month may turn between sealing and stamping: %s', async (_what, service_, base_) => {
    const wall = { now: Date.parse(service_) };
    const base = { now: Date.parse(base_) };
    await makeMonths(Math.min(wall.now, base.now));
    const sequencer = sequencerAt(wall, base);
    const streams = await Promise.all(
      (['data_access', 'configuration_change', 'security_event'] as const).map((category) =>
        directory.open('turn', category),
      ),
    );
    const receipts = await append(
      sequencer,
      streams.flatMap((stream) => ['a', 'b', 'c'].map((id) => entry(stream, id))),
    );
    for (const receipt of receipts as Receipt[]) {
      expect(receipt.recordedAt).toBe(base_);
      expect(receipt.retainUntil?.slice(0, 7)).toBe(
        `${Number(base_.slice(0, 4)) + months(receipt.stream) / 12}-${base_.slice(5, 7)}`,
      );
    }
    const { rows } = await service.adminPool.query('SELECT DISTINCT drop_month FROM sealog.block ORDER BY drop_month');
    const drop = Number(base_.slice(0, 4)) * 100 + Number(base_.slice(5, 7)) + 1;
    expect(rows.map((row) => row.drop_month)).toEqual([1, 2, 3].map((years) => drop + years * 100));

    // Repeats find their entries over the turn of the month, whichever side the clocks are on.
    for (const now of [base.now, base.now + 1000, wall.now, Math.max(wall.now, base.now) + 86_400_000]) {
      base.now = wall.now = now;
      expect(
        await append(
          sequencer,
          streams.map((stream) => entry(stream, 'b')),
        ),
      ).toEqual([1, 1, 1]);
    }
  });

  it('recordedAt and retainUntil never go back', async () => {
    const base = { now: Date.parse('2027-03-31T12:00:00.000Z') };
    await makeMonths(base.now);
    const sequencer = sequencerAt(base, base);
    const stream = await directory.open('back', 'data_access');
    const [first] = (await append(sequencer, [entry(stream, 'a')])) as Receipt[];
    base.now -= 60_000;
    const [second] = (await append(sequencer, [entry(stream, 'b')])) as Receipt[];
    expect([second!.recordedAt, second!.retainUntil]).toEqual([first!.recordedAt, first!.retainUntil]);
    base.now -= 5 * 60_000;
    await expect(append(sequencer, [entry(stream, 'c')])).rejects.toMatchObject({ code: 'not_ready' });
  });

  it('recognises a repeat for at least 30 days; much later the id may name another event, and readers get the newest', async () => {
    const base = { now: Date.parse('2026-12-31T23:59:00.000Z') };
    const sequencer = sequencerAt(base, base);
    const stream = await directory.open('acme', 'system_operation');
    await makeMonths(base.now);
    const [first] = (await append(sequencer, [entry(stream, 'old')])) as Receipt[];
    for (const day of [1, 15, 29, 30]) {
      base.now = Date.parse('2026-12-31T23:59:00.000Z') + day * 86_400_000;
      expect(await append(sequencer, [entry(stream, 'old')])).toEqual([first!.seq]);
    }
    base.now = Date.parse('2027-03-15T00:00:00.000Z');
    await makeMonths(base.now);
    const [again] = (await append(sequencer, [entry(stream, 'old')])) as Receipt[];
    expect(again!.seq).toBe(first!.seq + 1);
    const { body } = await service.get('/v1/events/old');
    expect(body.log.seq).toBe(again!.seq);
  });

  it('a COMMIT that takes long is waited for without a lock, and what comes behind it is stored', async () => {
    const store = appendStore(database);
    const [committing, begun, gate] = [1, 2, 3].map(() => Promise.withResolvers<void>());
    let transactions = 0;
    const clock = { now: Date.now() };
    await makeMonths(clock.now);
    const sequencer = sequencerAt(clock, clock, {
      transact: async (streamIds, queries, work, onWritten) => {
        const number = ++transactions;
        const watched: typeof work = (transaction) => {
          if (number === 2) begun!.resolve();
          return work(transaction);
        };
        const result = await store.transact(streamIds, queries, watched, onWritten);
        if (number > 1) return result;
        committing!.resolve();
        await gate!.promise;
        return result;
      },
    });
    const behind = await directory.open('behind', 'data_access');
    const first = append(sequencer, [entry(await directory.open('ahead', 'data_access'), 'a')]);
    await committing!.promise;
    const second = append(sequencer, [entry(behind, 'b')]);
    await begun!.promise;
    const lock = `SELECT FROM sealog.stream WHERE id = ${behind.id} FOR UPDATE`;
    await expect(service.adminPool.query(`${lock} NOWAIT`)).rejects.toThrow('could not obtain lock');
    expect((await service.adminPool.query(lock)).rowCount).toBe(1);
    gate!.resolve();
    expect(await first).toMatchObject([{ id: 'a', seq: 0 }]);
    expect(await second).toMatchObject([{ id: 'b', seq: 0 }]);
    expect(transactions).toBe(3);
  });

  it('takes up what is appended at any moment after an answer', async () => {
    const clock = {
      get now() {
        return Date.now();
      },
    };
    const sequencer = sequencerAt(clock, clock);
    const stream = await directory.open('any', 'data_access');
    for (let turns = 0; turns < 40; turns++) {
      await append(sequencer, [entry(stream, `${turns} a`)]);
      for (let n = 0; n < turns; n++) await undefined;
      const stuck = pause(3000).then(() =>
        Promise.reject(new Error(`stuck after ${turns} turns of the microtask queue`)),
      );
      stuck.catch(() => {});
      await Promise.race([append(sequencer, [entry(stream, `${turns} b`)]), stuck]);
    }
    await sequencer.close();
    await expect(append(sequencer, [entry(stream, 'late')])).rejects.toMatchObject({ code: 'not_ready' });
  });

  it('says how much waits, and forgets it when it is done', async () => {
    const clock = {
      get now() {
        return Date.now();
      },
    };
    const sequencer = sequencerAt(clock, clock);
    const stream = await directory.open('waits', 'data_access');
    const all = Array.from({ length: 50 }, (_, n) => append(sequencer, [entry(stream, `w${n}`)]));
    expect(sequencer.queued.entries).toBe(50);
    expect(sequencer.queued.bytes).toBeGreaterThan(50 * 100);
    await Promise.all(all);
    expect(sequencer.queued).toEqual({ entries: 0, bytes: 0 });
  });
});

function months(stream: string): number {
  return retentionMonths(stream.split('/')[1] as GeneratedCategory)!;
}
