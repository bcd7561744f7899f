/** Quotas: the arithmetic, to the millisecond, and what a client gets to see of it. */
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { type Asker, burstOf, type Quota, Quotas } from '../src/auth/quotas.ts';
import { Strangers } from '../src/auth/strangers.ts';
import { type StoredSetting, TenantSettings } from '../src/auth/tenant-settings.ts';
import { Problem } from '../src/errors.ts';
import { type Answer, startService, type TestService } from './support/service.ts';

const NONE: Quota = { eventsPerSecond: 0, burstEvents: 1, bytesPerSecond: 0, readsPerSecond: 0 };

function asker(tenant = 'acme', subject = 'a', credential: Asker['credential'] = 'token'): Asker {
  return { tenant, subject, credential };
}

describe('strangers who read public logs', () => {
  it('get so much from one network, and so much in all, from however many', () => {
    let now = 1_000_000;
    const strangers = new Strangers(() => now);
    const admitted = (address: string, times = 1): number => {
      let count = 0;
      for (let n = 0; n < times; n++) {
        try {
          strangers.admit(address);
          count += 1;
        } catch (error) {
          expect(error).toMatchObject({ code: 'quota', status: 429, retryAfter: 1 });
        }
      }
      return count;
    };
    expect(admitted('203.0.113.9', 2000)).toBe(1000);
    // A /64 is one sender, an address of IPv4 is one.
    expect(admitted('2001:db8::1', 600) + admitted('2001:db8::2', 600)).toBe(1000);
    expect(admitted('203.0.113.10')).toBe(1);
    now += 1000;
    expect(admitted('203.0.113.9', 2000)).toBe(100);
    // What one network was refused costs the others nothing; what all have had is had, also once so many networks came that they are forgotten.
    now += 3_600_000;
    let all = 0;
    for (let n = 0; n < 30_000; n++) all += admitted(`10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`);
    expect(all).toBe(10_000);
    expect(strangers.held).toBeLessThanOrEqual(10_001);
  });
});

describe('a quota', () => {
  let clock = { now: 0 };
  let quotas = new Quotas();

  function begin(credentialsMax?: number): void {
    clock = { now: 1_000_000 };
    quotas = new Quotas(() => clock.now, credentialsMax);
  }

  /** Seconds to wait, or 0 where the request was let in. */
  function wait(attempt: () => void): number {
    try {
      attempt();
      return 0;
    } catch (error) {
      expect(error).toBeInstanceOf(Problem);
      expect(error).toMatchObject({ code: 'quota', status: 429 });
      return (error as Problem).retryAfter!;
    }
  }

  const event = (quota: Quota, who = asker(), bytes = 0): number => wait(() => quotas.takeEvents(who, quota, 1, bytes));
  const read = (quota: Quota, who = asker()): number => wait(() => quotas.takeRead(who, quota));

  it('lets its burst through at once, and then its rate, to the millisecond', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 10, burstEvents: 50 };
    for (let n = 0; n < 50; n++) expect(event(quota)).toBe(0);
    expect(event(quota)).toBe(1);
    for (let n = 0; n < 20; n++) {
      clock.now += 99;
      expect(event(quota)).toBe(1);
      clock.now += 1;
      expect(event(quota)).toBe(0);
      expect(event(quota)).toBe(1);
    }
    // What was refused cost nothing; what was not used fills the burst, and no more.
    clock.now += 3_600_000;
    for (let n = 0; n < 50; n++) expect(event(quota)).toBe(0);
    expect(event(quota)).toBe(1);
  });

  it('over any time lets through no more than the rate and one burst', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 7, burstEvents: 20 };
    let let_in = 0;
    const began = clock.now;
    for (let n = 0; n < 20_000; n++) {
      if (event(quota) === 0) let_in += 1;
      clock.now += 3;
    }
    const seconds = (clock.now - began) / 1000;
    expect(let_in).toBeLessThanOrEqual(20 + 7 * seconds);
    expect(let_in).toBeGreaterThanOrEqual(20 + 7 * seconds - 1);
  });

  it('lets a batch into debt, and says how many seconds that takes; after these, not before, the next is let in', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 10, burstEvents: 20 };
    expect(event(quota)).toBe(0);
    quotas.charge(asker(), quota, 499, 0);
    // 20 − 500 = −480; one is needed: 481 ÷ 10.
    expect(event(quota)).toBe(49);
    clock.now += 48_000;
    expect(event(quota)).toBe(1);
    clock.now += 99;
    expect(event(quota)).toBe(1);
    clock.now += 1;
    expect(event(quota)).toBe(0);
    expect(event(quota)).toBe(1);
  });

  it('counts bytes beside events; whichever lasts longer is told', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 1, burstEvents: 2, bytesPerSecond: 1000 };
    expect(event(quota, asker(), 400)).toBe(0);
    quotas.charge(asker(), quota, 0, 14_600);
    // Bytes: 10,000 − 15,000.
    expect(event(quota, asker(), 400)).toBe(6);
    clock.now += 5001;
    expect(event(quota, asker(), 10_000)).toBe(0);
    expect(event(quota)).toBe(10);
    clock.now += 10_000;
    expect(event(quota)).toBe(0);
  });

  it('holds what is declared before it came, so that many at once do not all pass, and gives back what did not come', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 100, burstEvents: 500, bytesPerSecond: 1000 };
    expect(event(quota, asker(), 6000)).toBe(0);
    expect(event(quota, asker(), 6000)).toBe(0);
    expect(event(quota, asker(), 6000)).toBe(3);
    begin();
    const batch = () => wait(() => quotas.takeEvents(asker(), quota, 400, 10));
    expect(batch()).toBe(0);
    expect(batch()).toBe(0);
    expect(batch()).toBe(4);
    quotas.charge(asker(), quota, -390, 0);
    expect(batch()).toBe(0);
  });

  it('counts reads apart from events', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 1, burstEvents: 1, readsPerSecond: 2 };
    expect(event(quota)).toBe(0);
    expect(event(quota)).toBe(1);
    for (let n = 0; n < 20; n++) expect(read(quota)).toBe(0);
    expect(read(quota)).toBe(1);
    clock.now += 500;
    expect(read(quota)).toBe(0);
    expect(read(quota)).toBe(1);
  });

  it('of one tenant is nothing to another', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 1, burstEvents: 3 };
    for (let n = 0; n < 3; n++) expect(event(quota, asker('acme'))).toBe(0);
    expect(event(quota, asker('acme'))).toBe(1);
    for (let n = 0; n < 3; n++) expect(event(quota, asker('umbrella'))).toBe(0);
  });

  it('of 0 is no limit, and remembers nothing', () => {
    begin();
    for (let n = 0; n < 10_000; n++) {
      expect(event(NONE, asker('acme', `${n}`), 1_000_000)).toBe(0);
      quotas.charge(asker('acme', `${n}`), NONE, 10_000, 1_000_000);
      expect(read(NONE, asker('acme', `${n}`))).toBe(0);
    }
    expect(quotas.held).toEqual({ tenants: 0, credentials: 0 });
    // One limit does not make another.
    const quota = { ...NONE, bytesPerSecond: 10 };
    for (let n = 0; n < 1000; n++) expect(event(quota, asker(), 0)).toBe(0);
  });

  it('that is changed begins anew, without the debt; the same again does not', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 1, burstEvents: 1 };
    event(quota);
    quotas.charge(asker(), quota, 1000, 0);
    expect(event({ ...quota })).toBe(1001);
    expect(event({ ...quota, eventsPerSecond: 2 })).toBe(0);
    expect(event({ ...quota, eventsPerSecond: 2 })).toBe(1);
  });

  it('gives one credential all of it while it is alone, and half while others of its tenant are in use', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 10, burstEvents: 100 };
    const [flood, calm] = [asker('acme', 'flood', 'api_key'), asker('acme', 'calm', 'api_key')];
    for (let n = 0; n < 100; n++) expect(event(quota, flood)).toBe(0);
    expect(event(quota, flood)).toBe(1);
    // Both are empty: the tenant's bucket, and that of the credential. Nobody else could have known.
    expect(event(quota, calm)).toBe(1);
    let sent = { flood: 0, calm: 0, calmRefused: 0 };
    for (let ms = 0; ms < 60_000; ms += 10) {
      clock.now += 10;
      if (event(quota, flood) === 0) sent.flood += 1;
      if (ms % 250 === 0) {
        if (event(quota, calm) === 0) sent.calm += 1;
        else sent.calmRefused += 1;
      }
    }
    // 4 a second of the 5 that are its half.
    expect(sent.calmRefused).toBeLessThanOrEqual(1);
    expect(sent.flood).toBeGreaterThanOrEqual(299);
    expect(sent.flood).toBeLessThanOrEqual(301);
    // When the other has been silent for ten seconds, all of it is its own again.
    clock.now += 10_001;
    sent = { flood: 0, calm: 0, calmRefused: 0 };
    for (let ms = 0; ms < 60_000; ms += 10) {
      clock.now += 10;
      if (event(quota, flood) === 0) sent.flood += 1;
    }
    expect(sent.flood).toBeGreaterThanOrEqual(600);
  });

  it('of a credential takes the subject of a token for another than the key of the same name', () => {
    begin();
    const quota = { ...NONE, readsPerSecond: 1 };
    // 10 at once for the tenant, 5 for each of two.
    expect(read(quota, asker('acme', 'x', 'token'))).toBe(0);
    for (let n = 0; n < 5; n++) expect(read(quota, asker('acme', 'x', 'api_key'))).toBe(0);
    expect(read(quota, asker('acme', 'x', 'api_key'))).toBeGreaterThan(0);
    expect(read(quota, asker('acme', 'x', 'token'))).toBe(0);
    // The readers of a tenant are nothing to its senders.
    expect(event({ ...quota, eventsPerSecond: 1, burstEvents: 10 }, asker('acme', 'y'))).toBe(0);
  });

  it('lets go what is idle, and is bounded also where nothing is', () => {
    begin(1000);
    const quota = { ...NONE, eventsPerSecond: 10, burstEvents: 10 };
    for (let n = 0; n < 900; n++) event(quota, asker(`t${n}`));
    expect(quotas.held).toEqual({ tenants: 900, credentials: 900 });
    clock.now += 60_001;
    event(quota, asker('last'));
    expect(quotas.held).toEqual({ tenants: 1, credentials: 1 });
    for (let n = 0; n < 5000; n++) {
      event(quota, asker(`t${n % 70}`, `s${n}`));
      expect(quotas.held.credentials).toBeLessThanOrEqual(1001);
    }
    expect(quotas.held.tenants).toBeLessThanOrEqual(71);
    // Debts are kept as long as there is room.
    begin(1000);
    quotas.charge(asker('deep'), quota, 1_000_000, 0);
    for (let n = 0; n < 900; n++) event(quota, asker(`t${n}`));
    clock.now += 60_001;
    event(quota, asker('last'));
    expect(event(quota, asker('deep'))).toBeGreaterThan(90_000);
  });

  it('does not mind a clock that stands still or goes back', () => {
    begin();
    const quota = { ...NONE, eventsPerSecond: 10, burstEvents: 10 };
    for (let n = 0; n < 10; n++) event(quota);
    clock.now -= 5000;
    expect(event(quota)).toBe(1);
    clock.now += 100;
    expect(event(quota)).toBe(0);
  });

  it('has a burst of ten seconds, and of one at least', () => {
    expect([burstOf(10), burstOf(0), burstOf(0.01)]).toEqual([100, 1, 1]);
  });
});

describe('what is set of tenants', () => {
  const defaults = { eventsPerSecond: 5, bytesPerSecond: 0, readsPerSecond: 100 };
  const none = { eventsPerSecond: null, burstEvents: null, bytesPerSecond: null, readsPerSecond: null } as const;

  function settings() {
    const clock = { now: 0 };
    const stored = new Map<string, StoredSetting>();
    const queries: string[][] = [];
    const state = { away: false, hold: undefined as Promise<void> | undefined };
    const made = new TenantSettings({
      find: async (names) => {
        queries.push([...names]);
        const found = new Map([...stored].filter(([name]) => names.includes(name)));
        await state.hold;
        if (state.away) throw new Error('away');
        return found;
      },
      defaults,
      monotonic: () => clock.now,
    });
    return { made, clock, stored, queries, state };
  }

  const settled = () => new Promise((resolve) => setImmediate(resolve));

  it('are asked for once for all who ask at once, and then known without a wait', async () => {
    const { made, queries, stored } = settings();
    stored.set('b', { number: 1, state: 'closed', quota: { ...none, eventsPerSecond: 0, readsPerSecond: 7 } });
    const [a, b] = await Promise.all([made.of('a'), made.of('b'), made.of('a')]);
    expect(queries).toEqual([['a', 'b']]);
    expect(a).toMatchObject({ exists: false, isClosed: false });
    expect(a.quota).toEqual({ eventsPerSecond: 5, burstEvents: 50, bytesPerSecond: 0, readsPerSecond: 100 });
    expect(b).toMatchObject({ exists: true, isClosed: true });
    expect(b.quota).toEqual({ eventsPerSecond: 0, burstEvents: 1, bytesPerSecond: 0, readsPerSecond: 7 });
    expect(made.of('a')).not.toBeInstanceOf(Promise);
    // The same object for as long as nothing changes: what hangs on it lasts.
    expect(made.quotaOf('b')).toBe(b.quota);
  });

  it('are asked for again ahead of time, without a wait, and never used when they are older than five seconds', async () => {
    const { made, clock, queries, stored } = settings();
    await made.of('a');
    clock.now = 1999;
    expect(made.of('a')).not.toBeInstanceOf(Promise);
    expect(queries).toHaveLength(1);
    stored.set('a', { number: 1, state: 'closed', quota: none });
    clock.now = 2001;
    expect(made.of('a')).toMatchObject({ isClosed: false });
    await settled();
    expect(queries).toHaveLength(2);
    expect(made.of('a')).toMatchObject({ isClosed: true });
    stored.set('a', { number: 2, state: 'open', quota: none });
    clock.now = 2001 + 5001;
    const later = made.of('a');
    expect(later).toBeInstanceOf(Promise);
    expect(await later).toMatchObject({ isClosed: false });
  });

  it('hold at once where they were made, also while the database is being asked about what was before', async () => {
    const { made, state, stored } = settings();
    const hold = Promise.withResolvers<void>();
    state.hold = hold.promise;
    stored.set('a', { number: 3, state: 'open', quota: none });
    const asking = made.of('a');
    await settled();
    made.put('a', { number: 4, state: 'closed', quota: none });
    expect(made.of('a')).toMatchObject({ isClosed: true });
    hold.resolve();
    expect(await asking).toMatchObject({ isClosed: true });
  });

  it('go on for a minute where the database is away, are asked for once a second, and then nobody is let in', async () => {
    const { made, clock, state, queries, stored } = settings();
    stored.set('a', { number: 1, state: 'closed', quota: none });
    await made.of('a');
    state.away = true;
    clock.now = 6000;
    expect(await made.of('a')).toMatchObject({ isClosed: true });
    expect(queries).toHaveLength(2);
    clock.now = 6500;
    expect(made.of('a')).toMatchObject({ isClosed: true });
    expect(() => made.of('unknown')).toThrow(expect.objectContaining({ code: 'not_ready' }));
    expect(queries).toHaveLength(2);
    clock.now = 7001;
    await expect(made.of('unknown')).rejects.toMatchObject({ code: 'not_ready' });
    clock.now = 59_999;
    expect(await made.of('a')).toMatchObject({ isClosed: true });
    clock.now = 62_000;
    await expect(made.of('a')).rejects.toMatchObject({ code: 'not_ready', status: 503 });
    state.away = false;
    stored.set('a', { number: 2, state: 'open', quota: none });
    clock.now = 63_001;
    expect(await made.of('a')).toMatchObject({ isClosed: false });
  });

  it('of very many tenants are not remembered all', async () => {
    const { made, queries } = settings();
    for (let n = 0; n < 10_050; n++) await made.of(`t${n}`);
    const before = queries.length;
    expect(made.of('t10049')).not.toBeInstanceOf(Promise);
    await made.of('t0');
    expect(queries).toHaveLength(before + 1);
  });
});

describe('a service with quotas', () => {
  let service: TestService;
  afterEach(() => service?.stop());

  let count = 0;
  function event(): Record<string, unknown> {
    count += 1;
    return {
      id: `e-${count}`,
      category: 'system_operation',
      action: 'a.b',
      outcome: 'success',
      occurredAt: '2026-01-01T00:00:00Z',
      source: { service: 's' },
    };
  }

  async function sizeOf(stream: string): Promise<number> {
    const { rows } = await service.adminPool.query('SELECT size::int FROM sealog.stream WHERE name = $1', [stream]);
    return rows[0]?.size ?? 0;
  }

  function expectQuota(answer: Answer): number {
    expect([answer.status, answer.body.code, answer.body.type]).toEqual([429, 'quota', 'urn:sealog:problem:quota']);
    expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    expect(answer.headers['content-type']).toBe('application/problem+json');
    return Number(answer.headers['retry-after']);
  }

  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

  it('answers 429 with the seconds to wait, stores nothing of it, and takes it after that time', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_EVENTS_PER_SECOND: '1' } });
    const sent: Answer[] = [];
    for (let n = 0; n < 13; n++) sent.push(await service.post('/v1/events', event()));
    const taken = sent.filter(({ status }) => status === 201).length;
    expect(taken).toBeGreaterThanOrEqual(10);
    expect(taken).toBeLessThanOrEqual(12);
    const refused = sent.filter(({ status }) => status !== 201);
    for (const answer of refused) expectQuota(answer);
    expect(await sizeOf('acme/system_operation')).toBe(taken);
    // Another tenant is not touched by it.
    const token = await service.token('service', 'umbrella');
    expect((await service.post('/v1/events', event(), { token })).status).toBe(201);
    // Readers are not, either.
    expect((await service.get('/v1/events?category=system_operation')).body.items.length).toBe(taken);

    let stored = taken;
    let again = event();
    let answer = await service.post('/v1/events', again);
    for (; answer.status === 201; answer = await service.post('/v1/events', again)) {
      stored += 1;
      again = event();
    }
    await pause(expectQuota(answer) * 1000);
    expect((await service.post('/v1/events', again)).status).toBe(201);
    expect(await sizeOf('acme/system_operation')).toBe(stored + 1);
    await service.checkLog();
  });

  it('counts the events of a batch, valid or not, and of each category, before it is refused the next', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_EVENTS_PER_SECOND: '10' } });
    const batch = Array.from({ length: 150 }, event);
    expect((await service.post('/v1/events/batch', [...batch, ...Array(150).fill({})])).body.items).toHaveLength(300);
    // 100 − 300, and one needed.
    const seconds = expectQuota(await service.post('/v1/events/batch', [event()]));
    expect(seconds).toBeGreaterThanOrEqual(19);
    expect(seconds).toBeLessThanOrEqual(21);
    expectQuota(await service.post('/v1/events', event()));
    expect(await sizeOf('acme/system_operation')).toBe(150);
  });

  it('refuses before the body is read, whatever it is', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_EVENTS_PER_SECOND: '1' } });
    await service.post('/v1/events/batch', Array.from({ length: 60 }, event));
    for (const [body, headers] of [
      ['{', {}],
      ['x', { 'content-type': 'text/plain' }],
      ['', {}],
      [Buffer.alloc(300_000), {}],
      [Buffer.from([1, 2, 3]), { 'content-encoding': 'gzip' }],
    ] as const)
      expectQuota(await service.post('/v1/events', body, { headers }));
    // Who he is, and whether he may, is asked first.
    expect((await service.post('/v1/events', '{', { token: null })).status).toBe(401);
    expect((await service.post('/v1/events', '{', { token: await service.token('auditor') })).status).toBe(403);
  });

  it('takes a large body for many events until they are counted', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_EVENTS_PER_SECOND: '10' } });
    const large = () => [{ ...event(), details: { pad: 'x'.repeat(200_000) } }];
    const answers = await Promise.all(Array.from({ length: 8 }, () => service.post('/v1/events/batch', large())));
    // 100 at once, and each is taken for 97; once it is known to be one, there is room again.
    expect(answers.filter(({ status }) => status === 200).length).toBeGreaterThanOrEqual(2);
    for (const answer of answers) if (answer.status !== 200) expectQuota(answer);
    for (let n = 0; n < 8; n++) expect((await service.post('/v1/events/batch', large())).status).toBe(200);
  });

  it('counts bytes as they are decoded, and as they are declared', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_BYTES_PER_SECOND: '1000' } });
    const padded = { ...event(), details: { pad: 'x'.repeat(12_000) } };
    expect((await service.post('/v1/events', padded)).status).toBe(201);
    const seconds = expectQuota(await service.post('/v1/events', event()));
    expect(seconds).toBeGreaterThanOrEqual(2);
    expect(seconds).toBeLessThanOrEqual(4);
  });

  it.each(['plain', 'gzip'])('counts the bytes of a batch: %s', async (coding) => {
    service = await startService({ environment: { SEALOG_QUOTA_BYTES_PER_SECOND: '1000' } });
    const text = JSON.stringify([{ ...event(), details: { pad: 'x'.repeat(12_000) } }]);
    const sent =
      coding === 'plain' ? ([text, {}] as const) : ([gzipSync(text), { 'content-encoding': 'gzip' }] as const);
    expect((await service.post('/v1/events/batch', sent[0], { headers: sent[1] })).status).toBe(200);
    const seconds = expectQuota(await service.post('/v1/events', event()));
    expect(seconds).toBeGreaterThanOrEqual(2);
    expect(seconds).toBeLessThanOrEqual(4);
  });

  it('holds readers to so many requests, in a bucket of their own', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_READS_PER_SECOND: '1' } });
    await service.post('/v1/events', event());
    const answers: Answer[] = [];
    for (let n = 0; n < 14; n++) answers.push(await service.get('/v1/streams'));
    expect(answers.filter(({ status }) => status === 200).length).toBeGreaterThanOrEqual(10);
    expectQuota(answers.at(-1)!);
    expect((await service.post('/v1/events', event())).status).toBe(201);
    // Who needs no credential has no quota.
    for (let n = 0; n < 20; n++) expect((await service.get('/healthz', { token: null })).status).toBe(200);
  });

  it('lets one credential that floods not take what others of its tenant need', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_READS_PER_SECOND: '2' } });
    await service.post('/v1/events', event());
    const [flood, calm] = await Promise.all([service.token(['auditor']), service.token(['it_security_admin'])]);
    expect((await service.get('/v1/streams', { token: calm })).status).toBe(200);
    const first = await service.get('/v1/streams', { token: flood });
    expect(first.status).toBe(200);
    let refused = 0;
    for (let n = 0; n < 30; n++) if ((await service.get('/v1/streams', { token: flood })).status === 429) refused += 1;
    expect(refused).toBeGreaterThan(10);
    const own = await service.get('/v1/streams', { token: flood });
    expectQuota(own);
    expect(own.body.detail).toMatch(/credential/);
    for (let n = 0; n < 5; n++) expect((await service.get('/v1/streams', { token: calm })).status).toBe(200);
  });

  it('tells a caller of his quota alone: the same words for every tenant, whether there is one or not', async () => {
    service = await startService({ environment: { SEALOG_QUOTA_READS_PER_SECOND: '1' } });
    await service.post('/v1/events', event());
    const bodies = new Set<string>();
    for (const tenant of ['acme', 'nobody-knows-it']) {
      const token = await service.token('auditor', tenant);
      let answer = await service.get('/v1/streams', { token });
      for (let n = 0; n < 40 && answer.status !== 429; n++) answer = await service.get('/v1/streams', { token });
      expectQuota(answer);
      bodies.add(answer.text);
      expect(answer.text).not.toContain(tenant);
    }
    expect(bodies.size).toBe(1);
  });
});
