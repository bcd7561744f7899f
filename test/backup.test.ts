/** Backup and restore: of one moment while events arrive, whole or refused, and what is missing is named. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { checkDatabaseBackup, loadDatabaseBackup, readDatabaseManifest } from '../src/backup/database-backup.ts';
import { missingEntries } from '../src/backup/missing-entries.ts';
import { copyIn, copyOut } from '../src/store/copy-stream.ts';
import { openDump } from '../src/store/dump.ts';
import { Load } from '../src/store/load.ts';
import { migrate } from '../src/store/migrate.ts';
import { createDatabase, type TestDatabase } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { startService, type TestService } from './support/service.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

const run = promisify(execFile);
const undo: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  while (undo.length > 0) await undo.pop()!();
});

interface Receipt {
  readonly id: string;
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
}

async function start(options: Parameters<typeof startService>[0] = {}): Promise<TestService> {
  const service = await startService(options);
  undo.push(() => service.stop());
  return service;
}

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sealog-test-backup-'));
  undo.push(() => rm(path, { recursive: true, force: true }));
  return path;
}

async function emptyDatabase(): Promise<TestDatabase> {
  const database = await createDatabase();
  undo.push(() => database.drop());
  return database;
}

function event(id: string, category = 'user_authentication') {
  return {
    id,
    category,
    action: 'user.login',
    outcome: 'success',
    severity: 3,
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: `u-${id}` },
  };
}

async function send(service: TestService, prefix: string, count: number): Promise<Receipt[]> {
  const events = Array.from({ length: count }, (_, i) =>
    event(`${prefix}-${i}`, i % 7 === 0 ? 'security_event' : undefined),
  );
  const { status, body } = await service.post('/v1/events/batch', events);
  expect(status).toBe(200);
  return body.items.filter((item: { status: number }) => item.status === 201);
}

/** A `sealog` command on the service's keys, as whoever administers a database. */
async function sealog(
  service: Pick<TestService, 'environment'>,
  database: TestDatabase,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<{ code: number; out: string; err: string }> {
  const main = join(import.meta.dirname, '../src/cli/main.ts');
  const env = { ...PROGRAM_ENVIRONMENT, ...service.environment, DATABASE_URL: database.adminUrl, ...environment };
  try {
    const { stdout, stderr } = await run(process.execPath, [main, ...args], { env });
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

/** The same service before another database. */
function facing(service: TestService, database: TestDatabase, environment: Readonly<Record<string, string>> = {}) {
  return {
    ...service,
    database,
    environment: { ...service.environment, ...environment, DATABASE_URL: database.appUrl },
  };
}

/** The service on a restored database. */
async function startOn(service: TestService, database: TestDatabase, environment: Readonly<Record<string, string>>) {
  await migrate(database.adminConfig, database.appRole);
  return start({ beside: facing(service, database, environment) });
}

describe('a backup under load', () => {
  test('is of one moment: each receipt is restored or named as missing, and the rest goes on', async () => {
    const service = await start();
    const place = await folder();
    const receipts = await send(service, 'before', 600);
    let loading = true;
    let batches = 0;
    const writer = async (name: string): Promise<void> => {
      for (let i = 0; loading; i++, batches++, await delay(25))
        receipts.push(...(await send(service, `${name}-${i}`, 20)));
    };
    const load = Promise.all(['a', 'b', 'c'].map(writer));
    const backup = join(place, 'backup');
    const done = await sealog(service, service.database, ['backup', '--to', backup, '--keys-to', join(place, 'keys')]);
    const during = batches;
    loading = false;
    await load;
    expect(done).toMatchObject({ code: 0, err: '' });
    expect(JSON.parse(await readFile(join(backup, 'manifest.json'), 'utf8')).streams).toBeGreaterThan(1);
    if (HARD) {
      const once = await sealog(service, service.database, ['backup', '--to', backup, '--without-keys']);
      expect(once).toMatchObject({ code: 1, err: expect.stringContaining('never written over') });
      for (const args of [[], ['--keys-to', join(backup, 'keys')], ['--keys-to', place, '--without-keys']])
        expect(await sealog(service, service.database, ['backup', '--to', backup, ...args])).toMatchObject({
          code: 64,
        });
    }
    expect(during).toBeGreaterThan(3);
    const last = (await service.post('/v1/events?wait=checkpoint', event('last'))).body;
    receipts.push(last);
    await writeFile(join(place, 'receipts.ndjson'), receipts.map((one) => JSON.stringify(one)).join('\n'));
    await writeFile(join(place, 'checkpoint'), last.checkpoint);

    // Elsewhere: another database, other folders for keys.
    const database = await emptyDatabase();
    const elsewhere = { SEALOG_SIGNER_DIR: join(place, 'signer'), SEALOG_MASTER_KEY: `file:${join(place, 'months')}` };
    const restored = await sealog(
      service,
      database,
      ['restore', '--from', backup, '--keys-from', join(place, 'keys'), '--verify', '--json']
        .concat('--receipts', join(place, 'receipts.ndjson'))
        .concat('--checkpoint', join(place, 'checkpoint')),
      elsewhere,
    );
    expect(restored).toMatchObject({ code: 2, err: '' });
    const outcome = JSON.parse(restored.out);
    expect(outcome).toMatchObject({ wrong: [], isCompared: true, report: { verdict: 'not_provable', findings: [] } });

    // What is there is counted from the tables, not by what restored it.
    const client = new Client(database.adminConfig);
    await client.connect();
    undo.push(() => client.end());
    const { rows: sizes } = await client.query<{ name: string; size: string }>('SELECT name, size FROM sealog.stream');
    const size = new Map(sizes.map((row) => [row.name, Number(row.size)]));
    const gone = receipts.filter(({ stream, seq }) => seq >= (size.get(stream) ?? 0));
    expect(gone.length).toBeGreaterThan(0);
    expect(receipts.length - gone.length).toBeGreaterThanOrEqual(600);
    const places = (list: readonly Receipt[]) => list.map(({ stream, seq }) => `${stream} ${seq}`).sort();
    expect(places(outcome.missingReceipts)).toEqual(places(gone));
    const missing = outcome.missing.find((one: { stream: string }) => one.stream === last.stream);
    expect(missing).toMatchObject({ from: size.get(last.stream), to: last.seq + 1 });
    const { rows: behind } = await client.query(
      'SELECT FROM sealog.entry_id AS e JOIN sealog.stream AS s ON s.id = e.stream WHERE e.first_seq >= s.size',
    );
    expect(behind).toEqual([]);

    // The mark that came with the backup has learnt of the checkpoint: nothing is stored before a recovery names what is lost.
    const short = await startOn(service, database, elsewhere);
    expect(await short.post('/v1/events', event('refused'))).toMatchObject({ status: 503 });
    await short.app.close();
    const recovered = await sealog(service, database, ['recover', '--yes'], {
      ...elsewhere,
      DATABASE_URL: database.appUrl,
    });
    expect(recovered).toMatchObject({ code: 0 });
    const again = await startOn(service, database, elsewhere);
    expect(await again.post('/v1/events', event('after'))).toMatchObject({ status: 201 });
    // The mark was a copy: no stream goes on where another may have been signed. What is there stays found.
    const { rows: closed } = await client.query<{ name: string }>('SELECT name FROM sealog.stream WHERE closed');
    expect(closed.map(({ name }) => name).sort()).toEqual([...size.keys()].sort());
    const there = receipts.find(({ stream, seq }) => stream === 'acme/security_event' && seq === 0)!;
    expect((await again.get(`/v1/events/${there.id}`)).body.log.hash).toBe(there.hash);
    expect(await again.post('/v1/events', event('other', 'security_event'))).toMatchObject({
      status: 201,
      body: { stream: 'acme/security_event/e2' },
    });
    const signed = await again.post('/v1/events?wait=checkpoint', event('last'));
    expect(signed).toMatchObject({ status: 201, body: { stream: `${last.stream}/e2`, checkpoint: expect.anything() } });
    await again.checkLog();
  });
});

/** A service that was backed up: one for all tests of restores, for it takes a second or two. */
let made: Promise<{ service: TestService; place: string }> | undefined;
const undoMade: (() => Promise<unknown>)[] = [];

afterAll(async () => {
  while (undoMade.length > 0) await undoMade.pop()!();
});

async function backedUp(): Promise<{ service: TestService; place: string; database: TestDatabase }> {
  made ??= (async () => {
    const service = await startService();
    const place = await mkdtemp(join(tmpdir(), 'sealog-test-backup-'));
    undoMade.push(
      () => rm(place, { recursive: true, force: true }),
      () => service.stop(),
    );
    await send(service, 'kept', 40);
    const args = ['backup', '--to', join(place, 'backup'), '--keys-to', join(place, 'keys')];
    expect(await sealog(service, service.database, args)).toMatchObject({ code: 0 });
    return { service, place };
  })();
  return { ...(await made), database: await emptyDatabase() };
}

describe('a restore', () => {
  test('beside the signer that survived names what it signed since, and takes no older mark or key', async () => {
    const { service, place, database } = await backedUp();
    const { body } = await service.post('/v1/events?wait=checkpoint', event('since'));
    // A receipt of another entry at the same place.
    const [receipt] = (await service.post('/v1/events/batch', [event('kept-0', 'security_event')])).body.items;
    await writeFile(join(place, 'receipt'), JSON.stringify({ ...receipt, hash: 'f'.repeat(64) }));
    await service.app.close();
    const args = ['restore', '--from', join(place, 'backup'), '--verify', '--receipts', join(place, 'receipt')];
    const restored = await sealog(service, database, args);
    expect(restored).toMatchObject({ code: 1, err: '' });
    const lines = restored.out.split('\n');
    expect(lines).toContain(
      `MISSING: acme/user_authentication: entries ${body.seq} to ${body.seq}, as the signer's own record says`,
    );
    expect(lines).toContain('WRONG: acme/security_event has another entry at 0 than the receipt of kept-0 says');
    expect(lines.filter((line) => line.startsWith('WRONG'))).toHaveLength(1);
    expect(restored.out).toMatch(/^not_provable: /m);
    expect(restored.out).toContain('sealog recover');
    const mark = await readFile(join(service.config.signerDir!, 'mark.log'), 'utf8');
    expect(mark).toContain(`"size":${body.seq + 1}`);
  });

  test.skipIf(!HARD)('of a backup that is all there is says that it does not know what came after', async () => {
    const { service, place, database } = await backedUp();
    const elsewhere = { SEALOG_SIGNER_DIR: join(place, 'signer'), SEALOG_MASTER_KEY: `file:${join(place, 'months')}` };
    const args = ['restore', '--from', join(place, 'backup'), '--verify'];
    const without = await sealog(service, database, args, elsewhere);
    expect(without).toMatchObject({ code: 1 });
    expect(without.err).toContain('there are no signing seeds');
    const alone = await sealog(service, database, [...args, '--keys-from', join(place, 'keys')], elsewhere);
    expect(alone).toMatchObject({ code: 2, err: '' });
    expect(alone.out).toContain('NOT KNOWN whether entries are missing');
    expect(alone.out).toContain("The signer's record is a copy");
    const refused = await startOn(service, database, elsewhere);
    expect(await refused.post('/v1/events', event('after'))).toMatchObject({ status: 503 });
    await refused.app.close();
    const own = { ...elsewhere, DATABASE_URL: database.appUrl };
    expect(await sealog(service, database, ['recover'], own)).toMatchObject({
      code: 2,
      out: expect.stringContaining('nothing that is known to have been signed is lost'),
    });
    expect(await sealog(service, database, ['recover', '--yes'], own)).toMatchObject({ code: 0 });
    expect((await sealog(service, database, ['recover', '--yes'], own)).out).toContain('Every stream agrees');
    const verified = await sealog(service, database, ['verify', '--database'], own);
    expect(verified).toMatchObject({ code: 2, out: expect.stringMatching(/^not_provable: /m) });
    // Whoever knows that nothing came after it may say so.
    const second = await emptyDatabase();
    await rm(join(place, 'signer'), { recursive: true });
    const sure = await sealog(
      service,
      second,
      [...args, '--keys-from', join(place, 'keys'), '--mark-is-newest'],
      elsewhere,
    );
    expect(sure).toMatchObject({ code: 0, err: '' });
    expect(sure.out).toContain('Nothing is missing of what was given');
    const again = await startOn(service, second, elsewhere);
    expect(await again.post('/v1/events', event('kept-1'))).toMatchObject({ status: 200 });
    expect(await again.post('/v1/events', event('after'))).toMatchObject({ status: 201 });
    await again.checkLog();
  });

  test('takes no backup that is damaged, and says what is', async () => {
    const { service, place, database } = await backedUp();
    const sound = join(place, 'backup');
    const manifest = JSON.parse(await readFile(join(sound, 'manifest.json'), 'utf8'));
    const { path } = manifest.rows.find((one: { table: string }) => one.table === 'block');
    const damages: Record<string, { words: RegExp; damage: (folder: string) => Promise<void> }> = {
      'a flipped bit': {
        words: /damaged: .*is not what was written/,
        damage: async (at) => {
          const bytes = await readFile(join(at, path));
          bytes[bytes.length >> 1]! ^= 1;
          await writeFile(join(at, path), bytes);
        },
      },
      'a cut file': { words: /damaged: .*has \d+ bytes and not/, damage: (at) => truncate(join(at, path), 100) },
      'a missing file': { words: /damaged: .*is missing/, damage: (at) => rm(join(at, path)) },
      'no manifest': { words: /there is no manifest\.json/, damage: (at) => rm(join(at, 'manifest.json')) },
      'a manifest of another kind': {
        words: /is not of the form sealog-backup\/v1/,
        damage: (at) =>
          writeFile(join(at, 'manifest.json'), JSON.stringify({ ...manifest, format: 'sealog-backup/v2' })),
      },
      'a path that leads out': {
        words: /leads out of it/,
        damage: (at) =>
          writeFile(
            join(at, 'manifest.json'),
            JSON.stringify({ ...manifest, heads: { ...manifest.heads, path: '../backup/heads.ndjson.zst' } }),
          ),
      },
    };
    for (const [name, { words, damage }] of Object.entries(damages)) {
      const damaged = join(place, name.replaceAll(' ', '-'));
      await cp(sound, damaged, { recursive: true });
      await damage(damaged);
      const checked = readDatabaseManifest(damaged).then((found) => checkDatabaseBackup(damaged, found));
      await expect(checked, name).rejects.toThrow(words);
    }
    await checkDatabaseBackup(sound, manifest);
    // Rows that the manifest does not know, or knows more of; and a schema of a version to come.
    const load = await Load.begin(database.adminConfig, { ...manifest, takenAt: 0, heads: [] });
    const more = manifest.rows.map((one: { rows: number }) => ({ ...one, rows: one.rows + 1 }));
    await expect(loadDatabaseBackup(sound, { ...manifest, rows: more }, load)).rejects.toThrow(/rows and not/);
    await load.close();
    const newer = { ...manifest, migrations: [...manifest.migrations, '9999_future'], takenAt: 0, heads: [] };
    await expect(Load.begin(database.adminConfig, newer)).rejects.toThrow(/not one that this version of Sealog knows/);
    // What an interrupted restore leaves lets nobody in, and takes no second one.
    await migrate(database.adminConfig, database.appRole);
    await expect(startService({ beside: facing(service, database) })).rejects.toThrow(
      /row-level security is not forced/,
    );
    await expect(Load.begin(database.adminConfig, { ...manifest, takenAt: 0, heads: [] })).rejects.toThrow(
      /there is a log/,
    );
  });

  test.skipIf(!HARD)('finds what the manifest does not list', async () => {
    const { service, place, database } = await backedUp();
    await service.app.close();
    const short = join(place, 'short');
    await cp(join(place, 'backup'), short, { recursive: true });
    const path = join(short, 'manifest.json');
    const manifest = JSON.parse(await readFile(path, 'utf8'));
    const rows = manifest.rows.filter((one: { table: string }) => one.table !== 'block');
    await writeFile(path, JSON.stringify({ ...manifest, rows }));
    const restored = await sealog(service, database, ['restore', '--from', short, '--verify']);
    expect(restored).toMatchObject({ code: 1 });
    expect(restored.out).toMatch(/^tampered: /m);
  });
});

describe('a dump', () => {
  test('in the smallest pieces, between which entries arrive, is whole', async () => {
    const service = await start();
    await send(service, 'first', 700);
    await send(service, 'second', 90);
    const database = await emptyDatabase();
    const dump = await openDump(service.database.adminConfig, { entries: 7, streams: 1, pages: 1 });
    const size = new Map(dump.facts.heads.map((head) => [head.stream, head.size]));
    const load = await Load.begin(database.adminConfig, dump.facts);
    let pieces = 0;
    for await (const piece of dump.pieces()) {
      const taken = await load.take(piece.table, piece.stream);
      expect(taken).toBe(await piece.rows);
      if (pieces++ % 60 === 0) await send(service, `during-${pieces}`, 3);
    }
    expect(pieces).toBeGreaterThan(150);
    await load.finish();
    await load.close();
    await dump.close();
    await service.app.close();
    const again = await startOn(service, database, {});
    const reports = await again.verify();
    expect(reports.filter(({ verdict }) => verdict !== 'intact')).toEqual([]);
    expect(new Map(reports.map(({ stream, size }) => [stream, size]))).toEqual(size);
    expect(reports.find(({ stream }) => stream === 'acme/user_authentication')!.size).toBeGreaterThan(512);
  });

  test('keeps a month from being dropped, and the schema from being migrated, until it has ended, and nobody from appending', async () => {
    const service = await start();
    await send(service, 'one', 3);
    const dump = await openDump(service.database.adminConfig);
    const client = new Client(service.database.adminConfig);
    await client.connect();
    undo.push(() => client.end());
    await client.query("SET lock_timeout = '100ms'");
    const month = dump.facts.dropMonths.find((one) => one > 1)!;
    const drop = () => client.query(`ALTER TABLE sealog.block DETACH PARTITION sealog.block_${month}`);
    await expect(drop()).rejects.toThrow(/lock timeout/);
    await send(service, 'two', 3);
    // No snapshot is held for it.
    const { rows } = await client.query(
      "SELECT FROM pg_stat_activity WHERE application_name = 'sealog_backup_lock' AND backend_xmin IS NOT NULL",
    );
    expect(rows).toEqual([]);
    // A migration would wait for it, and everybody behind the migration.
    await client.query('BEGIN; SET LOCAL session_replication_role = replica');
    const last = await client.query(
      'DELETE FROM sealog.migration WHERE name = (SELECT max(name) FROM sealog.migration) RETURNING *',
    );
    await client.query('COMMIT');
    await expect(migrate(service.database.adminConfig, service.database.appRole)).rejects.toThrow(
      /a backup of this database is under way/,
    );
    const { name, timestamp } = last.rows[0];
    await client.query('INSERT INTO sealog.migration (name, timestamp) VALUES ($1, $2)', [name, timestamp]);
    await migrate(service.database.adminConfig, service.database.appRole);
    await dump.close();
    await drop();
  });

  test('is refused to a role from which row-level security hides rows', async () => {
    const service = await start();
    await expect(openDump(service.database.appConfig)).rejects.toThrow(/permission denied|may not read everything/);
  });
});

describe('COPY over a connection', () => {
  test('waits for a slow reader, and the connection goes on behind it', async () => {
    const database = await emptyDatabase();
    const client = new Client(database.adminConfig);
    await client.connect();
    undo.push(() => client.end());
    // What comes in one piece with the end of the answer, too: the socket stands still then, and must not stay so.
    for (const rows of [10, 300, 2000, 20_000]) {
      const text = `COPY (SELECT repeat('x', 999) FROM generate_series(1, ${rows})) TO STDOUT`;
      const { stream, rows: counted } = copyOut(client, text);
      let bytes = 0;
      for await (const piece of stream) {
        bytes += piece.length;
        await delay(2);
      }
      expect([bytes, await counted]).toEqual([rows * 1000, rows]);
      expect((await client.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
    }
  });

  test('tells what the server, or the source, says, and the connection goes on behind it', async () => {
    const database = await emptyDatabase();
    const client = new Client(database.adminConfig);
    await client.connect();
    undo.push(() => client.end());
    await client.query('CREATE TABLE t (n integer)');
    const failing = copyOut(client, 'COPY (SELECT 1 / (3 - n) FROM generate_series(1, 5) AS n) TO STDOUT');
    await expect(failing.stream.toArray()).rejects.toThrow('division by zero');
    async function* source(...texts: string[]): AsyncGenerator<Buffer> {
      for (const text of texts) yield Buffer.from(text);
    }
    async function* broken(): AsyncGenerator<Buffer> {
      yield Buffer.from('7\n');
      throw new Error('the disk is gone');
    }
    await expect(copyIn(client, 'COPY t FROM STDIN', source('1\n', 'x\n', '3\n'))).rejects.toThrow(
      'invalid input syntax',
    );
    await expect(copyIn(client, 'COPY t FROM STDIN', broken())).rejects.toThrow('the disk is gone');
    expect(await copyIn(client, 'COPY t FROM STDIN', source('1\n2', '\n'))).toBe(2);
    expect((await client.query('SELECT n FROM t ORDER BY n')).rows).toEqual([{ n: 1 }, { n: 2 }]);
  });
});

describe('what is missing', () => {
  test('is from where the log ends to where anybody knows of it', () => {
    const sizes = new Map([
      ['a/x', 5],
      ['b/x', 9],
    ]);
    const says = (stream: string, size: number, by: string) => ({ stream, size, by });
    expect(missingEntries(sizes, [])).toEqual([]);
    expect(missingEntries(sizes, [says('a/x', 5, 'p'), says('b/x', 3, 'p')])).toEqual([]);
    expect(
      missingEntries(sizes, [says('a/x', 6, 'p'), says('a/x', 8, 'q'), says('a/x', 7, 'r'), says('c/x', 1, 's')]),
    ).toEqual([
      { stream: 'a/x', from: 5, to: 8, by: 'q' },
      { stream: 'c/x', from: 0, to: 1, by: 's' },
    ]);
  });
});

describe('in embedded mode', () => {
  test.skipIf(!HARD)('a running service is backed up, and restored in another data folder', async () => {
    const place = await folder();
    const main = join(import.meta.dirname, '../src/cli/main.ts');
    const environment = { ...PROGRAM_ENVIRONMENT, SEALOG_LOG_LEVEL: 'error', SEALOG_DATA_DIR: join(place, 'data') };
    const command = async (args: readonly string[], env: NodeJS.ProcessEnv = environment) =>
      run(process.execPath, [main, ...args], { env });
    const token = (await command(['token', '--role', 'service', '--tenant', 'acme'])).stdout.trim();
    const child = spawn(process.execPath, [main, 'serve'], {
      env: { ...environment, SEALOG_PORT: '0' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = once(child, 'exit');
    undo.push(async () => {
      child.kill('SIGKILL');
      await ended;
    });
    let said = '';
    for await (const chunk of child.stdout!.setEncoding('utf8')) {
      said += chunk;
      if (/http:\/\/127\.0\.0\.1:\d+/.test(said)) break;
    }
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(said)![0];
    const posted = await fetch(`${url}/v1/events?wait=checkpoint`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(event('kept')),
    });
    expect(posted.status).toBe(201);
    const [backup, keys] = [join(place, 'backup'), join(place, 'keys')];
    await command(['backup', '--to', backup, '--keys-to', keys]);
    child.kill('SIGTERM');
    await ended;
    const elsewhere = { ...environment, SEALOG_DATA_DIR: join(place, 'elsewhere') };
    const args = ['restore', '--from', backup, '--keys-from', keys, '--verify', '--json'];
    // It is all there is, and does not pretend to know more.
    const short = await command(args, elsewhere).catch((error: { code: number; stdout: string }) => error);
    expect(short).toMatchObject({ code: 2 });
    expect(JSON.parse(short.stdout)).toMatchObject({
      wrong: [],
      missing: [],
      isCompared: false,
      report: { verdict: 'not_provable', findings: [] },
    });
    // Tokens go on, too.
    const secretOf = (data: string) => readFile(join(place, data, 'keys/jwt-secret'), 'utf8');
    expect(await secretOf('elsewhere')).toBe(await secretOf('data'));
    if (!HARD) return;
    const twice = command(args, elsewhere);
    await expect(twice).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('there is a log in') });
  });
});
