/** The settings gate on real servers: what it refuses and why, what it warns of, and that a sound setting passes. */
import { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest';
import { openDatabase } from '../src/store/database.ts';
import { knownMigrations, migrate } from '../src/store/migrate.ts';
import { checkSettings, type GateResult } from '../src/store/settings-gate.ts';
import { createDatabase, type TestDatabase } from './support/postgres.ts';
import { type PrivatePostgres, startPrivatePostgres } from './support/private-postgres.ts';

const log = { warn: () => {} };

async function gate(connection: pg.ClientConfig): Promise<GateResult> {
  const database = openDatabase({ connection, readersMax: 1, log });
  try {
    return await checkSettings(database.writer);
  } finally {
    await database.close();
  }
}

/** Runs statements as superuser, one after the other. */
async function run(connection: pg.ClientConfig, ...statements: readonly string[]): Promise<void> {
  const client = new pg.Client(connection);
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

/** Does something to the database, and what undoes it after the test. */
async function meanwhile(connection: pg.ClientConfig, done: readonly string[], undone: readonly string[]) {
  onTestFinished(() => run(connection, ...undone));
  await run(connection, ...done);
}

describe('a migrated database', () => {
  let database: TestDatabase;
  let admin: pg.ClientConfig;
  let app: string;

  beforeAll(async () => {
    database = await createDatabase();
    admin = database.adminConfig;
    app = database.appRole;
    await migrate(admin, app);
    await run(admin, 'SELECT sealog.ensure_drop_month(203001)');
  });
  afterAll(() => database?.drop());

  async function refusals(): Promise<readonly string[]> {
    return (await gate(database.appConfig)).refusals;
  }

  test('passes', async () => {
    expect(await refusals()).toEqual([]);
  });

  test('passes over a connection string', async () => {
    expect((await gate({ connectionString: database.appUrl })).refusals).toEqual([]);
  });

  test('a superuser as the role of the service', async () => {
    expect((await gate(admin)).refusals).toEqual([
      'the role postgres is a superuser, whom nothing in the database stops: connect as an ordinary role',
    ]);
  });

  test('a role with BYPASSRLS', async () => {
    await meanwhile(admin, [`ALTER ROLE ${app} BYPASSRLS`], [`ALTER ROLE ${app} NOBYPASSRLS`]);
    expect(await refusals()).toEqual([
      `the role ${app} has BYPASSRLS, so tenants would not be apart: ALTER ROLE ${app} NOBYPASSRLS`,
    ]);
  });

  test('a role that may make roles', async () => {
    await meanwhile(admin, [`ALTER ROLE ${app} CREATEROLE`], [`ALTER ROLE ${app} NOCREATEROLE`]);
    expect(await refusals()).toEqual([expect.stringContaining('has CREATEROLE')]);
  });

  test('a member of the owner', async () => {
    await meanwhile(admin, [`GRANT sealog_owner TO ${app}`], [`REVOKE sealog_owner FROM ${app}`]);
    expect(await refusals()).toEqual([`the role ${app} is a member of sealog_owner: REVOKE sealog_owner FROM ${app}`]);
  });

  test('a member of the owner through another role', async () => {
    const between = `${app}_between`;
    await meanwhile(
      admin,
      [`CREATE ROLE ${between}`, `GRANT sealog_owner TO ${between}`, `GRANT ${between} TO ${app}`],
      [`DROP ROLE IF EXISTS ${between}`],
    );
    expect(await refusals()).toEqual([expect.stringContaining('is a member of sealog_owner')]);
  });

  test('a member of a superuser, of a role with BYPASSRLS, and of roles that reach files and programs', async () => {
    const boss = `${app}_boss`;
    const blind = `${app}_blind`;
    await meanwhile(
      admin,
      [
        `CREATE ROLE ${boss} SUPERUSER`,
        `CREATE ROLE ${blind} BYPASSRLS`,
        `GRANT ${boss}, ${blind}, pg_execute_server_program, pg_write_all_data TO ${app}`,
      ],
      [`REVOKE pg_execute_server_program, pg_write_all_data FROM ${app}`, `DROP ROLE IF EXISTS ${boss}, ${blind}`],
    );
    expect(await refusals()).toEqual(
      ['pg_execute_server_program', 'pg_write_all_data', blind, boss].map((power) =>
        expect.stringContaining(
          `the role ${app} may act as ${power}, past the log's privileges: REVOKE ${power} FROM ${app}`,
        ),
      ),
    );
  });

  test('a role that owns tables, functions, the schema, or the database', async () => {
    await meanwhile(
      admin,
      [
        `ALTER TABLE sealog.block OWNER TO ${app}`,
        `ALTER FUNCTION sealog.refuse_change() OWNER TO ${app}`,
        `ALTER SCHEMA sealog OWNER TO ${app}`,
        `ALTER DATABASE ${database.name} OWNER TO ${app}`,
      ],
      [
        'ALTER TABLE sealog.block OWNER TO sealog_owner',
        'ALTER FUNCTION sealog.refuse_change() OWNER TO sealog_owner',
        'ALTER SCHEMA sealog OWNER TO sealog_owner',
        `ALTER DATABASE ${database.name} OWNER TO postgres`,
      ],
    );
    expect(await refusals()).toEqual([
      `the role ${app} owns block, refuse_change in the schema sealog: these must belong to sealog_owner`,
      `the role ${app} owns the schema sealog and could drop its tables: it must belong to sealog_owner`,
      `the role ${app} owns the database ${database.name} and could drop it: ALTER DATABASE ${database.name} OWNER TO another role`,
    ]);
  });

  test('a role that may not act as the application', async () => {
    await meanwhile(
      admin,
      [`REVOKE sealog_writer, sealog_verifier FROM ${app}`],
      [`GRANT sealog_writer, sealog_verifier TO ${app}`],
    );
    expect(await refusals()).toEqual([
      `the role ${app} may not act as sealog_writer, sealog_verifier: run \`sealog migrate --app-role ${app}\``,
    ]);
  });

  test('a connection that does not keep its settings', async () => {
    const url = `${database.appUrl}${database.appUrl.includes('?') ? '&' : '?'}options=-c%20jit%3Doff`;
    expect((await gate({ connectionString: url })).refusals).toEqual([
      `a connection does not keep its settings (role ${app}, synchronous_commit on): take \`options\` out of DATABASE_URL, and let a pooler pass them on`,
    ]);
  });

  test('synchronous_commit off for the role or the database, though our connections set it', async () => {
    const role = [`ALTER ROLE ${app} SET synchronous_commit = off`, `ALTER ROLE ${app} RESET synchronous_commit`];
    await meanwhile(admin, role.slice(0, 1), role.slice(1));
    const off =
      'synchronous_commit is off: a receipt could be sent before its entry is durable; set synchronous_commit = on';
    expect(await refusals()).toEqual([off]);
    await run(admin, role[1]!, `ALTER DATABASE ${database.name} SET synchronous_commit = local`);
    expect(await refusals()).toEqual([off.replace('is off', 'is local')]);
    await run(admin, `ALTER DATABASE ${database.name} SET synchronous_commit = remote_apply`);
    expect(await refusals()).toEqual([]);
    await run(admin, `ALTER DATABASE ${database.name} RESET synchronous_commit`);
  });

  test('a schema that is older or newer', async () => {
    const [first] = await knownMigrations();
    const newer = '9999_of_tomorrow';
    await meanwhile(
      admin,
      [`INSERT INTO sealog.migration VALUES ('${newer}', now()::text)`],
      [`DELETE FROM sealog.migration WHERE name = '${newer}'`],
    );
    expect(await refusals()).toEqual([
      `the database's schema is newer than this version of Sealog (${newer}): install the newer version`,
    ]);
    await run(admin, `DELETE FROM sealog.migration WHERE name = '${newer}'`);
    await meanwhile(
      admin,
      [
        `UPDATE sealog.migration SET name = '0000_before' WHERE name = '${first}'`,
        `DELETE FROM sealog.migration WHERE name = '0000_before'`,
      ],
      [`INSERT INTO sealog.migration VALUES ('${first}', now()::text)`],
    );
    expect(await refusals()).toEqual([
      `the database's schema is older than this version of Sealog: run \`sealog migrate\` (${first} missing)`,
    ]);
  });

  test.each([
    [
      'disabled on a partition',
      'ALTER TABLE sealog.block_203001 DISABLE TRIGGER append_only',
      'append_only',
      'block_203001',
    ],
    [
      'not ALWAYS on a partition',
      'ALTER TABLE sealog.entry_id_203001 ENABLE TRIGGER append_only',
      'append_only',
      'entry_id_203001',
    ],
    [
      'disabled against TRUNCATE',
      'ALTER TABLE sealog.entry_id_203001 DISABLE TRIGGER no_truncate',
      'no_truncate',
      'entry_id_203001',
    ],
    ['enabled for replicas only', 'ALTER TABLE sealog.tile ENABLE REPLICA TRIGGER append_only', 'append_only', 'tile'],
    ['disabled on the heads', 'ALTER TABLE sealog.stream DISABLE TRIGGER guard', 'guard', 'stream'],
    ['disabled on what was found', 'ALTER TABLE sealog.erasure_entry DISABLE TRIGGER guard', 'guard', 'erasure_entry'],
    ['disabled on what is gone', 'ALTER TABLE sealog.erased DISABLE TRIGGER append_only', 'append_only', 'erased'],
    [
      'disabled on what was fixed',
      'ALTER TABLE sealog.deployment DISABLE TRIGGER append_only',
      'append_only',
      'deployment',
    ],
  ])('a trigger that is %s', async (_how, statement, trigger, table) => {
    await meanwhile(admin, [statement], [`ALTER TABLE sealog.${table} ENABLE ALWAYS TRIGGER ${trigger}`]);
    expect(await refusals()).toEqual([
      `the trigger ${trigger} of sealog.${table} is missing or not ENABLE ALWAYS: the table could be changed; verify the log, then restore the trigger`,
    ]);
  });

  test('a partition without the trigger against TRUNCATE, as one attached by hand', async () => {
    await meanwhile(
      admin,
      [
        'CREATE TABLE sealog.by_hand (LIKE sealog.entry_id INCLUDING ALL)',
        'ALTER TABLE sealog.entry_id ATTACH PARTITION sealog.by_hand FOR VALUES IN (203002)',
      ],
      ['DROP TABLE IF EXISTS sealog.by_hand'],
    );
    expect(await refusals()).toEqual([expect.stringContaining('the trigger no_truncate of sealog.by_hand is missing')]);
  });

  test.each(['DISABLE', 'NO FORCE'])('row-level security: %s', async (how) => {
    await meanwhile(
      admin,
      [`ALTER TABLE sealog.entry_id ${how} ROW LEVEL SECURITY`],
      ['ALTER TABLE sealog.entry_id ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY'],
    );
    expect(await refusals()).toEqual([
      'row-level security is not forced on sealog.entry_id: ALTER TABLE sealog.entry_id ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
    ]);
  });

  test('several reasons come together', async () => {
    await meanwhile(
      admin,
      [`ALTER ROLE ${app} BYPASSRLS CREATEROLE`, `ALTER DATABASE ${database.name} OWNER TO ${app}`],
      [`ALTER ROLE ${app} NOBYPASSRLS NOCREATEROLE`, `ALTER DATABASE ${database.name} OWNER TO postgres`],
    );
    expect(await refusals()).toHaveLength(3);
  });
});

describe('a database that was never migrated', () => {
  test('says so, without the roles as well as with them', async () => {
    const database = await createDatabase();
    onTestFinished(() => database.drop());
    const missing =
      'the schema is not there: run `sealog migrate` as a role that may create roles and schemas in this database';
    expect((await gate(database.appConfig)).refusals).toEqual([missing]);
    await run(database.adminConfig, 'CREATE SCHEMA sealog');
    expect((await gate(database.appConfig)).refusals).toEqual([missing]);
  });

  test.each(['SQL_ASCII', 'LATIN1'])('encoding %s', async (encoding) => {
    const server = inject('postgres');
    const name = `sealog_test_encoding_${encoding.toLowerCase()}_${process.pid}`;
    await run(server, `CREATE DATABASE ${name} TEMPLATE template0 ENCODING '${encoding}' LOCALE 'C'`);
    onTestFinished(() => run(server, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
    expect((await gate({ ...server, database: name })).refusals).toContain(
      `the encoding of the database is ${encoding}: create one with ENCODING 'UTF8'`,
    );
  });
});

describe('no connection', () => {
  test('says why, without the password', async () => {
    const database = await createDatabase();
    onTestFinished(() => database.drop());
    const password = 'not-the-password';
    const [wrong] = (await gate({ ...database.appConfig, password })).refusals;
    // Where the server trusts everybody (as some containers do on their socket) it can not be wrong.
    if (wrong?.startsWith('the schema') !== true)
      expect(wrong).toMatch(/^PostgreSQL refuses the login: .*; check user/);
    const [nowhere] = (await gate({ ...database.appConfig, database: 'sealog_no_such' })).refusals;
    expect(nowhere).toBe(
      `database "sealog_no_such" does not exist: create it with ENCODING 'UTF8', then run \`sealog migrate\``,
    );
    const [silence] = (await gate({ connectionString: `postgresql://sealog:${password}@127.0.0.1:1/sealog` })).refusals;
    expect(silence).toBe('the database can not be used: connect ECONNREFUSED 127.0.0.1:1');
    expect(`${wrong} ${nowhere} ${silence}`).not.toContain(password);
  });
});

describe('a server with settings of its own', () => {
  let server: PrivatePostgres;
  let app: pg.ClientConfig;

  beforeAll(async () => {
    server = await startPrivatePostgres();
    await run(server.admin, `CREATE DATABASE sealog TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`);
    await migrate({ ...server.admin, database: 'sealog' }, 'sealog');
    await run(server.admin, `ALTER ROLE sealog PASSWORD 'only-for-tests'`);
    app = { ...server.admin, user: 'sealog', password: 'only-for-tests', database: 'sealog' };
  });
  afterAll(() => server?.stop());

  /** Sets it for the server, until new connections see it. */
  async function set(name: string, value: string | undefined): Promise<void> {
    await run(server.admin, `ALTER SYSTEM ${value === undefined ? `RESET ${name}` : `SET ${name} = '${value}'`}`);
    await run(server.admin, 'SELECT pg_reload_conf()');
    for (;;) {
      const client = new pg.Client(server.admin);
      await client.connect();
      const { rows } = await client.query('SELECT setting, boot_val FROM pg_settings WHERE name = $1', [name]);
      await client.end();
      if (rows[0].setting === (value ?? rows[0].boot_val)) return;
      await delay(20);
    }
  }

  test('with the defaults it passes, and warns that there is one disk', async () => {
    expect(await gate(app)).toEqual({
      refusals: [],
      warnings: ['neither WAL archiving nor a synchronous standby: what this disk loses is lost'],
    });
  });

  test.each([
    ['fsync', 'off', 'fsync is off: a power cut would lose entries that have a receipt; set fsync = on'],
    [
      'full_page_writes',
      'off',
      'full_page_writes is off: a power cut could tear pages of the log; set full_page_writes = on',
    ],
    [
      'synchronous_commit',
      'off',
      'synchronous_commit is off: a receipt could be sent before its entry is durable; set synchronous_commit = on',
    ],
    [
      'synchronous_commit',
      'remote_write',
      'synchronous_commit is remote_write: a receipt could be sent before its entry is durable; set synchronous_commit = on',
    ],
    [
      'zero_damaged_pages',
      'on',
      'zero_damaged_pages is on: damage would be silently emptied; set zero_damaged_pages = off',
    ],
  ])('%s = %s is refused', async (name, value, reason) => {
    await set(name, value);
    onTestFinished(() => set(name, undefined));
    expect((await gate(app)).refusals).toEqual([reason]);
  });

  test('all at once, each has its reason', async () => {
    for (const name of ['fsync', 'full_page_writes', 'synchronous_commit']) {
      await set(name, 'off');
      onTestFinished(() => set(name, undefined));
    }
    expect((await gate(app)).refusals).toEqual([
      expect.stringMatching(/^fsync is off/),
      expect.stringMatching(/^full_page_writes is off/),
      expect.stringMatching(/^synchronous_commit is off/),
    ]);
  });

  test('ignore_checksum_failure is warned of', async () => {
    await set('ignore_checksum_failure', 'on');
    onTestFinished(() => set('ignore_checksum_failure', undefined));
    const { refusals, warnings } = await gate(app);
    expect(refusals).toEqual([]);
    expect(warnings).toContain('ignore_checksum_failure is on: damage on disk is not reported when it is read');
  });

  test('a remote client without encryption is warned of, and of waits without an end', async () => {
    // 127.0.0.2 is another address than the server's, though of the same machine.
    const stream = () => {
      const socket = new Socket();
      const connect = socket.connect.bind(socket) as (options: object) => Socket;
      const from = ((port: number, host: string) => connect({ port, host, localAddress: '127.0.0.2' })) as never;
      return Object.assign(socket, { connect: from });
    };
    const { refusals, warnings } = await gate({
      ...app,
      host: '127.0.0.1',
      port: server.port,
      stream,
    } as pg.ClientConfig);
    expect(refusals).toEqual([]);
    expect(warnings).toEqual([
      'neither WAL archiving nor a synchronous standby: what this disk loses is lost',
      'the connection to a remote database is not encrypted: add sslmode=verify-full to DATABASE_URL',
      'tcp_user_timeout is 0: the server keeps locks of a client that vanished for many minutes',
      'client_connection_check_interval is 0: the server notices a vanished client only when it answers',
    ]);
  });

  test('what can only be set at its start: data_sync_retry is refused, wal_level minimal warned of', async () => {
    await server.restart({ data_sync_retry: 'on', wal_level: 'minimal', max_wal_senders: '0' });
    const bad = await gate(app);
    expect(bad.refusals).toEqual([
      'data_sync_retry is on: a failed flush would be taken for a good one; set data_sync_retry = off',
    ]);
    expect(bad.warnings).toContain('wal_level is minimal: neither archiving nor a standby is possible');
    await server.restart({ archive_mode: 'on', archive_command: '/bin/true' });
    expect(await gate(app)).toEqual({ refusals: [], warnings: [] });
  });
});
