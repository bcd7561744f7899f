/**
 * Every role of the database that the application uses, and everything that it may not do, tried over connections as the service makes them:
 * with a login of its own for each role, and its role taken at connecting.
 *
 * What a role may do is the list below, written by hand. The tables and columns that are tried come from the catalogue, so that a new one is
 * refused to everybody until it is in the list.
 */
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { readConfig } from '../src/config.ts';
import { lockDataDir } from '../src/store/data-dir-lock.ts';
import { APP_ROLES, type AppRole, type Logins, openDatabase } from '../src/store/database.ts';
import { type ConnectionConfig, startEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { migrate } from '../src/store/migrate.ts';
import { checkSettings } from '../src/store/settings-gate.ts';
import { SignerLease } from '../src/store/signer.ts';
import { createDatabase, createLogins, urlOf } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { startService, type TestService } from './support/service.ts';

const run = promisify(execFile);
const REFUSED = '42501';

interface May {
  /** Tables, or columns of them. */
  readonly select: readonly (string | readonly [table: string, columns: readonly string[]])[];
  readonly insert: Readonly<Record<string, readonly string[]>>;
  readonly update: Readonly<Record<string, readonly string[]>>;
  readonly execute: readonly string[];
}

const TREES = ['tenant', 'stream', 'block', 'tile', 'tile_edge', 'checkpoint', 'verification'];
/** What finds an entry that is kept for ever by its id. */
const OF_IDS = ['id_hash(text)', 'id_half(uuid)', 'id_rest(uuid)', 'kept_places(uuid)'];
/** The deployment's, and what lies beneath proofs. */
const OF_THE_DEPLOYMENT = ['deployment', 'tenant_setting', 'key_statement', 'anchor_leaf', 'outside_evidence'];
const OF_RETENTION = ['retention_policy', 'retention_floor'];
const OF_PRUNING = ['pruning', 'pruning_certificate', 'hold'];
const OF_CALLERS = ['proposal', 'api_key', 'sink', 'sink_cursor'];
const OF_KEYS = ['data_key', 'data_key_form', 'key_generation'];
const OF_ERASURES = ['erasure', 'erasure_entry', 'erased'];

const MAY: Readonly<Record<AppRole, May>> = {
  // Appends what clients send, and stores what they ask for. Never again changes what was appended.
  sealog_writer: {
    select: [
      ...[...TREES, 'entry_id'],
      ...OF_THE_DEPLOYMENT,
      ...OF_CALLERS,
      ...OF_RETENTION,
      ...OF_KEYS,
      ...OF_ERASURES,
      ...OF_PRUNING,
      'signer',
      'migration',
      'clock_mark',
    ],
    insert: {
      tile_edge: ['tenant', 'stream', 'tile_index', 'width', 'hashes'],
      pruning: ['drop_month', 'requested_by', 'outside'],
      hold: ['id', 'tenant', 'category', 'epoch', 'criteria', 'reason', 'placed_by'],
      pruning_certificate: ['run', 'tenant', 'stream', 'first_seq', 'end_seq', 'retain_until', 'certificate'],
      deployment: ['origin'],
      tenant: ['name'],
      tenant_setting: [
        ...['tenant', 'number', 'state', 'events_per_second', 'burst_events', 'bytes_per_second', 'reads_per_second'],
        ...['by', 'reason'],
      ],
      // Its first epoch, no other.
      stream: ['tenant', 'category', 'name'],
      data_key: ['tenant', 'stream', 'drop_month', 'month_key', 'wrapped'],
      data_key_form: ['data_key', 'generation', 'month_key', 'wrapped'],
      key_generation: ['generation', 'begun_by'],
      block: [
        ...['tenant', 'stream', 'first_seq', 'entries', 'drop_month', 'recorded_from', 'recorded_to', 'occurred_from'],
        ...['occurred_to', 'key_id', 'severity_min', 'severity_max', 'outcomes', 'records', 'parts', 'tags'],
      ],
      entry_id: ['tenant', 'stream', 'first_seq', 'drop_month', 'ids', 'ids_rest'],
      tile: ['tenant', 'stream', 'level', 'tile_index', 'hashes', 'root'],
      outside_evidence: [
        ...['anchor', 'kind', 'stream', 'size', 'note', 'evidence', 'certificates', 'crls', 'evidence_time', 'ends'],
      ],
      verification: ['kind', 'tenant', 'category', 'requested_by', 'progress'],
      proposal: ['id', 'tenant', 'kind', 'request', 'reason', 'proposed_by'],
      erasure: ['id', 'tenant'],
      erasure_entry: ['erasure', 'tenant', 'stream', 'seq', 'event_id', 'parts', 'refused', 'hold'],
      api_key: ['id', 'tenant', 'name', 'hash', 'categories', 'sites', 'created_by', 'expires_at'],
      sink: ['id', 'tenant', 'name', 'config', 'secret', 'secret_key', 'state', 'from_file', 'created_by'],
      sink_cursor: ['sink', 'tenant', 'stream', 'next_seq', 'parked_at', 'parked_reason'],
    },
    update: {
      stream: ['size', 'head', 'frontier', 'recorded_at', 'retain_until'],
      verification: [
        ...[
          'state',
          'progress',
          'verdict',
          'report',
          'error',
          'attempts',
          'owner',
          'heartbeat',
          'started_at',
          'finished_at',
        ],
      ],
      proposal: ['state', 'decided_by', 'decision_reason'],
      erasure: ['state', 'blocks', 'more'],
      erasure_entry: ['refused', 'hold'],
      api_key: [
        ...[
          'hash',
          'hash_used',
          'previous_hash',
          'previous_until',
          'rotated_at',
          'revoked_at',
          'revoked_by',
          'last_used_at',
        ],
      ],
      sink: [
        ...['name', 'config', 'secret', 'secret_key', 'state', 'revision', 'owner', 'heartbeat', 'delivered_at'],
        ...['failures', 'error', 'error_at', 'retry_at'],
      ],
      sink_cursor: ['next_seq', 'parked_at', 'parked_reason'],
      key_generation: ['rewrapped_at', 'retired_at'],
      pruning: ['state', 'waiting'],
      hold: ['state'],
      pruning_certificate: ['entry_stream', 'entry_seq'],
      clock_mark: ['seen', 'doubted_since'],
    },
    execute: [
      ...['ensure_drop_month(integer)', 'is_tick(bytea)', 'plan_erasure(uuid, bigint)', 'finish_erasure(uuid)'],
      ...['is_erasure_certified(uuid, integer)', 'erase_parts(uuid, integer, bigint, integer, bytea, bytea, bigint[])'],
      ...[...OF_IDS, 'anchored_at(integer, bigint)', 'drop_month(uuid)'],
      ...['release_hold(uuid)', 'look_at_holds(uuid)', 'has_newer_holds(uuid)', 'month_of_held()'],
      'move_held(uuid, integer, bigint, bytea, jsonb, bytea[], bytea[])',
      'set_retention(integer, text, integer, integer, text, text, text)',
    ],
  },
  // Answers clients, one tenant at a time. Nothing secret: no hash of an API key, no sealed secret, no wrapped key.
  sealog_reader: {
    select: [
      ...[...TREES, 'retention_policy', 'proposal', 'sink_cursor', 'migration', 'hold', ...OF_ERASURES],
      ['data_key', ['id', 'tenant', 'stream', 'drop_month']],
      [
        'api_key',
        [
          ...['id', 'tenant', 'name', 'categories', 'sites', 'created_at', 'created_by', 'expires_at', 'rotated_at'],
          ...['previous_until', 'revoked_at', 'revoked_by', 'last_used_at'],
        ],
      ],
      [
        'sink',
        [
          ...['id', 'tenant', 'name', 'config', 'state', 'revision', 'from_file', 'created_at', 'created_by'],
          ...['delivered_at', 'failures', 'error', 'error_at', 'retry_at'],
        ],
      ],
    ],
    insert: {},
    update: {},
    execute: ['own_places(uuid)', 'own_tagged_blocks(integer, integer, bigint[], boolean, bigint, integer)'],
  },
  // Reads entries, their trees and what vouches for them.
  sealog_verifier: {
    select: [...TREES, 'entry_id', ...OF_THE_DEPLOYMENT, ...OF_KEYS, ...OF_PRUNING, 'signer', 'migration', 'erased'],
    insert: {},
    update: {},
    execute: [
      ...[...OF_IDS, 'is_tick(bytea)', 'places(uuid)', 'placed_tag(bigint, integer, bigint)'],
      'tagged_blocks(integer, integer, bigint[], boolean, bigint, integer)',
    ],
  },
  // Signs, anchors, and lets the database in. Never appends.
  sealog_signer: {
    select: [
      ...['deployment', 'tenant', 'stream', 'entry_id', 'tile', 'signer', 'key_statement', 'checkpoint', 'anchor_leaf'],
      ...['outside_evidence', 'retention_floor', 'tile_edge'],
      ['proposal', ['id', 'number', 'kind', 'state', 'plan']],
      ['block', ['tenant', 'stream', 'first_seq', 'entries', 'drop_month', 'records']],
    ],
    insert: {
      signer: ['system_identifier', 'timeline', 'incarnation', 'refusal'],
      key_statement: ['name', 'generation', 'vkey', 'note'],
      checkpoint: ['stream', 'tenant', 'size', 'root', 'generation', 'note'],
      anchor_leaf: ['tick', 'position', 'hash', 'tenant', 'stream', 'size', 'root', 'blind', 'evidence'],
      retention_floor: ['category', 'months'],
      // A recovery opens an epoch.
      tenant: ['name'],
      stream: ['tenant', 'category', 'epoch', 'name'],
    },
    update: {
      signer: ['system_identifier', 'timeline', 'incarnation', 'refusal', 'looked_at'],
      checkpoint: ['size', 'root', 'generation', 'note', 'signed_at'],
      stream: ['closed', 'turned'],
      retention_floor: ['months'],
      proposal: ['state', 'plan', 'error'],
    },
    execute: [
      ...[...OF_IDS, 'is_tick(bytea)', 'turn_epoch(text)'],
      'erase_again(text, bigint[], integer, bigint, integer, bytea, bytea, bigint[], text[])',
    ],
  },
};

interface Column {
  readonly relation: string;
  readonly column: string;
  readonly type: string;
  /** Its values are always the database's own. */
  readonly isIdentity: boolean;
}

let service: TestService;
let columns: Column[];
/** Tables, partitions, views and sequences of the schema. */
let relations: { name: string; kind: string; isPartition: boolean }[];
/** A session for each role, and one for each login without its role. */
const sessions = new Map<string, pg.Client>();
/** Of the first of them. */
const names: string[] = [...APP_ROLES, ...APP_ROLES.map((role) => `the login of ${role}`)];

beforeAll(async () => {
  service = await startService({ ownLogins: true, environment: { SEALOG_ANCHOR_SECONDS: '1' } });
  const event = (id: number) => ({
    id: `e-${id}`,
    category: 'user_authentication',
    action: 'user.login',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: 'u-1' },
  });
  // More than a tile holds.
  const events = Array.from({ length: 300 }, (_, id) => event(id));
  expect((await service.post('/v1/events/batch', events)).status).toBe(200);
  const token = await service.token('service', 'globex');
  expect((await service.post('/v1/events?wait=checkpoint', event(0), { token })).status).toBe(201);
  columns = (
    await service.adminPool.query<Column>(`
      SELECT c.relname::text AS relation, a.attname::text AS column, format_type(a.atttypid, a.atttypmod) AS type,
             a.attidentity = 'a' AS "isIdentity"
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, a.attnum`)
  ).rows;
  relations = (
    await service.adminPool.query(`
      SELECT relname::text AS name, relkind::text AS kind, relispartition AS "isPartition"
      FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY 1`)
  ).rows;
  expect(relations.filter(({ isPartition }) => isPartition).length).toBeGreaterThan(20);
  for (const role of APP_ROLES) {
    sessions.set(role, await connect(loginOf(role), role));
    sessions.set(`the login of ${role}`, await connect(loginOf(role)));
  }
});

afterAll(async () => {
  for (const session of sessions.values()) await session.end();
  await service?.checkLog();
  await service?.stop();
});

function loginOf(role: AppRole): ConnectionConfig {
  const { appConfig } = service.database;
  const of = { sealog_reader: 'reader', sealog_verifier: 'verifier', sealog_signer: 'signer' } as const;
  return role === 'sealog_writer' ? appConfig : service.logins![of[role]];
}

async function connect(login: pg.ClientConfig, role?: string): Promise<pg.Client> {
  const client = new pg.Client({ ...login, ...(role === undefined ? {} : { options: `-c role=${role}` }) });
  client.on('error', () => {});
  await client.connect();
  return client;
}

/** Runs statements in a transaction that is rolled back, and returns the error's code, or `done`. */
async function attempt(name: string, ...statements: readonly string[]): Promise<string> {
  const client = sessions.get(name)!;
  await client.query('BEGIN');
  try {
    for (const statement of statements) await client.query(statement);
    return 'done';
  } catch (error) {
    return (error as pg.DatabaseError).code ?? String(error);
  } finally {
    await client.query('ROLLBACK');
  }
}

/** Runs a statement that can not run in a transaction. */
async function attemptAlone(name: string, statement: string): Promise<string> {
  try {
    await sessions.get(name)!.query(statement);
    return 'done';
  } catch (error) {
    return (error as pg.DatabaseError).code ?? String(error);
  }
}

const q = pg.escapeIdentifier;

function isThere(table: string): boolean {
  return relations.some(({ name }) => name === table);
}

describe.each(APP_ROLES)('as %s', (role) => {
  const may = MAY[role];

  test('each column of each table and partition is read, inserted and updated as the list says, and in no other way', async () => {
    const wanted = new Set<string>();
    for (const one of may.select) {
      const [table, some] = typeof one === 'string' ? [one, undefined] : one;
      for (const { relation, column } of columns)
        if (relation === table && (some === undefined || some.includes(column)))
          wanted.add(`SELECT ${relation}.${column}`);
    }
    for (const [verb, lists] of Object.entries({ INSERT: may.insert, UPDATE: may.update }))
      for (const [table, list] of Object.entries(lists))
        if (isThere(table)) for (const column of list) wanted.add(`${verb} ${table}.${column}`);

    const allowed = new Set<string>();
    const odd: string[] = [];
    for (const { relation, column, type, isIdentity } of columns) {
      const table = `sealog.${q(relation)}`;
      const overriding = isIdentity ? 'OVERRIDING SYSTEM VALUE' : '';
      const statements = {
        SELECT: `SELECT ${q(column)} FROM ${table} LIMIT 0`,
        INSERT: `INSERT INTO ${table} (${q(column)}) ${overriding} SELECT NULL::${type} WHERE false`,
        UPDATE: `UPDATE ${table} SET ${q(column)} = ${isIdentity ? 'DEFAULT' : `NULL::${type}`} WHERE false`,
      };
      for (const [verb, statement] of Object.entries(statements)) {
        const answer = await attempt(role, statement);
        if (answer === 'done') allowed.add(`${verb} ${relation}.${column}`);
        else if (answer !== REFUSED) odd.push(`${statement}: ${answer}`);
      }
    }
    expect(odd).toEqual([]);
    expect([...allowed].sort()).toEqual([...wanted].sort());
  });

  test('nothing is deleted, emptied, locked, dropped, altered or rebuilt: no table, no partition, no sequence', async () => {
    const done: string[] = [];
    for (const { name, kind } of relations) {
      const table = `sealog.${q(name)}`;
      const statements =
        kind === 'S'
          ? [
              `SELECT nextval('${table}')`,
              `SELECT setval('${table}', 1)`,
              `SELECT last_value FROM ${table}`,
              `ALTER SEQUENCE ${table} RESTART`,
              `DROP SEQUENCE ${table}`,
            ]
          : [
              `DELETE FROM ${table}`,
              `DELETE FROM ${table} WHERE false`,
              `MERGE INTO ${table} USING (VALUES (1)) AS v ON true WHEN MATCHED THEN DELETE`,
              `TRUNCATE ${table}`,
              `TRUNCATE ${table} CASCADE`,
              `TRUNCATE ${table} RESTART IDENTITY`,
              ...['SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE'].map(
                (mode) => `LOCK TABLE ${table} IN ${mode} MODE NOWAIT`,
              ),
              `DROP TABLE ${table}`,
              `DROP TABLE ${table} CASCADE`,
              `ALTER TABLE ${table} DISABLE TRIGGER ALL`,
              `ALTER TABLE ${table} DISABLE TRIGGER USER`,
              `ALTER TABLE ${table} DISABLE TRIGGER append_only`,
              `ALTER TABLE ${table} ENABLE REPLICA TRIGGER no_truncate`,
              `ALTER TABLE ${table} DISABLE ROW LEVEL SECURITY`,
              `ALTER TABLE ${table} NO FORCE ROW LEVEL SECURITY`,
              `ALTER TABLE ${table} OWNER TO CURRENT_USER`,
              `ALTER TABLE ${table} RENAME TO other`,
              `ALTER TABLE ${table} SET SCHEMA public`,
              `ALTER TABLE ${table} ADD COLUMN more text`,
              `ALTER TABLE ${table} SET (autovacuum_enabled = false)`,
              `DROP TRIGGER append_only ON ${table}`,
              `DROP POLICY reader ON ${table}`,
              `ALTER POLICY reader ON ${table} USING (true)`,
              `CREATE POLICY mine ON ${table} USING (true)`,
              `CREATE RULE mine AS ON INSERT TO ${table} DO INSTEAD NOTHING`,
              `CREATE TRIGGER mine BEFORE INSERT ON ${table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
              `CREATE INDEX mine ON ${table} ((1))`,
              `CREATE STATISTICS mine ON ctid, tableoid FROM ${table}`,
              `COMMENT ON TABLE ${table} IS 'mine'`,
              `REINDEX TABLE ${table}`,
              `COPY ${table} TO '/tmp/sealog-test-roles'`,
              `COPY ${table} FROM '/etc/passwd'`,
              `COPY ${table} TO PROGRAM 'true'`,
              `COPY ${table} FROM PROGRAM 'true'`,
            ];
      for (const statement of statements) {
        const answer = await attempt(role, statement);
        // What PostgreSQL finds wrong with a statement before it looks who asks: statistics on system columns, and what is not there.
        const isOdd =
          (answer === '0A000' && statement.startsWith('CREATE STATISTICS')) ||
          (answer === '42704' && /^DROP (POLICY|TRIGGER)/.test(statement));
        if (answer !== REFUSED && !isOdd) done.push(`${statement}: ${answer}`);
      }
    }
    expect(done).toEqual([]);
  });

  test('no row can be locked but those that it may update', async () => {
    const locked: string[] = [];
    for (const { name, kind } of relations) {
      if (kind === 'S') continue;
      for (const strength of ['UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE']) {
        const answer = await attempt(role, `SELECT FROM sealog.${q(name)} FOR ${strength} SKIP LOCKED`);
        if (answer === 'done') locked.push(name);
        else expect([REFUSED, '42P01']).toContain(answer);
      }
    }
    expect([...new Set(locked)].sort()).toEqual(Object.keys(may.update).filter(isThere).sort());
  });

  test('the functions of the schema are called as the list says', async () => {
    const { rows } = await sessions.get(role)!.query<{ name: string }>(
      `SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name FROM pg_proc AS p
         WHERE p.pronamespace = 'sealog'::regnamespace AND has_function_privilege(p.oid, 'EXECUTE')`,
    );
    const called = rows.map(({ name }) => name.replace(/\w+ (?=bytea|integer|uuid|bigint|text|jsonb|boolean)/g, ''));
    expect(called.sort()).toEqual([...may.execute].sort());
  });

  test('privileges can not be handed on', async () => {
    const before = await privileges();
    for (const { name } of relations) {
      await attemptAlone(role, `GRANT ALL ON sealog.${q(name)} TO PUBLIC`);
      await attemptAlone(role, `GRANT SELECT ON sealog.${q(name)} TO sealog_reader WITH GRANT OPTION`);
    }
    for (const statement of [
      'GRANT ALL ON SCHEMA sealog TO PUBLIC',
      'GRANT ALL ON ALL TABLES IN SCHEMA sealog TO PUBLIC',
      `GRANT ALL ON DATABASE ${service.database.name} TO PUBLIC`,
      'GRANT ALL ON ALL FUNCTIONS IN SCHEMA sealog TO PUBLIC',
      'ALTER DEFAULT PRIVILEGES FOR ROLE sealog_owner GRANT ALL ON TABLES TO PUBLIC',
    ])
      await attemptAlone(role, statement);
    expect(await privileges()).toEqual(before);
  });
});

/** Who may what, as the catalogues have it. */
async function privileges(): Promise<unknown> {
  const { rows } = await service.adminPool.query(`
    SELECT 'relation' AS what, oid::regclass::text AS name, relacl::text AS acl FROM pg_class WHERE relnamespace IN ('sealog'::regnamespace, 'public'::regnamespace)
    UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL
    UNION ALL SELECT 'function', oid::regprocedure::text, proacl::text FROM pg_proc WHERE pronamespace = 'sealog'::regnamespace
    UNION ALL SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT 'database', datname, datacl::text FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'default', defaclrole::regrole::text, defaclacl::text FROM pg_default_acl
    ORDER BY 1, 2`);
  return rows;
}

/** Refused to every role and every login. `$ADMIN` is the superuser, `$DB` the database, `$PID` a session of another login. */
const REFUSED_STATEMENTS: readonly string[] = [
  // To become somebody else.
  'SET ROLE sealog_owner',
  'SET ROLE $ADMIN',
  ...['pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files'].map(
    (r) => `SET ROLE ${r}`,
  ),
  ...['pg_execute_server_program', 'pg_signal_backend', 'pg_monitor', 'pg_database_owner'].map((r) => `SET ROLE ${r}`),
  ...['pg_read_all_settings', 'pg_stat_scan_tables', 'pg_checkpoint'].map((r) => `SET ROLE ${r}`),
  "SELECT set_config('role', 'sealog_owner', false)",
  "SELECT set_config('role', '$ADMIN', true)",
  'SET SESSION AUTHORIZATION $ADMIN',
  'SET SESSION AUTHORIZATION sealog_owner',
  'SET SESSION AUTHORIZATION $OTHER_LOGIN',
  "SELECT set_config('session_authorization', '$ADMIN', false)",
  'GRANT sealog_owner TO CURRENT_USER',
  'GRANT sealog_owner TO SESSION_USER',
  'GRANT pg_execute_server_program TO SESSION_USER',
  'GRANT $ADMIN TO SESSION_USER',
  'ALTER ROLE CURRENT_USER SUPERUSER',
  'ALTER ROLE SESSION_USER SUPERUSER',
  'ALTER ROLE SESSION_USER BYPASSRLS',
  'ALTER ROLE SESSION_USER CREATEROLE',
  'ALTER ROLE SESSION_USER REPLICATION',
  'ALTER ROLE SESSION_USER CREATEDB',
  'ALTER ROLE SESSION_USER INHERIT',
  'ALTER ROLE sealog_owner RENAME TO other',
  "ALTER ROLE sealog_owner LOGIN PASSWORD 'x'",
  "ALTER ROLE $ADMIN PASSWORD 'x'",
  "ALTER ROLE $OTHER_LOGIN PASSWORD 'x'",
  "ALTER ROLE $OTHER_LOGIN SET role = 'sealog_reader'",
  'ALTER ROLE ALL SET session_replication_role = replica',
  'DROP ROLE $OTHER_LOGIN',
  'CREATE ROLE mine',
  'CREATE USER mine SUPERUSER',
  'DROP OWNED BY sealog_owner',
  'REASSIGN OWNED BY sealog_owner TO CURRENT_USER',
  // Triggers and policies.
  'SET session_replication_role = replica',
  'SET session_replication_role = local',
  "SELECT set_config('session_replication_role', 'replica', true)",
  'ALTER TABLE sealog.block DETACH PARTITION sealog.block_for_ever',
  'ALTER TABLE sealog.block DISABLE TRIGGER append_only',
  'DROP TRIGGER guard ON sealog.stream',
  'UPDATE pg_catalog.pg_trigger SET tgenabled = $$D$$',
  'UPDATE pg_catalog.pg_class SET relforcerowsecurity = false',
  'DELETE FROM pg_catalog.pg_policy',
  'INSERT INTO pg_catalog.pg_auth_members SELECT * FROM pg_catalog.pg_auth_members',
  'SET allow_system_table_mods = on',
  // Functions, and what runs with another's power.
  'DROP FUNCTION sealog.refuse_change() CASCADE',
  'CREATE OR REPLACE FUNCTION sealog.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$',
  'CREATE FUNCTION sealog.mine() RETURNS integer LANGUAGE sql AS $$SELECT 1$$',
  'CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS $$SELECT 1$$',
  'CREATE FUNCTION pg_temp.mine() RETURNS integer LANGUAGE sql AS $$SELECT 1$$',
  'CREATE PROCEDURE public.mine() LANGUAGE sql AS $$SELECT 1$$',
  "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE c AS 'mine'",
  'ALTER FUNCTION sealog.ensure_drop_month(integer) RESET ALL',
  'ALTER FUNCTION sealog.ensure_drop_month(integer) SET search_path = public',
  'ALTER FUNCTION sealog.ensure_drop_month(integer) OWNER TO CURRENT_USER',
  'CREATE LANGUAGE mine HANDLER pg_catalog.plpgsql_call_handler',
  'CREATE OPERATOR public.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.texteq)',
  'CREATE CAST (text AS integer) WITHOUT FUNCTION',
  'CREATE AGGREGATE public.mine (integer) (SFUNC = pg_catalog.int4pl, STYPE = integer)',
  'CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION pg_catalog.event_trigger_in()',
  'CREATE ACCESS METHOD mine TYPE TABLE HANDLER heap_tableam_handler',
  "LOAD '/tmp/mine.so'",
  "SET dynamic_library_path = '/tmp'",
  "SET session_preload_libraries = '/tmp/mine'",
  // Objects, where they could stand in the way of the application's.
  'CREATE SCHEMA mine',
  'CREATE SCHEMA AUTHORIZATION CURRENT_USER',
  'CREATE TABLE sealog.mine (a integer)',
  'CREATE TABLE public.mine (a integer)',
  'CREATE TABLE pg_catalog.mine (a integer)',
  'CREATE TEMP TABLE mine (a integer)',
  'CREATE TEMP VIEW mine AS SELECT 1',
  'CREATE TEMP SEQUENCE mine',
  'SELECT 1 AS a INTO TEMP mine',
  'CREATE VIEW sealog.mine AS SELECT 1',
  'CREATE MATERIALIZED VIEW public.mine AS SELECT 1',
  'CREATE SEQUENCE public.mine',
  'CREATE TYPE public.mine AS (a integer)',
  'CREATE DOMAIN public.mine AS integer',
  "CREATE COLLATION public.mine (LOCALE = 'C')",
  'CREATE TEXT SEARCH CONFIGURATION public.mine (COPY = pg_catalog.simple)',
  'ALTER SCHEMA sealog RENAME TO other',
  'ALTER SCHEMA sealog OWNER TO CURRENT_USER',
  'DROP SCHEMA sealog CASCADE',
  'DROP SCHEMA public CASCADE',
  'ALTER DATABASE $DB SET session_replication_role = replica',
  'ALTER DATABASE $DB RENAME TO other',
  'ALTER DATABASE $DB OWNER TO CURRENT_USER',
  'COMMENT ON DATABASE $DB IS $$mine$$',
  'DELETE FROM sealog.migration',
  'SELECT FROM sealog.migration_lock',
  // The outside: files, programs, other servers.
  "SELECT pg_read_file('/etc/passwd')",
  "SELECT pg_read_file('PG_VERSION')",
  "SELECT pg_read_binary_file('/etc/passwd')",
  "SELECT pg_stat_file('PG_VERSION')",
  "SELECT pg_ls_dir('.')",
  'SELECT pg_ls_logdir()',
  'SELECT pg_ls_waldir()',
  'SELECT pg_ls_tmpdir()',
  'SELECT pg_current_logfile()',
  "COPY (SELECT 1) TO '/tmp/sealog-test-roles'",
  "COPY (SELECT 1) TO PROGRAM 'true'",
  "SELECT lo_import('/etc/passwd')",
  "SELECT lo_export(1, '/tmp/sealog-test-roles')",
  'SELECT lo_create(0)',
  'SELECT lo_creat(-1)',
  "SELECT lo_from_bytea(0, 'x')",
  'SELECT lo_open(1, 131072)',
  'SELECT lo_get(1)',
  "SELECT lo_put(1, 0, 'x')",
  'SELECT lo_unlink(1)',
  'SET lo_compat_privileges = on',
  'CREATE FOREIGN DATA WRAPPER mine',
  'CREATE PUBLICATION mine',
  'CREATE PUBLICATION mine FOR ALL TABLES',
  "CREATE SUBSCRIPTION mine CONNECTION 'host=127.0.0.1' PUBLICATION mine WITH (connect = false)",
  "SELECT pg_create_physical_replication_slot('mine')",
  "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
  "SELECT pg_drop_replication_slot('mine')",
  "SELECT pg_replication_origin_create('mine')",
  "SELECT pg_logical_emit_message(false, 'mine', 'x'), pg_replication_origin_session_setup('mine')",
  // The server.
  'CHECKPOINT',
  'SELECT pg_reload_conf()',
  'SELECT pg_rotate_logfile()',
  'SELECT pg_switch_wal()',
  "SELECT pg_create_restore_point('mine')",
  "SELECT pg_backup_start('mine')",
  'SELECT pg_promote()',
  'SELECT pg_wal_replay_pause()',
  'SELECT pg_stat_reset()',
  "SELECT pg_stat_reset_shared('bgwriter')",
  'SELECT pg_log_backend_memory_contexts(pg_backend_pid())',
  'SELECT pg_terminate_backend($PID)',
  'SELECT pg_cancel_backend($PID)',
  'SELECT pg_terminate_backend($ADMIN_PID)',
  'SET zero_damaged_pages = on',
  'SET ignore_checksum_failure = on',
  'SET log_statement = none',
  'SET log_min_messages = panic',
  'SET track_activities = off',
  'SET commit_delay = 100000',
  'SET deadlock_timeout = 100000',
  'SET update_process_title = off',
  // What the server keeps to itself.
  'SELECT FROM pg_authid',
  'SELECT FROM pg_shadow',
  'SELECT FROM pg_user_mapping',
  'SELECT FROM pg_statistic',
  'SELECT FROM pg_largeobject',
  'SELECT subconninfo FROM pg_subscription',
  'SELECT FROM pg_hba_file_rules',
  'SELECT FROM pg_file_settings',
  'SELECT FROM pg_config',
  'SELECT FROM pg_backend_memory_contexts',
  'SELECT FROM pg_shmem_allocations',
  'SELECT FROM pg_replication_origin_status',
];

/** The same, outside of a transaction. */
const REFUSED_ALONE: readonly string[] = [
  'CREATE DATABASE mine',
  'DROP DATABASE $DB',
  "CREATE TABLESPACE mine LOCATION '/tmp'",
  'ALTER SYSTEM SET fsync = off',
  'ALTER SYSTEM RESET ALL',
  'ALTER DATABASE $DB SET TABLESPACE pg_default',
  'REINDEX DATABASE $DB',
  'REINDEX SCHEMA sealog',
];

/** Extensions are refused, or are not there to be had. */
const EXTENSIONS = [
  'dblink',
  'postgres_fdw',
  'file_fdw',
  'plperlu',
  'plpython3u',
  'adminpack',
  'hstore',
  'pg_visibility',
];

describe.each(names)('%s', (name) => {
  const role = name.replace('the login of ', '') as AppRole;

  async function filled(statement: string): Promise<string> {
    const other = loginOf(role === 'sealog_writer' ? 'sealog_reader' : 'sealog_writer');
    const pidOf = async (user: string) =>
      (
        await service.adminPool.query<{ pid: number }>(
          'SELECT pid FROM pg_stat_activity WHERE usename = $1 AND datname = current_database() ORDER BY 1 LIMIT 1',
          [user],
        )
      ).rows[0]!.pid;
    let filledIn = statement;
    for (const [mark, value] of [
      ['$OTHER_LOGIN', () => other.user],
      ['$ADMIN_PID', () => pidOf(service.database.adminConfig.user)],
      ['$ADMIN', () => service.database.adminConfig.user],
      ['$PID', () => pidOf(other.user)],
      ['$DB', () => service.database.name],
    ] as const) {
      if (!filledIn.includes(mark)) continue;
      const text = String(await value());
      filledIn = filledIn.replaceAll(mark, () => text);
    }
    return filledIn;
  }

  test('is refused everything that would lead past the privileges', async () => {
    const done: string[] = [];
    for (const statement of REFUSED_STATEMENTS) {
      const answer = await attempt(name, await filled(statement));
      if (answer !== REFUSED) done.push(`${statement}: ${answer}`);
    }
    for (const statement of REFUSED_ALONE) {
      const answer = await attemptAlone(name, await filled(statement));
      if (answer !== REFUSED) done.push(`${statement}: ${answer}`);
    }
    for (const extension of EXTENSIONS) {
      const answer = await attempt(name, `CREATE EXTENSION ${extension}`);
      if (![REFUSED, '0A000', '58P01'].includes(answer)) done.push(`${extension}: ${answer}`);
    }
    expect(done).toEqual([]);
  });

  test('can not become another role of the application', async () => {
    for (const other of APP_ROLES) {
      const answers = [
        await attempt(name, `SET ROLE ${other}`),
        await attempt(name, 'RESET ROLE', `SET ROLE ${other}`),
      ];
      expect(answers, other).toEqual(other === role ? ['done', 'done'] : [REFUSED, REFUSED]);
    }
  });

  test('takes no advisory lock, unless it writes or signs: nobody else keeps the signer from its lease', async () => {
    const lock = "hashtextextended('sealog.signer', 0)";
    const mayLock = name === 'sealog_writer' || name === 'sealog_signer';
    // The signer's own is taken: another one is tried.
    for (const take of ['pg_advisory_xact_lock', 'pg_try_advisory_xact_lock', 'pg_advisory_xact_lock_shared'])
      expect(await attempt(name, `SELECT ${take}(${mayLock ? '1' : lock})`)).toBe(mayLock ? 'done' : REFUSED);
    for (const take of ['pg_advisory_lock', 'pg_try_advisory_lock', 'pg_advisory_lock_shared'])
      if (!mayLock) expect(await attempt(name, `SELECT ${take}(${lock})`)).toBe(REFUSED);
  });

  test('sees of other sessions neither statements nor where they come from', async () => {
    const { rows } = await sessions
      .get(name)!
      .query(
        `SELECT query, client_addr FROM pg_stat_activity WHERE datname = current_database() AND usename <> session_user`,
      );
    expect(rows.length).toBeGreaterThan(0);
    for (const { query, client_addr: address } of rows)
      expect([query, address]).toEqual(['<insufficient privilege>', null]);
  });
});

describe('what PostgreSQL does not refuse anybody', () => {
  test('and what it is good for: nothing that changes the log', async () => {
    const allowed: readonly [statement: string, why: string][] = [
      ['LISTEN mine', 'nobody of ours listens or notifies'],
      ["NOTIFY mine, 'x'", 'the same: a full queue of notices fails those who notify alone'],
      ['SET statement_timeout = 0', 'a statement of a hijacked session runs as long as it likes: processors, no data'],
      ['SET synchronous_commit = off', 'its own commits alone; the service sets it for its own at connecting'],
      ['SET row_security = off', 'statements over guarded tables then fail'],
      [
        'SET search_path = public, pg_catalog',
        'nothing can be created that it would find, and functions of the schema set their own',
      ],
      ['DO $$ BEGIN PERFORM 1; END $$', 'runs what the session may do anyhow'],
      ['SELECT pg_sleep(0)', 'the same as any long statement'],
      [
        'ALTER ROLE CURRENT_USER SET statement_timeout = 1',
        'a role sets its own defaults: they count for logins, and the pools set theirs',
      ],
      [
        "ALTER ROLE CURRENT_USER PASSWORD 'x'",
        'a login that is locked out; it gives no access. The embedded mode sets it again at each start',
      ],
    ];
    for (const name of names)
      for (const [statement, why] of allowed)
        expect(await attempt(name, statement), `${name}: ${statement}: ${why}`).toBe('done');
    // A warning: it is passed over.
    for (const role of APP_ROLES) expect(await attempt(role, 'ANALYZE sealog.block')).toBe('done');
    // And what a server refuses as it comes, or an operator may have switched on.
    for (const name of names) expect(await attempt(name, "PREPARE TRANSACTION 'mine'")).toBe('55000');
  });

  test('a reader names the tenant that it wants to see: row-level security is for mistakes of ours, not for who runs statements of his', async () => {
    const client = sessions.get('sealog_reader')!;
    const { rows: tenants } = await service.adminPool.query<{ id: number }>('SELECT id FROM sealog.tenant');
    for (const table of ['tenant', 'stream', 'block', 'data_key'])
      expect((await client.query(`SELECT FROM sealog.${table}`)).rowCount, table).toBe(0);
    for (const { id } of tenants) {
      await client.query(`SELECT set_config('sealog.tenant', '${id}', false)`);
      expect((await client.query('SELECT id FROM sealog.tenant')).rows).toEqual([{ id }]);
      const { rows } = await client.query('SELECT DISTINCT tenant FROM sealog.block');
      expect(rows).toEqual([{ tenant: id }]);
    }
    // What is no number of a tenant shows nothing, or fails.
    for (const wrong of ['', '0', '-1']) {
      await client.query(`SELECT set_config('sealog.tenant', '${wrong}', false)`);
      expect((await client.query('SELECT FROM sealog.tenant')).rowCount).toBe(0);
    }
    for (const wrong of ['x', '1 OR true', '1; SELECT 1']) {
      await client.query(`SELECT set_config('sealog.tenant', $1, false)`, [wrong]);
      await expect(client.query('SELECT FROM sealog.tenant')).rejects.toMatchObject({ code: '22P02' });
    }
    await client.query('RESET sealog.tenant');
    await client.query('SET row_security = off');
    await expect(client.query('SELECT FROM sealog.block')).rejects.toMatchObject({ code: REFUSED });
    await client.query('SET row_security = on');
    // Nor do the planner's statistics tell of others.
    await service.adminPool.query('ANALYZE');
    const { rowCount } = await client.query(
      `SELECT FROM pg_stats WHERE schemaname = 'sealog' AND tablename IN ('tenant', 'stream', 'data_key', 'api_key', 'proposal')`,
    );
    expect(rowCount).toBe(0);
  });
});

describe('functions of the schema', () => {
  test('look nowhere but in the catalogue, belong to the owner, and are not for everybody', async () => {
    const { rows } = await service.adminPool.query<{
      name: string;
      owner: string;
      config: string[] | null;
      open: boolean;
      bound: boolean;
    }>(`
      SELECT p.oid::regprocedure::text AS name, p.prosqlbody IS NOT NULL AS bound, pg_get_userbyid(p.proowner)::text AS owner, p.proconfig AS config,
             has_function_privilege('public', p.oid, 'EXECUTE') AS open
      FROM pg_proc AS p WHERE p.pronamespace = 'sealog'::regnamespace`);
    expect(rows.length).toBeGreaterThan(5);
    // What a body that is no text names was looked up when it was made.
    for (const { name, owner, config, open, bound } of rows)
      expect([name, owner, config?.[0], open]).toEqual([
        name,
        'sealog_owner',
        bound ? undefined : 'search_path=pg_catalog, pg_temp',
        false,
      ]);
  });

  test('that run as the owner do what they say under every search path', async () => {
    for (const path of ['public, pg_temp', 'pg_temp, pg_catalog', 'sealog', '']) {
      const answer = await attempt(
        'sealog_writer',
        `SELECT set_config('search_path', '${path}', true)`,
        'SELECT sealog.ensure_drop_month(0)',
      );
      expect(answer).toBe('done');
    }
    for (const argument of ["'0; DROP TABLE sealog.block'", "'0'::text", '9999999', '-1', 'NULL::text'])
      expect(await attempt('sealog_writer', `SELECT sealog.ensure_drop_month(${argument})`)).toMatch(/^22|^42/);
  });
});

describe('a service whose roles have logins of their own', () => {
  test('uses each for what it is there for', async () => {
    const token = await service.token('it_security_admin');
    expect((await service.get('/v1/events?category=user_authentication', { token })).status).toBe(200);
    const { rows } = await service.adminPool.query(`
      SELECT DISTINCT application_name AS of, usename::text AS login FROM pg_stat_activity
      WHERE datname = current_database() AND application_name ~ '^sealog_(writer|reader|verifier|signer)$' ORDER BY 1`);
    const { appRole } = service.database;
    expect(rows).toEqual([
      { of: 'sealog_reader', login: `${appRole}_reader` },
      { of: 'sealog_signer', login: `${appRole}_signer` },
      { of: 'sealog_verifier', login: `${appRole}_verifier` },
      { of: 'sealog_writer', login: appRole },
    ]);
  });

  test('signs, anchors, verifies and rotates', async () => {
    const { body } = await service.post('/v1/verifications', {}, { token: await service.token('auditor') });
    const end = performance.now() + 20_000;
    for (;;) {
      const { state, verdict } = (await service.get(`/v1/verifications/${body.id}`)).body;
      if (state === 'done') {
        expect(verdict).toBe('not_provable');
        break;
      }
      expect(performance.now()).toBeLessThan(end);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const { rows } = await service.adminPool.query('SELECT FROM sealog.anchor_leaf');
    expect(rows.length).toBeGreaterThan(0);
    expect((await service.get('/readyz')).status).toBe(200);
  }, 30_000);

  test('is verified and recovered by commands that log in as it does', async () => {
    const own = await startService({ ownLogins: true });
    onTestFinished(() => own.stop());
    const sent = { id: 'e', category: 'security_event', action: 'a.b', outcome: 'unknown', severity: 1 };
    const at = { occurredAt: '2026-01-01T10:00:00Z', source: { service: 'test' } };
    expect((await own.post('/v1/events?wait=checkpoint', { ...sent, ...at })).status).toBe(201);
    await own.app.close();
    const main = join(import.meta.dirname, '../src/cli/main.ts');
    const sealog = async (args: readonly string[], logins: Readonly<Record<string, string>>) => {
      const env = { ...PROGRAM_ENVIRONMENT, ...own.environment, ...logins };
      return run(process.execPath, [main, ...args], { env }).then(
        ({ stdout }) => ({ code: 0, out: stdout }),
        (error: { code: number; stdout: string; stderr: string }) => ({
          code: error.code,
          out: error.stdout + error.stderr,
        }),
      );
    };
    const { reader, verifier, signer } = own.logins!;
    const logins = {
      SEALOG_READER_DATABASE_URL: urlOf(reader),
      SEALOG_VERIFIER_DATABASE_URL: urlOf(verifier),
      SEALOG_SIGNER_DATABASE_URL: urlOf(signer),
    };
    const verified = await sealog(['verify', '--database'], logins);
    expect(verified.out).toContain('not_provable: ');
    expect(verified.code).toBe(2);
    expect(await sealog(['recover'], logins)).toMatchObject({ code: 0, out: expect.stringContaining('agrees') });
    // The writer's login alone can do neither.
    expect((await sealog(['verify', '--database'], {})).out).not.toContain('not_provable: ');
    expect((await sealog(['recover'], {})).code).not.toBe(0);
  }, 60_000);

  test('is set by addresses that begin as one, beside that of the database', () => {
    const url = 'postgresql://x@localhost/sealog';
    const others = { SEALOG_MASTER_KEY: 'file:/k', SEALOG_JWT_SECRET: 's'.repeat(32) };
    const read = readConfig({ ...others, DATABASE_URL: url, SEALOG_READER_DATABASE_URL: `${url}?reader` });
    expect(read.ownDatabaseUrls).toEqual({ reader: `${url}?reader`, verifier: undefined, signer: undefined });
    expect(() => readConfig({ SEALOG_SIGNER_DATABASE_URL: url })).toThrow(
      'SEALOG_SIGNER_DATABASE_URL needs DATABASE_URL',
    );
    expect(() => readConfig({ ...others, DATABASE_URL: url, SEALOG_VERIFIER_DATABASE_URL: 'mysql://x' })).toThrow(
      'SEALOG_VERIFIER_DATABASE_URL must begin with postgres:// or postgresql://',
    );
  });

  test('is refused where a login could be another, is another, or leads elsewhere', async () => {
    const database = await createDatabase();
    onTestFinished(() => database.drop());
    const logins = await createLogins(database);
    await migrate(database.adminConfig, {
      writer: database.appRole,
      reader: logins.reader.user,
      verifier: logins.verifier.user,
      signer: logins.signer.user,
    });
    const admin = new pg.Client(database.adminConfig);
    await admin.connect();
    const gate = async (given: Logins): Promise<readonly string[]> => {
      const opened = openDatabase({
        connection: database.appConfig,
        logins: given,
        readersMax: 1,
        log: { warn: () => {} },
      });
      try {
        return (await checkSettings(opened.writer, given)).refusals;
      } finally {
        await opened.close();
      }
    };
    try {
      expect(await gate(logins)).toEqual([]);
      const app = database.appRole;
      // One login is not what the service was told.
      expect(await gate({})).toEqual([
        `the role ${app} may not act as sealog_reader, sealog_verifier, sealog_signer: run \`sealog migrate --app-role ${app}\``,
      ]);
      expect(await gate({ ...logins, reader: database.appConfig })).toEqual([
        'SEALOG_READER_DATABASE_URL names the same role as DATABASE_URL: leave it out, or name another',
      ]);
      expect(await gate({ ...logins, signer: logins.verifier })).toEqual([
        'SEALOG_SIGNER_DATABASE_URL names the same role as SEALOG_VERIFIER_DATABASE_URL: leave it out, or name another',
      ]);
      const elsewhere = await createDatabase();
      onTestFinished(() => elsewhere.drop());
      expect(await gate({ ...logins, reader: { ...logins.reader, database: elsewhere.name } })).toEqual([
        'SEALOG_READER_DATABASE_URL leads to another database than DATABASE_URL',
      ]);
      expect(await gate({ ...logins, reader: { ...logins.reader, password: 'wrong' } })).toEqual([
        expect.stringMatching(/^SEALOG_READER_DATABASE_URL: PostgreSQL refuses the login/),
      ]);
      await admin.query(`GRANT sealog_writer TO ${logins.reader.user}`);
      await admin.query(`GRANT sealog_reader TO ${app}`);
      await admin.query(`GRANT sealog_owner TO ${logins.verifier.user}`);
      await admin.query(`REVOKE sealog_signer FROM ${logins.signer.user}`);
      expect(await gate(logins)).toEqual([
        `the role ${app} may act as sealog_reader, for which there is another login: REVOKE sealog_reader FROM ${app}`,
        `the role ${app}_reader may act as sealog_writer, for which there is another login: REVOKE sealog_writer FROM ${app}_reader`,
        `the role ${app}_verifier is a member of sealog_owner: REVOKE sealog_owner FROM ${app}_verifier`,
        `the role ${app}_signer may not act as sealog_signer: run \`sealog migrate --signer-role ${app}_signer\``,
      ]);
      // Migrating puts it right, and goes back to one login for all as well.
      await admin.query(`REVOKE sealog_owner FROM ${logins.verifier.user}`);
      const own = { reader: logins.reader.user, verifier: logins.verifier.user, signer: logins.signer.user };
      await migrate(database.adminConfig, { writer: app, ...own });
      expect(await gate(logins)).toEqual([]);
      await migrate(database.adminConfig, app);
      expect(await gate({})).toEqual([]);
    } finally {
      await admin.end();
    }
  });
});

describe('one login for all roles', () => {
  test('becomes each of them, as it has to, and nothing else', async () => {
    const database = await createDatabase();
    onTestFinished(() => database.drop());
    await migrate(database.adminConfig, database.appRole);
    const client = await connect(database.appConfig, 'sealog_reader');
    try {
      for (const role of APP_ROLES) await client.query(`SET ROLE ${role}`);
      for (const role of ['sealog_owner', database.adminConfig.user, 'pg_read_all_data'])
        await expect(client.query(`SET ROLE ${role}`)).rejects.toMatchObject({ code: REFUSED });
    } finally {
      await client.end();
    }
  });
});

test('a copy of a database, which has the privileges of a new one, is closed again by migrating', async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await migrate(database.adminConfig, database.appRole);
  const admin = new pg.Client(database.adminConfig);
  await admin.connect();
  const client = await connect(database.appConfig, 'sealog_reader');
  const warnings = async (): Promise<readonly string[]> => {
    const opened = openDatabase({ connection: database.appConfig, readersMax: 1, log: { warn: () => {} } });
    try {
      return (await checkSettings(opened.writer)).warnings.filter((words) => words.includes('advisory'));
    } finally {
      await opened.close();
    }
  };
  try {
    await admin.query(`GRANT TEMPORARY ON DATABASE ${database.name} TO PUBLIC`);
    await admin.query('GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC');
    expect(await warnings()).toHaveLength(1);
    await client.query('CREATE TEMP TABLE mine (a integer)');
    // What it is about: while a reader holds the lease's lock, nobody signs.
    await client.query("SELECT pg_advisory_lock(hashtextextended('sealog.signer', 0))");
    expect(await SignerLease.take(database.appConfig)).toBeUndefined();
    await client.query("SELECT pg_advisory_unlock(hashtextextended('sealog.signer', 0))");
    await migrate(database.adminConfig, database.appRole);
    expect(await warnings()).toEqual([]);
    await expect(client.query('CREATE TEMP TABLE other (a integer)')).rejects.toMatchObject({ code: REFUSED });
    await expect(client.query('SELECT pg_advisory_lock(1)')).rejects.toMatchObject({ code: REFUSED });
    const lease = await SignerLease.take(database.appConfig);
    expect(lease).toBeDefined();
    await lease?.release();
  } finally {
    await client.end();
    await admin.end();
  }
});

test('the embedded mode has a login for each role, and gives it back its password and defaults at the next start', async () => {
  const parent = tmpdir().length > 40 ? '/tmp' : tmpdir();
  const dataDir = await mkdtemp(join(parent, 'sealog-test-logins-'));
  await chmod(dataDir, 0o755);
  onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
  const lock = await lockDataDir(dataDir);
  const log = { info: () => {}, warn: () => {} };
  try {
    const first = await startEmbeddedPostgres({ dataDir, log });
    const all = [first.app, ...Object.values(first.logins)];
    try {
      expect(new Set(all.map(({ password }) => password)).size).toBe(4);
      for (const login of all) {
        await expect(connect({ ...login, database: 'postgres' })).rejects.toMatchObject({ code: REFUSED });
        await expect(connect({ ...login, database: 'template1' })).rejects.toMatchObject({ code: REFUSED });
        const client = await connect(login);
        await client.query("ALTER ROLE CURRENT_USER PASSWORD 'taken'");
        await client.query('ALTER ROLE CURRENT_USER SET statement_timeout = 1');
        await client.end();
        await expect(connect(login)).rejects.toMatchObject({ code: '28P01' });
      }
    } finally {
      await first.stop();
    }
    const second = await startEmbeddedPostgres({ dataDir, log });
    try {
      for (const login of [second.app, ...Object.values(second.logins)]) {
        const client = await connect(login);
        expect((await client.query('SHOW statement_timeout')).rows).toEqual([{ statement_timeout: '0' }]);
        await client.end();
      }
    } finally {
      await second.stop();
    }
  } finally {
    await lock.release();
  }
}, 60_000);
