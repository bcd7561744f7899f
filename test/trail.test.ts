/**
 * The log's own trail: every route that is not public leaves the entry that the table below says, before anything of the answer leaves; where
 * it can not be stored, nothing does. Refused calls, starts, stops and verdicts leave theirs. All of it is read back over the API.
 */
import { randomUUID } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { type Refusal, type RefusalEntry, Refusals } from '../src/auth/refusals.ts';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { networkOf, normalAddress } from '../src/http/client-address.ts';
import { Teller } from '../src/ingest/teller.ts';
import { startService, type TestService } from './support/service.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;

interface Left {
  /** Tenant and category. */
  readonly stream: string;
  readonly action: string;
  /** Default: success. */
  readonly outcome?: 'success' | 'failure';
  readonly severity?: number;
  readonly target: { readonly type: string; readonly id: string };
  readonly reason?: string;
  readonly changes?: Json;
  readonly details?: Json;
}

/** What is asked, and the entries that it leaves: those of a tenant in their order. */
interface Row {
  readonly path: string;
  readonly body?: Json;
  readonly headers?: Readonly<Record<string, string>>;
  /** Default: auditor. */
  readonly role?: Role;
  /** Default: acme. */
  readonly tenant?: string;
  readonly status: number;
  readonly leaves: readonly Left[] | ((answer: Json) => readonly Left[]);
}

const EVENT = 'seen-1';
const LOG = '/v1/logs/acme/user_authentication';
const STREAM = { type: 'stream', id: 'acme/user_authentication' };

let service: TestService;
/** Everything that was brought as a credential. */
const credentials: string[] = [];

beforeAll(async () => {
  service = await startService({ environment: { SEALOG_ANCHOR_SECONDS: '1' }, verification: { share: 1 } });
  const { body } = await service.post('/v1/events/batch', [login(EVENT), login('seen-2')]);
  expect(body.errors).toBe(false);
  await until(
    async () => (await call('GET', `/v1/events/${EVENT}/proof`, { role: 'auditor' })).status === 200,
    'a checkpoint',
  );
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

function login(id: string): Json {
  return {
    id,
    category: 'user_authentication',
    action: 'user.login',
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'idp' },
    actor: { type: 'user', id: 'u-1' },
  };
}

async function until(look: () => Promise<boolean>, what: string, ms = 20_000): Promise<void> {
  const end = performance.now() + ms;
  while (!(await look())) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(30);
  }
}

interface Asking {
  readonly role?: Role | readonly Role[];
  readonly tenant?: string;
  readonly subject?: string;
  readonly body?: Json;
  readonly headers?: Readonly<Record<string, string>>;
  readonly of?: TestService;
}

async function bearerOf({
  role = 'auditor',
  tenant = 'acme',
  subject = 'somebody',
  of = service,
}: Asking): Promise<string> {
  const token = await signToken(of.tokens, { tenant, roles: [role].flat(), subject, ttlSeconds: 600 });
  credentials.push(token);
  return `Bearer ${token}`;
}

async function call(method: string, path: string, asking: Asking = {}): Promise<Response> {
  const { body, headers = {}, of = service } = asking;
  return fetch(`${of.url}${path}`, {
    method,
    headers: {
      authorization: await bearerOf(asking),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

/** The entries of a tenant's log that meet a filter, oldest first, as its auditor reads them. */
async function entries(tenant: string, query: Readonly<Record<string, string>>, of = service): Promise<Json[]> {
  const found: Json[] = [];
  let page: { cursor?: string } = {};
  for (;;) {
    const search = new URLSearchParams({ limit: '1000', order: 'asc', ...query, ...page });
    const answer = await call('GET', `/v1/events?${search}`, { tenant, subject: 'reader', of });
    expect(answer.status).toBe(200);
    const { items, next } = (await answer.json()) as Json;
    found.push(...items);
    if (next === null) return found;
    page = { cursor: next };
  }
}

/** What an entry says, without what differs each time. */
function told({ id: _, occurredAt: __, log: ___, ...item }: Json): Json {
  return item;
}

async function sizeOf(stream: string, of = service): Promise<number> {
  const { rows } = await of.adminPool.query('SELECT size FROM sealog.stream WHERE name = $1', [stream]);
  return Number(rows[0]?.size ?? 0);
}

/** Each route that is not public, and for events that are sent, which are entries themselves. One that is not here fails below. */
const ROUTES: Readonly<Record<string, () => Promise<Row>>> = {
  'GET /v1/events': async () => ({
    path: '/v1/events?category=user_authentication&actor=u-1&limit=5&order=asc',
    status: 200,
    leaves: [
      read(
        'log.search',
        { type: 'log', id: 'acme/user_authentication' },
        {
          ...{ query: { actor: 'u-1' }, limit: 5, order: 'asc', continued: false },
        },
      ),
    ],
  }),
  'GET /v1/events/:id': async () => ({
    path: `/v1/events/${EVENT}?category=user_authentication`,
    status: 200,
    leaves: [read('log.read', { type: 'event', id: EVENT }, { category: 'user_authentication' })],
  }),
  'GET /v1/streams': async () => ({
    path: '/v1/streams',
    status: 200,
    leaves: [read('log.list', { type: 'streams', id: 'acme' })],
  }),
  'GET /v1/events/:id/proof': async () => ({
    path: `/v1/events/${EVENT}/proof`,
    status: 200,
    leaves: [read('log.prove', { type: 'event', id: EVENT }, { category: null })],
  }),
  'GET /v1/logs/:tenant/:category/checkpoint': async () => ({
    path: `${LOG}/checkpoint`,
    status: 200,
    leaves: [read('log.prove', STREAM, { resource: 'checkpoint' })],
  }),
  'GET /v1/logs/:tenant/:category/:epoch/checkpoint': async () => ({
    path: `${LOG}/e2/checkpoint`,
    status: 404,
    leaves: [read('log.prove', { type: 'stream', id: 'acme/user_authentication/e2' }, { resource: 'checkpoint' })],
  }),
  'GET /v1/logs/:tenant/:category/tile/*': async () => ({
    path: `${LOG}/tile/entries/000.p/2`,
    headers: { 'accept-encoding': 'gzip' },
    status: 200,
    leaves: [read('log.prove', STREAM, { resource: 'tile/entries/000.p/2' })],
  }),
  'GET /v1/logs/:tenant/:category/:epoch/tile/*': async () => ({
    path: `${LOG}/e2/tile/0/000.p/1`,
    status: 404,
    leaves: [read('log.prove', { type: 'stream', id: 'acme/user_authentication/e2' }, { resource: 'tile/0/000.p/1' })],
  }),
  'GET /v1/logs/:tenant/:category/consistency': async () => ({
    path: `${LOG}/consistency?from=1&to=2`,
    status: 200,
    leaves: [read('log.prove', STREAM, { resource: 'consistency' })],
  }),
  'GET /v1/logs/:tenant/:category/:epoch/consistency': async () => ({
    path: `${LOG}/e2/consistency?from=1&to=2`,
    status: 404,
    leaves: [read('log.prove', { type: 'stream', id: 'acme/user_authentication/e2' }, { resource: 'consistency' })],
  }),
  'GET /v1/keys': async () => ({
    path: '/v1/keys',
    status: 200,
    leaves: [read('log.list', { type: 'keys', id: 'log.example' })],
  }),
  'GET /v1/bundle': async () => ({
    path: '/v1/bundle?category=user_authentication&from=2026-01-01T00:00:00Z&since=1&withhold=actor',
    status: 200,
    leaves: [
      read('log.bundle', STREAM, { from: '2026-01-01T00:00:00.000Z', to: null, since: [1], withheld: ['actor'] }),
    ],
  }),
  'GET /v1/export': async () => ({
    path: '/v1/export?format=csv&category=user_authentication&toSeq=2&actor=u-1&from=2026-01-01T00:00:00Z&limit=9',
    status: 200,
    leaves: [
      read(
        'log.export',
        { type: 'log', id: 'acme/user_authentication' },
        {
          ...{ format: 'csv', categories: ['user_authentication'], epoch: null, fromSeq: null, toSeq: 2 },
          ...{ query: { actor: 'u-1', from: '2026-01-01T00:00:00Z' }, limit: 9, cursor: null },
        },
      ),
    ],
  }),
  'POST /v1/verifications': async () => ({
    path: '/v1/verifications',
    body: { category: 'user_authentication' },
    status: 202,
    leaves: [read('log.verify', { type: 'log', id: 'acme/user_authentication' })],
  }),
  'GET /v1/verifications': async () => ({
    path: '/v1/verifications?limit=5',
    status: 200,
    leaves: [read('log.list', { type: 'verifications', id: 'acme' })],
  }),
  'GET /v1/verifications/:id': async () => {
    const id = await verification();
    return {
      path: `/v1/verifications/${id}`,
      status: 200,
      leaves: [read('log.read', { type: 'verification', id })],
    };
  },
  'POST /v1/api-keys': async () => ({
    path: '/v1/api-keys',
    body: { name: 'gateway', categories: ['data_access'] },
    role: 'it_security_admin',
    status: 201,
    leaves: ({ id, expiresAt }) => [ofKey('created', id, { categories: ['data_access'], expiresAt })],
  }),
  'GET /v1/api-keys': async () => ({
    path: '/v1/api-keys',
    status: 200,
    leaves: [read('log.list', { type: 'api_keys', id: 'acme' })],
  }),
  'GET /v1/api-keys/:id': async () => {
    const id = await apiKey();
    return { path: `/v1/api-keys/${id}`, status: 200, leaves: [read('log.read', { type: 'api_key', id })] };
  },
  'POST /v1/api-keys/:id/rotate': async () => {
    const id = await apiKey();
    return {
      path: `/v1/api-keys/${id}/rotate`,
      body: { overlapSeconds: 60 },
      role: 'it_security_admin',
      status: 200,
      leaves: [ofKey('rotated', id, { overlapSeconds: 60 })],
    };
  },
  'POST /v1/api-keys/:id/revoke': async () => {
    const id = await apiKey();
    return {
      path: `/v1/api-keys/${id}/revoke`,
      body: { reason: 'leaked' },
      role: 'it_security_admin',
      status: 200,
      leaves: [{ ...ofKey('revoked', id, {}), reason: 'leaked' }],
    };
  },
  'POST /v1/sinks': async () => {
    const given = sinkRequest();
    return {
      ...{ path: '/v1/sinks', body: given, role: 'it_security_admin', status: 201 },
      leaves: ({ id, config, secrets }) => [
        ofSink('created', id, given.name, { from: 'now' }, { before: null, after: { ...config, secrets } }),
      ],
    };
  },
  'GET /v1/retention': async () => ({
    path: '/v1/retention',
    status: 200,
    leaves: [read('log.read', { type: 'retention', id: 'acme' })],
  }),
  'PUT /v1/retention/:category': async () => ({
    path: '/v1/retention/system_operation',
    body: { months: 14, evidence: 'refuse', reason: 'the plant asks' },
    role: 'it_security_admin',
    status: 200,
    leaves: [
      {
        ...{ stream: 'acme/log_administration', action: 'retention.changed', reason: 'the plant asks' },
        target: { type: 'retention', id: 'system_operation' },
        changes: { before: { months: 12, evidence: 'refuse' }, after: { months: 14, evidence: 'refuse' } },
      },
    ],
  }),
  'POST /v1/retention/runs': async () => ({
    path: '/v1/retention/runs?dryRun=true',
    body: {},
    role: 'it_security_admin',
    status: 200,
    leaves: [read('log.read', { type: 'pruning', id: 'acme' })],
  }),
  'GET /v1/retention/runs': async () => ({
    path: '/v1/retention/runs',
    status: 200,
    leaves: [read('log.list', { type: 'prunings', id: 'acme' })],
  }),
  'GET /v1/retention/runs/:id': async () => {
    const id = '0b0f5f6e-3f0a-4b0e-9d5e-2f6a1c3d4e5f';
    return { path: `/v1/retention/runs/${id}`, status: 404, leaves: [read('log.read', { type: 'pruning', id })] };
  },
  'POST /v1/holds': async () => ({
    ...{ path: '/v1/holds', body: { actor: 'nobody', reason: 'case 12' }, role: 'it_security_admin', status: 201 },
    leaves: ({ id }) => [
      ofHold('placed', id, 'case 12', { category: null, epoch: null, criteria: { actor: 'nobody' } }),
    ],
  }),
  'GET /v1/holds': async () => ({
    ...{ path: '/v1/holds', status: 200 },
    leaves: [read('log.list', { type: 'holds', id: 'acme' })],
  }),
  'GET /v1/holds/:id': async () => {
    const id = await hold();
    return { path: `/v1/holds/${id}`, status: 200, leaves: [read('log.read', { type: 'hold', id })] };
  },
  'POST /v1/holds/:id/release': async () => {
    const id = await hold();
    return {
      ...{ path: `/v1/holds/${id}/release`, body: { reason: 'settled' }, role: 'it_security_admin', status: 202 },
      leaves: ({ release }) => [ofRelease('proposed', release.id, 'settled', { request: { hold: id } })],
    };
  },
  'POST /v1/holds/:id/release/approve': async () => {
    const { id, release } = await proposedRelease();
    const row = await releaseDecision('approve', 'approved', id, release);
    return { ...row, leaves: [...(row.leaves as Left[]), ofHold('released', id, 'settled', { release })] };
  },
  'POST /v1/holds/:id/release/reject': async () => {
    const { id, release } = await proposedRelease();
    return releaseDecision('reject', 'rejected', id, release);
  },
  'POST /v1/holds/:id/release/withdraw': async () => {
    const { id, release } = await proposedRelease();
    return {
      ...{
        path: `/v1/holds/${id}/release/withdraw`,
        body: { reason: 'checked' },
        role: 'it_security_admin',
        status: 403,
      },
      leaves: [
        {
          ...ofRelease('withdrawn', release, 'checked', {
            ...{ proposedBy: 'proposer', proposed: 'settled', problem: 'forbidden' },
          }),
          ...{ outcome: 'failure', severity: 6 },
        },
        {
          ...{ stream: 'acme/security_event', action: 'access.refused', outcome: 'failure', severity: 4 },
          target: { type: 'route', id: 'POST /v1/holds/:id/release/withdraw' },
          details: { code: 'forbidden', count: 1, firstAt: expect.any(String), lastAt: expect.any(String) },
        },
      ],
    };
  },
  'GET /v1/sinks': async () => ({
    path: '/v1/sinks',
    status: 200,
    leaves: [read('log.list', { type: 'sinks', id: 'acme' })],
  }),
  'GET /v1/sinks/:id': async () => {
    const { id } = await sink();
    return { path: `/v1/sinks/${id}`, status: 200, leaves: [read('log.read', { type: 'sink', id })] };
  },
  'PUT /v1/sinks/:id': async () => {
    const { id, config } = await sink();
    const told = { ...config, secrets: [] };
    return {
      ...{ path: `/v1/sinks/${id}`, body: { ...config, gzip: true }, role: 'it_security_admin', status: 200 },
      leaves: [ofSink('changed', id, config.name, {}, { before: told, after: { ...told, gzip: true } })],
    };
  },
  'DELETE /v1/sinks/:id': async () => {
    const { id, config } = await sink();
    return {
      ...{ path: `/v1/sinks/${id}`, role: 'it_security_admin', status: 204 },
      leaves: [ofSink('deleted', id, config.name, {}, { before: { ...config, secrets: [] }, after: null })],
    };
  },
  // Nobody may call there: that is an entry too.
  'POST /v1/sinks/:id/test': async () => {
    const row = await sinkRow('test', 'tested', {});
    const [told] = row.leaves as readonly Left[];
    const details = { ...told!.details, detail: expect.stringContaining('not public') };
    return { ...row, leaves: [told!, { ...told!, outcome: 'failure', details }] };
  },
  'POST /v1/sinks/:id/pause': () =>
    sinkRow('pause', 'paused', {}, {}, { before: { state: 'active' }, after: { state: 'paused' } }),
  'POST /v1/sinks/:id/resume': () =>
    sinkRow('resume', 'resumed', {}, {}, { before: { state: 'active' }, after: { state: 'active' } }),
  'POST /v1/sinks/:id/disable': () =>
    sinkRow('disable', 'disabled', {}, {}, { before: { state: 'active' }, after: { state: 'disabled' } }),
  'POST /v1/sinks/:id/replay': () =>
    sinkRow('replay', 'replayed', { from: 'beginning' }, { stream: null, from: 'beginning' }),
  'POST /v1/sinks/:id/retry': () => sinkRow('retry', 'retried', {}, { stream: null }),
  'POST /v1/sinks/:id/skip': () =>
    sinkRow(
      'skip',
      'entry_skipped',
      { stream: 'acme/user_authentication', seq: 0 },
      {
        ...{ stream: 'acme/user_authentication', seq: 0, refusal: 'the peer says no' },
      },
    ),
  'GET /v1/tenants': async () => ({
    ...{ path: '/v1/tenants', role: 'operator', tenant: 'sealog', status: 200 },
    leaves: [read('log.list', { type: 'tenants', id: 'sealog' }, undefined, 'sealog')],
  }),
  'GET /v1/tenants/:name': async () => ({
    ...{ path: '/v1/tenants/acme', role: 'operator', tenant: 'sealog', status: 200 },
    leaves: [read('log.read', { type: 'tenant', id: 'acme' }, undefined, 'sealog')],
  }),
  'POST /v1/tenants': async () => {
    const name = `t-${randomUUID()}`;
    return {
      ...{ path: '/v1/tenants', body: { name, reason: 'new' }, role: 'operator', tenant: 'sealog', status: 201 },
      leaves: ofTenant('opened', name, 'new', null),
    };
  },
  'POST /v1/tenants/:name/close': async () => {
    const name = await openedTenant();
    return {
      ...{ path: `/v1/tenants/${name}/close`, body: { reason: 'over' } },
      ...{ role: 'operator', tenant: 'sealog', status: 200 },
      leaves: ofTenant('closed', name, 'over', expect.objectContaining({ state: 'open' })),
    };
  },
  'POST /v1/tenants/:name/reopen': async () => {
    const name = await openedTenant();
    await call('POST', `/v1/tenants/${name}/close`, { role: 'operator', tenant: 'sealog', body: { reason: 'over' } });
    return {
      ...{ path: `/v1/tenants/${name}/reopen`, body: { reason: 'again' } },
      ...{ role: 'operator', tenant: 'sealog', status: 200 },
      leaves: ofTenant('reopened', name, 'again', expect.objectContaining({ state: 'closed' })),
    };
  },
  'PUT /v1/tenants/:name/quota': async () => {
    const name = await openedTenant();
    return {
      ...{ path: `/v1/tenants/${name}/quota`, body: { reason: 'more' } },
      ...{ role: 'operator', tenant: 'sealog', status: 200 },
      leaves: ofTenant('quota_changed', name, 'more', expect.objectContaining({ state: 'open' })),
    };
  },
  'POST /v1/erasures': async () => ({
    path: '/v1/erasures',
    body: { person: { name: 'Nobody at all' }, reason: 'asked' },
    ...{ role: 'privacy_officer', status: 202 },
    leaves: ({ id }) => [ofErasure('proposed', id, 'asked', { request: { by: ['name'], fullScan: false } })],
  }),
  'GET /v1/erasures': async () => ({
    ...{ path: '/v1/erasures', status: 200 },
    leaves: [read('log.list', { type: 'erasures', id: 'acme' })],
  }),
  'GET /v1/erasures/:id': async () => {
    const id = await erasure();
    return { path: `/v1/erasures/${id}`, status: 200, leaves: [read('log.read', { type: 'erasure', id })] };
  },
  'GET /v1/erasures/:id/entries': async () => {
    const id = await erasure();
    return { path: `/v1/erasures/${id}/entries`, status: 200, leaves: [read('log.read', { type: 'erasure', id })] };
  },
  'POST /v1/erasures/:id/approve': () => erasureDecision('approve', 'approved'),
  'POST /v1/erasures/:id/reject': () => erasureDecision('reject', 'rejected'),
  'POST /v1/erasures/:id/withdraw': async () => {
    const id = await erasure();
    return {
      ...{ path: `/v1/erasures/${id}/withdraw`, body: { reason: 'checked' }, role: 'privacy_officer', status: 403 },
      leaves: [
        {
          ...ofErasure('withdrawn', id, 'checked', { proposedBy: 'proposer', proposed: 'asked', problem: 'forbidden' }),
          ...{ outcome: 'failure', severity: 6 },
        },
        {
          ...{ stream: 'acme/security_event', action: 'access.refused', outcome: 'failure', severity: 4 },
          target: { type: 'route', id: 'POST /v1/erasures/:id/withdraw' },
          details: { code: 'forbidden', count: 1, firstAt: expect.any(String), lastAt: expect.any(String) },
        },
      ],
    };
  },
  'POST /v1/keys/months/rotations': async () => ({
    path: '/v1/keys/months/rotations',
    body: { reason: 'yearly' },
    ...{ role: 'it_security_admin', tenant: 'sealog', status: 201 },
    leaves: ({ generation }) => [
      {
        ...{ stream: 'sealog/log_administration', action: 'month_key.rotated', reason: 'yearly' },
        target: { type: 'key_generation', id: `${generation}` },
      },
    ],
  }),
  'GET /v1/keys/months': async () => ({
    ...{ path: '/v1/keys/months', tenant: 'sealog', status: 200 },
    leaves: [read('log.list', { type: 'key_generations', id: 'file' }, undefined, 'sealog')],
  }),
  'POST /v1/keys/rotations': async () => ({
    path: '/v1/keys/rotations',
    body: { reason: 'yearly' },
    ...{ role: 'it_security_admin', tenant: 'sealog', status: 201 },
    leaves: ({ id }) => [ofRotation('proposed', id, 'yearly', { request: {} })],
  }),
  'GET /v1/keys/rotations': async () => ({
    ...{ path: '/v1/keys/rotations', tenant: 'sealog', status: 200 },
    leaves: [read('log.list', { type: 'key_rotations', id: 'sealog' }, undefined, 'sealog')],
  }),
  'GET /v1/keys/rotations/:id': async () => {
    const id = await rotation();
    return {
      ...{ path: `/v1/keys/rotations/${id}`, tenant: 'sealog', status: 200 },
      leaves: [read('log.read', { type: 'key_rotation', id }, undefined, 'sealog')],
    };
  },
  'POST /v1/keys/rotations/:id/approve': () => decision('approve', 'approved'),
  'POST /v1/keys/rotations/:id/reject': () => decision('reject', 'rejected'),
  // Only who proposed it may, so that it is a refusal that is told.
  'POST /v1/keys/rotations/:id/withdraw': async () => {
    const { leaves: _, ...row } = await decision('withdraw', 'withdrawn');
    const id = row.path.split('/').at(-2)!;
    const details = { proposedBy: 'proposer', proposed: 'yearly', problem: 'forbidden' };
    const told: Left = { ...ofRotation('withdrawn', id, 'checked', details), outcome: 'failure', severity: 6 };
    const refused: Left = {
      ...{ stream: 'sealog/security_event', action: 'access.refused', outcome: 'failure', severity: 4 },
      target: { type: 'route', id: 'POST /v1/keys/rotations/:id/withdraw' },
      details: { code: 'forbidden', count: 1, firstAt: expect.any(String), lastAt: expect.any(String) },
    };
    return { ...row, status: 403, leaves: [told, refused] };
  },
};

function ofKey(what: string, id: string, details: Json): Left {
  const target = { type: 'api_key', id };
  const action = `api_key.${what}`;
  return { stream: 'acme/security_event', action, severity: 5, target, details: { name: 'gateway', ...details } };
}

function ofSink(what: string, id: string, name: string, details: Json, changes?: Json): Left {
  const target = { type: 'sink', id };
  return {
    ...{ stream: 'acme/configuration_change', action: `sink.${what}`, target, details: { name, ...details } },
    ...(changes === undefined ? {} : { changes }),
  };
}

function sinkRequest(): Json {
  return { name: `sink ${randomUUID()}`, type: 'webhook', url: 'http://127.0.0.1:9/' };
}

/** One at a time: a tenant has not many. It is parked at the first entry. */
async function sink(): Promise<Json> {
  await service.adminPool.query(`UPDATE sealog.sink SET state = 'deleted' WHERE state <> 'deleted'`);
  const answer = await call('POST', '/v1/sinks', { role: 'it_security_admin', body: sinkRequest() });
  const made = (await answer.json()) as Json;
  await service.adminPool.query(
    `UPDATE sealog.sink_cursor SET next_seq = 0, parked_at = now(), parked_reason = 'the peer says no'
     WHERE sink = $1 AND stream = (SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication')`,
    [made.id],
  );
  return made;
}

async function sinkRow(act: string, what: string, body: Json, details: Json = {}, changes?: Json): Promise<Row> {
  const { id, config } = await sink();
  return {
    ...{ path: `/v1/sinks/${id}/${act}`, body: { ...body, reason: 'why' }, role: 'it_security_admin', status: 200 },
    leaves: [{ ...ofSink(what, id, config.name, details, changes), reason: 'why' }],
  };
}

async function apiKey(): Promise<string> {
  const answer = await call('POST', '/v1/api-keys', { role: 'it_security_admin', body: { name: 'gateway' } });
  const { id, key } = (await answer.json()) as Json;
  credentials.push(key);
  return id;
}

/** Once in the deployment's log, and once in the tenant's own. */
function ofTenant(what: string, name: string, reason: string, before: Json): Left[] {
  const changes = { before, after: { state: what === 'closed' ? 'closed' : 'open', quota: expect.any(Object) } };
  const target = { type: 'tenant', id: name };
  return ['sealog', name].map((of) => ({
    ...{ stream: `${of}/log_administration`, action: `tenant.${what}`, target, reason, changes },
  }));
}

async function openedTenant(): Promise<string> {
  const name = `t-${randomUUID()}`;
  const answer = await call('POST', '/v1/tenants', {
    role: 'operator',
    tenant: 'sealog',
    body: { name, reason: 'new' },
  });
  expect(answer.status).toBe(201);
  return name;
}

function ofRotation(step: string, id: string, reason: string, details: Json): Left {
  const action = `key_rotation.${step}`;
  return { stream: 'sealog/log_administration', action, target: { type: 'key_rotation', id }, reason, details };
}

function ofErasure(step: string, id: string, reason: string, details: Json): Left {
  return {
    ...{ stream: 'acme/log_administration', action: `erasure.${step}` },
    ...{ target: { type: 'erasure', id }, reason, details },
  };
}

function ofHold(step: string, id: string, reason: string, details: Json): Left {
  return {
    ...{ stream: 'acme/log_administration', action: `hold.${step}` },
    ...{ target: { type: 'hold', id }, reason, details },
  };
}

function ofRelease(step: string, id: string, reason: string, details: Json): Left {
  return {
    ...{ stream: 'acme/log_administration', action: `hold_release.${step}` },
    ...{ target: { type: 'hold_release', id }, reason, details },
  };
}

const HOLDING = { role: 'it_security_admin', subject: 'proposer' } as const;

/** One that keeps nothing. */
async function hold(): Promise<string> {
  const answer = await call('POST', '/v1/holds', { ...HOLDING, body: { actor: 'nobody', reason: 'case 12' } });
  return ((await answer.json()) as Json)['id'];
}

async function proposedRelease(): Promise<{ id: string; release: string }> {
  const id = await hold();
  const answer = await call('POST', `/v1/holds/${id}/release`, { ...HOLDING, body: { reason: 'settled' } });
  return { id, release: ((await answer.json()) as Json)['release'].id };
}

async function releaseDecision(how: string, step: string, id: string, release: string): Promise<Row> {
  return {
    ...{ path: `/v1/holds/${id}/release/${how}`, body: { reason: 'checked' }, role: 'it_security_admin', status: 200 },
    leaves: [ofRelease(step, release, 'checked', { proposedBy: 'proposer', proposed: 'settled' })],
  };
}

/** One that found nothing. */
async function erasure(): Promise<string> {
  const asking = { role: 'privacy_officer', subject: 'proposer' } as const;
  const body = { person: { name: 'Nobody at all' }, reason: 'asked' };
  const { id } = (await (await call('POST', '/v1/erasures', { ...asking, body })).json()) as Json;
  await vi.waitFor(async () => {
    const { search } = (await (await call('GET', `/v1/erasures/${id}`, asking)).json()) as Json;
    expect(search).toBe('found');
  }, 10_000);
  onTestFinished(async () => {
    await call('POST', `/v1/erasures/${id}/withdraw`, { ...asking, body: {} });
  });
  return id;
}

async function erasureDecision(how: string, step: string): Promise<Row> {
  const id = await erasure();
  return {
    path: `/v1/erasures/${id}/${how}`,
    body: { reason: 'checked' },
    ...{ role: 'privacy_officer', status: 200 },
    leaves: [ofErasure(step, id, 'checked', { proposedBy: 'proposer', proposed: 'asked' })],
  };
}

async function rotation(): Promise<string> {
  const asking = { role: 'it_security_admin', tenant: 'sealog', subject: 'proposer' } as const;
  const answer = await call('POST', '/v1/keys/rotations', { ...asking, body: { reason: 'yearly' } });
  const { id } = (await answer.json()) as Json;
  // Else there would soon be as many as may wait.
  onTestFinished(async () => {
    await call('POST', `/v1/keys/rotations/${id}/withdraw`, { ...asking, body: {} });
  });
  return id;
}

async function decision(how: string, step: string): Promise<Row & { leaves: readonly Left[] }> {
  const id = await rotation();
  return {
    path: `/v1/keys/rotations/${id}/${how}`,
    body: { reason: 'checked' },
    ...{ role: 'it_security_admin', tenant: 'sealog', status: 200 },
    leaves: [ofRotation(step, id, 'checked', { proposedBy: 'proposer', proposed: 'yearly' })],
  };
}

function read(action: string, target: Left['target'], details?: Json, tenant = 'acme'): Left {
  return { stream: `${tenant}/data_access`, action, target, ...(details === undefined ? {} : { details }) };
}

/** Asks for a verification, waits for its end, and returns its id. */
async function verification(category = 'user_authentication'): Promise<string> {
  const answer = await call('POST', '/v1/verifications', { body: { category }, subject: 'verifier' });
  const { id } = (await answer.json()) as Json;
  await until(async () => {
    const { rows } = await service.adminPool.query('SELECT state FROM sealog.verification WHERE id = $1', [id]);
    return rows[0].state === 'done';
  }, 'the run ends');
  return id;
}

describe('every route', () => {
  it('that is not public is in the table, and nothing else', () => {
    const routes = service.app.server.registeredRoutes
      .filter(({ permission }) => permission !== 'public' && permission !== 'events:write')
      .map(({ method, path }) => `${method} ${path}`);
    expect(Object.keys(ROUTES).toSorted()).toEqual(routes.toSorted());
  });

  it.each(Object.keys(ROUTES))('%s leaves its entry', async (route) => {
    const { path, body, headers, role = 'auditor', tenant = 'acme', status, leaves } = await ROUTES[route]!();
    const subject = `trail-${randomUUID()}`;
    const asking = { role, tenant, subject, ...(headers === undefined ? {} : { headers }) };
    const answer = await call(route.split(' ')[0]!, path, body === undefined ? asking : { ...asking, body });
    const text = Buffer.from(await answer.arrayBuffer()).toString();
    expect([answer.status, text.slice(0, 300)]).toEqual([status, expect.any(String)]);
    const left = typeof leaves === 'function' ? leaves(JSON.parse(text)) : leaves;

    for (const [of, expected] of Map.groupBy(left, ({ stream }) => stream.split('/')[0]!)) {
      // That a call was refused is told beside its answer.
      await until(async () => (await entries(of, { actor: subject })).length >= expected.length, 'the entries');
      const found = await entries(of, { actor: subject });
      const wanted = expected.map(({ stream, ...left }) => ({
        outcome: 'success',
        ...left,
        category: stream.split('/')[1],
        source: { service: 'sealog' },
        actor: { type: 'user', id: subject, ip: '127.0.0.1', roles: [role] },
      }));
      expect(found.map(told)).toEqual(wanted);
    }
    // Nor in any other log.
    for (const log of ['acme', 'sealog'])
      if (left.every(({ stream }) => !stream.startsWith(`${log}/`)))
        expect(await entries(log, { actor: subject })).toEqual([]);
  });

  it('leaves one entry a call, and reading those leaves one a call too', async () => {
    const before = await sizeOf('acme/data_access');
    for (let n = 0; n < 20; n++) await entries('acme', { action: 'log.search', category: 'data_access' });
    expect(await sizeOf('acme/data_access')).toBe(before + 20);
    // Nobody calls, nothing is left.
    await delay(300);
    expect(await sizeOf('acme/data_access')).toBe(before + 20);
  });

  it('leaves an entry also where nothing is found, and where it is another tenant’s', async () => {
    const subject = `prober-${randomUUID()}`;
    for (const path of ['/v1/events/nothing', '/v1/logs/initech/data_access/checkpoint', '/v1/events/nothing/proof'])
      expect((await call('GET', path, { subject })).status).toBe(404);
    expect((await entries('acme', { actor: subject })).map(({ action, target }) => [action, target.id])).toEqual([
      ['log.read', 'nothing'],
      ['log.prove', 'initech/data_access'],
      ['log.prove', 'nothing'],
    ]);
  });

  it('leaves none where the request is none', async () => {
    const subject = `clumsy-${randomUUID()}`;
    for (const path of ['/v1/events?limit=0', '/v1/events/%00', '/v1/verifications?cursor=x', '/v1/bundle'])
      expect((await call('GET', path, { subject })).status).toBe(400);
    expect(await entries('acme', { actor: subject })).toEqual([]);
  });

  it('says of a change that failed that it did', async () => {
    const subject = `hasty-${randomUUID()}`;
    const waiting = await service.adminPool.query(
      `INSERT INTO sealog.verification (kind, tenant, requested_by, state, owner, heartbeat)
       SELECT 'job', id, 'test', 'running', gen_random_uuid(), clock_timestamp() FROM sealog.tenant, generate_series(1, 3)
       WHERE name = 'acme' RETURNING id`,
    );
    const answer = await call('POST', '/v1/verifications', { subject, body: {} });
    expect([answer.status, ((await answer.json()) as Json).code]).toEqual([503, 'busy']);
    const found = await entries('acme', { actor: subject });
    expect(found.map(({ action, outcome, details }) => [action, outcome, details])).toEqual([
      ['log.verify', 'success', undefined],
      ['log.verify', 'failure', { problem: 'busy' }],
    ]);
    await service.adminPool.query(
      `UPDATE sealog.verification SET state = 'failed', error = 'test', owner = NULL, finished_at = clock_timestamp()
       WHERE id = ANY ($1)`,
      [waiting.rows.map(({ id }) => id)],
    );
  });

  it('shows the address behind a proxy only where that one is believed', async () => {
    const subject = `far-${randomUUID()}`;
    await call('GET', '/v1/streams', { subject, headers: { 'x-forwarded-for': '203.0.113.9' } });
    expect((await entries('acme', { actor: subject }))[0].actor.ip).toBe('127.0.0.1');
    const behind = await startService({ beside: service, environment: { SEALOG_TRUST_PROXY: '127.0.0.1/32' } });
    onTestFinished(() => behind.stop());
    for (const from of ['203.0.113.9', '2001:0DB8:0::9', 'not an address'])
      await call('GET', '/v1/streams', { subject, of: behind, headers: { 'x-forwarded-for': from } });
    // A proxy that says nothing of use is who called.
    expect((await entries('acme', { actor: subject })).slice(1).map(({ actor }) => actor.ip)).toEqual([
      '203.0.113.9',
      '2001:db8::9',
      '127.0.0.1',
    ]);
  });
});

describe('before anything leaves', () => {
  /** While `work` runs the database takes no entry. */
  async function whileRefused(work: () => Promise<void>): Promise<void> {
    await service.adminPool.query(
      `CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no more entries'; END $$`,
    );
    await service.adminPool.query(
      'CREATE TRIGGER refuse BEFORE UPDATE ON sealog.stream FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()',
    );
    await service.adminPool.query('ALTER TABLE sealog.stream ENABLE ALWAYS TRIGGER refuse');
    try {
      await work();
    } finally {
      await service.adminPool.query('DROP FUNCTION public.refuse() CASCADE');
    }
  }

  it.each(Object.keys(ROUTES))('%s gives nothing where its entry can not be stored', async (route) => {
    const { path, body, headers, role = 'auditor', tenant = 'acme' } = await ROUTES[route]!();
    const asking = { role, tenant, ...(headers === undefined ? {} : { headers }) };
    await whileRefused(async () => {
      const answer = await call(route.split(' ')[0]!, path, body === undefined ? asking : { ...asking, body });
      expect(answer.status).toBe(503);
      expect((await answer.json()) as Json).toEqual({
        type: 'urn:sealog:problem:not_ready',
        title: expect.any(String),
        status: 503,
        code: 'not_ready',
        detail: 'the database refused to store',
      });
      // Nor says how long it may be kept, how it is coded, or what the file would be called.
      const kept = Object.fromEntries(answer.headers);
      expect(kept).toMatchObject({
        'content-type': 'application/problem+json',
        'cache-control': 'no-store',
        'retry-after': '1',
      });
      for (const name of ['content-encoding', 'content-disposition', 'location', 'vary'])
        expect([name, kept[name]]).toEqual([name, undefined]);
    });
  });

  it.each(Object.keys(ROUTES).filter((route) => !route.startsWith('GET ')))(
    '%s changes nothing where its entry can not be stored',
    async (route) => {
      const { path, body, role = 'auditor', tenant = 'acme' } = await ROUTES[route]!();
      const state = async (): Promise<string> => {
        const tables = ['api_key', 'proposal', 'tenant', 'tenant_setting', 'sink', 'sink_cursor'];
        const { rows } = await service.adminPool.query(
          `SELECT (SELECT count(*) FROM sealog.verification) AS runs, ${tables
            .map((table) => `(SELECT array_agg(t::text ORDER BY t::text) FROM sealog.${table} AS t) AS ${table}`)
            .join(', ')}`,
        );
        return JSON.stringify(rows);
      };
      const before = await state();
      await whileRefused(async () => {
        expect((await call(route.split(' ')[0]!, path, { role, tenant, body })).status).toBe(503);
      });
      expect(await state()).toBe(before);
    },
  );

  it.each(Object.keys(ROUTES).filter((route) => route.startsWith('GET ')))(
    '%s waits until its entry is committed',
    async (route) => {
      const { path, headers = {}, role = 'auditor', tenant = 'acme', status } = await ROUTES[route]!();
      const authorization = await bearerOf({ role, tenant });
      const holder = await service.adminPool.connect();
      try {
        await holder.query('BEGIN');
        await holder.query('SELECT FROM sealog.stream WHERE name = $1 FOR UPDATE', [`${tenant}/data_access`]);
        let bytes = 0;
        const answered = new Promise<number>((resolve, reject) => {
          const asking = httpRequest(
            `${service.url}${path}`,
            { headers: { ...headers, authorization } },
            (response) => {
              response.resume();
              response.once('end', () => resolve(response.statusCode!));
            },
          );
          asking.once('socket', (socket) => socket.on('data', (chunk: Buffer) => (bytes += chunk.length)));
          asking.once('error', reject);
          asking.end();
        });
        await delay(250);
        expect(bytes).toBe(0);
        await holder.query('ROLLBACK');
        expect(await answered).toBe(status);
        expect(bytes).toBeGreaterThan(0);
      } finally {
        await holder.query('ROLLBACK');
        holder.release();
      }
    },
  );

  it('a bundle whose client goes away while its entry waits gives its place back', async () => {
    const authorization = await bearerOf({});
    const holder = await service.adminPool.connect();
    try {
      await holder.query('BEGIN');
      await holder.query(`SELECT FROM sealog.stream WHERE name = 'acme/data_access' FOR UPDATE`);
      for (let n = 0; n < 2; n++) {
        const asking = httpRequest(`${service.url}/v1/bundle?category=user_authentication`, {
          headers: { authorization },
        });
        asking.on('error', () => {});
        asking.end();
        await delay(200);
        asking.destroy();
      }
    } finally {
      await holder.query('ROLLBACK');
      holder.release();
    }
    await until(
      async () => (await call('GET', '/v1/bundle?category=user_authentication')).status === 200,
      'a free place',
    );
  });

  it('nothing is given by a service that stops taking entries', async () => {
    const other = await startService({ beside: service });
    onTestFinished(() => other.stop());
    await service.adminPool.query('SELECT 1');
    const asked = Promise.all(
      Array.from({ length: 20 }, async () => {
        const subject = `late-${randomUUID()}`;
        try {
          const { status } = await call('GET', '/v1/streams', { of: other, subject });
          return { subject, status };
        } catch {
          return { subject, status: 0 };
        }
      }),
    );
    await delay(5);
    await other.app.close();
    for (const { subject, status } of await asked) {
      const found = await entries('acme', { actor: subject });
      if (status === 200) expect(found).toHaveLength(1);
    }
  });
});

describe('a search oldest first', () => {
  it('does not follow its own entries for ever', async () => {
    const authorization = await bearerOf({ tenant: 'walker' });
    let cursor: string | null = '';
    let pages = 0;
    for (; cursor !== null && pages < 50; pages++) {
      const query: string = cursor === '' ? '' : `&cursor=${cursor}`;
      const answer = await fetch(`${service.url}/v1/events?order=asc&limit=1${query}`, { headers: { authorization } });
      ({ next: cursor } = (await answer.json()) as { next: string | null });
    }
    expect(pages).toBeLessThan(5);
  });
});

describe('a verdict', () => {
  it('stands in the log that it is about, with what was counted', async () => {
    const id = await verification();
    await until(
      async () => (await entries('acme', { action: 'log.verified' })).some(({ details }) => details.run === id),
      'the entry',
    );
    const found = (await entries('acme', { action: 'log.verified' })).find(({ details }) => details.run === id);
    expect(told(found)).toEqual({
      category: 'log_administration',
      action: 'log.verified',
      outcome: 'unknown',
      source: { service: 'sealog' },
      target: { type: 'log', id: 'acme/user_authentication' },
      details: { run: id, verdict: 'not_provable', entries: 2, streams: 1, findings: 0, unchecked: 0 },
    });
    expect(await entries('sealog', { action: 'log.verified' })).toEqual([]);
  });

  it('of tampering is a failure, told before anybody reads it', async () => {
    const other = await startService({ verification: { share: 1 } });
    onTestFinished(() => other.stop());
    await other.post('/v1/events', login('changed'));
    await until(
      async () => (await call('GET', '/v1/events/changed/proof', { of: other })).status === 200,
      'what is changed was signed before',
    );
    await other.adminPool.query('ALTER TABLE sealog.block DISABLE TRIGGER ALL');
    await other.adminPool.query(
      `UPDATE sealog.block SET records = set_byte(records, 30, get_byte(records, 30) # 1)
       WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication')`,
    );
    const { id } = (await (await call('POST', '/v1/verifications', { of: other, body: {} })).json()) as Json;
    let tellsBefore = 0;
    await until(async () => {
      tellsBefore = await sizeOf('acme/log_administration', other);
      const { rows } = await other.adminPool.query('SELECT state FROM sealog.verification WHERE id = $1', [id]);
      return rows[0].state === 'done';
    }, 'the run ends');
    expect(Math.max(tellsBefore, await sizeOf('acme/log_administration', other))).toBe(1);
    expect(await entries('acme', { category: 'log_administration' }, other)).toMatchObject([
      { action: 'log.verified', outcome: 'failure', details: { run: id, verdict: 'tampered' } },
    ]);
  });
});

describe('start and stop', () => {
  async function lives(of = service): Promise<[string, string | undefined][]> {
    const found = await entries('sealog', { category: 'system_operation' }, of);
    return found.map(({ action, details }) => [action, details?.previous]);
  }

  it('each leave an entry, and a start says whether the last one was stopped', async () => {
    const first = await startService({ tellsStart: true });
    onTestFinished(() => first.stop());
    expect(await lives(first)).toEqual([['service.started', 'unknown']]);
    const [started] = await entries('sealog', { category: 'system_operation' }, first);
    expect(told(started)).toEqual({
      category: 'system_operation',
      action: 'service.started',
      outcome: 'success',
      source: { service: 'sealog' },
      target: { type: 'service', id: expect.stringMatching(/^.+:0$/) },
      details: {
        version: expect.stringMatching(/^\d+\.\d+\.\d+/),
        node: process.version,
        startedAt: expect.stringMatching(/Z$/),
        previous: 'unknown',
      },
    });
    await first.app.close();
    const second = await startService({ beside: first, tellsStart: true });
    expect(await lives(second)).toEqual([
      ['service.started', 'unknown'],
      ['service.stopped', undefined],
      ['service.started', 'stopped'],
    ]);
    // The second is still there: it left no stop.
    const third = await startService({ beside: first, tellsStart: true });
    expect((await lives(third)).at(-1)).toEqual(['service.started', 'not_stopped']);
    await third.stop();
    await second.stop();
    await first.checkLog();
  });

  it('a start is told as soon as the log takes entries', async () => {
    const first = await startService({ tellsStart: true });
    onTestFinished(() => first.stop());
    await first.app.close();
    await first.adminPool.query(`UPDATE sealog.signer SET refusal = 'kept out'`);
    const second = await startService({
      beside: first,
      tellsStart: true,
      environment: { SEALOG_SIGNER_DIR: undefined },
    });
    onTestFinished(() => second.stop());
    expect(await sizeOf('sealog/system_operation', second)).toBe(2);
    await first.adminPool.query('UPDATE sealog.signer SET refusal = NULL');
    await until(async () => (await sizeOf('sealog/system_operation', second)) === 3, 'the start is told');
    expect((await lives(second)).at(-1)).toEqual(['service.started', 'stopped']);
  });

  it('a stop is not kept by a log that takes nothing', async () => {
    const first = await startService({ tellsStart: true });
    onTestFinished(() => first.stop());
    const holder = await first.adminPool.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT FROM sealog.stream FOR UPDATE');
    const begin = performance.now();
    const closing = first.app.close();
    await delay(4000);
    await holder.query('ROLLBACK');
    holder.release();
    await closing;
    expect(performance.now() - begin).toBeLessThan(7000);
  });

  it('what must be told is tried until it is stored, and no longer than the service runs', async () => {
    const warned: string[] = [];
    const teller = new Teller({ log: { warn: (_, message) => warned.push(message) }, pauseMinMs: 5, pauseMaxMs: 20 });
    let left = 4;
    const append = async (): Promise<void> => {
      if (left-- > 0) throw new Error('not now');
    };
    expect(await teller.tell('service.started', append)).toBe(true);
    expect(left).toBe(-1);
    expect(warned).toHaveLength(1);
    const never = teller.tell('service.started', () => Promise.reject(new Error('never')));
    teller.close();
    expect(await never).toBe(false);
    expect(await teller.tell('service.started', append)).toBe(false);
  });
});

describe('refused calls', () => {
  const WINDOW_MS = 700;
  let refusing: TestService;

  beforeAll(async () => {
    refusing = await startService({ refusalWindowMs: WINDOW_MS });
  });
  afterAll(async () => {
    await refusing.checkLog();
    await refusing.stop();
  });

  const strangers = () => entries('sealog', { action: 'access.unauthenticated' }, refusing);
  const sum = (found: readonly Json[]): number => found.reduce((total, { details }) => total + details.count, 0);

  async function metric(code: string): Promise<number> {
    const text = await (await fetch(`${refusing.url}/metrics`)).text();
    return Number(new RegExp(`^sealog_refused_calls_total\\{code="${code}"\\} (\\d+)$`, 'm').exec(text)?.[1]);
  }

  it('of a stranger are one entry at once, and one for all others of the minute', async () => {
    const begun = performance.now();
    const before = await metric('unauthenticated');
    const guess = 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJDQU5BUlkifQ.Q0FOQVJZ';
    credentials.push(guess);
    const refuse = async (path: string): Promise<void> => {
      const answer = await fetch(`${refusing.url}${path}`, { headers: { authorization: `Bearer ${guess}` } });
      expect(answer.status).toBe(401);
      await answer.arrayBuffer();
    };
    await refuse('/v1/events/secret-id?actor=secret-actor');
    await until(async () => (await sizeOf('sealog/user_authentication', refusing)) === 1, 'the first', 300);
    for (let n = 0; n < 299; n++) await refuse(n % 3 === 0 ? '/v1/streams' : '/v1/events/secret-id');
    const took = performance.now() - begun;
    await until(async () => sum(await strangers()) === 300, 'all are told');
    expect(await metric('unauthenticated')).toBe(before + 300);

    const [first, ...more] = await strangers();
    expect(more.length).toBeLessThanOrEqual(Math.ceil(took / WINDOW_MS) + 1);
    expect(told(first)).toEqual({
      category: 'user_authentication',
      action: 'access.unauthenticated',
      outcome: 'failure',
      source: { service: 'sealog' },
      actor: { type: 'unknown', id: '127.0.0.1', ip: '127.0.0.1' },
      target: { type: 'route', id: 'GET /v1/events/:id' },
      details: {
        code: 'unauthenticated',
        count: 1,
        firstAt: expect.stringMatching(/Z$/),
        lastAt: first.details.firstAt,
      },
    });
    const routes = new Map<string, number>();
    for (const { details, target } of more)
      for (const [route, calls] of Object.entries(details.routes ?? { [target.id]: details.count }))
        routes.set(route, (routes.get(route) ?? 0) + (calls as number));
    expect(Object.fromEntries(routes)).toEqual({ 'GET /v1/streams': 100, 'GET /v1/events/:id': 199 });
    for (const { details } of more) expect(details.firstAt <= details.lastAt).toBe(true);
    expect(JSON.stringify(await strangers())).not.toMatch(/secret-|CANARY/);
  });

  it('of who is known are in the log of his tenant, under his name', async () => {
    const asking = { role: 'service', tenant: 'acme', subject: 'mes-7', of: refusing } as const;
    for (let n = 0; n < 40; n++) expect((await call('GET', '/v1/events/x', asking)).status).toBe(403);
    await until(async () => sum(await entries('acme', { action: 'access.refused' }, refusing)) === 40, 'all are told');
    const found = await entries('acme', { action: 'access.refused' }, refusing);
    expect(found.length).toBeLessThan(6);
    expect(told(found[0])).toEqual({
      category: 'security_event',
      action: 'access.refused',
      outcome: 'failure',
      severity: 4,
      source: { service: 'sealog' },
      actor: { type: 'user', id: 'mes-7', ip: '127.0.0.1', roles: ['service'] },
      target: { type: 'route', id: 'GET /v1/events/:id' },
      details: { code: 'forbidden', count: 1, firstAt: expect.any(String), lastAt: expect.any(String) },
    });
    expect(await entries('initech', { action: 'access.refused' }, refusing)).toEqual([]);
    expect(await entries('sealog', { action: 'access.refused' }, refusing)).toEqual([]);
  });

  it('that change something leave an entry also where there is nothing to change, or not in this way', async () => {
    const of = refusing;
    const [tenant, subject] = [`t-${randomUUID()}`, `clumsy-${randomUUID()}`];
    const admin = { role: 'it_security_admin', tenant, subject, of } as const;
    const operator = { role: 'operator', tenant: 'sealog', subject, of } as const;
    const made = await call('POST', '/v1/api-keys', { ...admin, body: { name: 'one' } });
    const { id } = (await made.json()) as Json;
    expect((await call('POST', `/v1/api-keys/${id}/revoke`, { ...admin, body: {} })).status).toBe(200);
    const nothing = '0123456789abcdef';
    const tried = [
      [admin, `/v1/api-keys/${nothing}/rotate`, {}, 404],
      [admin, `/v1/api-keys/${nothing}/revoke`, {}, 404],
      [admin, `/v1/api-keys/${id}/rotate`, {}, 409],
      [admin, `/v1/sinks/${randomUUID()}/pause`, {}, 404],
      [operator, '/v1/tenants/nowhere/close', { reason: 'x' }, 404],
      [operator, '/v1/tenants', { name: tenant }, 409],
    ] as const;
    for (const [asking, path, body, status] of tried)
      expect([path, (await call('POST', path, { ...asking, body })).status]).toEqual([path, status]);
    const refusedOf = async (owner: string) => {
      const counts = new Map<string, number>();
      for (const { details, actor, severity } of await entries(
        owner,
        { action: 'access.refused', actor: subject },
        of,
      )) {
        expect([actor.id, severity]).toEqual([subject, 3]);
        counts.set(details.code, (counts.get(details.code) ?? 0) + details.count);
      }
      return Object.fromEntries(counts);
    };
    await until(async () => (await refusedOf(tenant))['not_found'] === 3, 'all are told');
    expect(await refusedOf(tenant)).toEqual({ not_found: 3, key_ended: 1 });
    await until(async () => (await refusedOf('sealog'))['exists'] === 1, 'all are told');
    expect(await refusedOf('sealog')).toEqual({ not_found: 1, exists: 1 });
    // What is only looked for is told as what was read.
    expect((await call('GET', `/v1/api-keys/${nothing}`, admin)).status).toBe(404);
    // What came behind an entry is told by another one like it.
    const person = { role: 'it_security_admin', tenant: 'sealog', subject, of } as const;
    const proposed = await call('POST', '/v1/keys/rotations', { ...person, body: { reason: 'x' } });
    const withdraw = `/v1/keys/rotations/${((await proposed.json()) as Json).id}/withdraw`;
    for (const status of [200, 409])
      expect((await call('POST', withdraw, { ...person, body: {} })).status).toBe(status);
    const steps = await entries('sealog', { action: 'key_rotation.withdrawn', actor: subject }, of);
    expect(steps.map(({ outcome }) => outcome)).toEqual(['success', 'failure']);
    await delay(2 * WINDOW_MS);
    expect(await refusedOf('sealog')).toEqual({ not_found: 1, exists: 1 });
    expect(await refusedOf(tenant)).toEqual({ not_found: 3, key_ended: 1 });
  });

  it('that a handler decides on leave an entry, and so do the events of a batch that is taken but for them', async () => {
    const of = refusing;
    const tenant = `t-${randomUUID()}`;
    const admin = { role: 'it_security_admin', tenant, subject: 'admin', of } as const;
    const body = { name: 'plant 7', categories: ['user_authentication'] };
    const { key } = (await (await call('POST', '/v1/api-keys', { ...admin, body })).json()) as Json;
    credentials.push(key);
    const allowed = login('e-1');
    const beyond = { ...login('e-2'), category: 'system_operation' };
    const send = (path: string, events: unknown, asking = {}) =>
      call('POST', path, { tenant, body: events as Json, headers: { authorization: `Bearer ${key}` }, of, ...asking });
    expect((await send('/v1/events', beyond)).status).toBe(403);
    const answer = (await (await send('/v1/events/batch', [allowed, beyond, beyond])).json()) as Json;
    expect(answer.items.map(({ status }: Json) => status)).toEqual([201, 403, 403]);
    expect((await send('/v1/events/batch?atomic=true', [allowed, beyond])).status).toBe(403);
    // A batch in which all may be sent is none of it.
    expect((await send('/v1/events/batch', [allowed])).status).toBe(200);
    const refused = () => entries(tenant, { action: 'access.refused' }, of);
    await until(async () => sum(await refused()) === 3, 'all are told');
    await delay(2 * WINDOW_MS);
    const found = await refused();
    expect(sum(found)).toBe(3);
    expect(found.reduce((total, { details }) => total + (details.events ?? 0), 0)).toBe(2);
    for (const { actor, details } of found) expect([actor.type, details.code]).toEqual(['api_key', 'forbidden']);
  });

  it('from 5,000 addresses are as many entries as a minute may have', async () => {
    const size = await sizeOf('sealog/user_authentication', refusing);
    const before = sum(await strangers());
    const begun = performance.now();
    for (let n = 0; n < 5000; n++) {
      const remoteAddress = n % 2 === 0 ? `10.1.${n >> 8}.${n & 255}` : `2001:db8:${n.toString(16)}::1`;
      // Some come more often.
      for (let times = n < 20 ? 10 : 1; times > 0; times--) {
        const { statusCode } = await refusing.app.server.inject({ url: '/v1/streams', remoteAddress });
        expect(statusCode).toBe(401);
      }
    }
    const windows = Math.ceil((performance.now() - begun) / WINDOW_MS) + 1;
    await until(async () => sum(await strangers()) === before + 5180, 'all are told');
    expect((await sizeOf('sealog/user_authentication', refusing)) - size).toBeLessThanOrEqual(60 * (windows + 1));
    const others = (await strangers()).filter(({ actor }) => actor.id === 'others');
    expect(others.length).toBeGreaterThan(0);
    for (const { details, actor } of others) {
      expect(actor).toEqual({ type: 'unknown', id: 'others' });
      expect(details.addresses).toBeGreaterThan(0);
      expect(details.addresses).toBeLessThanOrEqual(details.count);
      expect(details.codes).toEqual({ unauthenticated: details.count });
    }
  }, 120_000);

  it('of a service that stops are told before it goes', async () => {
    const other = await startService({ beside: refusing, refusalWindowMs: 60_000 });
    const before = sum(await strangers());
    for (let n = 0; n < 10; n++) expect((await fetch(`${other.url}/v1/streams`)).status).toBe(401);
    await other.app.close();
    expect(sum(await strangers())).toBe(before + 10);
  });

  it('of a tenant that was never opened are told in the deployment’s log', async () => {
    const closed = await startService({ beside: refusing, makeTenants: false, refusalWindowMs: WINDOW_MS });
    onTestFinished(() => closed.stop());
    expect((await call('GET', '/v1/streams', { role: 'service', tenant: 'stranger', of: closed })).status).toBe(403);
    await until(
      async () => (await entries('sealog', { action: 'access.refused', actor: 'somebody' }, refusing)).length === 1,
      'it is told',
    );
    expect(
      (await entries('sealog', { action: 'access.refused', actor: 'somebody' }, refusing))[0].details,
    ).toMatchObject({
      code: 'forbidden',
      tenant: 'stranger',
    });
  });
});

describe('the counting of refused calls', () => {
  /** The real thing, with a store that can be told to fail; windows end when `tick` says. */
  function counting({ isFailing = () => false }: { isFailing?: () => boolean } = {}) {
    const written: RefusalEntry[] = [];
    let refused = 0;
    const refusals = new Refusals({
      append: async (entry) => {
        await delay(1);
        if (isFailing()) throw new Error('not now');
        written.push(entry);
      },
      actorType: { token: 'user', api_key: 'api_key', certificate: 'service' },
      onRefused: () => (refused += 1),
      wallClock: Date.now,
      log: { warn: () => {} },
      windowMs: 50,
    });
    onTestFinished(() => refusals.close());
    const sum = (): number => written.reduce((total, { event }) => total + Number(event.details['count']), 0);
    return { refusals, written, sum, refused: () => refused };
  }

  const stranger = (address: string): Refusal => ({
    code: 'unauthenticated',
    route: 'GET /v1/streams',
    address,
    caller: undefined,
  });
  const known = (tenant: string, subject: string, code = 'quota', address = '192.0.2.1'): Refusal => ({
    code,
    route: 'POST /v1/events',
    address,
    caller: { tenant, subject, credential: 'api_key', roles: ['service'] },
  });
  const ipv4 = (n: number): string => `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`;

  it('remembers so many sources and no more, and loses none', async () => {
    const { refusals, written, sum } = counting();
    const SENT = 60_000;
    const begin = performance.now();
    for (let n = 0; n < SENT; n++) refusals.note(stranger(ipv4(n % 30_000)));
    // Nobody waits for it.
    expect((performance.now() - begin) / SENT).toBeLessThan(0.05);
    await until(async () => sum() === SENT, 'all are told');
    expect(written.length).toBeLessThanOrEqual(120);
    const others = written.filter(({ event }) => event.actor['id'] === 'others');
    expect(others.some(({ event }) => Number(event.details['addresses']) > 10_000)).toBe(true);
    expect(others.some(({ event }) => event.details['moreAddresses'] === true)).toBe(true);
  });

  it('names those who come most often', async () => {
    const { refusals, written, sum } = counting();
    for (let n = 0; n < 1000; n++) refusals.note(stranger(ipv4(n)));
    for (let n = 0; n < 500; n++) refusals.note(stranger(ipv4(900)));
    await until(async () => sum() === 1500, 'all are told');
    const top = written.find(({ event }) => event.actor['id'] === ipv4(900));
    expect(top?.event.details['count']).toBe(501);
  });

  it('takes a network of IPv6 for one sender', async () => {
    const { refusals, written, sum } = counting();
    for (let n = 1; n <= 100; n++) refusals.note(stranger(normalAddress(`2001:db8:1:2:${n.toString(16)}::1`)));
    await until(async () => sum() === 100, 'all are told');
    expect(written.length).toBe(2);
    expect(written.map(({ event }) => event.actor)).toEqual([
      { type: 'unknown', id: '2001:db8:1:2:1::1', ip: '2001:db8:1:2:1::1' },
      { type: 'unknown', id: '2001:db8:1:2::/64', ip: '2001:db8:1:2:64::1' },
    ]);
    expect(written[1]!.event.details).toMatchObject({ count: 99, network: '2001:db8:1:2::/64' });
  });

  it('counts again what could not be stored', async () => {
    let isFailing = true;
    const { refusals, written, sum } = counting({ isFailing: () => isFailing });
    for (let n = 0; n < 200; n++) refusals.note(stranger(ipv4(n % 50)));
    await delay(300);
    expect(written).toEqual([]);
    isFailing = false;
    await until(async () => sum() === 200, 'all are told');
  });

  it('keeps tenants, callers and codes apart, and strangers out of it', async () => {
    const { refusals, written, sum } = counting();
    for (let n = 0; n < 5; n++) {
      refusals.note(known('acme', 'a'));
      refusals.note(known('acme', 'b'));
      refusals.note(known('acme', 'a', 'forbidden'));
      refusals.note(known('initech', 'a'));
      refusals.note(stranger('192.0.2.1'));
    }
    await until(async () => sum() === 25, 'all are told');
    const of = (tenant: string | undefined): RefusalEntry[] => written.filter((entry) => entry.tenant === tenant);
    expect(
      of('acme')
        .map(({ category, event }) => [category, event.actor['id'], event.details['code'], event.severity])
        .toSorted(),
    ).toEqual([
      ['security_event', 'a', 'forbidden', 4],
      ['security_event', 'a', 'forbidden', 4],
      ['security_event', 'a', 'quota', 3],
      ['security_event', 'a', 'quota', 3],
      ['security_event', 'b', 'quota', 3],
      ['security_event', 'b', 'quota', 3],
    ]);
    expect(of('initech')).toHaveLength(2);
    expect(of(undefined).map(({ category, event }) => [category, event.action])).toEqual([
      ['user_authentication', 'access.unauthenticated'],
      ['user_authentication', 'access.unauthenticated'],
    ]);
  });

  it('gives a tenant as many entries a minute as strangers, however many callers it has', async () => {
    const { refusals, written, sum } = counting();
    for (let n = 0; n < 20_000; n++) refusals.note(known('acme', `s-${n}`, 'quota', ipv4(n)));
    refusals.note(known('initech', 'one'));
    await until(async () => sum() === 20_001, 'all are told');
    expect(written.filter(({ tenant }) => tenant === 'acme').length).toBeLessThanOrEqual(120);
    // It came when nothing more was remembered, and is told all the same.
    expect(written.filter(({ tenant }) => tenant === 'initech')).toMatchObject([{ event: { details: { count: 1 } } }]);
  });

  it('is written when it closes, within a second also where nothing can be stored', async () => {
    const { refusals, sum } = counting();
    for (let n = 0; n < 20; n++) refusals.note(stranger('192.0.2.1'));
    await refusals.close();
    expect(sum()).toBe(20);
    const stuck = new Refusals({
      append: () => new Promise(() => {}),
      actorType: { token: 'user', api_key: 'api_key', certificate: 'service' },
      onRefused: () => {},
      wallClock: Date.now,
      log: { warn: () => {} },
    });
    stuck.note(stranger('192.0.2.1'));
    const begin = performance.now();
    await stuck.close();
    expect(performance.now() - begin).toBeLessThan(1500);
  });
});

describe('where a call comes from', () => {
  it.each([
    ['192.0.2.1', '192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1', '192.0.2.1'],
    ['2001:DB8::1', '2001:db8::1', '2001:db8::/64'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['::1', '::1', '::/64'],
    ['fe80::1%eth0', 'fe80::1%eth0', 'fe80::/64'],
    ['192.0.2.1:4711', 'unknown', 'unknown'],
    ['proxy.example', 'unknown', 'unknown'],
    ['', 'unknown', 'unknown'],
  ])('%s is %s in %s', (text, address, network) => {
    expect(normalAddress(text)).toBe(address);
    expect(networkOf(address)).toBe(network);
  });
});

it('nothing of a credential is in any entry', async () => {
  for (const tenant of ['acme', 'sealog']) {
    const text = JSON.stringify([
      await entries(tenant, { category: 'data_access' }),
      await entries(tenant, { category: 'security_event' }),
      await entries(tenant, { category: 'log_administration' }),
    ]);
    expect(text.length).toBeGreaterThan(100);
    for (const credential of new Set(credentials)) {
      const [, , signature = credential] = credential.split('.');
      expect(text.includes(credential) || text.includes(signature)).toBe(false);
    }
  }
});
