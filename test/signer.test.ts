/** Signing over a real database: what is signed, what is refused, who may append meanwhile, and how it goes on after a loss. */

import { execFile } from 'node:child_process';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { toHex } from '../src/chain/bytes.ts';
import { decodeCheckpoint, encodeCheckpoint } from '../src/chain/checkpoint.ts';
import { decodeKeyStatement } from '../src/chain/key-statement.ts';
import { openNote, signNote } from '../src/chain/note.ts';
import { Mark } from '../src/signer/mark.ts';
import { makeSeed, SigningKeys } from '../src/signer/seeds.ts';
import { trustedKeys } from '../src/verify/trusted-keys.ts';
import { copied } from './support/copied.ts';
import { adminPool, copyDatabase, type TestDatabase } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';

const run = promisify(execFile);
const undo: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  while (undo.length > 0) await undo.pop()!();
});

async function start(options: Parameters<typeof startService>[0] = {}): Promise<TestService> {
  const service = await startService(options);
  undo.push(() => service.stop());
  return service;
}

/** A copy of a service's database as it is now, the service stopped for good. */
async function copyOf(service: TestService): Promise<TestDatabase> {
  const copy = await copyDatabase(service.database);
  undo.push(() => copy.drop());
  return copy;
}

/** The same service, signer folder and keys, before another database. */
function facing(service: TestService, database: TestDatabase): TestService {
  return { ...service, database, environment: { ...service.environment, DATABASE_URL: database.appUrl } };
}

function event(id: string, category = 'user_authentication') {
  return {
    id,
    category,
    action: 'user.login',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: 'u-1' },
    target: { type: 'report', id: 'r' },
  };
}

async function send(service: TestService, count: number, prefix: string): Promise<void> {
  const events = Array.from({ length: count }, (_, i) => event(`${prefix}-${i}`));
  const { status, body } = await service.post('/v1/events/batch', events);
  expect(status).toBe(200);
  expect(body.errors).toBe(false);
}

/** Sends one event and returns its stream's signed checkpoint. */
async function signed(service: TestService, id: string): Promise<{ size: number; root: string; note: string }> {
  const { status, body } = await service.post('/v1/events?wait=checkpoint', event(id));
  expect(status).toBe(201);
  const { size, root } = decodeCheckpoint(`${body.checkpoint.split('\n\n')[0]}\n`);
  return { size, root: toHex(root), note: body.checkpoint };
}

async function until(check: () => Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 15_000;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within 15 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function statements(service: TestService): Promise<string[]> {
  return (await service.adminPool.query('SELECT note FROM sealog.key_statement ORDER BY name, generation')).rows.map(
    (row) => row.note,
  );
}

/** Every head that was ever marked: no size of a stream may have two roots. */
async function markedHeads(service: TestService): Promise<Map<string, string>> {
  const heads = new Map<string, string>();
  const text = await readFile(join(service.config.signerDir!, 'mark.log'), 'utf8');
  for (const line of text.trimEnd().split('\n'))
    for (const fact of JSON.parse(line.slice(17))) {
      if (fact.kind !== 'checkpoint') continue;
      const key = `${fact.stream} ${fact.size}`;
      expect(heads.get(key) ?? fact.root, key).toBe(fact.root);
      heads.set(key, fact.root);
    }
  return heads;
}

async function recover(service: TestService, ...args: string[]): Promise<{ code: number; out: string }> {
  const main = join(import.meta.dirname, '../src/cli/main.ts');
  const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
  try {
    const { stdout } = await run(process.execPath, [main, 'recover', ...args], { env });
    return { code: 0, out: stdout };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout + stderr };
  }
}

describe('a checkpoint', () => {
  test('covers the event that waits for it, and is signed by a key that the deployment key states', async () => {
    const service = await start();
    await send(service, 300, 'a');
    const { note, size } = await signed(service, 'waits');
    expect(size).toBe(301);
    const notes = await statements(service);
    const deployment = notes
      .map((one) => decodeKeyStatement(`${one.split('\n\n')[0]}\n`))
      .find((one) => one.vkey.startsWith('log.example+'))!;
    const { keys, problems } = trustedKeys('log.example', deployment.vkey, notes);
    expect(problems).toEqual([]);
    const name = 'log.example/acme/user_authentication';
    const { text } = openNote(
      note,
      keys.filter((key) => key.name === name).map((key) => key.verifier),
    );
    expect(decodeCheckpoint(text)).toMatchObject({ origin: name, size: 301 });
    await service.checkLog();
  });

  test('is not waited for longer than 10 s, and the event is stored all the same', async () => {
    const service = await start({ environment: { SEALOG_SIGNER_DIR: undefined } });
    expect(service.app.signer).toBeUndefined();
    const { status, body } = await service.post('/v1/events?wait=checkpoint', event('e'));
    expect(status).toBe(201);
    expect(body).not.toHaveProperty('checkpoint');
    expect(body.seq).toBe(0);
  }, 20_000);

  test('grows strictly, with one signer at a time, and another replica takes over', async () => {
    const first = await start();
    const second = await start({ beside: first });
    expect([first.app.signer!.status.isLeading, second.app.signer!.status.isLeading]).toEqual([true, false]);
    const one = await signed(second, 'one');
    await first.app.close();
    await until(async () => second.app.signer!.status.isLeading, 'the second signs');
    const two = await signed(second, 'two');
    expect([one.size, two.size]).toEqual([1, 2]);
    await second.checkLog();
  });
});

describe('a signer folder', () => {
  test('of another log, or with another seed, is refused at the start', async () => {
    const [service, other] = [await start(), await start()];
    await signed(service, 'one');
    await signed(other, 'one');
    await service.app.close();
    await other.app.close();
    const strange = { ...service.environment, SEALOG_SIGNER_DIR: other.config.signerDir! };
    await expect(startService({ beside: { ...service, environment: strange } })).rejects.toThrow(
      'are not those that sign this log',
    );
    const mine = await start({ beside: service });
    expect((await signed(mine, 'two')).size).toBe(2);
  });

  test('that is none is refused at the start, by the name of its setting', async () => {
    const service = await start();
    await service.app.close();
    const file = join(service.config.signerDir!, 'seed-0001');
    await expect(startService({ beside: service, environment: { SEALOG_SIGNER_DIR: file } })).rejects.toThrow(
      /^SEALOG_SIGNER_DIR .* can not be used \(EEXIST\)/,
    );
  });

  test('that was put back to an older copy learns from the database what it signed since', async () => {
    const service = await start();
    await signed(service, 'one');
    await service.app.close();
    const path = join(service.config.signerDir!, 'mark.log');
    const older = await readFile(path);
    const on = await start({ beside: service, environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    await signed(on, 'two');
    await makeSeed(service.config.signerDir!, 2);
    await until(async () => on.app.signer!.status.generation === 2, 'rotation');
    await on.app.close();
    await writeFile(path, older);
    const again = await start({ beside: service });
    expect(again.app.signer!.status.generation).toBe(2);
    expect((await again.get('/readyz')).status).toBe(200);
    expect((await signed(again, 'three')).size).toBe(3);
    const heads = await markedHeads(again);
    expect([1, 2, 3].every((size) => heads.has(`acme/user_authentication ${size}`))).toBe(true);
  });
});

describe('ticks of the anchor stream', () => {
  test('have everything that was signed, and none is made while nothing changes', async () => {
    const service = await start({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    await signed(service, 'one');
    const ticks = async () =>
      Number(
        (await service.adminPool.query("SELECT size FROM sealog.stream WHERE name = 'sealog/anchor'")).rows[0]?.size ??
          0,
      );
    await until(async () => (await ticks()) === 1, 'a tick');
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect(await ticks()).toBe(1);
    await signed(service, 'two');
    await until(async () => (await ticks()) === 2, 'another tick');
    const { rows } = await service.adminPool.query('SELECT size FROM sealog.anchor_leaf ORDER BY size');
    expect(rows.map((row) => Number(row.size))).toEqual([1, 2]);
    await service.checkLog();
  }, 20_000);
});

describe('rotation', () => {
  test('signs everything again with the next generation, which the one before states', async () => {
    const service = await start({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    const old = await signed(service, 'one');
    await makeSeed(service.config.signerDir!, 2);
    await until(async () => service.app.signer!.status.generation === 2, 'rotation');
    const stored = async () => {
      const { rows } = await service.adminPool.query(
        "SELECT generation, note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE s.name = 'acme/user_authentication'",
      );
      return rows;
    };
    await until(async () => (await stored())[0].generation === 2, 'signed again');
    const rows = await stored();
    expect(rows[0].generation).toBe(2);
    const notes = await statements(service);
    const deployments = notes
      .map((one) => decodeKeyStatement(`${one.split('\n\n')[0]}\n`))
      .filter((one) => one.vkey.startsWith('log.example+'));
    for (const pinned of deployments) {
      const { keys, problems } = trustedKeys('log.example', pinned.vkey, notes);
      expect(problems).toEqual([]);
      const own = keys.filter((key) => key.name === 'log.example/acme/user_authentication');
      expect(own.map((key) => key.generation)).toEqual([1, 2]);
      expect(own[0]!.to).toEqual(own[1]!.from);
      expect(own[1]!.to).toBeUndefined();
      openNote(old.note, [own[0]!.verifier]);
      openNote(rows[0].note, [own[1]!.verifier]);
    }
    await service.checkLog();
  }, 20_000);
});

describe('a database that went back', () => {
  test('is kept from appending, says why, and goes on in a new epoch once it is recovered', async () => {
    const service = await start();
    const backedUp = await signed(service, 'before');
    // What was committed and not signed when the copy was made.
    await service.app.close();
    const unsigned = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
    await send(unsigned, 3, 'unsigned');
    await unsigned.app.close();
    const backup = await copyOf(service);
    const more = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
    await send(more, 10, 'lost');
    await more.app.close();
    const original = await start({ beside: service });
    const last = await signed(original, 'last');
    await original.app.close();

    const restored = await start({ beside: facing(service, backup) });
    const refused = await restored.post('/v1/events', event('after'));
    expect(refused).toMatchObject({ status: 503, body: { code: 'not_ready' } });
    const ready = await restored.get('/readyz');
    expect(ready.status).toBe(503);
    expect(ready.body.detail).toMatch(/: [23] streams are not what was signed/);
    expect(ready.text).not.toContain('acme');
    await restored.app.close();

    const recovering = facing(service, backup);
    const shown = await recover(recovering);
    expect(shown.code).toBe(2);
    expect(shown.out).toContain(`it is closed at size ${backedUp.size}`);
    expect(shown.out).toContain('3 entries that it holds beyond are appended again');
    const done = await recover(recovering, '--yes');
    expect(done).toMatchObject({ code: 0 });
    expect((await recover(recovering, '--yes')).out).toContain('Every stream agrees');

    const again = await start({ beside: recovering });
    expect((await again.get('/readyz')).status).toBe(200);
    const after = await again.post('/v1/events', event('after'));
    expect(after).toMatchObject({ status: 201, body: { stream: 'acme/user_authentication/e2', seq: 4 } });
    const admin = adminPool(backup.adminConfig);
    undo.push(() => admin.end());
    const opening = (await again.get('/v1/events?category=user_authentication&order=asc')).body.items.find(
      (item: { action: string }) => item.action === 'epoch.opened',
    );
    expect(opening.details).toEqual({
      closed: { consistentSize: 1, lastRoot: last.root, lastSize: last.size, stream: 'acme/user_authentication' },
      lost: { from: 1, to: last.size },
      reappended: 3,
    });
    expect((await again.get('/v1/events/unsigned-1')).body.log).toMatchObject({
      stream: 'acme/user_authentication/e2',
      seq: 2,
    });
    const epoch = await signed(again, 'signed-again');
    expect(epoch.note).toContain('log.example/acme/user_authentication/e2\n');
    await markedHeads(service);
    await again.checkLog();
  }, 60_000);

  test('and was written on in another way is refused, though it is larger than what was signed', async () => {
    const service = await start();
    await signed(service, 'before');
    await service.app.close();
    const backup = await copyOf(service);
    const original = await start({ beside: service });
    await signed(original, 'true');
    await original.app.close();
    // Another history of the same size, and more: written without the signer.
    const forged = facing(service, backup);
    const forger = await start({ beside: forged, environment: { SEALOG_SIGNER_DIR: undefined } });
    const admin = adminPool(backup.adminConfig);
    undo.push(() => admin.end());
    await admin.query('DELETE FROM sealog.signer');
    await send(forger, 5, 'false');
    await forger.app.close();

    const restored = await start({ beside: forged });
    const ready = await restored.get('/readyz');
    expect(ready.status).toBe(503);
    expect(ready.body.detail).toMatch(/: [23] streams are not what was signed/);
    expect((await restored.post('/v1/events', event('after'))).status).toBe(503);
  }, 30_000);

  test('while the service runs is noticed by the signer', async () => {
    const service = await start();
    await send(service, 2, 'a');
    await signed(service, 'b');
    await service.adminPool.query(`
      ALTER TABLE sealog.stream DISABLE TRIGGER ALL;
      UPDATE sealog.stream SET size = 1, frontier = sha256('x'), head = sha256('x') WHERE name = 'acme/user_authentication';
      ALTER TABLE sealog.stream ENABLE ALWAYS TRIGGER guard;`);
    await until(async () => (await service.get('/readyz')).status === 503, 'unready');
    expect((await service.get('/readyz')).body.detail).toContain('a stream is not what was signed');
    expect((await service.post('/v1/events', event('other', 'data_access'))).status).toBe(503);
  }, 30_000);
});

interface PutBack {
  readonly service: TestService;
  readonly backup: TestDatabase;
}

let made: Promise<PutBack> | undefined;
const unmake: (() => Promise<unknown>)[] = [];

afterAll(async () => {
  while (unmake.length > 0) await unmake.pop()!();
});

/** A service that was signed, backed up with three events behind the last checkpoint, and then signed on: made once, and copied. */
async function putBack(): Promise<PutBack & { restored: TestService }> {
  made ??= makePutBack();
  const { service, backup } = await made;
  const { log, remove } = await copied(facing(service, backup));
  undo.push(remove);
  return { service: log, backup: log.database, restored: log };
}

async function makePutBack(): Promise<PutBack> {
  const unsigned = { SEALOG_SIGNER_DIR: undefined };
  const service = await startService();
  unmake.push(() => service.stop());
  const beside = async (work: (one: TestService) => Promise<unknown>, environment = {}): Promise<void> => {
    const one = await startService({ beside: service, environment });
    await work(one).finally(() => one.stop());
  };
  await signed(service, 'before');
  await service.app.close();
  await beside((one) => send(one, 3, 'unsigned'), unsigned);
  const backup = await copyDatabase(service.database);
  unmake.push(() => backup.drop());
  await beside((one) => send(one, 10, 'lost'), unsigned);
  await beside((one) => signed(one, 'last'));
  return { service, backup };
}

/** What stands in the epochs of a stream: the ids of their entries. */
async function idsIn(service: TestService, stream: string): Promise<string[]> {
  const ids: string[] = [];
  const { body } = await service.get('/v1/events?category=user_authentication&order=asc&limit=1000');
  for (const item of body.items) if (item.log.stream === stream) ids[item.log.seq] = item.id;
  return ids.map((id) => id.split(':')[0]!);
}

describe('a recovery', () => {
  const E2 = ['epoch.opened', 'unsigned-0', 'unsigned-1', 'unsigned-2'];

  test('knows nothing and accepts nothing where the folder is empty', async () => {
    const { restored, service } = await putBack();
    const empty = join(service.config.signerDir!, 'empty');
    const asked = { ...restored, environment: { ...restored.environment, SEALOG_SIGNER_DIR: empty } };
    expect(await recover(asked, '--yes')).toMatchObject({
      code: 1,
      out: expect.stringContaining('there is no signing seed'),
    });
    await mkdir(empty);
    await copyFile(join(service.config.signerDir!, 'seed-0001'), join(empty, 'seed-0001'));
    expect(await recover(asked, '--yes')).toMatchObject({
      code: 1,
      out: expect.stringContaining('mark.log is missing'),
    });
    await expect(start({ beside: asked })).rejects.toThrow('mark.log is missing');
  }, 30_000);

  test('that was begun keeps everybody out until it is finished, and is finished once', async () => {
    const { service, restored } = await putBack();
    // As a crash leaves it: the mark says closed, and the database knows nothing yet.
    const mark = await Mark.open(service.config.signerDir!);
    await mark.append([
      { kind: 'closed', stream: 'acme/user_authentication', size: 1, next: 'acme/user_authentication/e2' },
    ]);
    await mark.close();
    const refused = await start({ beside: restored });
    expect((await refused.get('/readyz')).status).toBe(503);
    expect((await refused.post('/v1/events', event('too-early'))).status).toBe(503);
    await refused.app.close();
    expect(await recover(restored, '--yes')).toMatchObject({ code: 0 });
    // As a crash before the last word leaves it.
    const file = join(service.config.signerDir!, 'mark.log');
    const text = await readFile(file, 'utf8');
    await writeFile(file, text.slice(0, text.lastIndexOf('\n', text.length - 2) + 1));
    expect(await recover(restored, '--yes')).toMatchObject({ code: 0 });
    const again = await start({ beside: restored });
    expect((await again.get('/readyz')).status).toBe(200);
    expect(await idsIn(again, 'acme/user_authentication/e2')).toEqual(E2);
    expect((await signed(again, 'after')).size).toBe(5);
    await again.checkLog();
  }, 60_000);

  test('is done again when the same backup is restored once more, before and after its new epoch was signed', async () => {
    const { service, backup, restored } = await putBack();
    const second = await copyDatabase(backup);
    undo.push(() => second.drop());
    const third = await copyDatabase(backup);
    undo.push(() => third.drop());
    expect(await recover(restored, '--yes')).toMatchObject({ code: 0 });
    const once = await start({ beside: facing(service, second) });
    expect((await once.get('/readyz')).status).toBe(503);
    await once.app.close();
    expect(await recover(facing(service, second), '--yes')).toMatchObject({ code: 0 });
    const signing = await start({ beside: facing(service, second) });
    expect(await idsIn(signing, 'acme/user_authentication/e2')).toEqual(E2);
    expect((await signed(signing, 'in-e2')).size).toBe(5);
    await signing.app.close();

    const twice = await start({ beside: facing(service, third) });
    expect((await twice.get('/readyz')).status).toBe(503);
    await twice.app.close();
    const done = await recover(facing(service, third), '--yes');
    expect(done, done.out).toMatchObject({ code: 0 });
    const again = await start({ beside: facing(service, third) });
    expect((await again.get('/readyz')).status).toBe(200);
    expect(await idsIn(again, 'acme/user_authentication/e3')).toEqual(['epoch.opened', ...E2]);
    expect((await signed(again, 'in-e3')).note).toContain('/e3\n');
    await markedHeads(service);
    await again.checkLog();
  }, 90_000);

  test('stops where entries can not be read, and leaves them only when it is told to', async () => {
    const { backup, restored } = await putBack();
    const admin = adminPool(backup.adminConfig);
    undo.push(() => admin.end());
    await admin.query('ALTER TABLE sealog.data_key DISABLE TRIGGER ALL; DELETE FROM sealog.data_key');
    await admin.query(
      'ALTER TABLE sealog.data_key ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER no_truncate',
    );
    const stopped = await recover(restored, '--yes');
    expect(stopped).toMatchObject({ code: 2, out: expect.stringContaining('can not be read') });
    expect(await recover(restored, '--yes', '--leave-unreadable')).toMatchObject({ code: 0 });
    const again = await start({ beside: restored });
    expect(await idsIn(again, 'acme/user_authentication/e2')).toEqual(['epoch.opened']);
  }, 60_000);
});

describe('the signer does not follow', () => {
  test('another history that a retired seed signed', async () => {
    const service = await start({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    await signed(service, 'true');
    await makeSeed(service.config.signerDir!, 2);
    await until(async () => service.app.signer!.status.generation === 2, 'rotation');
    await service.app.close();
    const seed = await readFile(join(service.config.signerDir!, 'seed-0001'), 'utf8');
    const stolen = new SigningKeys(Buffer.from(seed.trim(), 'hex')).signer('log.example/acme/user_authentication');
    // The stream goes on in the database, and the thief has signed it on, with another root.
    const on = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
    await send(on, 3, 'more');
    await on.app.close();
    const root = new Uint8Array(32).fill(9);
    const text = encodeCheckpoint({ origin: 'log.example/acme/user_authentication', size: 4, root });
    await service.adminPool.query('ALTER TABLE sealog.checkpoint DISABLE TRIGGER ALL');
    await service.adminPool.query(
      `UPDATE sealog.checkpoint SET size = 4, root = $1, generation = 1, note = $2
       WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication')`,
      [root, signNote(text, [stolen])],
    );
    await service.adminPool.query(
      'ALTER TABLE sealog.checkpoint ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER no_truncate',
    );
    const again = await start({ beside: service });
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect([...(await markedHeads(service)).values()]).not.toContain('09'.repeat(32));
    const { rows } = await service.adminPool.query('SELECT note FROM sealog.checkpoint WHERE generation = 2');
    expect(rows.map((row) => row.note).join('')).not.toContain(Buffer.from(root).toString('base64'));
    await again.app.close();
  }, 30_000);

  test('what its own role puts into the table of checkpoints; and nobody else puts anything there', async () => {
    const service = await start({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    await signed(service, 'one');
    const as = (statement: string, role = 'sealog_signer') =>
      service.adminPool.query(`BEGIN; SET LOCAL ROLE ${role}; ${statement}; COMMIT`);
    await expect(as('UPDATE sealog.checkpoint SET size = 1', 'sealog_writer')).rejects.toThrow('permission denied');
    await service.adminPool.query('ROLLBACK');
    await expect(as('UPDATE sealog.checkpoint SET size = 9007199254740991')).rejects.toThrow('is ahead of it');
    await service.adminPool.query('ROLLBACK');
    await expect(as("UPDATE sealog.stream SET closed = true WHERE name = 'acme/user_authentication'")).rejects.toThrow(
      'only moves forward',
    );
    await service.adminPool.query('ROLLBACK');
    await service.app.close();
    const on = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
    await send(on, 2, 'more');
    await on.app.close();
    await as(
      `UPDATE sealog.checkpoint SET size = 3, root = sha256('planted')
       WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication')`,
    );
    const again = await start({ beside: service, environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    await until(async () => again.app.signer!.status.lastRoundAt > 0, 'a round');
    await new Promise((resolve) => setTimeout(resolve, 2500));
    const { rows } = await service.adminPool.query("SELECT FROM sealog.anchor_leaf WHERE root = sha256('planted')");
    expect(rows).toEqual([]);
  }, 30_000);

  test('a copy of the database on the same server: nobody appends to it', async () => {
    const service = await start();
    await signed(service, 'one');
    await service.app.close();
    const copy = await copyOf(service);
    const replica = await start({ beside: facing(service, copy), environment: { SEALOG_SIGNER_DIR: undefined } });
    expect((await replica.post('/v1/events', event('two'))).status).toBe(503);
    expect((await replica.get('/readyz')).body.detail).toContain('has not looked at this database');
  }, 30_000);

  test('a client that speaks as the log itself', async () => {
    const service = await start();
    const { status, body } = await service.post('/v1/events', {
      ...event('x'),
      action: 'epoch.opened',
      source: { service: 'sealog' },
    });
    expect(status).toBe(400);
    expect(body.errors).toEqual([{ field: 'source.service', message: 'must be another: sealog is the log itself' }]);
  });
});

describe('kill -9 between two steps of signing', () => {
  test.each(someOf(['checked', 'marked', 'signed', 'stored', 'leaves', 'ticked'], 2))(
    'after "%s": the next start signs on, and a restored database is refused where it lost what was marked',
    async (step) => {
      const service = await start({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
      await signed(service, 'before');
      await service.app.close();
      const backup = await copyOf(service);
      const unsigned = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
      await send(unsigned, 5, 'new');
      await unsigned.app.close();

      const child = join(import.meta.dirname, 'support/signing-child.ts');
      const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
      const died = await run(process.execPath, [child, step, '1'], { env }).then(
        ({ stdout }) => stdout,
        (error: { signal: string }) => error.signal,
      );
      expect(died).toBe('SIGKILL');

      const heads = await markedHeads(service);
      const restored = await start({ beside: facing(service, backup) });
      const isAhead = heads.has('acme/user_authentication 6');
      expect((await restored.get('/readyz')).status).toBe(isAhead ? 503 : 200);
      // Where nothing was marked, the restored one is as good as the other, and the first that signs on is the log.
      if (isAhead) await restored.app.close();
      const again = isAhead ? await start({ beside: service }) : restored;
      expect((await again.get('/readyz')).status).toBe(200);
      expect((await signed(again, 'after')).size).toBe(isAhead ? 7 : 2);
      await markedHeads(service);
      await again.checkLog();
    },
    30_000,
  );
});
