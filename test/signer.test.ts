/** Signing over a real database: what is signed, what is refused, who may append meanwhile, and how it goes on after a loss. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { toHex } from '../src/chain/bytes.ts';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { decodeKeyStatement } from '../src/chain/key-statement.ts';
import { openNote } from '../src/chain/note.ts';
import { makeSeed } from '../src/signer/seeds.ts';
import { trustedKeys } from '../src/verify/trusted-keys.ts';
import { copyDatabase, type TestDatabase } from './support/postgres.ts';
import { startService, type TestService } from './support/service.ts';

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
  const env = { PATH: process.env['PATH'], ...service.environment };
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
    const { rows } = await service.adminPool.query(
      "SELECT generation, note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE s.name = 'acme/user_authentication'",
    );
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
    expect(ready.body.detail).toContain('acme/user_authentication has 4 entries, though 15 were signed');
    await restored.app.close();

    const recovering = facing(service, backup);
    const shown = await recover(recovering);
    expect(shown.code).toBe(2);
    expect(shown.out).toContain(`it is closed at size ${backedUp.size}`);
    expect(shown.out).toContain('3 entries that the old epoch holds beyond are appended again');
    const done = await recover(recovering, '--yes');
    expect(done).toMatchObject({ code: 0 });
    expect((await recover(recovering, '--yes')).out).toContain('Every stream agrees');

    const again = await start({ beside: recovering });
    expect((await again.get('/readyz')).status).toBe(200);
    const after = await again.post('/v1/events', event('after'));
    expect(after).toMatchObject({ status: 201, body: { stream: 'acme/user_authentication/e2', seq: 4 } });
    const admin = new pg.Pool({ ...backup.adminConfig, max: 1 });
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
    const admin = new pg.Pool({ ...backup.adminConfig, max: 1 });
    undo.push(() => admin.end());
    await admin.query('DELETE FROM sealog.signer');
    await send(forger, 5, 'false');
    await forger.app.close();

    const restored = await start({ beside: forged });
    const ready = await restored.get('/readyz');
    expect(ready.status).toBe(503);
    expect(ready.body.detail).toContain('has another root at size 2 than was signed');
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
    expect((await service.get('/readyz')).body.detail).toContain('has 1 entries, though 3 were signed');
    expect((await service.post('/v1/events', event('other', 'data_access'))).status).toBe(503);
  }, 30_000);
});

describe('kill -9 between two steps of signing', () => {
  const steps = ['checked', 'marked', 'signed', 'stored', 'leaves', 'ticked'];

  test.each(steps)(
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
      const env = { PATH: process.env['PATH'], ...service.environment };
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
