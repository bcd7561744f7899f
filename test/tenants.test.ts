/** Opening, closing and reopening tenants: what changes for whom, when, and what stands in which log. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { checkShape } from '../src/http/api-schema.ts';
import { type Answer, startService, type TestService } from './support/service.ts';

type Json = Record<string, unknown>;

const NO_QUOTA = { eventsPerSecond: null, burstEvents: null, bytesPerSecond: null, readsPerSecond: null };
const INSUFFICIENT_PRIVILEGE = '42501';

let count = 0;
function event(more: Json = {}): Json {
  count += 1;
  return {
    id: `e-${count}`,
    category: 'system_operation',
    action: 'a.b',
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 's' },
    ...more,
  };
}

function tenantName(): string {
  count += 1;
  return `tenant-${count}`;
}

/** The calls of an operator of the deployment, and of the tenants. */
function callersOf(service: TestService) {
  const operator = () => service.token('operator', 'sealog');
  const post = async (path: string, body: unknown, method = 'POST'): Promise<Answer> => {
    if (method === 'POST') return service.post(path, body, { token: await operator() });
    const answer = await fetch(`${service.url}${path}`, {
      method,
      body: JSON.stringify(body),
      headers: { authorization: `Bearer ${await operator()}`, 'content-type': 'application/json' },
    });
    const text = await answer.text();
    return { status: answer.status, headers: Object.fromEntries(answer.headers), text, body: JSON.parse(text) };
  };
  return {
    open: (body: unknown) => post('/v1/tenants', body),
    close: (name: string, body: unknown = { reason: 'the contract ended' }) => post(`/v1/tenants/${name}/close`, body),
    reopen: (name: string, body: unknown = { reason: 'it goes on' }) => post(`/v1/tenants/${name}/reopen`, body),
    quota: (name: string, body: unknown) => post(`/v1/tenants/${name}/quota`, body, 'PUT'),
    read: async (path: string) => service.get(`/v1/tenants${path}`, { token: await operator() }),
    send: async (tenant: string, body: unknown = event()) =>
      service.post('/v1/events', body, { token: await service.token('service', tenant) }),
    sendBatch: async (tenant: string, body: unknown = [event()]) =>
      service.post('/v1/events/batch', body, { token: await service.token('service', tenant) }),
    readAs: async (tenant: string, path: string) =>
      service.get(path, { token: await service.token('auditor', tenant) }),
    /** The entries about tenants in a tenant's log, oldest first. */
    trail: async (tenant: string, about: string): Promise<Json[]> => {
      const path = `/v1/events?category=log_administration&order=asc&limit=1000&target=${about}`;
      const { body } = await service.get(path, { token: await service.token('auditor', tenant) });
      return body.items;
    },
  };
}

describe('tenants', () => {
  let service: TestService;
  let call: ReturnType<typeof callersOf>;
  beforeAll(async () => {
    service = await startService();
    call = callersOf(service);
  });
  afterAll(async () => {
    await service.checkLog();
    await service.stop();
  });

  it('are opened once, with what they may ask for', async () => {
    const name = tenantName();
    const opened = await call.open({ name, quota: { eventsPerSecond: 100, burstEvents: 500 }, reason: 'contract 7' });
    expect(opened.status).toBe(201);
    expect(opened.headers.location).toBe(`/v1/tenants/${name}`);
    expect(checkShape('Tenant', opened.body)).toEqual([]);
    expect(opened.body).toMatchObject({
      ...{ name, state: 'open', changedBy: 'test-operator', reason: 'contract 7' },
      quota: { ...NO_QUOTA, eventsPerSecond: 100, burstEvents: 500 },
    });
    const read = await call.read(`/${name}`);
    expect(checkShape('TenantDetails', read.body)).toEqual([]);
    const { history, ...tenant } = read.body;
    expect(tenant).toEqual(opened.body);
    const first = { state: 'open', quota: opened.body.quota, by: 'test-operator', reason: 'contract 7' };
    expect(history).toEqual([{ ...first, at: opened.body.changedAt }]);

    const again = await call.open({ name });
    expect([again.status, again.body.code]).toEqual([409, 'exists']);
    expect((await call.open({ name: 'sealog' })).body.code).toBe('exists');
    // One that its own first event made is there as well.
    const made = tenantName();
    await call.send(made);
    expect((await call.open({ name: made })).status).toBe(409);
    expect((await call.read(`/${made}`)).body).toMatchObject({
      ...{ name: made, state: 'open', quota: NO_QUOTA, changedAt: null, changedBy: null, reason: null, history: [] },
    });
    // Two at once: one opens it.
    const both = tenantName();
    const answers = await Promise.all(Array.from({ length: 6 }, () => call.open({ name: both })));
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409, 409, 409, 409]);
  });

  it('are listed by name, page by page', async () => {
    const names = Array.from({ length: 7 }, tenantName);
    for (const name of names) await call.open({ name });
    const listed: string[] = [];
    let cursor = '';
    do {
      const { status, body } = await call.read(`?limit=3${cursor}`);
      expect([status, checkShape('TenantPage', body)]).toEqual([200, []]);
      expect(body.items.length).toBeLessThanOrEqual(3);
      listed.push(...body.items.map(({ name }: Json) => name));
      cursor = body.next === null ? '' : `&cursor=${body.next}`;
    } while (cursor !== '');
    expect(listed).toEqual([...new Set(listed)].toSorted());
    expect(listed).toEqual(expect.arrayContaining([...names, 'sealog']));
    for (const bad of [
      'AAAA',
      Buffer.from("v1 x' OR 1").toString('base64url'),
      Buffer.from('v2 acme').toString('base64url'),
    ])
      expect((await call.read(`?cursor=${bad}`)).status).toBe(400);
  });

  it('that are closed take no more events, are read and proven as before, and their trail goes on', async () => {
    const name = tenantName();
    const kept = event();
    expect((await call.send(name, kept)).status).toBe(201);
    const closed = await call.close(name);
    expect([closed.status, closed.body.state, closed.body.reason]).toEqual([200, 'closed', 'the contract ended']);
    for (const answer of [
      await call.send(name),
      await call.send(name, kept),
      await call.sendBatch(name),
      await call.sendBatch(name, '{'),
    ])
      expect([answer.status, answer.body.code]).toEqual([403, 'tenant_closed']);
    // Nobody else's affair.
    expect((await call.send(tenantName())).status).toBe(201);

    expect((await call.readAs(name, `/v1/events/${kept['id']}`)).body.id).toBe(kept['id']);
    expect((await call.readAs(name, '/v1/events?category=system_operation')).body.items).toHaveLength(1);
    let proof = await call.readAs(name, `/v1/events/${kept['id']}/proof`);
    for (let n = 0; proof.status === 404 && n < 50; n++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      proof = await call.readAs(name, `/v1/events/${kept['id']}/proof`);
    }
    expect(proof.status).toBe(200);
    const consistency = `/v1/logs/${name}/system_operation/consistency?from=1&to=1`;
    expect((await call.readAs(name, consistency)).status).toBe(200);
    const auditor = await service.token('auditor', name);
    expect((await service.post('/v1/verifications', {}, { token: auditor })).status).toBe(202);
    const reads = await call.readAs(name, '/v1/events?category=data_access');
    expect(reads.body.items.length).toBeGreaterThan(3);

    const reopened = await call.reopen(name);
    expect([reopened.status, reopened.body.state]).toEqual([200, 'open']);
    expect((await call.send(name, kept)).status).toBe(200);
    expect((await call.send(name)).status).toBe(201);
    const { history } = (await call.read(`/${name}`)).body;
    expect(history.map(({ state, reason }: Json) => [state, reason])).toEqual([
      ['open', 'it goes on'],
      ['closed', 'the contract ended'],
    ]);
  });

  it('stand in the log of the deployment and in their own with each change, before it', async () => {
    const name = tenantName();
    await call.open({ name, reason: 'one' });
    await call.quota(name, { readsPerSecond: 7, reason: 'two' });
    await call.close(name, { reason: 'three' });
    await call.reopen(name, { reason: 'four' });
    for (const log of ['sealog', name]) {
      const entries = await call.trail(log, name);
      expect(entries.map(({ action, reason, outcome }) => [action, reason, outcome])).toEqual([
        ['tenant.opened', 'one', 'success'],
        ['tenant.quota_changed', 'two', 'success'],
        ['tenant.closed', 'three', 'success'],
        ['tenant.reopened', 'four', 'success'],
      ]);
      expect(entries[2]).toMatchObject({
        actor: { type: 'user', id: 'test-operator', roles: ['operator'] },
        target: { type: 'tenant', id: name },
        changes: {
          before: { state: 'open', quota: { ...NO_QUOTA, readsPerSecond: 7 } },
          after: { state: 'closed', quota: { ...NO_QUOTA, readsPerSecond: 7 } },
        },
      });
      expect(entries[0]).toMatchObject({ changes: { before: null, after: { state: 'open', quota: NO_QUOTA } } });
    }
    const { rows } = await service.adminPool.query(
      'SELECT s.number, s.at FROM sealog.tenant_setting s JOIN sealog.tenant t ON t.id = s.tenant WHERE t.name = $1 ORDER BY 1',
      [name],
    );
    expect(rows.map(({ number }) => number)).toEqual([1, 2, 3, 4]);
    const told = (await call.trail('sealog', name)).map(({ log }) => Date.parse((log as Json)['recordedAt'] as string));
    for (const [i, { at }] of rows.entries()) expect(at.getTime()).toBeGreaterThanOrEqual(told[i]! - 1);
  });

  it('do not change where their entry can not be stored, and where the change fails, another entry says so', async () => {
    const name = tenantName();
    await call.open({ name });
    // The streams of the deployment's log are locked by somebody who does not go on: the entry waits, then fails.
    const client = await service.adminPool.connect();
    await client.query('BEGIN');
    await client.query(`SELECT FROM sealog.stream WHERE name = 'sealog/log_administration' FOR UPDATE`);
    const answer = await call.close(name);
    await client.query('ROLLBACK');
    client.release();
    expect(answer.status).toBe(503);
    expect((await call.read(`/${name}`)).body).toMatchObject({ state: 'open' });
    expect((await call.send(name)).status).toBe(201);

    // Two change it at once: one of them finds it changed.
    const answers = await Promise.all([
      ...Array.from({ length: 4 }, (_, n) => call.quota(name, { eventsPerSecond: 1000 + n })),
    ]);
    const busy = answers.filter(({ status }) => status === 503);
    const done = answers.filter(({ status }) => status === 200);
    expect(done.length + busy.length).toBe(4);
    expect(done.length).toBeGreaterThan(0);
    for (const { body, headers } of busy) expect([body.code, headers['retry-after']]).toEqual(['busy', '1']);
    const entries = await call.trail(name, name);
    const failures = entries.filter(({ outcome }) => outcome === 'failure');
    expect(failures).toHaveLength(busy.length);
    for (const { action, details } of failures)
      expect([action, details]).toEqual(['tenant.quota_changed', { problem: 'busy' }]);
    const last = (await call.read(`/${name}`)).body.quota.eventsPerSecond;
    expect(done.map(({ body }) => body.quota.eventsPerSecond)).toContain(last);
  });

  it('get the quota that was set, at once, all of it or the default', async () => {
    const name = tenantName();
    await call.send(name);
    const set = await call.quota(name, { eventsPerSecond: 1, burstEvents: 3 });
    expect([set.status, set.body.quota]).toEqual([200, { ...NO_QUOTA, eventsPerSecond: 1, burstEvents: 3 }]);
    const statuses: number[] = [];
    for (let n = 0; n < 6; n++) statuses.push((await call.send(name)).status);
    expect(statuses.slice(0, 3)).toEqual([201, 201, 201]);
    expect(statuses).toContain(429);
    // What is not named is the default again, of which there is none for events.
    expect((await call.quota(name, { readsPerSecond: 5 })).body.quota).toEqual({ ...NO_QUOTA, readsPerSecond: 5 });
    for (let n = 0; n < 8; n++) expect((await call.send(name)).status).toBe(201);
    expect((await call.quota(name, { readsPerSecond: null, eventsPerSecond: 0 })).body.quota.eventsPerSecond).toBe(0);
  });

  it('are refused with every mistake named', async () => {
    const name = tenantName();
    await call.open({ name });
    for (const [answer, field] of [
      [await call.open({ name: 'Upper' }), 'name'],
      [await call.open({ name: '' }), 'name'],
      [await call.open({}), 'name'],
      [await call.open({ name: tenantName(), quota: { eventsPerSecond: -1 } }), 'quota.eventsPerSecond'],
      [await call.open({ name: tenantName(), quota: { eventsPerSecond: 1.5 } }), 'quota.eventsPerSecond'],
      [await call.open({ name: tenantName(), quota: { burstEvents: 0 } }), 'quota.burstEvents'],
      [await call.open({ name: tenantName(), quota: { other: 1 } }), 'quota.other'],
      [await call.open({ name: tenantName(), state: 'closed' }), 'state'],
      [await call.close(name, {}), 'reason'],
      [await call.close(name, { reason: '' }), 'reason'],
      [await call.close(name, { reason: 'x'.repeat(4097) }), 'reason'],
      [await call.reopen(name, { reason: 7 }), 'reason'],
      [await call.quota(name, { bytesPerSecond: 1e15 }), 'bytesPerSecond'],
      [await call.quota(name, { readsPerSecond: '1' }), 'readsPerSecond'],
      [await call.close('sealog'), 'name'],
    ] as const) {
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid_request']);
      expect(answer.body.errors.map((error: Json) => error['field'])).toContain(field);
    }
    expect((await call.read(`/${name}`)).body.history).toHaveLength(1);
    for (const answer of [
      await call.close('no-such-tenant'),
      await call.reopen('no-such-tenant'),
      await call.quota('no-such-tenant', {}),
      await call.read('/no-such-tenant'),
    ])
      expect([answer.status, answer.body.code]).toEqual([404, 'not_found']);
  });

  it('are the business of the deployment alone', async () => {
    for (const tenant of ['acme', tenantName()]) {
      const token = await service.token(['operator', 'it_security_admin', 'auditor'], tenant);
      for (const path of ['/v1/tenants', '/v1/tenants/acme', '/v1/tenants/no-such-tenant'])
        expect((await service.get(path, { token })).status).toBe(403);
      expect((await service.post('/v1/tenants', { name: 'mine' }, { token })).status).toBe(403);
      expect((await service.post('/v1/tenants/acme/close', { reason: 'x' }, { token })).status).toBe(403);
    }
    const auditor = await service.token(['auditor', 'it_security_admin', 'service', 'plant_manager'], 'sealog');
    expect((await service.get('/v1/tenants', { token: auditor })).status).toBe(403);
  });

  it('can not be told by another whether they are closed, or there', async () => {
    const [open, closed] = [tenantName(), tenantName()];
    for (const name of [open, closed]) await call.send(name);
    await call.close(closed);
    const token = await service.token(['auditor', 'service'], 'acme');
    for (const path of ['checkpoint', 'tile/0/000', 'consistency?from=1&to=1']) {
      const answers: unknown[] = [];
      for (const name of [open, closed, 'no-such-tenant']) {
        const { status, body } = await service.get(`/v1/logs/${name}/system_operation/${path}`, { token });
        answers.push([status, body]);
      }
      expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
    }
  });

  describe('in the database', () => {
    const as = async (role: string, text: string, values: unknown[] = []): Promise<unknown> => {
      const client = await service.adminPool.connect();
      try {
        await client.query(`BEGIN; SET LOCAL ROLE ${role}`);
        return await client.query(text, values);
      } finally {
        await client.query('ROLLBACK');
        client.release();
      }
    };

    it('have a history that nobody changes, without gaps, in which sealog is never closed', async () => {
      const name = tenantName();
      await call.open({ name });
      const { rows } = await service.adminPool.query('SELECT id, name FROM sealog.tenant WHERE name IN ($1, $2)', [
        name,
        'sealog',
      ]);
      const id = rows.find((row) => row.name === name).id;
      const own = rows.find((row) => row.name === 'sealog').id;
      const insert = 'INSERT INTO sealog.tenant_setting (tenant, number, state, by) VALUES ($1, $2, $3, $4)';
      await expect(as('sealog_writer', insert, [id, 2, 'closed', 'x'])).resolves.toBeDefined();
      for (const number of [1, 3, 0])
        await expect(as('sealog_writer', insert, [id, number, 'closed', 'x'])).rejects.toThrow();
      await expect(as('sealog_writer', insert, [own, 1, 'open', 'x'])).resolves.toBeDefined();
      await expect(as('sealog_writer', insert, [own, 1, 'closed', 'x'])).rejects.toThrow('the deployment itself');
      await expect(as('sealog_writer', insert, [id, 2, 'gone', 'x'])).rejects.toThrow();
      await expect(
        as(
          'sealog_writer',
          'INSERT INTO sealog.tenant_setting (tenant, number, state, by, at) VALUES ($1, 2, $2, $3, now())',
          [...[id, 'closed', 'x']],
        ),
      ).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
      for (const role of ['sealog_writer', 'sealog_reader', 'sealog_verifier']) {
        for (const text of [
          `UPDATE sealog.tenant_setting SET state = 'open'`,
          'DELETE FROM sealog.tenant_setting',
          'TRUNCATE sealog.tenant_setting',
          'ALTER TABLE sealog.tenant_setting DISABLE TRIGGER ALL',
        ])
          await expect(as(role, text)).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
        if (role !== 'sealog_writer')
          await expect(as(role, insert, [id, 2, 'closed', 'x'])).rejects.toMatchObject({
            code: INSUFFICIENT_PRIVILEGE,
          });
      }
      // The superuser too, as long as he does not take the triggers away.
      for (const text of ['DELETE FROM sealog.tenant_setting', 'TRUNCATE sealog.tenant_setting'])
        await expect(service.adminPool.query(text)).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
    });

    it('are shown to no reader: what is set of tenants is the operator’s', async () => {
      const client = await service.adminPool.connect();
      try {
        await client.query(`BEGIN; SET LOCAL ROLE sealog_reader`);
        await expect(client.query('SELECT number FROM sealog.tenant_setting')).rejects.toMatchObject({
          code: INSUFFICIENT_PRIVILEGE,
        });
      } finally {
        await client.query('ROLLBACK');
        client.release();
      }
    });
  });
});

describe('with SEALOG_TENANTS=closed', () => {
  it('only tenants that were opened send or read anything; the others hear the same, whatever they ask for', async () => {
    const service = await startService({ environment: { SEALOG_TENANTS: 'closed' } });
    onTestFinished(() => service.stop());
    const call = callersOf(service);
    const name = tenantName();
    const before = [
      await call.send(name),
      await call.sendBatch(name),
      await call.readAs(name, '/v1/events'),
      await call.readAs(name, '/v1/events/x'),
      await call.readAs(name, '/v1/streams'),
    ];
    for (const answer of before) expect([answer.status, answer.body.code]).toEqual([403, 'forbidden']);
    expect(new Set(before.map(({ text }) => text)).size).toBe(1);
    expect((await service.adminPool.query('SELECT FROM sealog.tenant WHERE name = $1', [name])).rowCount).toBe(0);

    expect((await call.open({ name })).status).toBe(201);
    expect((await call.send(name)).status).toBe(201);
    expect((await call.readAs(name, '/v1/events?category=system_operation')).body.items).toHaveLength(1);
    expect((await call.send(tenantName())).status).toBe(403);
    await service.checkLog();
  });
});

describe('on two replicas', () => {
  it('a change holds at once on the one that made it, and within five seconds on the other', async () => {
    const first = await startService({ environment: { SEALOG_TENANTS: 'closed' } });
    const second = await startService({ beside: first });
    onTestFinished(async () => {
      await second.stop();
      await first.stop();
    });
    const [one, other] = [callersOf(first), callersOf(second)];
    const name = tenantName();
    const until = async (status: number): Promise<number> => {
      const began = performance.now();
      while ((await other.send(name)).status !== status) await new Promise((resolve) => setTimeout(resolve, 100));
      return performance.now() - began;
    };
    expect((await other.send(name)).status).toBe(403);
    await one.open({ name });
    expect((await one.send(name)).status).toBe(201);
    expect(await until(201)).toBeLessThan(5500);
    await one.close(name);
    expect((await one.send(name)).status).toBe(403);
    expect(await until(403)).toBeLessThan(5500);
    await one.reopen(name);
    expect(await until(201)).toBeLessThan(5500);
    await first.checkLog();
  });
});
