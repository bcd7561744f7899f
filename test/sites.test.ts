/** Callers who are held to sites: what they read, find and prove, and what they may send. Held against a naive filter over everything that was sent. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { canonicalEvent } from '../src/chain/entry.ts';
import { isRepeat } from '../src/chain/repeat.ts';
import { type EventInput, generateEvents } from './support/events.ts';
import { type Answer, startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;
type Site = 'plant-7' | 'plant-8' | 'plant-9' | undefined;

const SITES: readonly Site[] = ['plant-7', 'plant-8', 'plant-9', undefined];
const TENANT = 'acme';
/** The same log without what other sites sent: whoever is held to plant 7 can not tell the two apart. */
const ALONE = 'alone';

let service: TestService;
/** Everything that was sent to acme, oldest first. */
const sent: EventInput[] = [];

beforeAll(async () => {
  service = await startService();
  const events = generateEvents({ seed: 77, count: 400 }).map((event, i) => ofSite(event, SITES[(i * 7) % 4]));
  // Batches of twelve: each block has entries of all sites.
  for (let start = 0; start < events.length; start += 12) await send(events.slice(start, start + 12));
  await covered();
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

/** Says in each part whose it is, so that whatever crosses can be seen. */
function ofSite(event: EventInput, site: Site): EventInput {
  const { site: _, ...source } = event.source;
  const mark = `canary ${site ?? 'none'}`;
  return {
    ...event,
    source: site === undefined ? source : { ...source, site },
    actor: { ...event.actor, name: mark },
    reason: mark,
    details: { ...event.details, mark },
  };
}

let next = 0;
function event(site: Site, given: Partial<EventInput> = {}): EventInput {
  const fields = {
    id: `own-${next++}`,
    category: 'data_access',
    action: 'report.generate',
    outcome: 'success',
    occurredAt: '2026-03-01T08:00:00Z',
    source: { service: 'mes' },
    actor: { type: 'user', id: 'u-1' },
    target: { type: 'report', id: 'r-1' },
    ...given,
  } as const;
  return ofSite(fields, site);
}

/** Sends events to acme as a batch; those of plant 7 also to the tenant that has nothing else. */
async function send(events: readonly EventInput[]): Promise<void> {
  const token = async (tenant: string) => ({ token: await service.token('service', tenant) });
  const own = events.filter(({ source }) => source.site === 'plant-7');
  const answers = [await service.post('/v1/events/batch', events, await token(TENANT))];
  if (own.length > 0) answers.push(await service.post('/v1/events/batch', own, await token(ALONE)));
  expect(answers.map(({ status, body }) => [status, body.errors])).toEqual(answers.map(() => [200, false]));
  sent.push(...events);
}

async function tokenOf(role: Role, sites: readonly string[] | undefined, tenant: string = TENANT): Promise<string> {
  const claims = { tenant, roles: [role], subject: `held ${role}`, ttlSeconds: 3600 };
  return signToken(service.tokens, sites === undefined ? claims : { ...claims, sites });
}

/** Waits until signed checkpoints cover what acme has now. */
async function covered(): Promise<void> {
  const streams = async (): Promise<Json[]> => (await service.get('/v1/streams')).body.items;
  const now = await streams();
  await vi.waitFor(async () => {
    const signed = new Map((await streams()).map(({ stream, checkpoint }) => [stream, checkpoint?.size ?? 0]));
    for (const { stream, size } of now) expect(signed.get(stream)).toBeGreaterThanOrEqual(size);
  }, 10_000);
}

/** Without what the log says of its readers, which is of no site. */
function ids(items: readonly Json[]): string[] {
  return items.filter(({ source }) => source.service !== 'sealog').map(({ id }) => id);
}

async function page(token: string, query: Readonly<Record<string, string>>): Promise<Answer> {
  return service.get(`/v1/events?${new URLSearchParams(query)}`, { token });
}

async function pages(token: string, query: Readonly<Record<string, string>>): Promise<Json[]> {
  const all: Json[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { status, body } = await page(token, { ...query, ...(cursor === '' ? {} : { cursor }) });
    expect(status).toBe(200);
    all.push(body);
    cursor = body.next;
    expect(all.length).toBeLessThan(500);
  }
  return all;
}

const ROLES: readonly Role[] = ['plant_manager', 'auditor', 'it_security_admin', 'privacy_officer'];
const HELD: readonly (readonly string[])[] = [
  ['plant-7'],
  ['plant-8', 'plant-7'],
  ['plant-9', 'plant-9', 'no-such-plant'],
  ['no-such-plant'],
  [],
];

describe.each(someOf(HELD, 2).map((sites) => ({ sites })))('whoever is held to the sites $sites', ({ sites }) => {
  const isSeen = ({ source }: EventInput) => source.site !== undefined && sites.includes(source.site);

  it.each(someOf(ROLES))('finds their events and no other: %s', async (role) => {
    const token = await tokenOf(role, sites);
    for (const query of [
      {},
      { limit: '20', order: 'asc' },
      { category: 'data_access', limit: '5' },
      { outcome: 'failure' },
      { severityMin: '3' },
      { service: sent[0]!.source.service },
      { action: sent[3]!.action },
      { actor: 'canary plant-7' },
      { actor: 'canary plant-8' },
      { from: '2020-01-01T00:00:00Z', occurredFrom: '2020-01-01T00:00:00Z' },
    ] satisfies Readonly<Record<string, string>>[]) {
      const found = ids((await pages(token, query)).flatMap(({ items }) => items));
      const wanted = sent.filter((one) => isSeen(one) && matches(one, query)).map(({ id }) => id);
      expect(found.toSorted(), JSON.stringify(query)).toEqual(wanted.toSorted());
    }
  });

  it('sees what the parameter `site` and the sites have in common', async () => {
    const token = await tokenOf('plant_manager', sites);
    for (const site of ['plant-7', 'plant-8', 'plant-9', 'no-such-plant', 'plant-', '*']) {
      const found = (await pages(token, { site, limit: '50' })).flatMap(({ items }) => items);
      expect(ids(found).toSorted()).toEqual(
        sent
          .filter((one) => isSeen(one) && one.source.site === site)
          .map(({ id }) => id)
          .toSorted(),
      );
    }
  });

  it('reads and proves their events by id; others are not there', async () => {
    const token = await tokenOf('auditor', sites);
    const nowhere = {
      read: await service.get('/v1/events/nowhere', { token }),
      proof: await service.get('/v1/events/nowhere/proof', { token }),
    };
    expect([nowhere.read.status, nowhere.proof.status]).toEqual([404, 404]);
    for (const one of someOf(sent.slice(0, 60), 20)) {
      for (const category of ['', `?category=${one.category}`]) {
        const read = await service.get(`/v1/events/${one.id}${category}`, { token });
        const proof = await service.get(`/v1/events/${one.id}/proof${category}`, { token });
        if (isSeen(one)) {
          expect([read.status, read.body.source]).toEqual([200, one.source]);
          expect([proof.status, JSON.parse(proof.body.record).id]).toEqual([200, one.id]);
        } else {
          expect([read.body, proof.body]).toEqual([nowhere.read.body, nowhere.proof.body]);
        }
      }
    }
  });

  it('gets no answer that holds anything of another site', async () => {
    const texts: string[] = [];
    for (const role of ['plant_manager', 'auditor'] as const) {
      const token = await tokenOf(role, sites);
      for (const path of Object.values(PATHS).flat()) texts.push((await fetched(path, token)).text);
    }
    const others = SITES.filter((site) => site === undefined || !sites.includes(site));
    const all = texts.join('\n');
    for (const site of others) {
      expect(all).not.toContain(`canary ${site ?? 'none'}`);
      if (site !== undefined) expect(all).not.toContain(`"site":"${site}"`);
    }
  });
});

function matches(one: EventInput, query: Readonly<Record<string, string>>): boolean {
  const { category, outcome, severityMin, service: of, action, actor } = query;
  return (
    (category === undefined || one.category === category) &&
    (outcome === undefined || one.outcome === outcome) &&
    (severityMin === undefined || (one.severity ?? -1) >= Number(severityMin)) &&
    (of === undefined || one.source.service === of) &&
    (action === undefined || one.action === action) &&
    (actor === undefined || one.actor.name === actor)
  );
}

/** Each route that gives something out, and what to ask it for. One that is not here fails the test below. */
const PATHS: Readonly<Record<string, readonly string[]>> = {
  'GET /v1/events': ['/v1/events?limit=1000', '/v1/events?site=plant-8', '/v1/events?order=asc&limit=500'],
  'GET /v1/events/:id': ['/v1/events/nowhere'],
  'GET /v1/events/:id/proof': ['/v1/events/nowhere/proof'],
  'GET /v1/streams': ['/v1/streams'],
  'GET /v1/logs/:tenant/:category/checkpoint': ['/v1/logs/acme/data_access/checkpoint'],
  'GET /v1/logs/:tenant/:category/:epoch/checkpoint': ['/v1/logs/acme/data_access/e2/checkpoint'],
  'GET /v1/logs/:tenant/:category/tile/*': ['/v1/logs/acme/data_access/tile/0/000.p/3'],
  'GET /v1/logs/:tenant/:category/:epoch/tile/*': ['/v1/logs/acme/data_access/e2/tile/0/000.p/3'],
  'GET /v1/logs/:tenant/:category/consistency': ['/v1/logs/acme/data_access/consistency?from=1&to=3'],
  'GET /v1/logs/:tenant/:category/:epoch/consistency': ['/v1/logs/acme/data_access/e2/consistency?from=1&to=3'],
  'GET /v1/keys': ['/v1/keys'],
  'GET /v1/retention': ['/v1/retention'],
  'GET /v1/retention/runs': ['/v1/retention/runs'],
  'GET /v1/retention/runs/:id': ['/v1/retention/runs/00000000-0000-4000-8000-000000000000'],
  'GET /v1/bundle': ['/v1/bundle?category=data_access'],
  'GET /v1/export': [
    '/v1/export',
    '/v1/export?format=cef&site=plant-8',
    '/v1/export?format=csv&category=data_access&fromSeq=0',
    '/v1/export?format=ocsf&limit=500',
    '/v1/export?cursor=acme/data_access:0',
  ],
  'GET /v1/verifications': ['/v1/verifications'],
  'GET /v1/verifications/:id': ['/v1/verifications/00000000-0000-4000-8000-000000000000'],
};
/** Routes that give out nothing of events. */
const WITHOUT_EVENTS =
  /^(POST|PUT|PATCH|DELETE) |^GET \/(healthz|readyz|metrics|v1\/(api-keys|sinks|tenants|keys|rotations|erasures|holds)\b)/;

describe('sites', () => {
  it('are known to every route that could give out events', () => {
    const unknown = service.app.server.registeredRoutes
      .filter(({ method }) => method !== 'HEAD')
      .map(({ method, path }) => `${method} ${path}`)
      .filter((route) => PATHS[route] === undefined && !WITHOUT_EVENTS.test(route));
    expect(unknown).toEqual([]);
  });

  it('are what a plant_manager has to have', async () => {
    const token = await tokenOf('plant_manager', undefined);
    for (const path of ['/v1/events', '/v1/events/own-1', '/v1/streams', '/v1/verifications', '/v1/keys'])
      expect((await service.get(path, { token })).body).toMatchObject({ status: 403, code: 'forbidden' });
  });

  it('leave everything to those who have none', async () => {
    const token = await tokenOf('auditor', undefined);
    const found = ids((await pages(token, { limit: '1000' })).flatMap(({ items }) => items));
    expect(found.toSorted()).toEqual(sent.map(({ id }) => id!).toSorted());
  });

  it('keep records that are not told apart from whoever is held to them', async () => {
    const held = await tokenOf('auditor', ['plant-7']);
    const refused = [
      '/v1/bundle?category=data_access',
      '/v1/bundle?category=log_administration',
      '/v1/logs/acme/data_access/tile/entries/000.p/3',
      '/v1/logs/acme/data_access/e2/tile/entries/000.p/3',
      '/v1/logs/alone/data_access/tile/entries/000.p/3',
      '/v1/logs/nobody/data_access/tile/entries/000.p/3',
      '/v1/logs/acme/data_access/tile/%65ntries/000.p/3',
    ];
    for (const path of refused)
      expect([path, (await service.get(path, { token: held })).body]).toMatchObject([path, { code: 'forbidden' }]);
    // Neither does another writing of the path lead there.
    for (const path of [
      'tile//entries/000.p/3',
      'tile/./entries/000.p/3',
      'tile/0/../entries/000.p/3',
      'Tile/entries/000',
    ])
      expect((await service.get(`/v1/logs/acme/data_access/${path}`, { token: held })).status).not.toBe(200);
    const open = [
      '/v1/logs/acme/data_access/checkpoint',
      '/v1/logs/acme/data_access/tile/0/000.p/3',
      '/v1/logs/acme/data_access/consistency?from=1&to=3',
      '/v1/keys',
      '/v1/streams',
      '/v1/verifications',
    ];
    for (const path of open) expect([path, await statusOf(path, held)]).toEqual([path, 200]);
    // Of the anchor stream everybody may have everything, as soon as there is some.
    expect([200, 404]).toContain(await statusOf('/v1/logs/sealog/anchor/tile/entries/000.p/1', held));

    const whole = await tokenOf('auditor', undefined);
    for (const path of refused.slice(0, 1).concat(refused[2]!)) expect(await statusOf(path, whole)).toBe(200);
  });

  it('decide which of several entries with an id are meant', async () => {
    const id = 'in-three-categories';
    await send([
      event('plant-7', { id, category: 'data_access' }),
      event('plant-8', { id, category: 'user_authentication', action: 'login.success' }),
      event(undefined, { id, category: 'system_operation', action: 'service.restart' }),
    ]);
    const ask = async (sites: readonly string[] | undefined, category = '') =>
      (await service.get(`/v1/events/${id}${category}`, { token: await tokenOf('auditor', sites) })).body;
    expect(await ask(['plant-7'])).toMatchObject({ id, category: 'data_access' });
    expect(await ask(['plant-8'])).toMatchObject({ id, category: 'user_authentication' });
    expect(await ask(['plant-8'], '?category=data_access')).toEqual(await ask(['plant-8'], '?category=security_event'));
    expect(await ask(['plant-9'])).toMatchObject({ code: 'not_found' });
    expect(await ask(['plant-7', 'plant-8'])).toMatchObject({
      code: 'category_required',
      errors: [{ field: 'category', message: 'must be one of data_access, user_authentication' }],
    });
    expect((await ask(undefined)).code).toBe('category_required');
  });

  it('are part of what a cursor continues', async () => {
    const query = { limit: '2' };
    const seven = await tokenOf('plant_manager', ['plant-7']);
    const cursor = (await page(seven, query)).body.next as string;
    expect(cursor).toEqual(expect.any(String));
    // In another order, as another credential may have them, they are the same sites.
    const both = (await page(await tokenOf('plant_manager', ['plant-7', 'plant-8']), query)).body.next as string;
    expect(
      (await page(await tokenOf('auditor', ['plant-8', 'plant-7', 'plant-8']), { ...query, cursor: both })).status,
    ).toBe(200);
    for (const sites of [undefined, ['plant-8'], ['plant-7', 'plant-8'], []]) {
      const answer = await page(await tokenOf('auditor', sites), { ...query, cursor });
      expect(answer.body).toMatchObject({ code: 'invalid_request', errors: [{ field: 'cursor' }] });
    }
    const whole = (await page(await tokenOf('auditor', undefined), query)).body.next as string;
    expect((await page(seven, { ...query, cursor: whole })).body).toMatchObject({ code: 'invalid_request' });
  });

  it('hide how much there is of others: pages are those of a log that has nothing else', {
    timeout: 120_000,
  }, async () => {
    // More blocks than one request looks at, each with an entry of both plants.
    for (let i = 0; i < 300; i++)
      await send([
        event('plant-8', { category: 'system_operation', action: 'backup.done', severity: 9 }),
        event('plant-7', { category: 'system_operation', action: 'service.restart' }),
      ]);
    const shape = async (tenant: string, query: Readonly<Record<string, string>>) =>
      (
        await pages(await tokenOf('plant_manager', ['plant-7'], tenant), { category: 'system_operation', ...query })
      ).map(({ items, next }) => [items.length, next === null]);
    for (const query of [
      { action: 'backup.done' },
      { action: 'backup.done', order: 'asc' },
      { severityMin: '9' },
      { actor: 'canary plant-8' },
      { limit: '100' },
      { limit: '100', order: 'asc', action: 'service.restart' },
    ]) {
      expect([query, await shape(TENANT, query)]).toEqual([query, await shape(ALONE, query)]);
    }
    // And more of them does not make a plant's own reading long: nothing of plant 9 is in any of these.
    const none = await page(await tokenOf('plant_manager', ['plant-9']), { action: 'backup.done' });
    expect(none.body).toEqual({ items: [], next: null });
  });

  it('may be many', async () => {
    const sites = Array.from({ length: 400 }, (_, i) => `p${i}`);
    const answer = await page(await tokenOf('plant_manager', [...sites, 'plant-9']), { limit: '1000' });
    expect(answer.status).toBe(200);
    expect(ids(answer.body.items)).toHaveLength(sent.filter(({ source }) => source.site === 'plant-9').length);
  });
});

/** Whatever the answer is: not all are JSON. */
async function fetched(path: string, token: string): Promise<{ status: number; text: string }> {
  const answer = await fetch(`${service.url}${path}`, { headers: { authorization: `Bearer ${token}` } });
  return { status: answer.status, text: await answer.text() };
}

async function statusOf(path: string, token: string): Promise<number> {
  return (await fetched(path, token)).status;
}

describe('a sender who is held to sites', () => {
  const SITE = { field: 'source.site', message: 'is none that this credential may send events of' };

  it('sends events of these, and no others', async () => {
    const token = await tokenOf('service', ['plant-7', 'plant-8']);
    const own = event('plant-8');
    expect((await service.post('/v1/events', own, { token })).status).toBe(201);
    sent.push(own);
    for (const site of ['plant-9', undefined, 'plant-77', 'Plant-7', 'plant-7 '] as Site[]) {
      const { status, body } = await service.post('/v1/events', event(site), { token });
      expect([status, body.code, body.errors]).toEqual([403, 'forbidden', [SITE]]);
    }
    expect((await service.post('/v1/events', event('plant-7'), { token: await tokenOf('service', []) })).status).toBe(
      403,
    );
    // What is no event is told as that.
    const wrong = { ...event('plant-9'), outcome: 'maybe' };
    expect((await service.post('/v1/events', wrong, { token })).body.code).toBe('invalid_event');
  });

  it.each(['application/json', 'application/x-ndjson'])('in a batch too, item by item: %s', async (type) => {
    const token = await tokenOf('service', ['plant-7']);
    const events = [
      event('plant-7'),
      event('plant-8'),
      event(undefined),
      event('plant-7'),
      { ...event('plant-7'), id: '' },
    ];
    const body =
      type === 'application/json' ? JSON.stringify(events) : events.map((one) => JSON.stringify(one)).join('\n');
    const headers = { 'content-type': type };
    const all = await service.post('/v1/events/batch?atomic=true', body, { token, headers });
    expect([all.status, all.body.code]).toEqual([403, 'forbidden']);
    expect(all.body.errors.map((one: Json) => one.field)).toEqual(['[1].source.site', '[2].source.site', '[4].id']);

    const each = await service.post('/v1/events/batch', body, { token, headers });
    expect(each.body.items.map((one: Json) => one.status)).toEqual([201, 403, 403, 201, 400]);
    expect(each.body.items[1]).toEqual({
      ...{ type: 'urn:sealog:problem:forbidden', title: 'The credential does not permit this' },
      ...{ status: 403, code: 'forbidden', errors: [SITE] },
    });
    sent.push(events[0]!, events[3]!);

    const own = event('plant-7');
    const stored = await service.post('/v1/events/batch?atomic=true', [own], { token });
    expect([stored.status, stored.body.items[0].status]).toEqual([201, 201]);
    sent.push(own);
  });

  it('may be held to categories as well, with an API key', async () => {
    const made = await service.post(
      '/v1/api-keys',
      { name: 'historian', categories: ['data_access', 'system_operation'], sites: ['plant-7'] },
      { token: await tokenOf('it_security_admin', undefined) },
    );
    const { key: token } = made.body;
    const category = { field: 'category', message: 'is none that this credential may send' };
    const login = { category: 'user_authentication', action: 'login.success' } as const;
    const wrong = [event('plant-7', login), event('plant-8', login), event('plant-8')];
    const found = [[category], [category, SITE], [SITE]];
    for (const [n, one] of wrong.entries())
      expect((await service.post('/v1/events', one, { token })).body).toMatchObject({
        code: 'forbidden',
        errors: found[n],
      });
    const own = event('plant-7');
    const { body } = await service.post('/v1/events/batch', [...wrong, own], { token });
    expect(body.items.map((one: Json) => [one.status, one.errors])).toEqual([
      ...found.map((errors) => [403, errors]),
      [201, undefined],
    ]);
    sent.push(own);
  });

  it('learns of another site only that an id is taken', async () => {
    const token = await tokenOf('service', ['plant-7']);
    const foreign = event('plant-8');
    await send([foreign]);
    const same = { ...foreign, source: { ...foreign.source, site: 'plant-7' } };
    const other = event('plant-7', { id: foreign.id! });
    const answers = [
      await service.post('/v1/events', same, { token }),
      await service.post('/v1/events', other, { token }),
      ...(await service.post('/v1/events/batch', [same, other], { token })).body.items.map((body: Json) => ({ body })),
    ];
    for (const { body } of answers) {
      expect(body).toEqual({
        ...{
          type: 'urn:sealog:problem:id_conflict',
          title: 'Another event has this id',
          status: 409,
          code: 'id_conflict',
        },
        errors: [{ field: 'id', message: 'belongs to another event of this stream' }],
      });
    }
    // The very event is refused before anything is looked up, as one with an id that nobody has.
    const repeated = await service.post('/v1/events', foreign, { token });
    const fresh = await service.post('/v1/events', event('plant-8'), { token });
    expect([repeated.status, repeated.body]).toEqual([403, fresh.body]);
    // Its own repeats are repeats.
    const own = event('plant-7');
    const first = await service.post('/v1/events', own, { token });
    const again = await service.post('/v1/events', own, { token });
    sent.push(own);
    expect([first.status, again.status, again.body]).toEqual([201, 200, first.body]);
  });

  it('gets no receipt of another site where a part was erased, and the content can not be compared any more', () => {
    const erased = { name: 'actor', commitment: new Uint8Array(32) } as const;
    const fields = {
      id: 'x',
      action: 'a.b',
      outcome: 'success',
      occurredAt: '2026-03-01T08:00:00Z',
      parts: {},
    } as const;
    const stored = (source: object) =>
      ({ record: { ...fields, source }, parts: [erased] }) as unknown as Parameters<typeof isRepeat>[1];
    const of = (source: { service: string; site?: string }) => canonicalEvent({ ...fields, source });
    expect(isRepeat(of({ service: 'mes', site: 'plant-7' }), stored({ service: 'mes', site: 'plant-7' }))).toBe(true);
    expect(isRepeat(of({ service: 'mes', site: 'plant-7' }), stored({ service: 'mes', site: 'plant-8' }))).toBe(false);
    expect(isRepeat(of({ service: 'mes', site: 'plant-7' }), stored({ service: 'mes' }))).toBe(false);
    expect(isRepeat(of({ service: 'mes' }), stored({ service: 'mes', site: 'plant-8' }))).toBe(false);
  });

  it('is not the same as one whose tenant takes no events: then the whole call is refused', async () => {
    const strict = await startService({ makeTenants: false });
    onTestFinished(() => strict.stop());
    const claims = { tenant: 'closed', roles: ['service'], subject: 's', ttlSeconds: 60, sites: ['plant-7'] };
    const token = await signToken(strict.tokens, claims);
    const mixed = [event('plant-8'), event('plant-7')];
    const answer = await strict.post('/v1/events/batch', mixed, { token });
    expect([answer.status, answer.body.code, answer.body.items]).toEqual([403, 'forbidden', undefined]);
    expect(answer.body.errors).toBeUndefined();
  });
});
