/** Two persons, and rotation of the signing keys as the first thing that they agree on: its whole life, every way around it, and crashes. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { pino } from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import { rotationRoutes } from '../src/access/rotation-routes.ts';
import { registerAccess } from '../src/auth/access.ts';
import { permissionsOf, type Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { openNote } from '../src/chain/note.ts';
import type { Caller } from '../src/http/caller.ts';
import { createServer } from '../src/http/server.ts';
import { registerTrail } from '../src/http/trail.ts';
import { readJson } from '../src/ingest/json-reader.ts';
import { makeSeed } from '../src/signer/seeds.ts';
import { trustedKeys } from '../src/verify/trusted-keys.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { type Answer, startService, type TestService } from './support/service.ts';
import { HARD, someOf } from './support/short-form.ts';

const run = promisify(execFile);
const PATH = '/v1/keys/rotations';
const REFUSED = '42501';
const undo: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  while (undo.length > 0) await undo.pop()!();
});

async function start(options: Parameters<typeof startService>[0] = {}): Promise<TestService> {
  const service = await startService(options);
  undo.push(() => service.stop());
  return service;
}

/** Without a signer nothing is carried out: a proposal stays what it is. */
function startIdle(beside?: TestService): Promise<TestService> {
  const environment = { SEALOG_SIGNER_DIR: undefined };
  return start(beside === undefined ? { environment } : { beside, environment });
}

function person(
  service: TestService,
  subject: string,
  roles: readonly Role[] = ['it_security_admin'],
  tenant = 'sealog',
): Promise<string> {
  return signToken(service.tokens, { tenant, roles, subject, ttlSeconds: 3600 });
}

/** Calls as somebody of the tenant `sealog`. */
async function as(
  service: TestService,
  subject: string,
  path: string,
  body?: unknown,
  roles?: readonly Role[],
): Promise<Answer> {
  const token = await person(service, subject, roles);
  return body === undefined ? service.get(path, { token }) : service.post(path, body, { token });
}

async function propose(service: TestService, subject: string, reason = 'a colleague leaves'): Promise<string> {
  const { status, body, headers } = await as(service, subject, PATH, { reason });
  expect(status, JSON.stringify(body)).toBe(201);
  expect(headers.location).toBe(`${PATH}/${body.id}`);
  return body.id;
}

async function until(check: () => Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 15_000;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within 15 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function untilDone(service: TestService, id: string): Promise<Answer['body']> {
  await until(async () => (await as(service, 'ann', `${PATH}/${id}`)).body.state !== 'approved', 'carried out');
  return (await as(service, 'ann', `${PATH}/${id}`)).body;
}

/** What the log has to say of rotations, oldest first. */
async function trail(service: TestService): Promise<Answer['body'][]> {
  const query = '/v1/events?category=log_administration&order=asc&limit=1000';
  const { items } = (await as(service, 'ann', query)).body;
  return items.filter(({ action }: { action: string }) => /^key(_rotation)?\./.test(action));
}

async function seeds(service: TestService): Promise<string[]> {
  const names = await readdir(join(service.environment['SEALOG_SIGNER_DIR']!));
  return names.filter((name) => name.startsWith('seed-')).sort();
}

async function statedGenerations(service: TestService): Promise<number[]> {
  const { rows } = await service.adminPool.query<{ generation: number }>(
    "SELECT generation FROM sealog.key_statement WHERE name = 'log.example' ORDER BY 1",
  );
  return rows.map((row) => row.generation);
}

async function checkpointOf(service: TestService): Promise<string> {
  const event = {
    id: randomUUID(),
    category: 'user_authentication',
    action: 'user.login',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: 'u-1' },
  };
  const { status, body } = await service.post('/v1/events?wait=checkpoint', event);
  expect(status).toBe(201);
  return body.checkpoint;
}

describe('a rotation', () => {
  test('is proposed by one, approved by another, and then done: once, told at each step', async () => {
    const service = await start();
    const old = await checkpointOf(service);
    const proposed = await as(service, 'ann', PATH, { reason: 'a colleague leaves' });
    expect(proposed).toMatchObject({
      status: 201,
      body: {
        ...{ state: 'proposed', reason: 'a colleague leaves', proposedBy: 'ann', decidedBy: null, decidedAt: null },
        ...{ decisionReason: null, doneAt: null, generation: null, error: null },
      },
    });
    const { id, proposedAt, expiresAt } = proposed.body;
    expect(Date.parse(expiresAt) - Date.parse(proposedAt)).toBe(7 * 86_400_000);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(service.app.signer!.status.generation).toBe(1);
    expect(await seeds(service)).toEqual(['seed-0001']);

    const approved = await as(service, 'bob', `${PATH}/${id}/approve`, { reason: 'as agreed on the phone' });
    expect(approved).toMatchObject({
      status: 200,
      body: { id, state: 'approved', decidedBy: 'bob', decisionReason: 'as agreed on the phone' },
    });
    const began = performance.now();
    const done = await untilDone(service, id);
    expect(performance.now() - began).toBeLessThan(5000);
    expect(done).toMatchObject({ state: 'done', generation: 2, proposedBy: 'ann', decidedBy: 'bob', error: null });
    expect(done.doneAt).not.toBeNull();
    expect(service.app.signer!.status.generation).toBe(2);

    const told = await trail(service);
    expect(told.map(({ action, outcome, actor }) => [action, outcome, actor?.id])).toEqual([
      ['key_rotation.proposed', 'success', 'ann'],
      ['key_rotation.approved', 'success', 'bob'],
      ['key.rotated', 'success', undefined],
    ]);
    expect(told[0]).toMatchObject({ reason: 'a colleague leaves', target: { type: 'key_rotation', id } });
    expect(told[1]).toMatchObject({
      reason: 'as agreed on the phone',
      target: { type: 'key_rotation', id },
      details: { proposedBy: 'ann', proposed: 'a colleague leaves' },
    });
    expect(told[2].details).toMatchObject({ generation: 2, proposal: id });

    // What each generation signed is good under its own key, and under no other.
    const next = await checkpointOf(service);
    const { rows } = await service.adminPool.query<{ note: string }>('SELECT note FROM sealog.key_statement');
    const notes = rows.map((row) => row.note);
    const newest = told[2].details.vkey;
    const { keys, problems } = trustedKeys('log.example', newest, notes);
    expect(problems).toEqual([]);
    const own = keys.filter((key) => key.name === 'log.example/acme/user_authentication');
    expect(own.map((key) => key.generation)).toEqual([1, 2]);
    const sizeOf = (note: string, generation: 0 | 1) =>
      decodeCheckpoint(openNote(note, [own[generation]!.verifier]).text).size;
    expect([sizeOf(old, 0), sizeOf(next, 1)]).toEqual([1, 2]);
    expect(() => sizeOf(old, 1)).toThrow();
    expect(() => sizeOf(next, 0)).toThrow();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await statedGenerations(service)).toEqual([1, 2]);
    expect(await seeds(service)).toEqual(['seed-0001', 'seed-0002']);
    await service.checkLog();
  }, 30_000);

  test('that another rejects, or its proposer withdraws, or nobody decides on in time, is over and never done', async () => {
    const service = await start();
    const rejected = await propose(service, 'ann');
    expect(await as(service, 'bob', `${PATH}/${rejected}/reject`, { reason: 'not now' })).toMatchObject({
      status: 200,
      body: { state: 'rejected', decidedBy: 'bob', decisionReason: 'not now', doneAt: null },
    });
    const withdrawn = await propose(service, 'ann');
    expect(await as(service, 'ann', `${PATH}/${withdrawn}/withdraw`, {})).toMatchObject({
      status: 200,
      body: { state: 'withdrawn', decidedBy: 'ann' },
    });
    const expired = randomUUID();
    await service.adminPool.query(
      `INSERT INTO sealog.proposal (id, tenant, kind, reason, proposed_by, proposed_at, expires_at)
       SELECT $1, id, 'key_rotation', 'long ago', 'ann', now() - interval '8 days', now() - interval '1 day'
       FROM sealog.tenant WHERE name = 'sealog'`,
      [expired],
    );
    expect((await as(service, 'ann', `${PATH}/${expired}`)).body.state).toBe('expired');
    for (const id of [rejected, withdrawn, expired]) {
      for (const [subject, step] of [
        ['bob', 'approve'],
        ['cid', 'approve'],
        ['ann', 'approve'],
        ['bob', 'reject'],
        ['ann', 'withdraw'],
      ] as const) {
        const { status, body } = await as(service, subject, `${PATH}/${id}/${step}`, {});
        expect([status, body.code], `${step} by ${subject}`).toEqual([409, 'already_decided']);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await seeds(service)).toEqual(['seed-0001']);
    const steps = await trail(service);
    const [taken = [], late = []] = ['success', 'failure'].map((one) => steps.filter(({ outcome }) => outcome === one));
    expect(taken.map(({ action }) => action)).toEqual([
      'key_rotation.proposed',
      'key_rotation.rejected',
      'key_rotation.proposed',
      'key_rotation.withdrawn',
    ]);
    // Who came too late left an entry as well.
    expect(late.map(({ details }) => details.problem)).toEqual(Array.from({ length: 15 }, () => 'already_decided'));
    await service.checkLog();
  }, 30_000);

  test('is done by the replica that signs, wherever it was approved; each one makes its own generation', async () => {
    const signing = await start();
    const other = await start({ beside: signing });
    const ids = [await propose(other, 'ann'), await propose(other, 'bob')];
    expect((await as(other, 'cid', `${PATH}/${ids[0]}/approve`, {})).status).toBe(200);
    expect((await as(other, 'cid', `${PATH}/${ids[1]}/approve`, {})).status).toBe(200);
    expect((await untilDone(other, ids[0]!)).generation).toBe(2);
    expect((await untilDone(other, ids[1]!)).generation).toBe(3);
    expect(await seeds(signing)).toEqual(['seed-0001', 'seed-0002', 'seed-0003']);
    await signing.checkLog();
  }, 30_000);

  test('does not take a seed that the operator made before: that one gets a generation of its own', async () => {
    const service = await start();
    await until(async () => service.app.signer!.status.lastRoundAt > 0, 'a round');
    await makeSeed(service.config.signerDir!, 2);
    const id = await propose(service, 'ann');
    await as(service, 'bob', `${PATH}/${id}/approve`, {});
    expect((await untilDone(service, id)).generation).toBe(3);
    const rotated = (await trail(service)).filter(({ action }) => action === 'key.rotated');
    expect(rotated.map(({ details }) => [details.generation, details.proposal])).toEqual([
      [2, undefined],
      [3, id],
    ]);
  }, 30_000);

  test('is listed page by page, newest first, for those who may read it', async () => {
    const service = await startIdle();
    expect((await as(service, 'ann', PATH)).body).toEqual({ items: [], next: null });
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.unshift(await propose(service, 'ann', `reason ${i}`));
    for (const role of ['it_security_admin', 'auditor', 'operator'] as const) {
      const listed: string[] = [];
      let cursor = '';
      for (let pages = 0; pages < 3; pages++) {
        const { status, body } = await as(service, 'eve', `${PATH}?limit=2${cursor}`, undefined, [role]);
        expect(status).toBe(200);
        listed.push(...body.items.map((item: { id: string }) => item.id));
        cursor = `&cursor=${body.next}`;
        expect(body.next === null).toBe(pages === 2);
      }
      expect(listed).toEqual(ids);
      expect((await as(service, 'eve', `${PATH}/${ids[0]}`, undefined, [role])).body.reason).toBe('reason 4');
    }
    for (const cursor of ['x', Buffer.from(`v1 ${randomUUID()}`).toString('base64url')])
      expect((await as(service, 'ann', `${PATH}?cursor=${cursor}`)).body.code).toBe('invalid_request');
    // No cursor tells how many others there are.
    const { next } = (await as(service, 'ann', `${PATH}?limit=1`)).body;
    expect(Buffer.from(next, 'base64url').toString()).toBe(`v1 ${ids[0]}`);
  });

  test('is refused where it says nothing, too much, or there are too many', async () => {
    const service = await startIdle();
    const bodies = [{}, { reason: '' }, { reason: 1 }, { reason: 'x'.repeat(1001) }, { reason: 'x', by: 'bob' }, []];
    for (const body of bodies) expect((await as(service, 'ann', PATH, body)).body.code).toBe('invalid_request');
    expect((await as(service, 'ann', PATH, '{"reason":"\\u0000"}')).status).toBe(400);
    expect((await as(service, 'ann', PATH, { reason: '𝔵'.repeat(1000) })).status).toBe(201);
    for (let i = 1; i < 20; i++) await propose(service, 'ann');
    const refused = await as(service, 'ann', PATH, { reason: 'one more' });
    expect(refused).toMatchObject({ status: 429, body: { code: 'quota' } });
    expect(refused.headers['retry-after']).toBe('3600');
    expect((await trail(service)).at(-1)).toMatchObject({ action: 'key_rotation.proposed', outcome: 'failure' });
    for (const path of [`${PATH}/${randomUUID()}`, `${PATH}/nothing`])
      expect([400, 404]).toContain((await as(service, 'ann', path)).status);
    for (const step of ['approve', 'reject', 'withdraw'])
      expect((await as(service, 'bob', `${PATH}/${randomUUID()}/${step}`, {})).body.code).toBe('not_found');
  });
});

describe('nobody approves what he proposed', () => {
  test('with whatever token, role or body; each attempt stands in the log', async () => {
    const service = await startIdle();
    const id = await propose(service, 'ann');
    const attempts: [roles: Role[], step: string, body: unknown][] = [
      [['it_security_admin'], 'approve', {}],
      [['it_security_admin', 'operator'], 'approve', { reason: 'another role' }],
      [['operator', 'auditor', 'it_security_admin', 'privacy_officer'], 'approve', {}],
      // Two tokens are one person.
      [['it_security_admin'], 'approve', { reason: 'another token' }],
      [['it_security_admin'], 'reject', {}],
    ];
    for (const [roles, step, body] of attempts) {
      const answer = await as(service, 'ann', `${PATH}/${id}/${step}`, body, roles);
      expect([answer.status, answer.body.code]).toEqual([403, 'second_person_required']);
    }
    expect((await as(service, 'ann', `${PATH}/${id}/approve`, { by: 'bob' })).status).toBe(400);
    expect((await as(service, 'ann', `${PATH}/${id}/approve?as=bob`, {})).status).toBe(400);
    // Without the permission, and in a tenant that is not the deployment.
    for (const roles of [['operator'], ['auditor'], ['service']] as Role[][])
      expect((await as(service, 'bob', `${PATH}/${id}/approve`, {}, roles)).body.code).toBe('forbidden');
    for (const tenant of ['acme', 'sealog-2']) {
      const token = await person(service, 'bob', ['it_security_admin'], tenant);
      for (const step of ['approve', 'reject', 'withdraw'])
        expect((await service.post(`${PATH}/${id}/${step}`, {}, { token })).body.code).toBe('forbidden');
    }
    expect((await as(service, 'bob', `${PATH}/${id}/withdraw`, {})).body.code).toBe('forbidden');
    expect((await as(service, 'ann', `${PATH}/${id}`)).body.state).toBe('proposed');

    const refused = (await trail(service)).filter(({ outcome }) => outcome === 'failure');
    expect(refused.map(({ action, actor, details }) => [action, actor.id, details.problem])).toEqual([
      ...Array(4).fill(['key_rotation.approved', 'ann', 'second_person_required']),
      ['key_rotation.rejected', 'ann', 'second_person_required'],
      ['key_rotation.withdrawn', 'bob', 'forbidden'],
    ]);
    // Subjects are compared to the letter, as OpenID Connect has them: whom the provider calls Ann is somebody else.
    expect((await as(service, 'Ann', `${PATH}/${id}/approve`, {})).body).toMatchObject({ decidedBy: 'Ann' });
  });

  test('of many who decide at the same moment, one does', async () => {
    const service = await startIdle();
    for (let round = 0; round < 3; round++) {
      const id = await propose(service, 'ann');
      const calls = [
        ...Array.from({ length: 8 }, (_, i) => as(service, `approver-${i}`, `${PATH}/${id}/approve`, {})),
        ...Array.from({ length: 3 }, (_, i) => as(service, `rejecter-${i}`, `${PATH}/${id}/reject`, {})),
        as(service, 'ann', `${PATH}/${id}/withdraw`, {}),
        as(service, 'ann', `${PATH}/${id}/approve`, {}),
      ];
      const answers = await Promise.all(calls);
      const taken = answers.filter(({ status }) => status === 200);
      expect(taken).toHaveLength(1);
      expect(answers.filter(({ status }) => status !== 200).every(({ status }) => [403, 409].includes(status))).toBe(
        true,
      );
      expect((await as(service, 'ann', `${PATH}/${id}`)).body).toEqual(taken[0]!.body);
      // Who was too late by a moment had said so before: the log tells that it failed.
      const steps = (await trail(service)).filter(
        ({ target, action }) => target?.id === id && action !== 'key_rotation.proposed',
      );
      expect(steps.filter(({ outcome }) => outcome === 'success').length).toBeGreaterThanOrEqual(1);
      const untaken = steps.filter(
        ({ outcome, action, actor }) =>
          outcome === 'success' &&
          !steps.some((one) => one.outcome === 'failure' && one.action === action && one.actor.id === actor.id),
      );
      expect(untaken).toHaveLength(1);
    }
  }, 30_000);

  test('nor does an API key or a certificate for him: they are no persons, whatever they may', async () => {
    const log = pino({ level: 'silent' });
    const server = createServer({ log });
    undo.push(() => server.close());
    const roles = ['it_security_admin'];
    registerAccess(server, {
      tokens: (text) => ({
        ...{ tenant: 'sealog', subject: 'ann', credential: text as Caller['credential'], roles },
        permissions: permissionsOf(roles, 'sealog', undefined),
      }),
    });
    registerTrail(server, { append: async () => {}, tellLater: () => {}, log });
    const reached = (): never => {
      throw new Error('was asked');
    };
    await server.register(
      rotationRoutes({ tenant: async () => undefined, readJson, propose: reached, decide: reached }),
    );
    const ask = async (credential: string, path: string, payload: string) => {
      const headers = { authorization: `Bearer ${credential}`, 'content-type': 'application/json', host: 'x' };
      const { statusCode, json } = await server.inject({ method: 'POST', url: path, headers, payload });
      return [statusCode, json().code];
    };
    for (const credential of ['api_key', 'certificate']) {
      expect(await ask(credential, PATH, '{"reason":"x"}')).toEqual([403, 'forbidden']);
      for (const step of ['approve', 'reject', 'withdraw'])
        expect(await ask(credential, `${PATH}/${randomUUID()}/${step}`, '{}')).toEqual([403, 'forbidden']);
    }
    expect(await ask('token', `${PATH}/${randomUUID()}/approve`, '{}')).toEqual([404, 'not_found']);
  });
});

describe('the database itself', () => {
  /** Runs a statement as a role of the application and returns its error's code, or how many rows there were. */
  async function asRole(service: TestService, role: string, text: string, values: unknown[] = []): Promise<unknown> {
    const client = new pg.Client(service.database.appConfig);
    await client.connect();
    try {
      await client.query(`SET ROLE ${role}`);
      return (await client.query(text, values)).rowCount;
    } catch (error) {
      return (error as pg.DatabaseError).code;
    } finally {
      await client.end();
    }
  }

  test('refuses an approval by the proposer, and any change of what was proposed or decided', async () => {
    const service = await startIdle();
    const id = await propose(service, 'ann');
    const writer = (text: string) => asRole(service, 'sealog_writer', text.replaceAll('$ID', `'${id}'`));
    const CHECK = '23514';
    for (const set of ["state = 'approved', decided_by = 'ann'", "state = 'rejected', decided_by = 'ann'"])
      expect(await writer(`UPDATE sealog.proposal SET ${set} WHERE id = $ID`)).toBe(CHECK);
    for (const set of ["state = 'withdrawn', decided_by = 'bob'", "state = 'approved', decided_by = NULL"])
      expect(await writer(`UPDATE sealog.proposal SET ${set} WHERE id = $ID`), set).toBe(CHECK);
    for (const set of [
      "proposed_by = 'bob'",
      "request = '{}'",
      "reason = 'other'",
      "kind = 'other'",
      'tenant = tenant',
      'expires_at = now()',
      'decided_at = now()',
      'done_at = now()',
      "plan = '{}'",
      "error = 'x'",
      'id = gen_random_uuid()',
    ])
      expect(await writer(`UPDATE sealog.proposal SET ${set} WHERE id = $ID`), set).toBe(REFUSED);
    for (const state of ['done', 'failed', 'proposed'])
      expect(await writer(`UPDATE sealog.proposal SET state = '${state}', decided_by = 'bob' WHERE id = $ID`)).toBe(
        REFUSED,
      );
    expect(await writer('DELETE FROM sealog.proposal')).toBe(REFUSED);
    expect(
      await writer(`INSERT INTO sealog.proposal (id, tenant, kind, reason, proposed_by, state, decided_by)
        SELECT gen_random_uuid(), tenant, kind, 'forged', 'ann', 'approved', 'bob' FROM sealog.proposal`),
    ).toBe(REFUSED);
    expect(
      await writer(`INSERT INTO sealog.proposal (id, tenant, kind, reason, proposed_by, expires_at)
        SELECT gen_random_uuid(), tenant, kind, 'for ever', 'ann', 'infinity' FROM sealog.proposal`),
    ).toBe(REFUSED);

    expect((await as(service, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
    for (const set of [
      "state = 'rejected'",
      "decided_by = 'cid'",
      "decision_reason = 'other'",
      "state = 'proposed', decided_by = NULL",
      "state = 'withdrawn', decided_by = 'ann'",
      // The signer alone says that.
      "state = 'done'",
      "state = 'failed'",
    ])
      expect(await writer(`UPDATE sealog.proposal SET ${set} WHERE id = $ID`), set).toBe(REFUSED);
    const signer = (set: string) =>
      asRole(service, 'sealog_signer', `UPDATE sealog.proposal SET ${set} WHERE id = '${id}'`);
    for (const set of ["decided_by = 'cid'", "state = 'rejected'", "reason = 'other'"])
      expect(await signer(set), set).toBe(REFUSED);
    expect(await signer(`plan = '{"generation":2}'`)).toBe(1);
    expect(await signer(`plan = '{"generation":3}'`)).toBe(REFUSED);
    expect(await signer("state = 'done'")).toBe(1);
    expect(await signer("state = 'failed', error = 'x'")).toBe(REFUSED);
    for (const role of ['sealog_reader', 'sealog_verifier'])
      expect(await asRole(service, role, "UPDATE sealog.proposal SET state = 'done'")).toBe(REFUSED);
    // The superuser, too, as long as he does not disable what refuses.
    await expect(service.adminPool.query("UPDATE sealog.proposal SET reason = 'other'")).rejects.toThrow(
      'was made otherwise',
    );
    await expect(service.adminPool.query('DELETE FROM sealog.proposal')).rejects.toThrow('append-only');
    // Of all tenants but its own a reader sees nothing.
    expect(await asRole(service, 'sealog_reader', 'SELECT FROM sealog.proposal')).toBe(0);
  });

  test('refuses to decide on what has expired', async () => {
    const service = await startIdle();
    await propose(service, 'ann');
    const { rows } = await service.adminPool.query(
      `INSERT INTO sealog.proposal (id, tenant, kind, reason, proposed_by, proposed_at, expires_at)
       SELECT gen_random_uuid(), tenant, kind, 'long ago', 'ann', now() - interval '8 days', now() - interval '1 day'
       FROM sealog.proposal RETURNING id`,
    );
    for (const state of ['approved', 'rejected'])
      expect(
        await asRole(service, 'sealog_writer', 'UPDATE sealog.proposal SET state = $2, decided_by = $3 WHERE id = $1', [
          rows[0].id,
          state,
          'bob',
        ]),
      ).toBe(REFUSED);
  });
});

describe('a signer that is killed', () => {
  async function killedAt(service: TestService, step: string): Promise<void> {
    const child = join(import.meta.dirname, 'support/signing-child.ts');
    const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
    const died = await run(process.execPath, [child, step, '1'], { env }).then(
      ({ stdout }) => stdout,
      (error: { signal: string }) => error.signal,
    );
    expect(died, step).toBe('SIGKILL');
  }

  async function approved(): Promise<{ service: TestService; id: string }> {
    const service = await start();
    await checkpointOf(service);
    await service.app.close();
    const idle = await startIdle(service);
    const id = await propose(idle, 'ann');
    expect((await as(idle, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
    await idle.app.close();
    return { service, id };
  }

  async function isDoneOnce(before: TestService, id: string): Promise<void> {
    const service = await start({ beside: before, environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    expect(await untilDone(service, id)).toMatchObject({ state: 'done', generation: 2 });
    await checkpointOf(service);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(service.app.signer!.status.generation).toBe(2);
    expect(await seeds(service)).toEqual(['seed-0001', 'seed-0002']);
    expect(await statedGenerations(service)).toEqual([1, 2]);
    const rotated = (await trail(service)).filter(({ action }) => action === 'key.rotated');
    expect(rotated.map(({ details }) => [details.generation, details.proposal])).toEqual([[2, id]]);
    await service.checkLog();
  }

  test.each(someOf(['planned', 'seeded', 'begun', 'resigned', 'told'], 2))(
    'after "%s" is followed by one that makes one generation, and tells of it once',
    async (step) => {
      const { service, id } = await approved();
      await killedAt(service, step);
      await isDoneOnce(service, id);
    },
    30_000,
  );

  test('again and again, gets there', async () => {
    const { service, id } = await approved();
    for (const step of HARD ? ['planned', 'seeded', 'begun', 'told', 'told'] : ['seeded', 'told'])
      await killedAt(service, step);
    await isDoneOnce(service, id);
  }, 60_000);
});

test('a plan that the signer did not make fails the proposal, and the signer goes on', async () => {
  const service = await start();
  await checkpointOf(service);
  await service.app.close();
  const idle = await startIdle(service);
  for (const plan of ['{"generation":7}', '{"generation":"2"}', '[]']) {
    const id = await propose(idle, 'ann');
    expect((await as(idle, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
    await service.adminPool.query(
      `BEGIN; SET LOCAL ROLE sealog_signer; UPDATE sealog.proposal SET plan = '${plan}' WHERE id = '${id}'; COMMIT`,
    );
  }
  await idle.app.close();
  const again = await start({ beside: service });
  await until(async () => {
    const { items } = (await as(again, 'ann', PATH)).body;
    return items.every(({ state }: { state: string }) => state === 'failed');
  }, 'failed');
  expect(await seeds(again)).toEqual(['seed-0001']);
  await checkpointOf(again);
}, 30_000);
