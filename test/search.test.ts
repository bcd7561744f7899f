/** Reading over a socket: search against a naive filter over everything that was sent, cursors, single events, streams, and tenants apart. */
import { createHash } from 'node:crypto';
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { jsonDiff } from '../src/chain/json-diff.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { type EventInput, generateEvents } from './support/events.ts';
import { type Answer, type RequestOptions, startService, type TestService, withoutTrail } from './support/service.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;
type Query = Readonly<Record<string, string | number>>;

interface Receipt {
  readonly id: string;
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
  readonly recordedAt: string;
  readonly retainUntil: string;
}

/** An event with the receipt that it got. */
interface Stored {
  readonly event: EventInput;
  readonly receipt: Receipt;
}

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
let service: TestService;
/** Everything of the tenant `acme`, in the order of its receipts. */
let stored: Stored[];

beforeAll(async () => {
  service = await startService();
  stored = await store(variedEvents(1200), 'acme');
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

/** Generated events, made to differ in what search must see through: e-mails and addresses written in several ways, times to the nanosecond. */
function variedEvents(count: number): EventInput[] {
  const random = randomFrom(7);
  return generateEvents({ seed: 31, count }).map((event) => {
    const actor = { ...event.actor };
    if (actor.email !== undefined)
      actor.email = pick(random, [actor.email, actor.email.toUpperCase(), ` ${actor.email}`]);
    if (actor.ip !== undefined && random() < 0.5)
      actor.ip = pick(random, SPELLINGS[pick(random, Object.keys(SPELLINGS))]!);
    // Somebody whose name is somebody else's id.
    if (random() < 0.02) actor.name = 'u-shared';
    if (random() < 0.02) actor.id = 'u-shared';
    const severity = event.severity ?? (random() < 0.3 ? Math.floor(random() * 11) : undefined);
    const fraction = pick(random, ['.5', '.123', '.1234', '.123400000', '.123456789', '']);
    return {
      ...event,
      actor,
      ...(severity === undefined ? {} : { severity }),
      occurredAt: event.occurredAt.replace(/\.\d+/, fraction),
      ...(event.target === undefined || random() < 0.7
        ? {}
        : { target: { ...event.target, name: pick(random, ['Line 4', 'ЛИНИЯ', '線']) } }),
    };
  });
}

/** The same address, written in several ways. */
const SPELLINGS: Readonly<Record<string, readonly string[]>> = {
  '2001:db8::17': ['2001:db8::17', '2001:DB8:0:0:0:0:0:17', '2001:0db8::0017', '2001:db8:0:0::17'],
  '::1': ['::1', '0:0:0:0:0:0:0:1', '0::1'],
  '192.0.2.99': ['192.0.2.99', '::ffff:192.0.2.99', '::FFFF:c000:263'],
  'fe80::1%eth0': ['fe80::1%eth0', 'FE80:0::1%eth0'],
  'scada-gw': ['scada-gw', 'SCADA-GW', ' scada-gw'],
};

/** Sends events in batches of 1 to 40, so that blocks of all sizes are made, and returns them with their receipts. */
async function store(events: readonly EventInput[], tenant: string): Promise<Stored[]> {
  const random = randomFrom(11);
  const token = await service.token('service', tenant);
  const all: Stored[] = [];
  for (let start = 0; start < events.length; ) {
    const batch = events.slice(start, start + 1 + Math.floor(random() * 40));
    const { status, body } = await service.post('/v1/events/batch', batch, { token });
    expect([status, body.errors]).toEqual([200, false]);
    all.push(...batch.map((event, index) => ({ event, receipt: receiptOf(body.items[index]) })));
    start += batch.length;
  }
  return all;
}

function receiptOf({ status: _, ...receipt }: Json): Receipt {
  return receipt;
}

async function ask(query: Query, options: RequestOptions = {}): Promise<Answer> {
  const text = new URLSearchParams(
    Object.entries(query).map(([name, value]): [string, string] => [name, String(value)]),
  );
  return service.get(`/v1/events?${text}`, options);
}

/** All items of a search, page by page; fails on a page that is too long or a walk that does not end. */
async function askAll(query: Query, options: RequestOptions = {}, pagesMax = 1000): Promise<Json[]> {
  const items: Json[] = [];
  let cursor: string | null | undefined;
  for (let page = 0; cursor !== null; page++) {
    expect(page).toBeLessThan(pagesMax);
    const { status, body } = await ask(cursor === undefined ? query : { ...query, cursor }, options);
    expect(status).toBe(200);
    expect(body.items.length).toBeLessThanOrEqual(Number(query.limit ?? 100));
    items.push(...body.items);
    cursor = body.next;
  }
  return items;
}

/** What the search should find: a naive filter over everything, sorted. */
function expected(query: Query, all: readonly Stored[] = stored): Stored[] {
  const found = all.filter((one) => matches(query, one)).toSorted(byTime);
  return query.order === 'asc' ? found : found.reverse();
}

function byTime({ receipt: a }: Stored, { receipt: b }: Stored): number {
  const order = (x: string, y: string) => (x < y ? -1 : x > y ? 1 : 0);
  return order(a.recordedAt, b.recordedAt) || order(a.stream, b.stream) || a.seq - b.seq;
}

function matches(query: Query, { event, receipt }: Stored): boolean {
  const { actor, target, source } = event as EventInput & { actor?: EventInput['actor'] };
  const email = (text: string) => text.trim().toLowerCase();
  return Object.entries(query).every(([name, wanted]) => {
    switch (name) {
      case 'category':
      case 'action':
      case 'outcome':
        return event[name] === wanted;
      case 'actor':
        return (
          actor?.id === wanted ||
          actor?.name === wanted ||
          (actor?.email !== undefined && email(actor.email) === email(String(wanted)))
        );
      case 'target':
        return target?.id === wanted || target?.name === wanted;
      case 'site':
      case 'service':
        return source[name] === wanted;
      case 'ip':
        return actor?.ip !== undefined && address(actor.ip) === address(String(wanted));
      case 'severityMin':
        return event.severity !== undefined && event.severity >= Number(wanted);
      case 'from':
        return nanos(receipt.recordedAt) >= nanos(String(wanted));
      case 'to':
        return nanos(receipt.recordedAt) < nanos(String(wanted));
      case 'occurredFrom':
        return nanos(event.occurredAt) >= nanos(String(wanted));
      case 'occurredTo':
        return nanos(event.occurredAt) < nanos(String(wanted));
      default:
        return name === 'order' || name === 'limit';
    }
  });
}

/** One name for all spellings of an address of this test. */
function address(ip: string): string {
  return Object.entries(SPELLINGS).find(([, ways]) => ways.includes(ip))?.[0] ?? ip;
}

function nanos(time: string): bigint {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? '';
  const seconds = BigInt(Date.parse(time.replace(/\.\d+/, ''))) / 1000n;
  return seconds * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'));
}

/** Says what was found of what was sent; entries about the reading itself stand between it (test/trail.test.ts). */
function expectFound(found: readonly Json[], wanted: readonly Stored[]): void {
  const items = withoutTrail(found);
  expect(items.map((item) => item.id)).toEqual(wanted.map(({ event }) => event.id));
  for (const [index, { log, ...sent }] of items.entries()) {
    const { event, receipt } = wanted[index]!;
    const { stream, seq, hash, recordedAt, retainUntil } = log;
    if (hash !== receipt.hash || index % 16 === 0) {
      expect({ id: sent.id, stream, seq, hash, recordedAt, retainUntil }).toEqual(receipt);
      expect(sent).toEqual(event);
    }
  }
}

describe('search', () => {
  it('without filters finds everything, both ways round, and no page repeats or leaves out', async () => {
    const { items } = (await ask({})).body;
    expect(items).toHaveLength(100);
    const { length } = withoutTrail(items);
    expect(length).toBeGreaterThan(0);
    expectFound(items, expected({}).slice(0, length));
    for (const [order, limit] of [
      ['desc', 1000],
      ['asc', 333],
      ['desc', 37],
    ] as const) {
      expectFound(await askAll({ order, limit }), expected({ order }));
    }
  });

  it('answers in the shape that openapi.yaml says', async () => {
    const answer = await ask({ limit: 200 });
    expect(checkShape('EventPage', answer.body)).toEqual([]);
    expect(answer.headers['content-type']).toBe('application/json; charset=utf-8');
    expect(answer.headers['content-length']).toBe(String(Buffer.byteLength(answer.text)));
    expect(answer.headers['cache-control']).toBe('no-store');
  });

  it('finds what a naive filter finds, for each filter by itself', async () => {
    const random = randomFrom(3);
    for (const name of FILTERS) {
      let found = 0;
      for (let round = 0; round < (HARD ? 4 : 2); round++) {
        const query: Query = {
          ...filterFrom(random, name, pick(random, stored)),
          limit: 400,
          order: round % 2 === 0 ? 'asc' : 'desc',
        };
        const wanted = expected(query);
        expectFound(await askAll(query), wanted);
        found += wanted.length;
      }
      expect(found, name).toBeGreaterThan(0);
    }
  });

  it('finds what a naive filter finds, for many combinations of filters', async () => {
    const random = randomFrom(5);
    let found = 0;
    for (let round = 0; round < (HARD ? 60 : 9); round++) {
      const like = pick(random, stored);
      const query: Record<string, string | number> = {};
      for (let n = Math.floor(random() * 4); n >= 0; n--) {
        // Now and then from another event, so that also what is not there is asked for.
        Object.assign(query, filterFrom(random, pick(random, FILTERS), random() < 0.85 ? like : pick(random, stored)));
      }
      query.order = pick(random, ['asc', 'desc']);
      const wanted = expected(query);
      query.limit = pick(random, wanted.length > 60 ? [100, 400, 1000] : [1, 3, 20, 100]);
      try {
        expectFound(await askAll(query), wanted);
      } catch (cause) {
        throw new Error(`the search for ${JSON.stringify(query)}`, { cause });
      }
      found += wanted.length;
    }
    expect(found).toBeGreaterThan(HARD ? 300 : 45);
  });

  it('takes from as inclusive and to as exclusive, to the millisecond and in any offset', async () => {
    const middle = stored[Math.floor(stored.length / 2)]!.receipt.recordedAt;
    const ms = Date.parse(middle);
    const abroad = `${new Date(ms + 90 * 60_000).toISOString().slice(0, -1)}+01:30`;
    const next = new Date(ms + 1).toISOString();
    const at = stored.filter(({ receipt }) => receipt.recordedAt === middle);
    expect(at.length).toBeGreaterThan(0);
    for (const order of ['asc', 'desc'] as const) {
      for (const from of [middle, abroad]) {
        expectFound(await askAll({ from, to: next, order }), expected({ from: middle, to: next, order }));
        expect((await askAll({ from, to: from, order })).length).toBe(0);
        expectFound(await askAll({ to: from, order, limit: 1000 }), expected({ to: middle, order }));
        expectFound(await askAll({ from, order, limit: 1000 }), expected({ from: middle, order }));
      }
    }
    // Nothing lies between a millisecond and the next.
    const within = middle.replace('Z', '000001Z');
    expectFound(await askAll({ from: within, to: next }), []);
    expectFound(await askAll({ from: middle, to: within }), expected({ from: middle, to: next }));
  });

  it('compares occurredAt to the nanosecond', async () => {
    const events = ['.1', '.1000001', '.100000100', '.100000101', '.1001'].map((fraction, n) => ({
      ...generateEvents({ seed: 77, count: 1, categories: ['system_operation'] })[0]!,
      id: `nano-${n}`,
      occurredAt: `2001-02-03T04:05:06${fraction}Z`,
    }));
    const own = await store(events, 'nano');
    const token = await service.token('auditor', 'nano');
    for (const time of events.map((event) => event.occurredAt)) {
      for (const query of [
        { occurredFrom: time },
        { occurredTo: time },
        { occurredFrom: time, occurredTo: time },
      ] as Query[]) {
        expectFound(await askAll(query, { token }), expected(query, own));
      }
    }
  });

  it('finds an actor by id, by name, and by e-mail in any case', async () => {
    const withEmail = stored.filter(({ event }) => event.actor.email !== undefined);
    for (const { event } of withEmail.slice(0, 5)) {
      const address = event.actor.email!.trim();
      for (const actor of [address.toLowerCase(), address.toUpperCase(), ` ${address} `]) {
        const wanted = expected({ actor });
        expect(wanted.length).toBeGreaterThan(0);
        expectFound(await askAll({ actor, limit: 1000 }), wanted);
      }
      // Ids and names are compared as they stand.
      expectFound(await askAll({ actor: event.actor.id.toUpperCase() }), []);
    }
    const shared = expected({ actor: 'u-shared' });
    expect(new Set(shared.map(({ event }) => event.actor.id === 'u-shared')).size).toBe(2);
    expectFound(await askAll({ actor: 'u-shared', limit: 1000 }), shared);
  });

  it('finds an address however it is written', async () => {
    for (const [name, ways] of Object.entries(SPELLINGS)) {
      const wanted = expected({ ip: name });
      expect(new Set(wanted.map(({ event }) => event.actor.ip)).size).toBeGreaterThan(1);
      for (const ip of ways) expectFound(await askAll({ ip, limit: 1000 }), wanted);
    }
    expectFound(await askAll({ ip: 'fe80::1%eth1' }), []);
    expectFound(await askAll({ ip: '::' }), []);
  });

  it('leaves out events without a severity when asked for one, also for 0', async () => {
    expectFound(await askAll({ severityMin: 0, limit: 1000 }), expected({ severityMin: 0 }));
    expect(expected({ severityMin: 0 }).length).toBeLessThan(stored.length);
  });

  it.each<[Record<string, string> | string, string]>([
    [{ colour: 'red' }, 'colour'],
    ['limit=1&limit=1', 'limit'],
    ['actor=a&actor=b', 'actor'],
    [{ category: 'none' }, 'category'],
    [{ outcome: 'Success' }, 'outcome'],
    [{ action: 'login' }, 'action'],
    [{ actor: '' }, 'actor'],
    [{ target: '' }, 'target'],
    [{ site: 'x'.repeat(257) }, 'site'],
    [{ ip: 'x'.repeat(129) }, 'ip'],
    [{ severityMin: '11' }, 'severityMin'],
    [{ severityMin: '-1' }, 'severityMin'],
    [{ severityMin: '1.0' }, 'severityMin'],
    [{ severityMin: '0x1' }, 'severityMin'],
    [{ limit: '0' }, 'limit'],
    [{ limit: '1001' }, 'limit'],
    [{ limit: '1e2' }, 'limit'],
    [{ limit: ' 1' }, 'limit'],
    [{ order: 'DESC' }, 'order'],
    [{ from: 'yesterday' }, 'from'],
    [{ from: '2026-11-22' }, 'from'],
    [{ to: '2026-11-22T21:04:05' }, 'to'],
    [{ to: '2026-02-30T00:00:00Z' }, 'to'],
    // A plus that was not percent-encoded is a space.
    ['occurredFrom=2026-11-22T21:04:05+01:00', 'occurredFrom'],
    [{ occurredTo: '1700000000' }, 'occurredTo'],
    ['actor=%ff', 'actor'],
    ['actor=%00', 'actor'],
    ['%63olour=red', 'colour'],
    ['actor', 'actor'],
  ])('refuses %j and names %s', async (query, field) => {
    const text = typeof query === 'string' ? query : new URLSearchParams(query).toString();
    const { status, body } = await service.get(`/v1/events?${text}`);
    expect(status).toBe(400);
    expect(body.code).toBe('invalid_request');
    expect(body.errors.map((error: Json) => error.field)).toEqual([field]);
  });

  it('names every parameter that is wrong', async () => {
    const { body } = await service.get('/v1/events?limit=0&order=up&x=1&severityMin=a');
    expect(body.errors.map((error: Json) => error.field).toSorted()).toEqual(['limit', 'order', 'severityMin', 'x']);
  });

  it('is for who may read', async () => {
    const writer = await service.token('service', 'writers');
    expect((await ask({}, { token: writer })).status).toBe(403);
    expect((await ask({}, { token: null })).status).toBe(401);
    expect((await service.get('/v1/streams', { token: writer })).status).toBe(403);
    expect((await service.get('/v1/events/x', { token: writer })).status).toBe(403);
  });
});

describe('a cursor', () => {
  async function firstCursor(query: Query, options: RequestOptions = {}): Promise<string> {
    const { body } = await ask(query, options);
    expect(body.next).toEqual(expect.any(String));
    return body.next;
  }

  function expectRefused({ status, body }: Answer): void {
    expect(status).toBe(400);
    expect([body.code, body.errors.map((error: Json) => error.field)]).toEqual(['invalid_request', ['cursor']]);
  }

  it('goes on with another limit', async () => {
    const cursor = await firstCursor({ order: 'asc', limit: 10 });
    const { body } = await ask({ order: 'asc', limit: 25, cursor });
    expectFound(body.items, expected({ order: 'asc' }).slice(10, 35));
  });

  it('gives the same page as often as it is asked', async () => {
    const cursor = await firstCursor({ limit: 10 });
    const [one, two] = [await ask({ limit: 10, cursor }), await ask({ limit: 10, cursor })];
    expect(one.text).toBe(two.text);
  });

  it('is refused with another question', async () => {
    const query: Query = { order: 'asc', limit: 2, severityMin: 3 };
    const cursor = await firstCursor(query);
    expect((await ask({ ...query, cursor })).status).toBe(200);
    for (const other of [
      { severityMin: 4 },
      { order: 'desc' },
      { category: 'data_access' },
      { outcome: 'success' },
      { to: '2030-01-01T00:00:00Z' },
    ] as Query[]) {
      expectRefused(await ask({ ...query, ...other, cursor }));
    }
    expectRefused(await ask({ order: 'asc', limit: 2, cursor }));
  });

  it.each([
    ['garbage', 'AAAA'],
    ['no base64url', 'a.b'],
    ['empty', ''],
    ['too long', 'A'.repeat(2049)],
    ['a number', encoded(1)],
    ['an empty list', encoded([])],
    ['an object', encoded({ 0: 1 })],
    ['another version', encoded([2, 'x', []])],
    ['no positions', encoded([1, 'x', null])],
    ['odd positions', encoded([1, 'x', [['0.1']]])],
    ['a deep thing', Buffer.from(`${'['.repeat(700)}${']'.repeat(700)}`).toString('base64url')],
  ])('is refused when it is %s', async (_what, cursor) => {
    expectRefused(await ask({ cursor }));
  });

  it('is refused, or harmless, when it was tampered with', async () => {
    const query: Query = { order: 'asc', limit: 5 };
    const [version, question, positions] = decoded(await firstCursor(query));
    for (const seq of [-1, 0.5, 2 ** 53, '0', null, [], {}]) {
      expectRefused(await ask({ ...query, cursor: encoded([version, question, [[positions[0][0], seq]]]) }));
    }
    for (const odd of [[], [['9.9', 0]], [['', 1]], positions.map(([name]: Json) => [name, Number.MAX_SAFE_INTEGER])]) {
      const answer = await ask({ ...query, cursor: encoded([version, question, odd]) });
      expect(answer.status).toBe(200);
      for (const item of answer.body.items) expect(item.log.stream).toMatch(/^acme\//);
    }
  });

  it("gives nothing of another tenant's, and is refused from one", async () => {
    const theirs = await store(generateEvents({ seed: 41, count: 40 }), 'cursor-b');
    const token = await service.token('auditor', 'cursor-b');
    const cursor = await firstCursor({ limit: 5 });
    expectRefused(await ask({ limit: 5, cursor }, { token }));
    expectFound(await askAll({}, { token }), expected({}, theirs));
  });

  it('misses and repeats nothing while events are appended and streams are made', async () => {
    const categories = ['data_access', 'security_event'] as const;
    const first = await store(generateEvents({ seed: 51, count: 300, categories }), 'busy');
    const token = await service.token('auditor', 'busy');
    const walk = async (order: 'asc' | 'desc', limit: number, begun: () => void): Promise<Json[]> => {
      const { body } = await ask({ order, limit }, { token });
      begun();
      return [...body.items, ...(await askAll({ order, limit, cursor: body.next }, { token }))];
    };
    const begun = Promise.withResolvers<void>();
    let walks = 0;
    const begin = () => {
      walks += 1;
      if (walks === 2) begun.resolve();
    };
    const [up, down] = await Promise.all([
      walk('asc', 17, begin),
      walk('desc', 13, begin),
      begun.promise.then(async () => {
        for (let seed = 60; seed < 72; seed++) await store(generateEvents({ seed, count: 15 }), 'busy');
      }),
    ]);
    expectFound(down, expected({}, first));
    const ids = up.map((item) => item.id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { event } of first) expect(ids).toContain(event.id);
    // Oldest first, what came meanwhile follows in order.
    for (const items of Map.groupBy(up, (item) => item.log.stream).values()) {
      expect(items.map((item) => item.log.seq)).toEqual(items.map((_, seq) => seq));
    }
  });

  it('newest first leaves out a stream that was made since', async () => {
    const first = await store(generateEvents({ seed: 71, count: 30, categories: ['data_access'] }), 'grown');
    const token = await service.token('auditor', 'grown');
    const { body } = await ask({ limit: 10 }, { token });
    await store(generateEvents({ seed: 72, count: 30, categories: ['security_event'] }), 'grown');
    const rest = await askAll({ limit: 10, cursor: body.next }, { token });
    expectFound([...body.items, ...rest], expected({}, first));
  });

  it('stays below its own limit of length', async () => {
    const cursor = await firstCursor({ limit: 1 });
    expect(cursor.length).toBeLessThan(400);
  });
});

describe('a request looks at a bounded number of blocks', () => {
  const BLOCKS = 330;
  let own: Stored[];
  let token: string;

  // Two streams of many blocks of one entry; one entry at each end is of another outcome, which no tag tells.
  beforeAll(async () => {
    own = [];
    token = await service.token('auditor', 'blocks');
    const writer = await service.token('service', 'blocks');
    const events = (category: 'data_access' | 'system_operation') =>
      generateEvents({ seed: 91, count: BLOCKS, categories: [category] }).map((event, n) => ({
        ...event,
        outcome: n === 0 || n === BLOCKS - 1 ? ('failure' as const) : ('success' as const),
      }));
    const [one, other] = [events('data_access'), events('system_operation')];
    for (const [n, event] of one.entries()) {
      const { body } = await service.post('/v1/events/batch', [event, other[n]], { token: writer });
      own.push({ event, receipt: receiptOf(body.items[0]) }, { event: other[n]!, receipt: receiptOf(body.items[1]) });
    }
  });

  it.each(['asc', 'desc'] as const)('and goes on behind a short or empty page, %s', async (order) => {
    const query: Query = { outcome: 'failure', order };
    const pages: Json[][] = [];
    let cursor: string | undefined;
    do {
      const { body } = await ask(cursor === undefined ? query : { ...query, cursor }, { token });
      pages.push(body.items);
      cursor = body.next ?? undefined;
      expect(pages.length).toBeLessThan(20);
    } while (cursor !== undefined);
    expectFound(pages.flat(), expected(query, own));
    // 660 blocks at 256 a request.
    expect(pages.length).toBeGreaterThan(2);
  });

  it.each(['asc', 'desc'] as const)('and ends though one stream has its match at the far end, %s', async (order) => {
    for (const limit of [1, 2, 100]) {
      const query: Query = { outcome: 'failure', order, limit };
      expectFound(await askAll(query, { token }, 30), expected(query, own));
    }
    for (const occurredTo of [own[4]!.event.occurredAt, own.at(-4)!.event.occurredAt]) {
      const query: Query = { occurredTo, order, limit: 300 };
      expectFound(await askAll(query, { token }, 30), expected(query, own));
    }
  });

  it('but finds a rare tag at once', async () => {
    const actor = own[0]!.event.actor.id;
    const { body } = await ask({ actor, order: 'asc', limit: 1 }, { token });
    expectFound(body.items, expected({ actor, order: 'asc' }, own).slice(0, 1));
  });
});

describe('a page', () => {
  it('ends early when its items are large, and goes on', async () => {
    const events = Array.from({ length: 50 }, (_, n) => ({
      ...generateEvents({ seed: 81, count: 1, categories: ['system_operation'] })[0]!,
      id: `large-${n}`,
      details: { pad: String(n).padEnd(240 * 1024, 'x') },
    }));
    const own = await store(events, 'large');
    const token = await service.token('auditor', 'large');
    const first = await ask({ limit: 1000 }, { token });
    expect(first.text.length).toBeLessThan(9 * 1024 * 1024);
    expect(first.body.items.length).toBeLessThan(50);
    expectFound(await askAll({ limit: 1000 }, { token }), expected({}, own));
  });
});

describe('one event', () => {
  it('is given by its id as it was sent, with its place', async () => {
    for (const one of stored.filter((_, n) => n % 45 === 0)) {
      const { status, body } = await service.get(`/v1/events/${one.event.id}`);
      expect(status).toBe(200);
      expect(checkShape('StoredEvent', body)).toEqual([]);
      expectFound([body], [one]);
    }
  });

  it('names the entry before it', async () => {
    const entries = new Map(stored.map(({ receipt }) => [`${receipt.stream} ${receipt.seq}`, receipt.hash]));
    for (const { event, receipt } of stored.slice(0, 60)) {
      const { body } = await service.get(`/v1/events/${event.id}`);
      expect(body.log.previous).toBe(entries.get(`${receipt.stream} ${receipt.seq - 1}`) ?? '0'.repeat(64));
    }
  });

  it('of several streams needs its category named', async () => {
    const id = 'in-three';
    const base = {
      id,
      action: 'a.b',
      outcome: 'success',
      occurredAt: '2026-01-01T00:00:00Z',
      source: { service: 's' },
    };
    const actor = { type: 'user', id: 'u' };
    const events = [
      { ...base, category: 'system_operation' },
      { ...base, category: 'user_authentication', actor },
      { ...base, category: 'security_event', severity: 1 },
    ];
    const token = await service.token('service', 'several');
    const reader = await service.token('auditor', 'several');
    await service.post('/v1/events', events[0], { token });
    expect((await service.get(`/v1/events/${id}`, { token: reader })).status).toBe(200);
    await service.post('/v1/events/batch', events.slice(1), { token });

    const { status, body } = await service.get(`/v1/events/${id}`, { token: reader });
    expect([status, body.code]).toEqual([400, 'category_required']);
    expect(body.errors[0].field).toBe('category');
    for (const { category } of events) expect(body.errors[0].message).toContain(category);
    for (const event of events) {
      const found = await service.get(`/v1/events/${id}?category=${event.category}`, { token: reader });
      const { log, ...sent } = found.body;
      expect(sent).toEqual(event);
      expect(log.stream).toBe(`several/${event.category}`);
    }
    expect((await service.get(`/v1/events/${id}?category=data_access`, { token: reader })).status).toBe(404);
  });

  it.each(['unknown', '...', 'A', '0199a4c2-7be1-7c53-9d0e-5f1b8a3c6d24'])('%s is not there: 404', async (id) => {
    const { status, body } = await service.get(`/v1/events/${id}`);
    expect([status, body.code]).toEqual([404, 'not_found']);
  });

  it.each(['%2e', '%2E%2e', 'a%20b', '%00', 'a%2Fb', '%C3%A4', 'x'.repeat(129)])('%s is no id: 400', async (id) => {
    const { status, body } = await service.get(`/v1/events/${id}`);
    expect([status, body.code]).toEqual([400, 'invalid_request']);
    expect(body.errors[0].field).toBe('id');
  });

  it('takes no unknown parameter', async () => {
    const { status, body } = await service.get(`/v1/events/${stored[0]!.event.id}?x=1`);
    expect([status, body.errors[0].field]).toEqual([400, 'x']);
  });

  it('whose key can not be had is 503 not_ready, and comes back with the key', async () => {
    const [one] = await store(generateEvents({ seed: 95, count: 1, categories: ['data_access'] }), 'locked');
    // Another start, which has not opened the key yet.
    const other = await startService({ beside: service });
    const folder = service.config.monthKeysDir;
    const keys = (await readdir(folder)).filter((name) => name.endsWith('.key'));
    try {
      for (const name of keys) await rename(join(folder, name), join(folder, `${name}.away`));
      const token = await service.token('auditor', 'locked');
      for (const path of [`/v1/events/${one!.event.id}`, '/v1/events']) {
        const { status, headers, body } = await other.get(path, { token });
        expect([status, body.code]).toEqual([503, 'not_ready']);
        expect(Number(headers['retry-after'])).toBeGreaterThan(0);
      }
      for (const name of keys) await rename(join(folder, `${name}.away`), join(folder, name));
      expect((await other.get(`/v1/events/${one!.event.id}`, { token })).status).toBe(200);
    } finally {
      await other.stop();
    }
  });
});

describe('the difference that a configuration change made', () => {
  const change = (changes: Json, id: string) => ({
    id,
    category: 'configuration_change',
    action: 'role.update',
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 's' },
    actor: { type: 'user', id: 'u' },
    target: { type: 'role', id: 'r' },
    changes,
  });

  async function shown(changes: Json): Promise<Json> {
    const id = `diff-${createHash('sha256').update(JSON.stringify(changes)).digest('hex')}`;
    expect(
      (await service.post('/v1/events', change(changes, id), { token: await service.token('service', 'diffs') }))
        .status,
    ).toBe(201);
    const { status, body } = await service.get(`/v1/events/${id}`, { token: await service.token('auditor', 'diffs') });
    expect(status).toBe(200);
    const { log, ...sent } = body;
    expect(sent).toEqual(change(changes, id));
    expect(checkShape('StoredEvent', body)).toEqual([]);
    return log.diff;
  }

  it('stands in log.diff where before and after were sent', async () => {
    expect(
      await shown({ before: { a: 1, b: [1], c: { d: 1, e: 2 } }, after: { a: 2, b: [1, 2], c: { e: 2, f: 3 } } }),
    ).toEqual([
      { op: 'replace', path: '/a', value: 2 },
      { op: 'replace', path: '/b', value: [1, 2] },
      { op: 'remove', path: '/c/d' },
      { op: 'add', path: '/c/f', value: 3 },
    ]);
    expect(await shown({ before: null, after: { a: 1 } })).toEqual([{ op: 'replace', path: '', value: { a: 1 } }]);
    expect(await shown({ before: { a: 1.5 }, after: { a: 1.5 } })).toEqual([]);
    expect(await shown({ before: { a: null }, after: {} })).toEqual([{ op: 'remove', path: '/a' }]);
  });

  it('escapes names as RFC 6901 says, and knows no inherited ones', async () => {
    expect(await shown({ before: {}, after: { 'a/b~c': 1, '': 2, '"\\': 3 } })).toEqual([
      { op: 'add', path: '/', value: 2 },
      { op: 'add', path: '/"\\', value: 3 },
      { op: 'add', path: '/a~1b~0c', value: 1 },
    ]);
    const names = ['constructor', 'toString', 'hasOwnProperty', 'valueOf', '__defineGetter__'];
    const object = Object.fromEntries(names.map((name) => [name, 1]));
    const paths = (diff: Json[]) => diff.map(({ op, path }) => [op, path]);
    expect(paths(await shown({ before: {}, after: object }))).toEqual(
      names.toSorted().map((name) => ['add', `/${name}`]),
    );
    expect(paths(await shown({ before: object, after: {} }))).toEqual(
      names.toSorted().map((name) => ['remove', `/${name}`]),
    );
  });

  it('is not computed where one was sent, or in other categories', async () => {
    expect(await shown({ before: 1, after: 2, diff: [{ op: 'replace', path: '', value: 2 }] })).toBeUndefined();
    const modified = stored.find(({ event }) => event.category === 'data_modification')!;
    expect((await service.get(`/v1/events/${modified.event.id}`)).body.log.diff).toBeUndefined();
  });

  it('is one replacement of the whole where its paths would be longer than any event', async () => {
    const long = 'x'.repeat(60_000);
    const many = (value: number) => ({
      [long]: Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [n, value])),
    });
    expect(await shown({ before: many(1), after: many(2) })).toEqual([{ op: 'replace', path: '', value: many(2) }]);
  });

  it('applied to before gives after', () => {
    const random = randomFrom(17);
    for (let round = 0; round < 300; round++) {
      const [before, after] = [randomValue(random, 3), randomValue(random, 3)];
      expect(jsonDiff(before, after).reduce(applied, before)).toEqual(after);
    }
  });
});

describe('streams', () => {
  it('are listed with heads that equal the last receipts, and roots of RFC 6962', async () => {
    const answer = await service.get('/v1/streams');
    expect(answer.status).toBe(200);
    expect(checkShape('StreamPage', answer.body)).toEqual([]);
    const groups = Map.groupBy(stored, ({ receipt }) => receipt.stream);
    // This one has the entries about reading too.
    const trail = answer.body.items.find((item: Json) => item.stream === 'acme/data_access');
    expect(trail.size).toBeGreaterThan(groups.get('acme/data_access')!.length);
    groups.delete('acme/data_access');
    const items = answer.body.items.filter((item: Json) => item !== trail);
    // What is signed of them has tests of its own: test/proof.test.ts.
    expect(items.map(({ checkpoint: _, ...item }: Json) => item)).toEqual(
      [...groups.keys()].toSorted().map((stream) => {
        const receipts = groups.get(stream)!.map(({ receipt }) => receipt);
        const last = receipts.at(-1)!;
        expect(receipts.map(({ seq }) => seq)).toEqual(receipts.map((_, n) => n));
        return {
          stream,
          category: stream.split('/')[1],
          epoch: 1,
          size: receipts.length,
          hash: last.hash,
          root: rootOf(receipts.map(({ hash }) => Buffer.from(hash, 'hex'))).toString('hex'),
          recordedAt: last.recordedAt,
        };
      }),
    );
    expect(answer.body.next).toBe(null);
  });

  it('that were made but never written to are not listed', async () => {
    const { rows } = await service.adminPool.query("SELECT id FROM sealog.tenant WHERE name = 'acme'");
    await service.adminPool.query(
      "INSERT INTO sealog.stream (tenant, category, epoch, name) VALUES ($1, 'log_administration', 1, 'acme/log_administration')",
      [rows[0].id],
    );
    const { body } = await service.get('/v1/streams');
    expect(body.items.map((item: Json) => item.stream)).not.toContain('acme/log_administration');
    expectFound(await askAll({ limit: 1000 }), expected({}));
  });

  it('take no parameters', async () => {
    expect((await service.get('/v1/streams?limit=1')).status).toBe(400);
  });
});

describe('tenants', () => {
  const CANARY = 'CANARY-7d1f';

  it('never see each other', async () => {
    const secret = (field: string) => `${CANARY}-${field}`;
    const theirs = generateEvents({ seed: 31, count: 60 }).map((event) => ({
      ...event,
      source: { service: secret('service'), host: secret('host'), site: secret('site'), zone: secret('zone') },
      actor: {
        type: secret('type'),
        id: secret('actor'),
        name: secret('name'),
        email: `${CANARY}@example.com`,
        ip: '198.51.100.77',
      },
      target: { type: secret('type'), id: secret('target'), name: secret('name') },
      reason: secret('reason'),
      details: { [secret('key')]: secret('details') },
      raw: secret('raw'),
    }));
    const kept = await store(theirs, 'canary');
    const token = await service.token('auditor', 'canary');
    const mine = await service.token('auditor', 'acme');
    expectFound(await askAll({ actor: secret('actor') }, { token }), expected({}, kept));

    const answers: Answer[] = [];
    for (const query of [
      {},
      { actor: secret('actor') },
      { actor: secret('name') },
      { actor: `${CANARY}@EXAMPLE.com` },
      { ip: '198.51.100.77' },
      { target: secret('target') },
      { service: secret('service') },
      { site: secret('site') },
      { limit: 1000, order: 'asc' },
    ] as Query[]) {
      for (const reader of [mine, await service.token('auditor', 'nobody')])
        answers.push(await ask(query, { token: reader }));
    }
    // The same ids are taken by both: each gets his own.
    for (const { event } of kept.slice(0, 20))
      answers.push(await service.get(`/v1/events/${event.id}`, { token: mine }));
    answers.push(await service.get('/v1/streams', { token: mine }));
    for (const { status, body } of answers) {
      expect([200, 404]).toContain(status);
      // What a reader asked for stands in his own log.
      const about = (body.items ?? []).filter((item: Json) => item.source?.service === 'sealog');
      for (const { log } of about) expect(log.stream).toMatch(/^(acme|nobody)\/data_access$/);
      const text = JSON.stringify({ ...body, items: body.items?.filter((item: Json) => !about.includes(item)) });
      expect(text).not.toContain(CANARY);
      expect(text).not.toContain('canary/');
    }
    for (const { body } of answers.slice(2, 16)) expect(body).toEqual({ items: [], next: null });
  });

  it('without any event read nothing but that they read', async () => {
    const token = await service.token('auditor', 'nobody');
    expectFound(await askAll({}, { token }), []);
    const { items } = (await service.get('/v1/streams', { token })).body;
    expect(items.map((item: Json) => item.stream)).toEqual(['nobody/data_access']);
    expect((await service.get(`/v1/events/${stored[0]!.event.id}`, { token })).status).toBe(404);
  });

  it('are not made by reading where they are closed', async () => {
    const closed = await startService({ beside: service, makeTenants: false });
    try {
      const token = await closed.token('auditor', 'never-opened');
      for (const path of ['/v1/events', '/v1/streams', `/v1/events/${stored[0]!.event.id}`]) {
        const { status, body } = await closed.get(path, { token });
        expect([status, body.code]).toEqual([403, 'forbidden']);
      }
      const { rows } = await service.adminPool.query("SELECT FROM sealog.tenant WHERE name = 'never-opened'");
      expect(rows).toEqual([]);
    } finally {
      await closed.stop();
    }
  });
});

const FILTERS = [
  'category',
  'action',
  'outcome',
  'actor',
  'target',
  'site',
  'service',
  'ip',
  'severityMin',
  'from',
  'to',
  'occurredFrom',
  'occurredTo',
] as const;

/** A filter that this event meets, or just misses. */
function filterFrom(random: () => number, name: (typeof FILTERS)[number], { event, receipt }: Stored): Query {
  const { actor, target, source } = event;
  switch (name) {
    case 'category':
    case 'action':
    case 'outcome':
      return { [name]: event[name] };
    case 'actor':
      return { actor: pick(random, [actor.id, actor.name, actor.email, actor.email?.toLowerCase()].filter(isThere)) };
    case 'target':
      return { target: pick(random, [target?.id, target?.name, 'no such thing'].filter(isThere)) };
    case 'site':
    case 'service':
      return { [name]: source[name] ?? 'no such place' };
    case 'ip':
      return {
        ip:
          actor.ip === undefined
            ? pick(random, Object.keys(SPELLINGS))
            : pick(random, SPELLINGS[address(actor.ip)] ?? [actor.ip]),
      };
    case 'severityMin':
      return { severityMin: event.severity ?? 5 };
    case 'from':
    case 'to':
      return { [name]: receipt.recordedAt };
    case 'occurredFrom':
    case 'occurredTo':
      return { [name]: event.occurredAt };
    default: {
      const never: never = name;
      throw new Error(never);
    }
  }
}

function isThere<T>(value: T | undefined): value is T {
  return value !== undefined;
}

function encoded(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}

function decoded(cursor: string): Json {
  return JSON.parse(Buffer.from(cursor, 'base64url').toString());
}

/** RFC 6962 section 2.1, word by word. */
function rootOf(leaves: readonly Buffer[]): Buffer {
  if (leaves.length === 1) return leaves[0]!;
  let split = 1;
  while (split * 2 < leaves.length) split *= 2;
  return createHash('sha256')
    .update(Buffer.of(1))
    .update(rootOf(leaves.slice(0, split)))
    .update(rootOf(leaves.slice(split)))
    .digest();
}

/** One operation of RFC 6902, of those that jsonDiff makes. */
function applied(document: Json, { op, path, value }: Json): Json {
  if (path === '') return value;
  const [, name, ...rest] = path.split('/');
  const member = name.replaceAll('~1', '/').replaceAll('~0', '~');
  if (rest.length > 0)
    return { ...document, [member]: applied(document[member], { op, path: `/${rest.join('/')}`, value }) };
  if (op !== 'add' && !Object.hasOwn(document, member)) throw new Error(`nothing at ${path}`);
  const { [member]: _, ...others } = document;
  return op === 'remove' ? others : { ...others, [member]: value };
}

function randomValue(random: () => number, depth: number): Json {
  if (depth === 0 || random() < 0.3) return pick(random, [null, true, 0, 1.5, 'a', '', [], {}, [1, { a: 1 }]]);
  const names = ['a', 'b', 'a/b', '~', '~1', '', 'constructor', '0', '"\\'];
  return Object.fromEntries(names.filter(() => random() < 0.5).map((name) => [name, randomValue(random, depth - 1)]));
}

function pick<T>(random: () => number, items: readonly T[]): T {
  return items[Math.floor(random() * items.length)]!;
}

/** Marsaglia's xorshift with 32 bits: the same numbers on every machine. */
function randomFrom(seed: number): () => number {
  let state = seed | 0 || 1;
  for (let n = 0; n < 20; n++) step();
  function step(): void {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
  }
  return () => {
    step();
    return (state >>> 0) / 2 ** 32;
  };
}
