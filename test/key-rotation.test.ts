/** Rotation of month keys: new generations by call and in time, without an entry being touched, and the end of the old ones. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { KeyRotation } from '../src/keys/key-rotation.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';

const run = promisify(execFile);
const PATH = '/v1/keys/months';

async function start(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService(options);
  onTestFinished(() => service.stop());
  return service;
}

function event(id: string, category = 'user_authentication') {
  return {
    ...{ id, category, action: 'user.login', outcome: 'success', occurredAt: '2026-01-01T10:00:00Z' },
    ...{ source: { service: 'test' }, actor: { type: 'user', id: 'u-1' }, severity: 3 },
  };
}

async function send(service: TestService, id: string, category?: string, tenant = 'acme'): Promise<void> {
  const token = await service.token('service', tenant);
  expect((await service.post('/v1/events', event(id, category), { token })).status).toBe(201);
}

async function generations(service: TestService) {
  const { status, body } = await service.get(PATH, { token: await service.token('it_security_admin', 'sealog') });
  expect([status, body.detail]).toEqual([200, undefined]);
  return body.generations as {
    generation: number;
    begunBy: string | null;
    rewrappedAt: string | null;
    retiredAt: string | null;
    dataKeys: number;
  }[];
}

async function rotate(service: TestService) {
  const token = await service.token('it_security_admin', 'sealog');
  return service.post(`${PATH}/rotations`, { reason: 'a colleague leaves' }, { token });
}

async function untilRewrapped(service: TestService, generation: number): Promise<void> {
  await expect
    .poll(async () => (await generations(service)).find((one) => one.generation === generation)?.rewrappedAt, {
      timeout: 15_000,
    })
    .toBeTypeOf('string');
}

/** All that entries consist of. */
async function entries(service: TestService): Promise<string> {
  const { rows } = await service.adminPool.query(
    `SELECT md5(string_agg(md5(b::text), ',' ORDER BY stream, first_seq)) AS sum FROM sealog.block AS b WHERE stream IN
       (SELECT id FROM sealog.stream WHERE name LIKE 'acme/user%' OR name LIKE 'acme/security%')`,
  );
  return rows[0].sum;
}

async function keyFiles(service: TestService): Promise<string[]> {
  const names = await readdir(service.config.monthKeysDir);
  return names.filter((name) => name.endsWith('.key')).sort();
}

/** What only time does. */
async function setBack(service: TestService, table: string, column: string, days: number): Promise<void> {
  await service.adminPool.query(
    `ALTER TABLE sealog.${table} DISABLE TRIGGER ALL; UPDATE sealog.${table} SET ${column} = ${column} - make_interval(days => ${days});
     ALTER TABLE sealog.${table} ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER no_truncate` +
      (table === 'key_generation' ? ', ENABLE ALWAYS TRIGGER guard' : ''),
  );
}

test('by call: everything is wrapped by the new generation, no entry is touched, and the old one is needed no more', async () => {
  const service = await start();
  for (const category of ['user_authentication', 'security_event']) await send(service, 'e-1', category);
  const before = await entries(service);
  const answer = await rotate(service);
  expect(answer.status).toBe(201);
  expect(answer.body).toMatchObject({ generation: 2, begunBy: 'test-it_security_admin', retiredAt: null });
  await untilRewrapped(service, 2);
  expect(await entries(service)).toBe(before);
  const [newest, first] = await generations(service);
  expect([newest!.dataKeys > 3, first]).toEqual([
    true,
    { generation: 1, begunAt: null, begunBy: null, rewrappedAt: null, retiredAt: null, dataKeys: 0 },
  ]);
  // What is new is wrapped by it at once.
  await send(service, 'e-1', 'security_event', 'globex');
  const { rows } = await service.adminPool.query(
    `SELECT k.month_key FROM sealog.data_key AS k JOIN sealog.stream AS s ON s.id = k.stream WHERE s.name = 'globex/security_event'`,
  );
  expect(rows[0].month_key).toMatch(/^\d{6}\.2$/);

  const folder = service.config.monthKeysDir;
  await mkdir(join(folder, 'old'));
  for (const name of (await keyFiles(service)).filter((each) => !each.includes('.2.')))
    await rename(join(folder, name), join(folder, 'old', name));
  await service.checkLog();
  // Told once, with who and why.
  const token = await service.token('auditor', 'sealog');
  const told = await service.get('/v1/events?category=log_administration&action=month_key.rotated', { token });
  expect(told.body.items).toEqual([
    expect.objectContaining({ reason: 'a colleague leaves', target: { type: 'key_generation', id: '2' } }),
  ]);
});

test('a call while the last generation is being taken into use is refused, and so is anybody else', async () => {
  const service = await start({
    keyTiming: {
      onStep: () => {
        throw new Error('the process ended');
      },
    },
  });
  await send(service, 'e-1');
  expect((await rotate(service)).status).toBe(201);
  const again = await rotate(service);
  expect([again.status, again.body.code]).toEqual([409, 'exists']);
  for (const [role, tenant] of [
    ['auditor', 'sealog'],
    ['it_security_admin', 'acme'],
    ['service', 'sealog'],
  ] as const) {
    const token = await service.token(role, tenant);
    expect((await service.post(`${PATH}/rotations`, { reason: 'x' }, { token })).status).toBe(403);
  }
  const token = await service.token('it_security_admin', 'sealog');
  for (const body of [{}, { reason: '' }, { reason: 'x', generation: 9 }])
    expect((await service.post(`${PATH}/rotations`, body, { token })).status).toBe(400);
  // A replica, or the next start, goes on where it was left.
  const other = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
  await untilRewrapped(other, 2);
  await service.checkLog();
});

test('in time: a generation that is old enough is followed by another, once, however many replicas look', async () => {
  const service = await start({ environment: { SEALOG_KEY_ROTATION_DAYS: '90' } });
  await send(service, 'e-1');
  await setBack(service, 'data_key', 'created_at', 89);
  const early = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
  await early.stop();
  expect((await generations(service)).map(({ generation }) => generation)).toEqual([1]);

  await setBack(service, 'data_key', 'created_at', 2);
  const replicas = await Promise.all(
    [1, 2].map(() => start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } })),
  );
  await untilRewrapped(service, 2);
  expect((await generations(service)).map(({ generation, begunBy }) => [generation, begunBy])).toEqual([
    [2, null],
    [1, null],
  ]);
  await Promise.all(replicas.map((one) => one.stop()));
  await service.checkLog();
});

test('what somebody stored in place of a form keeps nothing from opening, and the keys that are needed from being destroyed', async () => {
  const environment = { SEALOG_KEY_RETIRE_DAYS: '30' };
  const service = await start({ environment });
  for (const category of ['user_authentication', 'security_event']) await send(service, 'e-1', category);
  await service.adminPool.query('INSERT INTO sealog.key_generation (generation) VALUES (2)');
  // He may add rows, before we do; and name a month that is destroyed, as if theirs were.
  await writeFile(join(service.config.monthKeysDir, '202001.destroyed'), 'destroyed\n');
  await service.adminPool.query(
    `INSERT INTO sealog.data_key_form (data_key, generation, month_key, wrapped)
     SELECT id, 2, '202001.2', $1 FROM sealog.data_key WHERE drop_month > 1`,
    [randomBytes(60)],
  );
  const replica = () => start({ beside: service, environment: { ...environment, SEALOG_SIGNER_DIR: undefined } });
  const second = await replica();
  await untilRewrapped(second, 2);
  await setBack(service, 'key_generation', 'rewrapped_at', 31);
  const third = await replica();
  await send(third, 'e-2');
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect((await generations(third))[0]!.retiredAt).toBeNull();
  await service.checkLog();

  // The next generation wraps them in truth, and the old one may go.
  expect((await rotate(third)).status).toBe(201);
  await untilRewrapped(third, 3);
  await setBack(service, 'key_generation', 'rewrapped_at', 31);
  const fourth = await replica();
  await expect.poll(async () => (await generations(fourth))[0]!.retiredAt, { timeout: 10_000 }).toBeTypeOf('string');
  await expect
    .poll(async () => (await keyFiles(service)).filter((name) => !name.includes('.3.')), { timeout: 10_000 })
    .toEqual([]);
  await service.checkLog();
});

test('earlier generations are destroyed when they were kept long enough, and the log stays whole', async () => {
  const environment = { SEALOG_KEY_RETIRE_DAYS: '30' };
  const service = await start({ environment });
  for (const category of ['user_authentication', 'security_event']) await send(service, 'e-1', category);
  expect((await rotate(service)).status).toBe(201);
  await untilRewrapped(service, 2);
  await setBack(service, 'key_generation', 'rewrapped_at', 29);
  const early = await start({ beside: service, environment: { ...environment, SEALOG_SIGNER_DIR: undefined } });
  await early.stop();
  const old = (await keyFiles(service)).filter((name) => !name.includes('.2.'));
  expect(old.length).toBeGreaterThan(2);

  await setBack(service, 'key_generation', 'rewrapped_at', 2);
  const replica = await start({ beside: service, environment: { ...environment, SEALOG_SIGNER_DIR: undefined } });
  await expect
    .poll(async () => (await keyFiles(service)).filter((name) => !name.includes('.2.')), { timeout: 10_000 })
    .toEqual([]);
  expect((await generations(service))[0]!.retiredAt).toBeTypeOf('string');
  await replica.stop();
  // A start looks for none of them.
  const next = await start({ beside: service, environment: { ...environment, SEALOG_SIGNER_DIR: undefined } });
  await send(next, 'e-2');
  await next.stop();
  await service.checkLog();
});

test('a data key that does not open keeps no other from being wrapped again, and the generation from counting as taken into use', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-rotation-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const monthKeys = fileMonthKeys(folder);
  const context = { stream: 'acme/data_access', dropMonth: 202703 };
  const rows = await Promise.all(
    ['1', '2', '3', '4', '5', '6'].map(async (id) => ({
      id,
      ...context,
      ...(await monthKeys.wrap(randomBytes(32), context)),
    })),
  );
  rows[0]!.wrapped[20]! ^= 1;
  const stored: string[] = [];
  const noted: number[] = [];
  const said: string[] = [];
  const log = { info: () => {}, warn: (_: object, message: string) => said.push(message), error: () => {} };
  const rotation = new KeyRotation({
    ...{ monthKeys, log, rotationDays: 0, retireDays: 0, objection: async () => undefined, tell: async () => {} },
    store: {
      newest: async () => ({ generation: 2, isRewrapped: false }),
      ageMs: async () => undefined,
      begin: async () => false,
      keys: async (after, limit) => rows.filter(({ id }) => id > after).slice(0, Math.min(limit, 2)),
      store: async (id, _, form) => {
        stored.push(id);
        return form;
      },
      noteRewrapped: async (generation) => void noted.push(generation),
      toRetire: async () => undefined,
      noteRetired: async () => {},
      months: async () => [],
    },
  });
  rotation.look();
  await rotation.settled();
  await rotation.close();
  expect([stored.sort(), noted, said]).toEqual([
    ['2', '3', '4', '5', '6'],
    [],
    ['month keys could not be rotated now'],
  ]);
});
test('kill -9 between two steps leaves every key that is needed, and whoever comes next finishes, once', async () => {
  const environment = { SEALOG_KEY_ROTATION_DAYS: '90', SEALOG_KEY_RETIRE_DAYS: '30' };
  const service = await start({ environment });
  for (const category of ['user_authentication', 'security_event']) await send(service, 'e-1', category);
  await service.app.close();
  const child = join(import.meta.dirname, 'support/signing-child.ts');
  const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
  const killedAt = async (step: string, count: number): Promise<void> => {
    const died = await run(process.execPath, [child, step, `${count}`, '20000'], { env }).then(
      ({ stdout }) => stdout,
      (error: { signal: string }) => error.signal,
    );
    expect([step, died]).toEqual([step, 'SIGKILL']);
    await service.checkLog();
  };
  const isLong = process.env['SEALOG_TEST_HARD'] !== undefined;
  const steps = (...all: readonly [step: string, count: number, alsoShort?: 'short'][]) =>
    all.filter(([, , alsoShort]) => isLong || alsoShort !== undefined);

  await setBack(service, 'data_key', 'created_at', 91);
  for (const [step, count] of steps(
    ['rotation-told', 1],
    ['rotation-begun', 1, 'short'],
    ['rotation-wrapped', 1],
    ['rotation-stored', 1, 'short'],
    ['rotation-noted', 1],
  ))
    await killedAt(step, count);
  const second = await start({ beside: service });
  await untilRewrapped(second, 2);
  const [newest, ...earlier] = await generations(second);
  expect([newest!.generation, earlier.map((one) => [one.generation, one.dataKeys])]).toEqual([2, [[1, 0]]]);
  await second.app.close();

  await setBack(service, 'key_generation', 'rewrapped_at', 31);
  const isOld = (name: string): boolean => !name.includes('.2.');
  const old = (await keyFiles(service)).filter(isOld);
  for (const [step, count] of steps(
    ['retirement-told', 1],
    ['retirement-noted', 1, 'short'],
    ['retirement-removed', 1],
  ))
    await killedAt(step, count);
  // Killed between overwriting a key and taking its file away.
  const [left] = (await keyFiles(service)).filter(isOld);
  expect([isLong || old.length > 2, left]).toEqual([true, expect.any(String)]);
  await writeFile(join(service.config.monthKeysDir, left!), Buffer.alloc(65));
  const third = await start({ beside: service });
  await expect.poll(async () => (await keyFiles(service)).filter(isOld), { timeout: 10_000 }).toEqual([]);
  await send(third, 'e-2');
  await service.checkLog();

  const token = await third.token('auditor', 'sealog');
  const { items } = (await third.get('/v1/events?category=log_administration&limit=1000', { token })).body;
  const told = items
    .map(({ action }: { action: string }) => action)
    .filter((one: string) => /rotated|retired/.test(one));
  expect(told).toEqual(['month_key.retired', 'month_key.rotated']);
  expect((await third.get('/v1/events/e-1?category=security_event')).body.actor).toEqual({ type: 'user', id: 'u-1' });
}, 60_000);
