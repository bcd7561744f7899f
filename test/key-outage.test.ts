/** The service and its key service: wrong keys at the start, an outage, and that each use is told. */
import { cp, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';
import { startVault, type VaultServer } from './support/vault-server.ts';

const HOUR = 3_600_000;

async function start(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService(options);
  onTestFinished(() => service.stop());
  return service;
}

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-keys-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

function event(id: string, category = 'user_authentication') {
  return {
    ...{ id, category, action: 'user.login', outcome: 'success', occurredAt: '2026-01-01T10:00:00Z' },
    ...{ source: { service: 'test' }, actor: { type: 'user', id: 'u-1' } },
    ...(category === 'security_event' ? { severity: 3 } : {}),
  };
}

/** Entries of the deployment's log about uses of month keys, and what they tell: `operation key problem` → how often. */
async function uses(service: TestService): Promise<Map<string, number>> {
  const told = new Map<string, number>();
  const token = await service.token('auditor', 'sealog');
  let cursor = '';
  do {
    const { body } = await service.get(
      `/v1/events?category=log_administration&action=month_key.used&limit=100${cursor}`,
      { token },
    );
    for (const { target, details, outcome } of body.items) {
      expect(target).toEqual({ type: 'key_service', id: service.config.masterKey.kind });
      for (const { monthKey, operation, problem, count } of details.uses) {
        const name = [operation, monthKey, problem].filter((word) => word !== undefined).join(' ');
        told.set(name, (told.get(name) ?? 0) + count);
        if (problem !== undefined) expect(outcome).toBe('failure');
      }
    }
    cursor = body.next === null ? '' : `&cursor=${body.next}`;
  } while (cursor !== '');
  return told;
}

async function vaultOf(vault: VaultServer) {
  const secretFile = join(await newFolder(), 'secret');
  await writeFile(secretFile, vault.secretId, { mode: 0o600 });
  return {
    SEALOG_MASTER_KEY: `vault:${vault.url}?role=role-1&namespace=plants/eu`,
    SEALOG_MASTER_KEY_SECRET_FILE: secretFile,
    SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8',
  };
}

test('a start with other month keys, or without one that is needed, is refused and says which', async () => {
  const service = await start({ keyTiming: { tellEveryMs: 50 } });
  for (const category of ['user_authentication', 'security_event'])
    expect((await service.post('/v1/events', event('e-1', category))).status).toBe(201);
  const folder = service.config.monthKeysDir;
  await expect.poll(() => readdir(folder)).toContain('for-ever.key');
  const months = (await readdir(folder)).filter((name) => /^\d+\.key$/.test(name)).map((name) => name.slice(0, -4));
  expect(months).toHaveLength(2);
  const [month, other] = months as [string, string];
  const replica = (keys: string) =>
    startService({ beside: service, environment: { SEALOG_MASTER_KEY: `file:${keys}`, SEALOG_SIGNER_DIR: undefined } });

  const foreign = await newFolder();
  for (const name of ['for-ever.key', `${other}.key`]) await cp(join(folder, name), join(foreign, name));
  await expect(replica(foreign)).rejects.toThrow(`${month} is not there`);
  await cp(join(folder, `${other}.key`), join(foreign, `${month}.key`));
  await expect(replica(foreign)).rejects.toThrow(`${month} is not the one that wrapped`);
  await expect(replica(foreign)).rejects.not.toThrow(other);
  await expect(replica(await newFolder())).rejects.toThrow(
    /SEALOG_MASTER_KEY has not the month keys.*is not there; .*is not there/,
  );

  // One that was destroyed is no reason; nor is one that is said to be.
  await rm(join(foreign, `${month}.key`));
  await writeFile(join(foreign, `${month}.destroyed`), 'destroyed\n');
  const sound = await replica(foreign);
  await sound.stop();
  // While it runs, a key that is lost is not made anew.
  await rename(join(folder, `${other}.key`), join(folder, 'away'));
  const token = await service.token('service', 'another');
  const lost = other < month ? 'user_authentication' : 'security_event';
  const category = other === [...months].sort()[0] ? 'user_authentication' : 'security_event';
  expect(category).toBe(lost);
  expect((await service.post('/v1/events', event('e-1', category), { token })).status).toBe(503);
  expect(await readdir(folder)).not.toContain(`${other}.key`);
  await rename(join(folder, 'away'), join(folder, `${other}.key`));
  expect((await service.post('/v1/events', event('e-1', category), { token })).status).toBe(201);
  await service.checkLog();
});

test('a key service that is away: what is opened goes on for its time, then nothing is stored; what it comes back to is sound', async () => {
  const vault = await startVault();
  onTestFinished(() => vault.stop());
  const clock = { now: 0 };
  const service = await start({
    environment: await vaultOf(vault),
    keyTiming: { monotonic: () => clock.now, tellEveryMs: 100 },
  });
  expect((await service.post('/v1/events', event('e-0'))).status).toBe(201);
  expect((await service.get('/readyz')).status).toBe(200);

  await vault.stop();
  // A stream that has no key yet gets none.
  const refused = await service.post('/v1/events', event('n-1', 'security_event'));
  expect([refused.status, refused.body.code]).toEqual([503, 'not_ready']);
  for (clock.now = HOUR; clock.now < 24 * HOUR; clock.now += 7 * HOUR)
    expect((await service.post('/v1/events', event(`e-${clock.now}`))).status).toBe(201);
  clock.now = 24 * HOUR - 1;
  expect((await service.post('/v1/events/batch', [event('b-1'), event('b-2')])).status).toBe(200);
  await expect.poll(async () => (await service.get('/readyz')).status).toBe(200);

  clock.now = 24 * HOUR;
  // A thread knows a key for a second.
  const batch = async () => (await service.post('/v1/events/batch', [event(`q-${performance.now()}`)])).body;
  await expect.poll(async () => (await batch()).items?.[0].status, { timeout: 5000 }).not.toBe(201);
  const { rows } = await service.adminPool.query('SELECT sum(entries) AS entries FROM sealog.block');
  const single = await service.post('/v1/events', event('x-1'));
  expect([single.status, single.headers['retry-after']]).toEqual([503, '1']);
  const ofBatch = await service.post('/v1/events/batch', [event('x-1')]);
  expect(ofBatch.body.items?.[0] ?? ofBatch.body).toMatchObject({ status: 503, code: 'not_ready' });
  await expect.poll(async () => (await service.get('/readyz')).status, { timeout: 5000 }).toBe(503);
  expect((await service.get('/readyz')).body.detail).toMatch(/key/);
  const after = await service.adminPool.query('SELECT sum(entries) AS entries FROM sealog.block');
  expect(after.rows).toEqual(rows);
  expect(JSON.stringify((await service.get('/readyz')).body)).not.toContain(vault.secretId);

  await vault.again();
  await expect.poll(async () => (await service.post('/v1/events', event('x-1'))).status, { timeout: 5000 }).toBe(201);
  expect((await service.get('/readyz')).status).toBe(200);
  await expect
    .poll(async () => [...(await uses(service)).keys()].some((name) => name.endsWith('unreachable')), {
      timeout: 10_000,
    })
    .toBe(true);
});

test('a start while the key service is away stores nothing until it has looked at the keys', async () => {
  const vault = await startVault();
  onTestFinished(() => vault.stop());
  const environment = await vaultOf(vault);
  const first = await start({ environment });
  expect((await first.post('/v1/events', event('e-0'))).status).toBe(201);
  const [, { key }] = [...vault.keys].find(([each]) => /\d$/.test(each))!;
  await vault.stop();
  const late = await start({ beside: first, environment: { ...environment, SEALOG_SIGNER_DIR: undefined } });
  expect((await late.get('/readyz')).body.detail).toContain('not checked yet');
  expect((await late.post('/v1/events', event('e-1'))).status).toBe(503);
  // It comes back with another key: that is no reason to go on.
  key.fill(7);
  await vault.again();
  await expect
    .poll(async () => (await late.get('/readyz')).body.detail, { timeout: 10_000, interval: 200 })
    .toContain('not those of this database');
  expect((await late.post('/v1/events', event('e-1'))).status).toBe(503);
});

test('each use of a month key is told in the log, and telling comes to an end', async () => {
  const service = await start({ keyTiming: { tellEveryMs: 50 } });
  for (const category of ['user_authentication', 'security_event'])
    expect((await service.post('/v1/events', event('e-1', category))).status).toBe(201);
  const folder = service.config.monthKeysDir;
  const count = async () =>
    (await service.adminPool.query<{ keys: number }>('SELECT count(*)::integer AS keys FROM sealog.data_key')).rows[0]!
      .keys;
  await expect
    .poll(async () => {
      const told = [...(await uses(service))];
      const wraps = told.filter(([name]) => name.startsWith('wrap '));
      return wraps.reduce((sum, [, n]) => sum + n, 0) === (await count());
    })
    .toBe(true);
  const told = await uses(service);
  for (const name of (await readdir(folder)).filter((file) => file.endsWith('.key')))
    for (const operation of ['wrap', 'unwrap'])
      expect(told.get(`${operation} ${name.slice(0, -4)}`)).toBeGreaterThan(0);

  // Whoever verifies on a thread opens every key anew.
  const token = await service.token('auditor');
  const asked = await service.post('/v1/verifications', {}, { token });
  expect(asked.status).toBe(202);
  const unwraps = (all: Map<string, number>) =>
    [...all].filter(([name]) => name.startsWith('unwrap')).reduce((sum, [, n]) => sum + n, 0);
  await expect
    .poll(async () => unwraps(await uses(service)), { timeout: 20_000 })
    .toBeGreaterThanOrEqual(unwraps(told) + 2);

  const entries = async () => {
    const { rows } = await service.adminPool.query(
      `SELECT size FROM sealog.stream WHERE name = 'sealog/log_administration'`,
    );
    return rows[0].size;
  };
  const growth = async () => {
    const before = await entries();
    await new Promise((resolve) => setTimeout(resolve, 500));
    return (await entries()) - before;
  };
  await expect.poll(growth, { timeout: 10_000 }).toBe(0);
  await service.checkLog();
});
