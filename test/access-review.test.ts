/**
 * Ways round the door, the quotas and the trail that a review found. Each test is the attack, or what is left of it.
 */
import { randomBytes } from 'node:crypto';
import { chmod, readdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { registerAccess } from '../src/auth/access.ts';
import { type RefusalEntry, Refusals } from '../src/auth/refusals.ts';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import type { Caller } from '../src/http/caller.ts';
import { healthRoutes } from '../src/http/health.ts';
import { metricsRoutes } from '../src/http/metrics.ts';
import { createServer } from '../src/http/server.ts';
import { listen, talk } from './support/http.ts';
import { startService, type TestService } from './support/service.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;

let service: TestService;

beforeAll(async () => {
  service = await startService({
    environment: { SEALOG_QUOTA_EVENTS_PER_SECOND: '10', SEALOG_QUOTA_BYTES_PER_SECOND: '100000' },
  });
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

const log = pino({ level: 'silent' });

function tokenOf(tenant: string, role: Role, subject = 'somebody'): Promise<string> {
  return signToken(service.tokens, { tenant, roles: [role], subject, ttlSeconds: 600 });
}

function event(): Json {
  return {
    category: 'system_operation',
    action: 'batch.started',
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'mes', site: 'plant-7' },
  };
}

/** Sends a request, and is gone without waiting for its answer. */
function sendAndLeave(port: number, head: string, body = '', afterMs = 0): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(`${head}\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`, () => {
        setTimeout(() => {
          socket.destroy();
          resolve();
        }, afterMs);
      });
    });
    socket.on('error', () => {});
    socket.resume();
  });
}

/** Sends a batch whose length nobody is told, in two pieces. */
function sendChunked(token: string, body: string | Uint8Array, headers = {}): Promise<Response> {
  const bytes = Buffer.from(body);
  const stream = new ReadableStream({
    async start(controller) {
      controller.enqueue(bytes.subarray(0, 100));
      await delay(500);
      controller.enqueue(bytes.subarray(100));
      controller.close();
    },
  });
  return fetch(`${service.url}/v1/events/batch`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
    body: stream,
    duplex: 'half',
  } as RequestInit);
}

async function until(look: () => Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 20_000;
  while (!(await look())) {
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
    await delay(30);
  }
}

describe('who breaks off', () => {
  it('while his credential is looked up leaves no memory behind that his body would have held', async () => {
    const app = createServer({ log });
    onTestFinished(() => app.close());
    const asked = Promise.withResolvers<void>();
    const looked = Promise.withResolvers<Caller>();
    let waiting = 0;
    registerAccess(app, {
      tokens: () => {
        waiting += 1;
        if (waiting === 2) asked.resolve();
        return looked.promise;
      },
    });
    let handled = 0;
    app.post('/v1/things', { config: { permission: 'events:write' } }, async () => {
      handled += 1;
      return {};
    });
    const port = await listen(app);
    const gone: Promise<unknown>[] = [];
    app.server.on('connection', (socket) => gone.push(new Promise((resolve) => socket.once('close', resolve))));
    const credential = 'authorization: Bearer x\r\ncontent-type: application/json';
    for (const body of ['content-length: 200000', 'transfer-encoding: chunked\r\ncontent-encoding: gzip']) {
      const socket = connect(port, '127.0.0.1', () => {
        socket.write(`POST /v1/things HTTP/1.1\r\nhost: x\r\n${credential}\r\n${body}\r\n\r\n`);
        void asked.promise.then(() => socket.resetAndDestroy());
      });
      socket.on('error', () => {});
    }
    await asked.promise;
    await Promise.all(gone);
    const permissions = new Set(['events:write']);
    looked.resolve({ tenant: 'acme', subject: 'x', credential: 'api_key', roles: ['service'], permissions });
    await delay(200);
    expect(app.bodyBudget.used).toBe(0);
    expect(handled).toBe(0);
  });

  it('once his request is sent is told of with his address all the same', async () => {
    const [admin, auditor] = [await tokenOf('acme', 'it_security_admin'), await tokenOf('acme', 'auditor')];
    const { body } = await service.post('/v1/api-keys', { name: 'historian' }, { token: admin });
    const head = `POST /v1/api-keys/${body.id}/revoke HTTP/1.1\r\nauthorization: Bearer ${admin}\r\ncontent-type: application/json`;
    for (const afterMs of [0, 1, 2, 3, 4, 5]) await sendAndLeave(service.port, head, '{}', afterMs);
    // A key that must be looked up.
    const made = `sealog_${randomBytes(8).toString('hex')}_${randomBytes(32).toString('base64url')}`;
    for (const afterMs of [0, 1, 2]) {
      const other = made.replace(/.$/, 'AEI'[afterMs]!);
      await sendAndLeave(service.port, `GET /v1/events HTTP/1.1\r\nauthorization: Bearer ${other}`, '', afterMs);
    }
    await until(async () => {
      const found = await service.get('/v1/events?action=api_key.revoked', { token: auditor });
      return found.body.items.length > 0;
    }, 'a revocation is told');
    await delay(300);
    const told = [
      ...(await service.get('/v1/events?category=security_event', { token: auditor })).body.items,
      ...(
        await service.get('/v1/events?category=user_authentication', {
          token: await tokenOf('sealog', 'auditor'),
        })
      ).body.items,
    ];
    expect(told.length).toBeGreaterThan(1);
    for (const { action, actor } of told) expect([action, actor.ip]).toEqual([action, '127.0.0.1']);
  });
});

describe('a quota', () => {
  it('is not used up for years by a header that says how much would come', async () => {
    const token = await tokenOf('header', 'service');
    const head = `POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json`;
    const { status } = await talk(service.port, `${head}\r\ncontent-length: 9007199254740991\r\n\r\n`, {
      untilMs: 3000,
    });
    expect(status).toBe(413);
    const next = await service.post('/v1/events', event(), { token: await tokenOf('header', 'service', 'another') });
    // It paid for the largest body that the route takes, as whoever sends one.
    expect(next.status === 201 || Number(next.headers['retry-after']) < 60).toBe(true);
  });

  it.each([
    ['chunked', {}, (body: string) => body],
    ['compressed', { 'content-encoding': 'gzip' }, (body: string) => gzipSync(body)],
  ])('holds for %s batches that come at once', async (kind, headers, encode) => {
    const token = await tokenOf(kind, 'service');
    const body = encode(JSON.stringify(Array.from({ length: 500 }, event)));
    const send = async (): Promise<number> => (await sendChunked(token, body, headers)).status;
    const statuses = await Promise.all(Array.from({ length: 20 }, send));
    const taken = statuses.filter((status) => status === 200).length;
    // Ten a second, a hundred at once: 10,000 are not let in together, though all are let in before the first of them is whole.
    expect(taken).toBeGreaterThanOrEqual(1);
    expect(taken).toBeLessThanOrEqual(4);
    expect(statuses.filter((status) => status === 429)).toHaveLength(20 - taken);
  });

  it('counts what is no batch, too, also where its length was not told', async () => {
    const token = await tokenOf('bytes', 'service');
    const send = async (): Promise<number> => (await sendChunked(token, Buffer.alloc(1_500_000, 'no event '))).status;
    expect(await send()).toBe(400);
    expect(await send()).toBe(429);
  });
});

describe('a flood', () => {
  it('of strangers who ask for health and metrics asks the database once at a time', async () => {
    const app = createServer({ log });
    onTestFinished(() => app.close());
    let [underWay, most] = [0, 0];
    const look = async (): Promise<undefined> => {
      underWay += 1;
      most = Math.max(most, underWay);
      await delay(20);
      underWay -= 1;
    };
    await app.register(healthRoutes({ objection: look }));
    await app.register(metricsRoutes([{ name: 'sealog_x', type: 'gauge', help: 'x', read: look }]));
    for (const url of ['/readyz', '/metrics']) {
      most = 0;
      const answers = await Promise.all(Array.from({ length: 200 }, () => app.inject({ url })));
      expect(answers.every(({ statusCode }) => statusCode === 200)).toBe(true);
      expect(most).toBe(1);
      // Not remembered: whoever comes later gets what is so then.
      await app.inject({ url });
      expect(underWay).toBe(0);
    }
  });

  it('of changes that one tenant asks for leaves events of the others their way to the database', async () => {
    const [admin, other] = [await tokenOf('acme', 'it_security_admin'), await tokenOf('calm', 'service')];
    expect((await service.post('/v1/events', event(), { token: other })).status).toBe(201);
    const blocker = await service.adminPool.connect();
    try {
      // Whoever makes a key waits.
      await blocker.query('BEGIN; LOCK TABLE sealog.api_key IN SHARE MODE');
      const flood = Array.from({ length: 12 }, () => service.post('/v1/api-keys', { name: 'one' }, { token: admin }));
      await delay(400);
      const begin = performance.now();
      expect((await service.post('/v1/events', event(), { token: other })).status).toBe(201);
      expect(performance.now() - begin).toBeLessThan(1000);
      await blocker.query('ROLLBACK');
      for (const { status } of await Promise.all(flood)) expect([201, 503]).toContain(status);
    } finally {
      blocker.release(true);
    }
  });

  it('of bundles that one tenant asks for leaves the others a place', async () => {
    for (const tenant of ['slow', 'calm']) {
      const token = await tokenOf(tenant, 'service');
      expect((await service.post('/v1/events', event(), { token })).status).toBe(201);
    }
    const bundle = async (tenant: string): Promise<Response> => {
      const headers = { authorization: `Bearer ${await tokenOf(tenant, 'auditor')}` };
      return fetch(`${service.url}/v1/bundle?category=system_operation`, { headers });
    };
    await until(async () => {
      const answers = [await bundle('slow'), await bundle('calm')];
      await Promise.all(answers.map((answer) => answer.arrayBuffer()));
      return answers.every(({ status }) => status === 200);
    }, 'a checkpoint of both');
    const flood = Array.from({ length: 6 }, () => bundle('slow'));
    const answers = await Promise.all([...flood, bundle('calm')]);
    expect(answers.at(-1)!.status).toBe(200);
    await Promise.all(answers.map((answer) => answer.arrayBuffer()));
  });

  it('of refused calls in one tenant does not make those of another anonymous', async () => {
    const told: RefusalEntry[] = [];
    const refusals = new Refusals({
      append: async (entry) => void told.push(entry),
      actorType: { token: 'user', api_key: 'api_key', certificate: 'service' },
      onRefused: () => {},
      wallClock: Date.now,
      log: { warn: () => {} },
    });
    const by = (tenant: string, subject: string) => ({ tenant, subject, credential: 'token', roles: [] }) as const;
    const refused = { code: 'forbidden', route: 'GET /v1/bundle' };
    for (let n = 0; n < 20_000; n++) {
      const address = `2001:db8:${n.toString(16)}::1`;
      refusals.note({ ...refused, address, caller: by('loud', 'mallory') });
    }
    refusals.note({ ...refused, address: '192.0.2.9', caller: by('quiet', 'eve') });
    await refusals.close();
    const [entry, ...more] = told.filter(({ tenant }) => tenant === 'quiet');
    expect(more).toEqual([]);
    expect(entry?.event.actor).toEqual({ type: 'user', id: 'eve', ip: '192.0.2.9', roles: [] });
    const calls = told.filter(({ tenant }) => tenant === 'loud').map(({ event: { details } }) => details['count']);
    expect(calls.reduce((sum: number, count) => sum + Number(count), 0)).toBe(20_000);
  });
});

it('what is wrong with a tenant’s key names no tenant to whoever asks whether the service is ready', async () => {
  const own = await startService();
  onTestFinished(() => own.stop());
  expect((await own.post('/v1/events', event())).status).toBe(201);
  // A replica that has not opened the keys yet; with wrong ones it would not start.
  const other = await startService({ beside: own });
  onTestFinished(() => other.stop());
  const folder = own.config.monthKeysDir;
  for (const name of (await readdir(folder)).filter((one) => one.endsWith('.key'))) {
    await chmod(join(folder, name), 0o600);
    await writeFile(join(folder, name), `${randomBytes(32).toString('hex')}\n`);
  }
  expect((await other.post('/v1/events', event())).status).toBe(503);
  const ready = await fetch(`${other.url}/readyz`);
  const text = await ready.text();
  expect(ready.status).toBe(503);
  expect(text).toContain('key');
  expect(text).not.toContain('acme');
});
