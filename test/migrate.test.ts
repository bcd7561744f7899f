/** Migrating, and what it leaves behind: who may do what to the log, tried as each role. */
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { SettingsError } from '../src/errors.ts';
import { asTenant, openDatabase } from '../src/store/database.ts';
import { openDump } from '../src/store/dump.ts';
import { Load } from '../src/store/load.ts';
import { knownMigrations, migrate } from '../src/store/migrate.ts';
import { checkSettings } from '../src/store/settings-gate.ts';
import { listStreams } from '../src/store/streams.ts';
import type { Tables } from '../src/store/tables.ts';
import { createDatabase, type TestDatabase } from './support/postgres.ts';
import { type PrivatePostgres, startPrivatePostgres } from './support/private-postgres.ts';
import { startService, type TestService } from './support/service.ts';

const INSUFFICIENT_PRIVILEGE = '42501';
const TABLES = ['deployment', 'tenant', 'stream', 'data_key', 'block', 'entry_id', 'tile'];
/** Of ids the reader has a function alone. */
const TENANT_TABLES = TABLES.filter((name) => !['deployment', 'entry_id'].includes(name));

async function run(connection: pg.ClientConfig, statement: string): Promise<void> {
  await withClient(connection, (client) => client.query(statement));
}

async function freshDatabase(): Promise<TestDatabase> {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  return database;
}

async function withClient<T>(connection: pg.ClientConfig, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client(connection);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Everything in the schema, as the catalogs describe it. */
async function describeSchema(connection: pg.ClientConfig): Promise<unknown> {
  return withClient(connection, async (client) => {
    const { rows } = await client.query(`
      SELECT c.relname::text AS name, c.relkind, pg_get_userbyid(c.relowner) AS owner, c.relacl::text, c.relrowsecurity, c.relforcerowsecurity,
             ARRAY(SELECT tgname::text || ' ' || tgenabled::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT tgisinternal ORDER BY 1) AS triggers,
             ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = c.oid ORDER BY 1) AS constraints,
             ARRAY(SELECT polname::text || coalesce(pg_get_expr(polqual, polrelid), '') FROM pg_policy p WHERE p.polrelid = c.oid ORDER BY 1) AS policies
      FROM pg_class c WHERE c.relnamespace = 'sealog'::regnamespace ORDER BY 1`);
    return rows;
  });
}

describe('migrate', () => {
  test('runs everything once, and then finds nothing to do', async () => {
    const database = await freshDatabase();
    expect(await migrate(database.adminConfig, database.appRole)).toEqual(await knownMigrations());
    const before = await describeSchema(database.adminConfig);
    expect(await migrate(database.adminConfig, database.appRole)).toEqual([]);
    expect(await describeSchema(database.adminConfig)).toEqual(before);
  });

  test('has nothing left to do in the copies that other tests start with', async () => {
    const database = await createDatabase('migrated');
    onTestFinished(() => database.drop());
    const about = () =>
      withClient(database.adminConfig, async (client) => [
        (await client.query('SELECT datacl::text FROM pg_database WHERE datname = current_database()')).rows,
        (
          await client.query(
            `SELECT to_jsonb(m) - 'oid' AS held FROM pg_auth_members AS m WHERE member = $1::regrole ORDER BY roleid`,
            [database.appRole],
          )
        ).rows,
        (await client.query('SELECT proname, proacl::text FROM pg_proc WHERE proacl IS NOT NULL ORDER BY oid')).rows,
      ]);
    const before = [await about(), await describeSchema(database.adminConfig)];
    expect(await migrate(database.adminConfig, database.appRole)).toEqual([]);
    expect([await about(), await describeSchema(database.adminConfig)]).toEqual(before);
  });

  test('two at once: one migrates, the other waits and finds it done', async () => {
    for (let round = 0; round < 3; round++) {
      const database = await freshDatabase();
      const role = `${database.appRole}_made`;
      onTestFinished(() => run(database.adminConfig, `DROP ROLE IF EXISTS ${role}`));
      const both = await Promise.all([migrate(database.adminConfig, role), migrate(database.adminConfig, role)]);
      expect(both.flat()).toEqual(await knownMigrations());
    }
  });

  test("makes the service's role where it is missing, with no more than it needs", async () => {
    const database = await freshDatabase();
    const role = `${database.appRole} "quoted"`;
    await migrate(database.adminConfig, role);
    await withClient(database.adminConfig, async (client) => {
      onTestFinished(() => run(database.adminConfig, `DROP ROLE ${pg.escapeIdentifier(role)}`));
      const { rows } = await client.query(
        `SELECT rolcanlogin, rolinherit, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication,
                ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1) AS may_act_as
         FROM pg_roles r WHERE rolname = $1`,
        [role],
      );
      expect(rows).toEqual([
        {
          rolcanlogin: true,
          rolinherit: false,
          rolsuper: false,
          rolbypassrls: false,
          rolcreatedb: false,
          rolcreaterole: false,
          rolreplication: false,
          may_act_as: ['sealog_reader', 'sealog_signer', 'sealog_verifier', 'sealog_writer'],
        },
      ]);
    });
  });

  test('refuses a schema that is newer than itself, and changes nothing', async () => {
    const database = await freshDatabase();
    await migrate(database.adminConfig, database.appRole);
    await withClient(database.adminConfig, (client) =>
      client.query(`INSERT INTO sealog.migration VALUES ('9999_of_tomorrow', now()::text)`),
    );
    await expect(migrate(database.adminConfig, database.appRole)).rejects.toThrow(
      new SettingsError([
        "the database's schema is newer than this version of Sealog (9999_of_tomorrow): install the newer version",
      ]),
    );
  });

  test('lets a program go on beside a newer schema that says so, to which its own migrating adds nothing', async () => {
    const database = await freshDatabase();
    await migrate(database.adminConfig, database.appRole);
    const version = (await knownMigrations()).at(-1)!.slice(0, 4);
    const name = `9998_of_tomorrow.beside-${version}`;
    await run(database.adminConfig, `INSERT INTO sealog.migration VALUES ('${name}', now()::text)`);
    expect(await migrate(database.adminConfig, database.appRole)).toEqual([]);
    const own = openDatabase({ connection: database.appConfig, readersMax: 1, log: { warn: () => {} } });
    onTestFinished(() => own.close());
    const { refusals, warnings } = await checkSettings(own.writer);
    expect([refusals, warnings]).toEqual([[], expect.arrayContaining([expect.stringContaining(name)])]);
    // One more, which says that only a program of tomorrow may.
    const later = '9999_of_the_day_after.beside-9998';
    await run(database.adminConfig, `INSERT INTO sealog.migration VALUES ('${later}', now()::text)`);
    await expect(migrate(database.adminConfig, database.appRole)).rejects.toThrow(later);
    expect((await checkSettings(own.writer)).refusals).toEqual([expect.stringContaining(`(${later})`)]);
  });

  test('does not change what connected services may not go on beside', async () => {
    const database = await freshDatabase();
    await migrate(database.adminConfig, database.appRole);
    // As it was before the newest.
    const newest = (await knownMigrations()).at(-1)!;
    await run(database.adminConfig, `DELETE FROM sealog.migration WHERE name = '${newest}'`);
    const service = openDatabase({ connection: database.appConfig, readersMax: 1, log: { warn: () => {} } });
    onTestFinished(() => service.close());
    await service.writer.query('SELECT 1');
    await expect(migrate(database.adminConfig, database.appRole)).rejects.toThrow(
      `can not go on beside ${newest}: stop them first`,
    );
  });

  test("refuses to let the migrator's own role in as the service's", async () => {
    const database = await freshDatabase();
    await expect(migrate(database.adminConfig, database.adminConfig.user)).rejects.toThrow(/can not migrate and be/);
    await withClient(database.adminConfig, async (client) => {
      const { rows } = await client.query(`SELECT to_regnamespace('sealog') IS NULL AS untouched`);
      expect(rows).toEqual([{ untouched: true }]);
    });
  });

  test('a role that may not is told by PostgreSQL, and nothing is left behind', async () => {
    const database = await freshDatabase();
    await expect(migrate(database.appConfig, 'another')).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
    await expect(describeSchema(database.adminConfig)).rejects.toThrow(/does not exist/);
  });
});

describe('an administrator who is no superuser', () => {
  let server: PrivatePostgres;
  beforeAll(async () => {
    server = await startPrivatePostgres();
  });
  afterAll(() => server?.stop());

  test('with CREATEROLE and a database of his own migrates it, and a second one', async () => {
    await withClient(server.admin, async (client) => {
      await client.query(`CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'only-for-tests'`);
      for (const name of ['first', 'second'])
        await client.query(`CREATE DATABASE ${name} OWNER keeper TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`);
    });
    for (const name of ['first', 'second']) {
      const keeper = { ...server.admin, user: 'keeper', password: 'only-for-tests', database: name };
      expect(await migrate(keeper, 'sealog_app')).toEqual(await knownMigrations());
      expect(await migrate(keeper, 'sealog_app')).toEqual([]);
      await withClient(keeper, (client) => client.query(`ALTER ROLE sealog_app PASSWORD 'only-for-tests'`));
      const connection = { ...keeper, user: 'sealog_app' };
      const database = openDatabase({ connection, readersMax: 1, log: { warn: () => {} } });
      expect((await checkSettings(database.writer)).refusals).toEqual([]);
      await database.close();
      await withClient(server.admin, async () => {
        const { rows } = await withClient({ ...server.admin, database: name }, (client) =>
          client.query(`SELECT DISTINCT pg_get_userbyid(relowner)::text AS owner FROM pg_class
                        WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p') AND relname NOT LIKE 'migration%'`),
        );
        expect(rows).toEqual([{ owner: 'sealog_owner' }]);
      });
    }
  });

  test('dumps what row-level security binds him to, and loads it where it is his to load', async () => {
    const keeper = (database: string) => ({ ...server.admin, user: 'keeper', password: 'only-for-tests', database });
    await withClient(server.admin, (client) =>
      client.query(`CREATE DATABASE third OWNER keeper TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`),
    );
    await withClient(keeper('first'), async (client) => {
      await client.query(`SET ROLE sealog_owner; INSERT INTO sealog.deployment (origin) VALUES ('log.example');
        INSERT INTO sealog.tenant (name) VALUES ('acme'), ('globex');
        INSERT INTO sealog.stream (tenant, category, epoch, name) VALUES (2, 'data_access', 1, 'globex/data_access')`);
    });
    const dump = await openDump(keeper('first'));
    expect(dump.facts).toMatchObject({ origin: 'log.example', heads: [{ stream: 'globex/data_access', size: 0 }] });
    const load = await Load.begin(keeper('third'), dump.facts);
    for await (const { table, stream } of dump.pieces()) await load.take(table, stream);
    await load.finish();
    await load.close();
    await dump.close();
    expect(await migrate(keeper('third'), 'sealog_app')).toEqual([]);
    const connection = { ...keeper('third'), user: 'sealog_app' };
    const database = openDatabase({ connection, readersMax: 1, log: { warn: () => {} } });
    expect((await checkSettings(database.writer)).refusals).toEqual([]);
    await database.close();
    // Numbers go on behind those that were given.
    const rows = await withClient(keeper('third'), async (client) => {
      await client.query('SET ROLE sealog_owner');
      await client.query(`INSERT INTO sealog.tenant (name) VALUES ('umbrella')`);
      return (await client.query('SELECT id, name FROM sealog.tenant ORDER BY id')).rows;
    });
    expect(rows).toEqual([
      { id: 1, name: 'acme' },
      { id: 2, name: 'globex' },
      { id: 3, name: 'umbrella' },
    ]);
    // As the verifier, which a restore verifies as.
    const asKeeper = openDatabase({ connection: keeper('third'), readersMax: 1, log: { warn: () => {} } });
    expect((await listStreams(asKeeper.verifier)).map(({ name }) => name)).toEqual(['globex/data_access']);
    await asKeeper.close();
  });
});

describe('a log with entries', () => {
  let service: TestService;
  /** A connection for each role. */
  const sessions = new Map<string, Promise<pg.Client>>();
  /** Every table, and a partition of each that has some, that holds rows. */
  const tables: string[] = [];

  beforeAll(async () => {
    service = await startService();
    const event = (id: number) => ({
      id: `e-${id}`,
      category: 'user_authentication',
      action: 'user.login',
      outcome: 'success',
      occurredAt: '2026-01-01T10:00:00Z',
      source: { service: 'test' },
      actor: { type: 'user', id: 'u-1' },
    });
    // More than a tile holds, so that the table of tiles is not empty.
    const events = Array.from({ length: 300 }, (_, id) => event(id));
    expect((await service.post('/v1/events/batch', events)).status).toBe(200);
    const token = await service.token('service', 'globex');
    expect((await service.post('/v1/events', event(0), { token })).status).toBe(201);
    const { rows } = await service.adminPool.query<{ name: string }>(`
      SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent IN ('sealog.block'::regclass, 'sealog.entry_id'::regclass)`);
    tables.push(...TABLES);
    for (const { name } of rows) {
      const { rows: found } = await service.adminPool.query(`SELECT FROM sealog.${name} LIMIT 1`);
      if (found.length > 0) tables.push(name);
    }
    expect(tables).toHaveLength(TABLES.length + 2);
  });
  afterAll(async () => {
    for (const session of sessions.values()) await (await session).end();
    await service?.checkLog();
    await service?.stop();
  });

  /** Runs a statement as a role of the application and returns its error's code, or what came back. */
  async function as(role: string, statement: string): Promise<unknown> {
    let session = sessions.get(role);
    if (session === undefined) {
      session = sessionOf(role);
      sessions.set(role, session);
    }
    const client = await session;
    try {
      const { rowCount } = await client.query(statement);
      return `done, ${rowCount} rows`;
    } catch (error) {
      return (error as pg.DatabaseError).code;
    }
  }

  async function sessionOf(role: string): Promise<pg.Client> {
    const client = new pg.Client(service.database.appConfig);
    await client.connect();
    if (role !== 'the login role') await client.query(`SET ROLE ${role}`);
    return client;
  }

  describe.each(['the login role', 'sealog_writer', 'sealog_reader', 'sealog_verifier'])('as %s', (role) => {
    const column: Record<string, string> = {
      deployment: 'origin',
      tenant: 'name',
      stream: 'name',
      data_key: 'wrapped',
    };

    test('nothing can be changed, deleted, emptied, dropped or altered', async () => {
      const done: unknown[] = [];
      for (const table of tables) {
        const changed = column[table] ?? 'tenant';
        for (const statement of [
          `UPDATE sealog.${table} SET ${changed} = ${changed}`,
          `DELETE FROM sealog.${table}`,
          `TRUNCATE sealog.${table}`,
          `TRUNCATE sealog.${table} CASCADE`,
          `DROP TABLE sealog.${table}`,
          `ALTER TABLE sealog.${table} DISABLE TRIGGER ALL`,
          `ALTER TABLE sealog.${table} DISABLE TRIGGER append_only`,
          `ALTER TABLE sealog.${table} NO FORCE ROW LEVEL SECURITY`,
          `ALTER TABLE sealog.${table} ADD COLUMN more text`,
          `ALTER TABLE sealog.${table} OWNER TO ${service.database.appRole}`,
          `CREATE POLICY mine ON sealog.${table} USING (true)`,
          `CREATE RULE mine AS ON INSERT TO sealog.${table} DO INSTEAD NOTHING`,
          `DROP TRIGGER append_only ON sealog.${table}`,
          `MERGE INTO sealog.${table} USING (VALUES (1)) AS v ON true WHEN MATCHED THEN DELETE`,
        ]) {
          const code = await as(role, statement);
          if (code !== INSUFFICIENT_PRIVILEGE) done.push({ statement, code });
        }
      }
      expect(done).toEqual([]);
    });

    test('privileges can not be handed on', async () => {
      const mine = service.database.appRole;
      for (const table of tables) await as(role, `GRANT ALL ON sealog.${table} TO ${mine}`);
      const { rows } = await service.adminPool.query(
        `SELECT relname FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p')
         AND has_table_privilege($1, oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')`,
        [mine],
      );
      expect(rows).toEqual([]);
    });

    test('a conflict can not be made an update', async () => {
      const statement = `INSERT INTO sealog.deployment (origin) VALUES ('other.example')
                         ON CONFLICT (one) DO UPDATE SET origin = excluded.origin`;
      expect(await as(role, statement)).toBe(INSUFFICIENT_PRIVILEGE);
    });

    test.each([
      'SET ROLE sealog_owner',
      'SET SESSION AUTHORIZATION postgres',
      'SET session_replication_role = replica',
      'SET row_security = off; SELECT * FROM sealog.block',
      'ALTER TABLE sealog.block DETACH PARTITION sealog.block_for_ever',
      'DROP FUNCTION sealog.refuse_change() CASCADE',
      'CREATE OR REPLACE FUNCTION sealog.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$',
      'CREATE TABLE sealog.mine (a integer)',
      'DROP SCHEMA sealog CASCADE',
      'DELETE FROM sealog.migration',
      "COPY sealog.block TO PROGRAM 'cat'",
      "COPY sealog.block FROM '/etc/passwd'",
      "SELECT pg_read_file('/etc/passwd')",
      "SELECT lo_import('/etc/passwd')",
      'CREATE EXTENSION file_fdw',
      'ALTER SYSTEM SET fsync = off',
      'ALTER ROLE CURRENT_USER SUPERUSER',
      'GRANT sealog_owner TO CURRENT_USER',
    ])('refused: %s', async (statement) => {
      expect(await as(role, statement)).toBe(INSUFFICIENT_PRIVILEGE);
    });

    test('a partition is not a way around its table', async () => {
      for (const table of tables.slice(TABLES.length)) {
        expect(await as(role, `SELECT FROM sealog.${table}`)).toBe(INSUFFICIENT_PRIVILEGE);
        expect(await as(role, `INSERT INTO sealog.${table} SELECT * FROM sealog.${table}`)).toBe(
          INSUFFICIENT_PRIVILEGE,
        );
      }
    });
  });

  test('the login role has nothing of its own', async () => {
    for (const table of TABLES)
      expect(await as('the login role', `SELECT FROM sealog.${table}`)).toBe(INSUFFICIENT_PRIVILEGE);
  });

  test('the reader and the verifier write nothing', async () => {
    for (const role of ['sealog_reader', 'sealog_verifier']) {
      expect(await as(role, `INSERT INTO sealog.tenant (name) VALUES ('initech')`)).toBe(INSUFFICIENT_PRIVILEGE);
      expect(await as(role, `SELECT sealog.ensure_drop_month(209901)`)).toBe(INSUFFICIENT_PRIVILEGE);
      expect(await as(role, `SELECT FROM sealog.stream FOR UPDATE`)).toBe(INSUFFICIENT_PRIVILEGE);
    }
  });

  test('the reader sees the tenant that its transaction names, and without one nothing', async () => {
    const database = openDatabase({ connection: service.database.appConfig, readersMax: 1, log: { warn: () => {} } });
    const { rows: tenants } = await service.adminPool.query<{ id: number; name: string }>(
      'SELECT id, name FROM sealog.tenant',
    );
    expect(tenants.length).toBeGreaterThanOrEqual(2);
    for (const table of TENANT_TABLES) {
      expect(await as('sealog_reader', `SELECT FROM sealog.${table}`)).toBe('done, 0 rows');
      const column = table === 'tenant' ? 'id' : 'tenant';
      const { rows: stored } = await service.adminPool.query(
        `SELECT ${column} AS tenant, count(*)::integer AS rows FROM sealog.${table} GROUP BY 1`,
      );
      for (const { id } of tenants) {
        const asked = async (transaction: Kysely<Tables>) => {
          const { rows } = await sql`SELECT ${sql.ref(column)} AS tenant, count(*)::integer AS rows
                                     FROM ${sql.table(`sealog.${table}`)} AS t GROUP BY 1`.execute(transaction);
          return rows;
        };
        // Without the application's own filter, which this is independent of.
        const seen = await asTenant(database.reader, id, asked, false);
        expect(seen).toEqual(stored.filter((row) => row.tenant === id));
      }
    }
    // The name of the tenant ends with the transaction: what comes next on the same connection sees nothing again.
    expect((await database.reader.query('SELECT FROM sealog.tenant')).rowCount).toBe(0);
    await database.close();
  });

  test('a head only moves forward, and its name stays', async () => {
    for (const change of [
      'size = size',
      'size = size - 1',
      'size = size + 1, recorded_at = recorded_at - 1',
      'size = size + 1, retain_until = retain_until - 1',
    ]) {
      expect(await as('sealog_writer', `UPDATE sealog.stream SET ${change}`)).toBe(INSUFFICIENT_PRIVILEGE);
      await expect(service.adminPool.query(`UPDATE sealog.stream SET ${change}`)).rejects.toThrow(/only moves forward/);
    }
    for (const change of ["name = 'other'", 'tenant = 2', "category = 'data_access'", 'epoch = 2']) {
      await expect(service.adminPool.query(`UPDATE sealog.stream SET size = size + 1, ${change}`)).rejects.toThrow(
        /only moves forward/,
      );
    }
  });

  describe.each(['origin', 'replica', 'local'])('a superuser under session_replication_role %s', (replication) => {
    test('is refused by the triggers: UPDATE, DELETE, TRUNCATE, of tables and partitions', async () => {
      const done: unknown[] = [];
      await withClient(service.database.adminConfig, async (client) => {
        await client.query(`SET session_replication_role = ${replication}`);
        for (const table of tables) {
          const changed = { deployment: 'origin', tenant: 'name' }[table] ?? 'tenant';
          for (const statement of [
            `UPDATE sealog.${table} SET ${changed} = ${changed}`,
            `DELETE FROM sealog.${table}`,
            `TRUNCATE sealog.${table}`,
            `TRUNCATE sealog.${table} CASCADE`,
          ]) {
            const code = await client.query(statement).then(
              ({ rowCount }) => `done, ${rowCount} rows`,
              (error: pg.DatabaseError) => error.code,
            );
            // A foreign key refuses some before the trigger does.
            if (code !== INSUFFICIENT_PRIVILEGE && code !== '0A000') done.push({ statement, code });
          }
        }
      });
      expect(done).toEqual([]);
    });
  });

  test('partitions made later are guarded alike', async () => {
    await service.adminPool.query('SELECT sealog.ensure_drop_month(209812)');
    const { rows } = await service.adminPool.query(`
      SELECT c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner, c.relacl::text AS privileges,
             ARRAY(SELECT tgname::text || ' ' || tgenabled::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT tgisinternal ORDER BY 1) AS triggers
      FROM pg_class c WHERE relname LIKE '%\\_209812' AND relkind = 'r' ORDER BY 1`);
    expect(rows).toEqual(
      ['block_209812', 'entry_id_209812'].map((name) => ({
        name,
        owner: 'sealog_owner',
        privileges: null,
        triggers: ['append_only A', 'no_truncate A'],
      })),
    );
    for (const month of [2, 197000, 202613, 1000013, -1])
      await expect(service.adminPool.query('SELECT sealog.ensure_drop_month($1)', [month])).rejects.toThrow(
        /not a drop month/,
      );
  });
});
