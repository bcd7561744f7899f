/**
 * Tenants apart. Two tenants with equal ids and contents, but for canaries, ask each other's things of every route, under both filters
 * between them and under each alone; with neither, the same probes must find something, or they would prove nothing.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { globSync, readFileSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Role } from '../src/auth/roles.ts';
import { declaredOperations } from '../src/http/api-schema.ts';
import { asTenant } from '../src/store/database.ts';
import type { Tables } from '../src/store/tables.ts';
import { TENANT_COLUMNS } from '../src/store/tenant-filter.ts';
import { loadApiDocument } from '../tools/openapi-types.ts';
import { copied } from './support/copied.ts';
import { type EventInput, generateEvents } from './support/events.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';
import { HARD, someOf } from './support/short-form.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;

interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Bytes as latin1: bundles and tiles are no text. */
  readonly text: string;
  readonly body: Json;
}

interface Tenant {
  readonly name: string;
  /** Stands in everything that the tenant sent, and nowhere else. */
  readonly canary: string;
  /** An event that the other has not, in a category of its own. */
  readonly only: string;
  readonly verification: string;
  readonly apiKey: string;
  readonly sink: string;
  readonly erasure: string;
  readonly hold: string;
  readonly cursor: string;
  readonly verificationCursor: string;
}

/** Without what differs from one answer to the next. */
const PASSING = new Set(['date', 'connection', 'keep-alive']);
const SHARED_ID = 'shared-0001';
const NOWHERE = 'nowhere-0001';
const NO_RUN = '00000000-0000-4000-8000-000000000000';
const NO_KEY = '0123456789abcdef';

/** How a tenant's requests are made, and what is wrong with the answers. */
class Prober {
  readonly findings: string[] = [];
  readonly #service: TestService;
  readonly #self: Tenant;
  readonly #other: Tenant;
  #seen = '';

  constructor(service: TestService, self: Tenant, other: Tenant) {
    this.#service = service;
    this.#self = self;
    this.#other = other;
  }

  get self(): Tenant {
    return this.#self;
  }

  get other(): Tenant {
    return this.#other;
  }

  /** Says whether an answer had the tenant's own canary: a probe that sees nothing at all is none. */
  get sawItself(): boolean {
    return this.#seen.includes(this.#self.canary);
  }

  find(isWrong: boolean, what: string): void {
    if (isWrong) this.findings.push(what);
  }

  async ask(
    route: string,
    role: Role | null,
    path: string,
    given: { body?: unknown; headers?: object } = {},
  ): Promise<Reply> {
    const token = role === null ? undefined : await this.#service.token(role, this.#self.name);
    const reply = await send(this.#service, route.split(' ')[0]!, path, token, given);
    this.#seen += reply.text;
    const text = JSON.stringify(reply.headers) + reply.text;
    for (const canary of [this.#other.canary, this.#other.name])
      this.find(text.includes(canary), `${route}: ${path} tells ${canary}`);
    this.find(reply.status === 500, `${route}: ${path} is answered 500`);
    return reply;
  }

  /** The thing of the other, and one that is nowhere, MUST be answered alike, with the same statements. */
  async alike(
    route: string,
    role: Role,
    paths: readonly [foreign: string, nowhere: string],
    given: { body?: unknown; headers?: object } = {},
    status = 404,
  ): Promise<void> {
    const replies: Reply[] = [];
    const statements: string[][] = [];
    for (const path of paths) {
      const watched = watchReader();
      replies.push(await this.ask(route, role, path, given));
      statements.push(watched.end());
    }
    const [foreign, nowhere] = replies.map(({ headers, ...reply }) =>
      JSON.stringify({ ...reply, headers: lasting(headers) }),
    );
    this.find(
      foreign !== nowhere,
      `${route}: ${paths[0]} and ${paths[1]} are answered differently: ${foreign} ${nowhere}`,
    );
    this.find(replies[0]!.status !== status, `${route}: ${paths[0]} is answered ${replies[0]!.status}`);
    const [one, other] = statements.map((texts) => texts.join('\n'));
    this.find(one !== other, `${route}: ${paths[0]} is other work than ${paths[1]}: ${one}\n${other}`);
  }
}

function lasting(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !PASSING.has(name)));
}

/** Collects what is asked of the database on connections that read for tenants. */
function watchReader(): { end(): string[] } {
  const texts: string[] = [];
  const original = pg.Client.prototype.query;
  const spy = vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...given: Json[]) {
    const { connectionParameters } = this as Json;
    const text = typeof given[0] === 'string' ? given[0] : given[0].text;
    if (connectionParameters.application_name === 'sealog_reader') texts.push(text);
    return (original as Json).apply(this, given);
  } as Json);
  return {
    end() {
      spy.mockRestore();
      return texts;
    },
  };
}

const agent = new Agent({ keepAlive: true });
afterAll(() => agent.destroy());

function send(
  { port }: Pick<TestService, 'port'>,
  method: string,
  path: string,
  token: string | undefined,
  {
    body,
    headers = {},
    through = agent,
    onSocket,
  }: { body?: unknown; headers?: object; through?: Agent; onSocket?: (abort: () => void) => void } = {},
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    const asking = httpRequest({
      agent: through,
      host: '127.0.0.1',
      port,
      method,
      path,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(text === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
        ...headers,
      },
    });
    asking.once('error', reject);
    asking.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        const bytes = Buffer.concat(chunks);
        const isJson = /[/+]json/.test(response.headers['content-type'] ?? '');
        resolve({
          status: response.statusCode!,
          headers: response.headers as Record<string, string>,
          text: bytes.toString('latin1'),
          body: isJson && bytes.length > 0 ? JSON.parse(bytes.toString()) : undefined,
        });
      });
    });
    onSocket?.(() => asking.destroy());
    asking.end(text);
  });
}

/** The same events for every tenant, but for the canary, which stands in each field that can hold one. */
function eventsOf(canary: string): EventInput[] {
  const common = generateEvents({ seed: 5, count: 60 }).map((event, i) =>
    i % 10 === 0 ? event : marked(event, canary),
  );
  return [{ ...common[1]!, id: SHARED_ID }, ...common];
}

function marked(event: EventInput, canary: string): EventInput {
  return {
    ...event,
    source: { ...event.source, host: `host-${canary}`, zone: canary },
    actor: { ...event.actor, name: canary, sessionId: canary },
    ...(event.target === undefined ? {} : { target: { ...event.target, name: canary } }),
    reason: canary,
    details: { ...event.details, [canary]: canary },
    raw: canary,
  };
}

const RETENTION = '/v1/retention/system_operation';

async function makeTenant(service: TestService, name: string): Promise<Tenant> {
  const canary = `canary${randomBytes(8).toString('hex')}`;
  const only = `only-${randomBytes(4).toString('hex')}`;
  const token = (role: Role) => service.token(role, name);
  const sent = await service.post(
    '/v1/events/batch',
    [
      ...eventsOf(canary),
      marked({ ...generateEvents({ seed: 6, count: 1, categories: ['data_modification'] })[0]!, id: only }, canary),
    ],
    { token: await token('service') },
  );
  expect([sent.status, sent.body.errors]).toEqual([200, false]);
  const reader = { token: await token('it_security_admin') };
  const runs: string[] = [];
  for (let i = 0; i < 2; i++) {
    const { body } = await service.post('/v1/verifications', { category: 'data_access' }, reader);
    runs.push(body.id);
    await vi.waitFor(async () => {
      expect((await service.get(`/v1/verifications/${body.id}`, reader)).body.state).toBe('done');
    }, 20_000);
  }
  const key = await service.post('/v1/api-keys', { name: `key-${canary}` }, reader);
  expect(key.status).toBe(201);
  const given = { name: `sink ${canary}`, type: 'webhook', url: `https://siem.example/${canary}`, bearerToken: canary };
  const sink = await service.post('/v1/sinks', given, reader);
  expect(sink.status).toBe(201);
  const policy = { months: 13, evidence: 'refuse', reason: `kept for ${canary}` };
  const set = await send(service, 'PUT', RETENTION, reader.token, { body: policy });
  expect(set.status).toBe(200);
  const erasure = await service.post(
    '/v1/erasures',
    { person: { name: canary }, reason: canary },
    { token: await token('privacy_officer') },
  );
  expect(erasure.status).toBe(202);
  const hold = await service.post('/v1/holds', { actor: canary, reason: canary }, reader);
  expect(hold.status).toBe(201);
  const release = await service.post(`/v1/holds/${hold.body.id}/release`, { reason: canary }, reader);
  expect(release.status).toBe(202);
  await covered(service, reader);
  return {
    name,
    canary,
    only,
    verification: runs[0]!,
    apiKey: key.body.id,
    sink: sink.body.id,
    erasure: erasure.body.id,
    hold: hold.body.id,
    cursor: (await service.get('/v1/events?limit=1', reader)).body.next,
    verificationCursor: (await service.get('/v1/verifications?limit=1', reader)).body.next,
  };
}

/** Waits until signed checkpoints cover what a tenant has now. */
async function covered(service: TestService, reader: { token: string }): Promise<void> {
  const streams = async (): Promise<Json[]> => (await service.get('/v1/streams', reader)).body.items;
  const now = await streams();
  await vi.waitFor(async () => {
    const signed = new Map((await streams()).map(({ stream, checkpoint }) => [stream, checkpoint?.size ?? 0]));
    for (const { stream, size } of now) expect(signed.get(stream)).toBeGreaterThanOrEqual(size);
  }, 20_000);
}

let made: Promise<{ first: TestService; tenants: readonly [Tenant, Tenant] }> | undefined;
const undo: (() => Promise<void>)[] = [];

afterAll(async () => {
  while (undo.length > 0) await undo.pop()!();
});

async function makeTenants() {
  const first = await startService();
  undo.push(() => first.stop());
  const tenants = [await makeTenant(first, 'aurora'), await makeTenant(first, 'borealis')] as const;
  await first.app.close();
  return { first, tenants };
}

/** A service with two tenants, who were made once: what they do in this log, the next does not have. */
async function withTenants(options: ServiceOptions = {}) {
  made ??= makeTenants();
  const { first, tenants } = await made;
  const { log, remove } = await copied(first);
  const service = await startService({ ...options, beside: log });
  undo.push(async () => {
    await service.stop();
    await remove();
  });
  return { service, tenants };
}

type Probe = (probe: Prober, route: string) => Promise<void>;

/** Of the deployment's own tenant alone: nobody else comes so far as to learn what is there. */
const OF_DEPLOYMENT: Probe = async (probe, route) => {
  const path = route.split(' ')[1]!.replace(':id', NO_RUN).replace(':name', probe.other.name);
  for (const role of ['auditor', 'it_security_admin', 'operator', 'plant_manager', 'service'] as const) {
    const { status } = await probe.ask(route, role, path, route.startsWith('GET') ? {} : { body: {} });
    probe.find(status !== 403, `${route}: ${role} is answered ${status}`);
  }
};

const PUBLIC: Probe = async (probe, route) => {
  const { status, text } = await probe.ask(route, null, route.split(' ')[1]!);
  probe.find(status !== 200, `${route} is answered ${status}`);
  for (const { name, canary } of [probe.self, probe.other])
    probe.find(text.includes(name) || text.includes(canary), `${route} names a tenant`);
};

/** Each resource of a stream, of the other tenant and of one that is not there. */
function logProbe(epoch: string, resource: string): Probe {
  return async (probe, route) => {
    const path = (name: string, category = 'data_access') => `/v1/logs/${name}/${category}${epoch}/${resource}`;
    const own = await probe.ask(route, 'auditor', path(probe.self.name));
    probe.find(
      own.status !== (epoch === '' ? 200 : 404),
      `${route}: ${path(probe.self.name)} is answered ${own.status}`,
    );
    await probe.alike(route, 'auditor', [path(probe.other.name), path('nobody')]);
    await probe.alike(route, 'operator', [path(probe.other.name, 'security_event'), path('nobody', 'security_event')]);
    for (const odd of [
      `${probe.other.name}%2f`,
      `${probe.self.name}%2f..%2f${probe.other.name}`,
      `../${probe.other.name}`,
    ])
      await probe.ask(route, 'auditor', path(odd));
  };
}

function tileProbe(epoch: string): Probe {
  return async (probe, route) => {
    for (const tile of ['tile/0/000.p/3', 'tile/entries/000.p/3']) await logProbe(epoch, tile)(probe, route);
  };
}

/** What changes a sink, of the other tenant's and of one that is nowhere. */
function sinkProbe(body: object | undefined): Probe {
  return async (probe, route) => {
    const paths = [probe.other.sink, NO_RUN].map((id) => route.split(' ')[1]!.replace(':id', id));
    await probe.alike(route, 'it_security_admin', [paths[0]!, paths[1]!], body === undefined ? {} : { body });
  };
}

/** What decides on an erasure, likewise. */
const erasureProbe: Probe = async (probe, route) => {
  const paths = [probe.other.erasure, NO_RUN].map((id) => route.split(' ')[1]!.replace(':id', id));
  await probe.alike(route, 'privacy_officer', [paths[0]!, paths[1]!], { body: {} });
};

/** What is done about a hold, likewise. */
function holdProbe(body: Json): Probe {
  return async (probe, route) => {
    const paths = [probe.other.hold, NO_RUN].map((id) => route.split(' ')[1]!.replace(':id', id));
    await probe.alike(route, 'it_security_admin', [paths[0]!, paths[1]!], { body });
  };
}

/** What is asked of each route. A route that is not here fails. */
const PROBES: Readonly<Record<string, Probe>> = {
  'POST /v1/events': async (probe, route) => {
    // Ids of the other are free here, whatever is in them there.
    const [event] = generateEvents({ seed: 8, count: 1, categories: ['data_modification'] });
    for (const id of [probe.other.only, NOWHERE]) {
      const { status, body } = await probe.ask(route, 'service', '/v1/events?wait=checkpoint', {
        body: { ...event, id },
      });
      probe.find(status !== 201 || body.id !== id, `${route}: the id ${id} is answered ${status}`);
    }
  },
  'POST /v1/events/batch': async (probe, route) => {
    const events = generateEvents({ seed: 9, count: 2, categories: ['data_modification'] });
    const ids = [`${probe.other.only}-b`, `${NOWHERE}-b`];
    const { status, body } = await probe.ask(route, 'service', '/v1/events/batch?atomic=true', {
      body: events.map((event, i) => ({ ...event, id: ids[i] })),
    });
    probe.find(status !== 201 || body.errors, `${route} is answered ${status}`);
  },
  'GET /v1/events': async (probe, route) => {
    const shared = generateEvents({ seed: 5, count: 1 })[0]!;
    const queries = [
      {},
      { order: 'asc' },
      { category: 'data_access' },
      { action: shared.action },
      { outcome: 'success' },
      { actor: shared.actor.id },
      { target: 'dashboard' },
      { site: shared.source.site ?? 'plant-1' },
      { service: shared.source.service },
      { ip: shared.actor.ip ?? '192.0.2.1' },
      { severityMin: '1' },
      { from: '2020-01-01T00:00:00Z', to: '2100-01-01T00:00:00Z' },
      { occurredFrom: '2000-01-01T00:00:00Z', occurredTo: '2100-01-01T00:00:00Z' },
    ];
    for (const query of queries as Readonly<Record<string, string>>[])
      await probe.ask(route, 'auditor', `/v1/events?${new URLSearchParams({ limit: '1000', ...query })}`);
    for (let cursor: string | null = ''; cursor !== null; ) {
      const { body } = await probe.ask(
        route,
        'privacy_officer',
        `/v1/events?limit=40${cursor === '' ? '' : `&cursor=${cursor}`}`,
      );
      cursor = body.next ?? null;
    }
    // The other's cursor, and an own one behind another question.
    const [, , pairs] = JSON.parse(Buffer.from(probe.other.cursor, 'base64url').toString());
    const forged = Buffer.from(JSON.stringify([1, '0123456789abcdef', pairs])).toString('base64url');
    await probe.alike(
      route,
      'auditor',
      [`/v1/events?limit=1&cursor=${probe.other.cursor}`, `/v1/events?limit=1&cursor=${forged}`],
      {},
      400,
    );
    // An own cursor whose place lies behind everything of the own, and names streams that only the other may have.
    const [version, question] = JSON.parse(Buffer.from(probe.self.cursor, 'base64url').toString());
    const far = Object.entries({
      '0.1': 1e6,
      '1.1': 1e6,
      '2.1': 1e6,
      '3.1': 1e6,
      '4.1': 1e6,
      '5.1': 1e6,
      '6.1': 1e6,
      '7.1': 1e6,
    });
    const tampered = Buffer.from(JSON.stringify([version, question, far])).toString('base64url');
    await probe.ask(route, 'it_security_admin', `/v1/events?limit=1000&cursor=${tampered}`);
  },
  'GET /v1/events/:id': async (probe, route) => {
    const own = await probe.ask(route, 'auditor', `/v1/events/${SHARED_ID}`);
    probe.find(own.body?.reason !== probe.self.canary, `${route}: an id of both is answered with ${own.text}`);
    await probe.alike(route, 'auditor', [`/v1/events/${probe.other.only}x`, `/v1/events/${NOWHERE}x`]);
    for (const category of ['data_modification', 'security_event', 'log_administration'])
      await probe.alike(route, 'auditor', [
        `/v1/events/${probe.other.only}y?category=${category}`,
        `/v1/events/${NOWHERE}y?category=${category}`,
      ]);
  },
  'GET /v1/events/:id/proof': async (probe, route) => {
    const own = await probe.ask(route, 'auditor', `/v1/events/${SHARED_ID}/proof`);
    probe.find(!own.text.includes(probe.self.canary), `${route}: an id of both is answered with ${own.text}`);
    for (const accept of ['application/json', 'text/plain'])
      await probe.alike(route, 'auditor', [`/v1/events/${probe.other.only}x/proof`, `/v1/events/${NOWHERE}x/proof`], {
        headers: { accept },
      });
    await probe.alike(route, 'operator', [`/v1/events/${probe.other.only}z/proof`, `/v1/events/${NOWHERE}z/proof`]);
  },
  'GET /v1/streams': async (probe, route) => {
    for (const role of ['auditor', 'operator', 'privacy_officer'] as const) {
      const { body } = await probe.ask(route, role, '/v1/streams');
      const names = body.items.map((one: Json) => one.stream.split('/')[0]);
      probe.find(
        names.some((name: string) => name !== probe.self.name),
        `${route} lists ${names}`,
      );
    }
  },
  'GET /v1/logs/:tenant/:category/checkpoint': logProbe('', 'checkpoint'),
  'GET /v1/logs/:tenant/:category/:epoch/checkpoint': logProbe('/e2', 'checkpoint'),
  'GET /v1/logs/:tenant/:category/tile/*': tileProbe(''),
  'GET /v1/logs/:tenant/:category/:epoch/tile/*': tileProbe('/e2'),
  'GET /v1/logs/:tenant/:category/consistency': logProbe('', 'consistency?from=1&to=3'),
  'GET /v1/logs/:tenant/:category/:epoch/consistency': logProbe('/e2', 'consistency?from=1&to=3'),
  'GET /v1/keys': async (probe, route) => {
    for (const role of ['auditor', 'operator'] as const) await probe.ask(route, role, '/v1/keys');
  },
  'GET /v1/bundle': async (probe, route) => {
    for (const category of [
      'data_access',
      'security_event',
      'configuration_change',
      'data_modification',
      'log_administration',
    ])
      await probe.ask(route, 'auditor', `/v1/bundle?category=${category}`);
    await probe.ask(route, 'auditor', '/v1/bundle?category=data_access&since=1,2,3&withhold=actor');
  },
  'GET /v1/export': async (probe, route) => {
    for (const format of ['ndjson', 'cef', 'csv', 'ocsf']) {
      const { text } = await probe.ask(route, 'auditor', `/v1/export?format=${format}`);
      probe.find(!text.includes(probe.self.canary), `${route}: ${format} has nothing of the own`);
    }
    await probe.ask(route, 'auditor', '/v1/export?category=data_access&fromSeq=1&toSeq=3');
    await probe.ask(route, 'auditor', '/v1/export?actor=dashboard&from=2020-01-01T00:00:00Z&limit=3');
    const cursors = [probe.other.name, 'nobody'].map((name) => `/v1/export?cursor=${name}/data_access:0`);
    await probe.alike(route, 'auditor', [cursors[0]!, cursors[1]!], {}, 400);
  },
  'POST /v1/verifications': async (probe, route) => {
    const { status } = await probe.ask(route, 'auditor', '/v1/verifications', {
      body: { category: 'user_authentication' },
    });
    probe.find(status !== 202 && status !== 503, `${route} is answered ${status}`);
  },
  'GET /v1/verifications': async (probe, route) => {
    for (const path of ['/v1/verifications?limit=100', '/v1/verifications?limit=1'])
      probe.find(
        (await probe.ask(route, 'auditor', path)).text.includes(probe.other.verification),
        `${route}: ${path} lists the other's`,
      );
    const forged = Buffer.from(`v2 ${randomUUID()}`).toString('base64url');
    const cursors = [probe.other.verificationCursor, forged] as const;
    await probe.alike(
      route,
      'auditor',
      [`/v1/verifications?cursor=${cursors[0]}`, `/v1/verifications?cursor=${cursors[1]}`],
      {},
      400,
    );
    // How many others there are is not in it either.
    probe.find(
      !Buffer.from(probe.self.verificationCursor, 'base64url').toString().startsWith('v2 '),
      `${route} counts what others have in its cursor`,
    );
  },
  'GET /v1/verifications/:id': async (probe, route) => {
    await probe.ask(route, 'auditor', `/v1/verifications/${probe.self.verification}`);
    await probe.alike(route, 'auditor', [
      `/v1/verifications/${probe.other.verification}`,
      `/v1/verifications/${NO_RUN}`,
    ]);
  },
  'POST /v1/api-keys': async (probe, route) => {
    const { status } = await probe.ask(route, 'it_security_admin', '/v1/api-keys', {
      body: { name: `of ${probe.self.canary}` },
    });
    probe.find(status !== 201, `${route} is answered ${status}`);
  },
  'GET /v1/api-keys': async (probe, route) => {
    const { body } = await probe.ask(route, 'it_security_admin', '/v1/api-keys?limit=100');
    probe.find(!body?.items.some((one: Json) => one.id === probe.self.apiKey), `${route} does not list the own`);
    probe.find(
      body?.items.some((one: Json) => one.id === probe.other.apiKey),
      `${route} lists the other's`,
    );
  },
  'GET /v1/api-keys/:id': async (probe, route) => {
    await probe.ask(route, 'auditor', `/v1/api-keys/${probe.self.apiKey}`);
    await probe.alike(route, 'auditor', [`/v1/api-keys/${probe.other.apiKey}`, `/v1/api-keys/${NO_KEY}`]);
  },
  'POST /v1/api-keys/:id/rotate': async (probe, route) => {
    const paths = [`/v1/api-keys/${probe.other.apiKey}/rotate`, `/v1/api-keys/${NO_KEY}/rotate`] as const;
    await probe.alike(route, 'it_security_admin', paths, { body: {} });
  },
  'POST /v1/api-keys/:id/revoke': async (probe, route) => {
    const paths = [`/v1/api-keys/${probe.other.apiKey}/revoke`, `/v1/api-keys/${NO_KEY}/revoke`] as const;
    await probe.alike(route, 'it_security_admin', paths, { body: { reason: 'not mine' } });
  },
  'POST /v1/sinks': async (probe, route) => {
    const { status } = await probe.ask(route, 'it_security_admin', '/v1/sinks', {
      body: { name: `another ${randomUUID()}`, type: 'syslog', url: 'tcp://siem.example:514' },
    });
    probe.find(status !== 201, `${route} is answered ${status}`);
  },
  'GET /v1/sinks': async (probe, route) => {
    const { body } = await probe.ask(route, 'auditor', '/v1/sinks?limit=100');
    probe.find(!body?.items.some((one: Json) => one.id === probe.self.sink), `${route} does not list the own`);
    probe.find(
      body?.items.some((one: Json) => one.id === probe.other.sink),
      `${route} lists the other's`,
    );
  },
  'GET /v1/sinks/:id': async (probe, route) => {
    await probe.ask(route, 'auditor', `/v1/sinks/${probe.self.sink}`);
    await probe.alike(route, 'auditor', [`/v1/sinks/${probe.other.sink}`, `/v1/sinks/${NO_RUN}`]);
  },
  'PUT /v1/sinks/:id': sinkProbe({ name: 'mine', type: 'syslog', url: 'tcp://siem.example:514' }),
  'DELETE /v1/sinks/:id': sinkProbe(undefined),
  'POST /v1/sinks/:id/test': sinkProbe({}),
  'POST /v1/sinks/:id/pause': sinkProbe({}),
  'POST /v1/sinks/:id/resume': sinkProbe({}),
  'POST /v1/sinks/:id/disable': sinkProbe({}),
  'POST /v1/sinks/:id/replay': sinkProbe({ from: 'beginning' }),
  'POST /v1/sinks/:id/retry': sinkProbe({}),
  'POST /v1/sinks/:id/skip': sinkProbe({ stream: 'x', seq: 0, reason: 'not mine' }),
  'GET /v1/retention': async (probe, route) => {
    const { body } = await probe.ask(route, 'auditor', '/v1/retention');
    const own = body?.items.filter(({ reason }: Json) => reason === `kept for ${probe.self.canary}`);
    probe.find(own?.length !== 1, `${route} does not have the own policy`);
  },
  // The other's is as it was, when he looks.
  'PUT /v1/retention/:category': async (probe, route) => {
    const policy = { months: 14, evidence: 'refuse', reason: `kept for ${probe.self.canary}` };
    const { status, body } = await probe.ask(route, 'it_security_admin', RETENTION, { body: policy });
    probe.find(status !== 200 || body.months !== 14, `${route} is answered ${status}`);
  },
  // Nothing has expired: what each sees of a run with both is in pruning.test.ts.
  'POST /v1/retention/runs': async (probe, route) => {
    const { status } = await probe.ask(route, 'it_security_admin', '/v1/retention/runs?dryRun=true', { body: {} });
    probe.find(status !== 200, `${route} is answered ${status}`);
  },
  'GET /v1/retention/runs': async (probe, route) => {
    const { status } = await probe.ask(route, 'auditor', '/v1/retention/runs');
    probe.find(status !== 200, `${route} is answered ${status}`);
  },
  'GET /v1/retention/runs/:id': async (probe, route) => {
    const { status } = await probe.ask(route, 'auditor', `/v1/retention/runs/${NO_RUN}`);
    probe.find(status !== 404, `${route} is answered ${status}`);
  },
  'POST /v1/holds': async (probe, route) => {
    const body = { actor: probe.self.canary, reason: 'mine' };
    const { status } = await probe.ask(route, 'it_security_admin', '/v1/holds', { body });
    probe.find(status !== 201, `${route} is answered ${status}`);
  },
  'GET /v1/holds': async (probe, route) => {
    const { body } = await probe.ask(route, 'auditor', '/v1/holds?limit=100');
    probe.find(!body?.items.some((one: Json) => one.id === probe.self.hold), `${route} does not list the own`);
    probe.find(
      body?.items.some((one: Json) => one.id === probe.other.hold),
      `${route} lists the other's`,
    );
  },
  'GET /v1/holds/:id': async (probe, route) => {
    await probe.ask(route, 'auditor', `/v1/holds/${probe.self.hold}`);
    await probe.alike(route, 'auditor', [`/v1/holds/${probe.other.hold}`, `/v1/holds/${NO_RUN}`]);
  },
  'POST /v1/holds/:id/release': holdProbe({ reason: 'mine' }),
  'POST /v1/holds/:id/release/approve': holdProbe({}),
  'POST /v1/holds/:id/release/reject': holdProbe({}),
  'POST /v1/holds/:id/release/withdraw': holdProbe({}),
  'POST /v1/keys/months/rotations': OF_DEPLOYMENT,
  'GET /v1/keys/months': OF_DEPLOYMENT,
  'POST /v1/keys/rotations': OF_DEPLOYMENT,
  'GET /v1/keys/rotations': OF_DEPLOYMENT,
  'GET /v1/keys/rotations/:id': OF_DEPLOYMENT,
  'POST /v1/keys/rotations/:id/approve': OF_DEPLOYMENT,
  'POST /v1/keys/rotations/:id/reject': OF_DEPLOYMENT,
  'POST /v1/keys/rotations/:id/withdraw': OF_DEPLOYMENT,
  'POST /v1/erasures': async (probe, route) => {
    const body = { person: { name: probe.other.canary }, reason: 'mine', fullScan: true };
    const { status, body: made } = await probe.ask(route, 'privacy_officer', '/v1/erasures', { body });
    probe.find(status !== 202, `${route} is answered ${status}`);
    await vi.waitFor(async () => {
      const { body: found } = await probe.ask('GET /v1/erasures/:id', 'privacy_officer', `/v1/erasures/${made.id}`);
      expect(found.search).toBe('found');
      probe.find(found.entries > 0, `${route} finds what is the other's`);
    }, 20_000);
  },
  'GET /v1/erasures': async (probe, route) => {
    const { body } = await probe.ask(route, 'auditor', '/v1/erasures?limit=100');
    probe.find(!body?.items.some((one: Json) => one.id === probe.self.erasure), `${route} does not list the own`);
    probe.find(
      body?.items.some((one: Json) => one.id === probe.other.erasure),
      `${route} lists the other's`,
    );
  },
  'GET /v1/erasures/:id': async (probe, route) => {
    await probe.ask(route, 'auditor', `/v1/erasures/${probe.self.erasure}`);
    await probe.alike(route, 'auditor', [`/v1/erasures/${probe.other.erasure}`, `/v1/erasures/${NO_RUN}`]);
  },
  'GET /v1/erasures/:id/entries': async (probe, route) => {
    await probe.ask(route, 'auditor', `/v1/erasures/${probe.self.erasure}/entries`);
    const paths = [probe.other.erasure, NO_RUN].map((id) => `/v1/erasures/${id}/entries`);
    await probe.alike(route, 'auditor', [paths[0]!, paths[1]!]);
  },
  'POST /v1/erasures/:id/approve': erasureProbe,
  'POST /v1/erasures/:id/reject': erasureProbe,
  'POST /v1/erasures/:id/withdraw': erasureProbe,
  'GET /v1/tenants': OF_DEPLOYMENT,
  'POST /v1/tenants': OF_DEPLOYMENT,
  'GET /v1/tenants/:name': OF_DEPLOYMENT,
  'PUT /v1/tenants/:name/quota': OF_DEPLOYMENT,
  'POST /v1/tenants/:name/close': OF_DEPLOYMENT,
  'POST /v1/tenants/:name/reopen': OF_DEPLOYMENT,
  'GET /healthz': PUBLIC,
  'GET /readyz': PUBLIC,
  'GET /metrics': PUBLIC,
};

/** What a tenant asks with the other's canary in his hands: his own log then tells that he asked, so it comes last. */
async function askForCanaries(probe: Prober): Promise<void> {
  const { canary, name, only } = probe.other;
  const route = 'GET /v1/events';
  const token = { limit: '1000' };
  for (const query of [{ actor: canary }, { target: canary }, { actor: name }, { service: canary }, { site: canary }]) {
    const { status, body } = await probe.ask(
      route,
      'auditor',
      `/v1/events?${new URLSearchParams({ ...token, ...query })}`,
    );
    probe.find(status !== 200 || body.items.length > 0, `${route}: ${JSON.stringify(query)} finds something`);
  }
  probe.find(
    (await probe.ask('GET /v1/events/:id', 'auditor', `/v1/events/${only}-c`)).status !== 404,
    'an id of the other is there',
  );
}

/** As a superuser: nothing that a policy says holds any more. */
async function removeRowLevelSecurity({ adminPool }: TestService): Promise<void> {
  const { rows } = await adminPool.query<{ name: string }>(
    `SELECT c.relname::text AS name FROM pg_class c WHERE c.relnamespace = 'sealog'::regnamespace AND c.relrowsecurity`,
  );
  expect(rows.length).toBeGreaterThan(10);
  for (const { name } of rows)
    await adminPool.query(`ALTER TABLE sealog.${name} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY`);
  // What stands in its place where a function answers.
  await adminPool.query(`CREATE OR REPLACE FUNCTION sealog.own_places(wanted uuid) RETURNS TABLE (stream integer, seq bigint, drop_month integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT p.stream, p.seq, p.drop_month FROM sealog.places(wanted) AS p'`);
  await adminPool.query(`CREATE OR REPLACE FUNCTION sealog.own_tagged_blocks(of_stream integer, of_month integer, wanted bigint[], newest_first boolean,
      bound bigint, at_most integer) RETURNS TABLE (first_seq bigint, is_edge boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'SELECT t.first_seq, t.is_edge FROM sealog.tagged_blocks(of_stream, of_month, wanted, newest_first, bound, at_most) AS t'`);
}

const MODES = [
  { filters: 'both filters', own: true, rowLevel: true },
  { filters: 'row-level security alone', own: false, rowLevel: true },
  { filters: "the application's own filter alone", own: true, rowLevel: false },
  { filters: 'neither', own: false, rowLevel: false },
];

describe.each(MODES)('two tenants, held apart by $filters', ({ own, rowLevel }) => {
  let service: TestService;
  let tenants: readonly [Tenant, Tenant];
  const findings: string[] = [];

  beforeAll(async () => {
    ({ service, tenants } = await withTenants(own ? {} : { tenantFilter: false }));
    if (!rowLevel) await removeRowLevelSecurity(service);
  });

  afterAll(async () => {
    // Writing does not read: what is stored is each tenant's own in any case.
    await service.checkLog();
    await service.stop();
  });

  it('are asked for by every route there is', () => {
    const routes = service.app.server.registeredRoutes.map(({ method, path }) => `${method} ${path}`);
    expect(routes.filter((route) => PROBES[route] === undefined)).toEqual([]);
    expect(Object.keys(PROBES).filter((route) => !routes.includes(route))).toEqual([]);
  });

  // One way round where there is a filter: what it lets through is held to what is seen without any.
  it.each(someOf([0, 1] as const, own || rowLevel ? 1 : 2))(
    rowLevel || own ? 'learn nothing of each other (%i)' : 'would be seen to learn of each other (%i)',
    async (one) => {
      const probe = new Prober(service, tenants[one], tenants[1 - one]!);
      // Those that name the other come last: the asker's own log tells that he asked.
      const routes = service.app.server.registeredRoutes.map(({ method, path }) => `${method} ${path}`);
      for (const route of routes.toSorted(
        (one, two) => Number(one.includes('/logs/')) - Number(two.includes('/logs/')),
      )) {
        try {
          await PROBES[route]!(probe, route);
        } catch (error) {
          // Without filters even the shapes are others.
          probe.find(true, `${route}: ${error}`);
        }
      }
      await askForCanaries(probe);
      findings.push(...probe.findings);
      if (own || rowLevel) {
        expect(probe.findings).toEqual([]);
        expect(probe.sawItself).toBe(true);
      }
    },
  );

  it.skipIf(own || rowLevel)('and these routes are where they would', () => {
    const leaking = new Set(findings.map((finding) => finding.split(': ')[0]!));
    for (const route of [
      'GET /v1/events',
      'GET /v1/events/:id',
      'GET /v1/streams',
      'GET /v1/keys',
      'GET /v1/bundle',
      'GET /v1/verifications',
      'GET /v1/verifications/:id',
      'GET /v1/api-keys',
      'GET /v1/api-keys/:id',
      'GET /v1/sinks',
      'GET /v1/sinks/:id',
    ])
      expect([...leaking]).toContain(route);
  });
});

describe("the application's own filter", () => {
  let service: TestService;
  let ids: readonly [number, number];

  beforeAll(async () => {
    ({ service } = await withTenants());
    await removeRowLevelSecurity(service);
    const { rows } = await service.adminPool.query<{ id: number }>(
      `SELECT id FROM sealog.tenant WHERE name IN ('aurora', 'borealis') ORDER BY name`,
    );
    ids = [rows[0]!.id, rows[1]!.id];
  });

  afterAll(async () => {
    await service.stop();
  });

  const as = <T>(tenant: number, work: (database: Kysely<Tables>) => Promise<T>): Promise<T> =>
    asTenant(service.app.database.reader, tenant, work);

  it('knows every table with rows of tenants that a reader may read, and of its columns those', async () => {
    const { rows } = await service.adminPool.query<{ name: string }>(
      `SELECT 'sealog.' || c.table_name AS name FROM information_schema.columns AS c
       JOIN pg_class AS t ON t.relname = c.table_name AND t.relnamespace = 'sealog'::regnamespace AND NOT t.relispartition
       WHERE c.table_schema = 'sealog' AND c.column_name = 'tenant' AND has_any_column_privilege('sealog_reader', t.oid, 'SELECT')
       ORDER BY 1`,
    );
    expect(Object.keys(TENANT_COLUMNS).toSorted()).toEqual(
      ['sealog.tenant', ...rows.map(({ name }) => name)].toSorted(),
    );
  });

  it('holds each of them to the tenant, in statements of every kind', async () => {
    for (const [table, column] of Object.entries(TENANT_COLUMNS)) {
      const tenant = sql.ref<number>(`t.${column}`).as('tenant');
      const [named, raw] = [
        `${table} as t`,
        sql`SELECT ${sql.ref(`t.${column}`)} AS tenant FROM ${sql.table(table)} AS t`,
      ];
      for (const id of ids) {
        const rows: { tenant: number }[] = await as(id, async (given) => {
          const database = given as Kysely<Json>;
          const all = await database.selectFrom(table).select(column).execute();
          const queries = [
            database.selectFrom(named).select(tenant),
            database
              .with('c', (db) => db.selectFrom(table).selectAll())
              .selectFrom('c as t')
              .select(tenant),
            database
              .selectFrom('sealog.tenant as o')
              .innerJoin(named, (join) => join.onTrue())
              .select(tenant),
            database
              .selectFrom('sealog.tenant as o')
              .leftJoin(named, (join) => join.onTrue())
              .select('o.id as tenant'),
            database.selectFrom(named).select(tenant).unionAll(database.selectFrom(named).select(tenant)),
            database.selectFrom((db) => db.selectFrom(named).select(tenant).as('x')).selectAll(),
            { execute: async () => (await raw.execute(database)).rows },
            { execute: async () => (await sql`SELECT x.* FROM (${raw}) AS x`.execute(database)).rows },
          ];
          const answers = all.map((row) => ({ tenant: row[column] }));
          for (const query of queries) answers.push(...((await query.execute()) as Json[]));
          return answers;
        });
        expect([table, rows.filter((row) => row.tenant !== id)]).toEqual([table, []]);
      }
    }
    const streams = await as(ids[0], (database) => database.selectFrom('sealog.stream').select('tenant').execute());
    expect(streams.length).toBeGreaterThan(3);
  });

  it('refuses a statement that it can not hold to it, before it is sent', async () => {
    const refused: ((database: Kysely<Tables>) => Promise<unknown>)[] = [
      (database) => sql`SELECT * FROM sealog.block`.execute(database),
      (database) => sql`SELECT * FROM Sealog.block`.execute(database),
      (database) => sql`SELECT * FROM "sealog"."block"`.execute(database),
      (database) => sql`SELECT * FROM ${sql.id('sealog', 'block')}`.execute(database),
      (database) => sql`SELECT * FROM ${sql.raw('sealog.block')}`.execute(database),
      (database) => sql`SELECT * FROM ${sql.join([sql.raw('sealog'), sql.raw('block')], sql`.`)}`.execute(database),
      (database) =>
        sql`SELECT ${sql.ref('sealog.block.tenant')} FROM ${sql.table('sealog.tile')} AS t`.execute(database),
      (database) => sql`SELECT set_config('sealog.tenant', '1', true)`.execute(database),
      (database) => sql`SELECT FROM ${sql.table('sealog.migration')} AS m`.execute(database),
      (database) => database.selectFrom('sealog.key_statement').selectAll().execute(),
      (database) => database.selectFrom('sealog.outside_evidence as e').selectAll().execute(),
      (database) =>
        database.selectFrom('sealog.stream').select(sql`(SELECT count(*) FROM sealog.block)`.as('n')).execute(),
      (database) =>
        database
          .selectFrom('sealog.stream as s')
          .innerJoin(sql<Json>`sealog.block`.as('b'), 'b.stream', 's.id')
          .select('b.tenant')
          .execute(),
      (database) =>
        database
          .withSchema('sealog')
          .selectFrom('block' as 'sealog.block')
          .select('tenant')
          .execute() as Promise<unknown>,
    ];
    for (const [n, work] of refused.entries()) {
      const watched = watchReader();
      const outcome = await as(ids[0], work).then(
        (rows: Json) => (rows.every?.((row: Json) => row.tenant === ids[0]) === true ? 'held' : 'done'),
        (error: Error) => error.name,
      );
      expect([n, outcome, watched.end().length]).toEqual([
        n,
        n === refused.length - 1 ? 'held' : 'TypeError',
        n === refused.length - 1 ? 3 : 2,
      ]);
    }
    // What it was refused for leaves nothing behind: the next on the connection is another tenant's.
    for (const id of ids)
      expect(await as(id, (database) => database.selectFrom('sealog.tenant').select('id').execute())).toEqual([{ id }]);
  });

  it('is gone round by nobody', () => {
    const sources = globSync('src/**/*.ts', { cwd: join(import.meta.dirname, '..') });
    expect(sources.length).toBeGreaterThan(100);
    const texts = sources.map((path) => [path, readFileSync(join(import.meta.dirname, '..', path), 'utf8')] as const);
    // Statements on the connections that read for tenants are those of one function; and nobody takes the plugin away.
    const onReader = texts.filter(([, text]) => /\bdatabase\.reader\b/.test(text)).map(([path]) => path);
    expect(onReader.sort()).toEqual(['src/app.ts', 'src/export/export-thread.ts']);
    for (const path of onReader) {
      const text = texts.find(([one]) => one === path)![1];
      expect(text.match(/.*\bdatabase\.reader\b.*/g)).toEqual([
        expect.stringMatching(/asTenant(<T>)?\(database\.reader, (tenantId|owner), work/),
      ]);
    }
    expect(texts.filter(([, text]) => text.includes('.withoutPlugins(')).map(([path]) => path)).toEqual([]);
  });
});

describe('fifty tenants over five connections', () => {
  // Each read is an entry as well, which its answer waits for: some 100 a second and 5 connections.
  const REQUESTS = HARD ? 10_000 : 200;
  const TENANTS = Array.from({ length: 50 }, (_, i) => `tenant-${String(i).padStart(2, '0')}`);
  const SHARED = ['a-1', 'a-2', 'a-3', 'a-4'];

  it(`never get each other's answers: ${REQUESTS} requests, some of which fail or are given up`, {
    timeout: HARD ? 600_000 : 120_000,
  }, async () => {
    const service = await startService({ limits: { readersMax: 5 } });
    onTestFinished(() => service.stop());
    // Every other request is for a replica whose connections have row-level security alone: there a tenant that stayed on one would be seen.
    const replica = await startService({ beside: service, limits: { readersMax: 5 }, tenantFilter: false });
    onTestFinished(() => replica.stop());
    const through = new Agent({ keepAlive: true, maxSockets: 5 });
    onTestFinished(() => through.destroy());
    const event = (tenant: string, id: string): Json => ({
      ...{
        id,
        category: 'data_access',
        action: 'report.generate',
        outcome: 'success',
        occurredAt: '2026-03-01T08:00:00Z',
      },
      source: { service: 'mes', site: 'plant-1' },
      actor: { type: 'user', id: 'u-1', name: `canary-${tenant}` },
      target: { type: 'report', id: 'r-1', name: `canary-${tenant}` },
    });
    const tokens = new Map<string, string>();
    for (const tenant of TENANTS) {
      const token = await service.token(['service', 'auditor'], tenant);
      tokens.set(tenant, token);
      const { body } = await service.post(
        '/v1/events/batch',
        SHARED.map((id) => event(tenant, id)),
        { token },
      );
      expect(body.errors).toBe(false);
    }
    await covered(service, { token: tokens.get(TENANTS.at(-1)!)! });

    const random = randomFrom(41);
    const paths: readonly ((tenant: string) => string)[] = [
      () => '/v1/events?limit=3',
      () => '/v1/events?limit=1000&actor=u-1',
      () => '/v1/events?target=r-1&order=asc',
      () => `/v1/events/${SHARED[Math.floor(random() * 4)]}`,
      () => `/v1/events/${SHARED[Math.floor(random() * 4)]}/proof`,
      () => '/v1/streams',
      () => '/v1/verifications',
      (tenant) => `/v1/logs/${tenant}/data_access/checkpoint`,
      (tenant) => `/v1/logs/${tenant}/data_access/tile/entries/000.p/3`,
      // These fail.
      () => `/v1/events/nowhere-${Math.floor(random() * 1e9)}`,
      () => '/v1/events?limit=0',
      () => '/v1/events?cursor=bm8',
      () => `/v1/verifications/${randomUUID()}`,
      (tenant) => `/v1/logs/${tenant}/security_event/checkpoint`,
      () => '/v1/logs/nobody/data_access/checkpoint',
    ];
    const count = { answers: 0, canaries: 0, failed: 0, aborted: 0, busy: 0 };
    const wrong: string[] = [];
    const one = async (n: number): Promise<void> => {
      const tenant = TENANTS[Math.floor(random() * TENANTS.length)]!;
      const path = paths[Math.floor(random() * paths.length)]!(tenant);
      const isWrite = random() < 0.1;
      const abortAfterMs = random() < 0.05 ? random() * 8 : undefined;
      let timer: NodeJS.Timeout | undefined;
      const given = {
        through,
        onSocket: (abort: () => void) => {
          if (abortAfterMs !== undefined) timer = setTimeout(abort, abortAfterMs);
        },
      };
      try {
        const [of, token] = [n % 2 === 0 ? service : replica, tokens.get(tenant)!];
        const body = event(tenant, SHARED[n % 4]!);
        const { status, text } = isWrite
          ? await send(of, 'POST', '/v1/events', token, { ...given, body })
          : await send(of, 'GET', path, token, given);
        count.answers += 1;
        if (status === 503) count.busy += 1;
        else if (status >= 400) count.failed += 1;
        const named = [...text.matchAll(/tenant-\d\d/g)].map(([name]) => name);
        if (status === 200 && named.length > 0) count.canaries += 1;
        const others = named.filter((name) => name !== tenant);
        if (others.length > 0) wrong.push(`${tenant} asked ${isWrite ? 'to write' : path} and was told of ${others}`);
        // The first receipt again, and what was found, are its own.
        if (isWrite && status < 300 && !text.includes(`"stream":"${tenant}/data_access"`))
          wrong.push(`${tenant} wrote to ${text}`);
        if (status === 500) wrong.push(`${tenant} asked ${path} and was answered 500`);
      } catch {
        count.aborted += 1;
      } finally {
        clearTimeout(timer);
      }
      // Connections that read for tenants are cut, and statements on them cancelled, at any point of a transaction.
      if (n % 400 === 199)
        await service.adminPool.query(
          `SELECT ${n % 800 === 199 ? 'pg_terminate_backend' : 'pg_cancel_backend'}(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'sealog_reader'`,
        );
    };
    let next = 0;
    await Promise.all(
      Array.from({ length: 12 }, async () => {
        while (next < REQUESTS) await one(next++);
      }),
    );
    expect(wrong).toEqual([]);
    expect(count.answers + count.aborted).toBe(REQUESTS);
    expect(count.canaries).toBeGreaterThan(REQUESTS / 3);
    for (const kind of ['failed', 'aborted'] as const)
      expect([kind, count[kind] > REQUESTS / 100]).toEqual([kind, true]);
    expect(count.busy).toBeLessThan(REQUESTS / 10);
    const { rows } = await service.adminPool.query<{ connections: number }>(
      `SELECT count(*)::integer AS connections FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sealog_reader'`,
    );
    expect(rows[0]!.connections).toBeLessThanOrEqual(2 * 5);
    await service.checkLog();
  });
});

/** Texts that would be more than a value where a statement is put together from them. */
const INJECTIONS = [
  "'",
  "';--",
  "' OR '1'='1",
  "x' OR tenant > 0 --",
  "'; SET sealog.tenant = '2'; --",
  "1); SELECT set_config('sealog.tenant', '2', false); --",
  "') UNION SELECT * FROM sealog.block --",
  "'; SET ROLE sealog_verifier; --",
  "'; DROP TABLE sealog.tile; COMMIT; --",
  '"; TRUNCATE sealog.tenant; --',
  '{1,2}',
  '$1',
  "\\'; SELECT pg_sleep(9) --",
  '%27%3B--',
  "U&'\\0027'",
];

describe('SQL in a value', () => {
  it('is a value, in every parameter of every route and in every field of an event', { timeout: 180_000 }, async () => {
    const { service, tenants } = await withTenants();
    const probe = new Prober(service, tenants[0], tenants[1]);
    const before = await counted(service);
    const document = loadApiDocument();
    for (const { operationId, method, path, permission } of declaredOperations()) {
      const [, , operation] = operationsOf(document).find(([, , one]) => one.operationId === operationId)!;
      const roles: Readonly<Record<string, Role>> = {
        'events:write': 'service',
        'api-keys:write': 'it_security_admin',
        'sinks:write': 'it_security_admin',
        'erasures:write': 'privacy_officer',
        'holds:write': 'it_security_admin',
      };
      const role = roles[permission] ?? 'auditor';
      const given = method === 'GET' ? {} : { body: {} };
      const usual = path
        .replace(':tenant', 'aurora')
        .replace(':category', 'data_access')
        .replace(/[*]|:\w+/g, 'e2');
      for (const { name, in: place } of operation.parameters ?? []) {
        for (const text of someOf(INJECTIONS)) {
          const value = encodeURIComponent(text);
          const url =
            place === 'path'
              ? path
                  .replace(name === 'tile' ? '*' : `:${name}`, value)
                  .replace(':tenant', 'aurora')
                  .replace(/[*]|:\w+/g, 'data_access')
              : `${usual}?${name}=${value}`;
          const { status, body } = await probe.ask(`${method} ${path}`, role, url, given);
          // A filter that finds nothing, or a refusal: never more than without it.
          const found = (body?.items ?? []).filter((one: Json) => one.source?.service !== 'sealog');
          probe.find(found.length > 0 && !/^\/v1\/(api-keys|sinks)/.test(url), `${method} ${url} finds something`);
          probe.find(![200, 400, 401, 403, 404].includes(status), `${method} ${url} is answered ${status}`);
        }
      }
    }
    // Each of an event's texts, the id too where it may be one.
    const [event] = generateEvents({ seed: 3, count: 1, categories: ['configuration_change'] });
    for (const [n, text] of someOf(INJECTIONS, 6).entries()) {
      const id = `sql-${n}`;
      const full = {
        ...{ ...event, id, reason: text, raw: text, details: { [text]: text } },
        source: { service: text, host: text, site: text, zone: text },
        actor: {
          type: text,
          id: text,
          name: text,
          email: text,
          ip: text,
          sessionId: text,
          userAgent: text,
          roles: [text],
        },
        target: { type: text, id: text, name: text },
      };
      expect([text, (await probe.ask('POST /v1/events', 'service', '/v1/events', { body: full })).status]).toEqual([
        text,
        201,
      ]);
      const { body } = await probe.ask('GET /v1/events/:id', 'auditor', `/v1/events/${id}`);
      expect(body).toMatchObject({ reason: text, source: full.source, target: full.target });
      for (const name of ['actor', 'target', 'site', 'service', 'ip']) {
        const answer = await probe.ask('GET /v1/events', 'auditor', `/v1/events?${name}=${encodeURIComponent(text)}`);
        // An address is looked up in lower case, as it is tagged.
        expect([name, text, answer.body.items.map((one: Json) => one.id)]).toEqual([name, text, [id]]);
      }
      const wrongId = await probe.ask('POST /v1/events', 'service', '/v1/events', { body: { ...full, id: text } });
      expect(wrongId.status).toBe(/^[A-Za-z0-9._:~-]+$/.test(text) ? 201 : 400);
    }
    expect(probe.findings).toEqual([]);
    // Nothing was named on a connection for longer than a transaction, and nothing is gone.
    for (let i = 0; i < 10; i++) {
      const { rows } = await service.app.database.reader.query(
        `SELECT coalesce(current_setting('sealog.tenant', true), '') AS tenant, current_user AS role`,
      );
      expect(rows).toEqual([{ tenant: '', role: 'sealog_reader' }]);
    }
    const after = await counted(service);
    for (const [table, rows] of Object.entries(before)) expect([table, after[table]! >= rows]).toEqual([table, true]);
    expect(after['tenant']).toBe(before['tenant']);
    await service.checkLog();
  });
});

async function counted({ adminPool }: TestService): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const table of Object.keys(TENANT_COLUMNS)) {
    const { rows } = await adminPool.query<{ rows: number }>(`SELECT count(*)::integer AS rows FROM ${table}`);
    counts[table.slice('sealog.'.length)] = rows[0]!.rows;
  }
  return counts;
}

function operationsOf(document: ReturnType<typeof loadApiDocument>) {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [path, method, operation] as const),
  );
}

/** Numbers from 0 up to 1, the same for the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    const mixed = Math.imul(state ^ (state >>> 13), 0x297a2d39);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 2 ** 32;
  };
}
