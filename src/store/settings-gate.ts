/**
 * The settings gate: what PostgreSQL must be like before Sealog becomes ready.
 *
 * What can lose or change a receipted entry, or lets the application reach past its privileges, refuses the start, each with one
 * clear reason that says what to do. What only makes damage harder to notice or a failure slower to heal is a warning.
 */
import pg from 'pg';
import { Problem } from '../errors.ts';
import { APP_ROLES, type AppRole, type Logins, withClient } from './database.ts';
import { knownMigrations } from './migrate.ts';
import { newerMigrations } from './schema-version.ts';

export interface GateResult {
  readonly refusals: readonly string[];
  readonly warnings: readonly string[];
}

const ASK_MAX_MS = 5000;
const MAJOR_MIN = 15;
const MAJOR_MAX = 18;
/** The tables that must be under forced row-level security. */
const GUARDED = [
  ...['tenant', 'stream', 'data_key', 'block', 'entry_id', 'tile'],
  ...['checkpoint', 'anchor_leaf', 'verification', 'tenant_setting', 'api_key', 'proposal'],
  ...['tile_edge', 'pruning_certificate', 'retention_policy', 'erasure', 'erasure_entry', 'erased', 'hold'],
];
const APPEND_ONLY = [
  ...['deployment', ...GUARDED, 'key_statement', 'outside_evidence', 'key_generation', 'data_key_form'],
  ...['pruning', 'clock_mark'],
];
/** Those whose rows, or whose history, move forward. */
const MOVING = [
  ...['stream', 'checkpoint', 'verification', 'tenant_setting', 'api_key', 'proposal', 'key_generation'],
  ...['pruning', 'pruning_certificate', 'erasure', 'erasure_entry', 'hold'],
];
/** Logins of their own: the role that each serves, and the settings that name them. */
const OWN_LOGINS: readonly { of: keyof Logins; role: AppRole; setting: string; option: string }[] = [
  { of: 'reader', role: 'sealog_reader', setting: 'SEALOG_READER_DATABASE_URL', option: '--reader-role' },
  { of: 'verifier', role: 'sealog_verifier', setting: 'SEALOG_VERIFIER_DATABASE_URL', option: '--verifier-role' },
  { of: 'signer', role: 'sealog_signer', setting: 'SEALOG_SIGNER_DATABASE_URL', option: '--signer-role' },
];
/** Roles of PostgreSQL's own with which a session could reach around the tables' privileges, triggers and policies. */
const TOO_MUCH = [
  'pg_read_all_data',
  'pg_write_all_data',
  'pg_read_server_files',
  'pg_write_server_files',
  'pg_execute_server_program',
];

/** What the server says to a login role, before any setting of ours. */
interface Facts {
  readonly settings: Record<string, string>;
  readonly version: number;
  readonly encoding: string;
  readonly database: string;
  readonly login: string;
  readonly superuser: boolean;
  readonly bypass_rls: boolean;
  readonly create_role: boolean;
  /** Of superusers, roles with BYPASSRLS and the roles above, those that the login role can become. */
  readonly powers: string[];
  readonly owner_member: boolean;
  /** Of the schema's tables and functions, those whose owner (another than sealog_owner) the login role can become. */
  readonly owns: string[];
  readonly owns_schema: boolean;
  readonly owns_database: boolean;
  readonly migrated: boolean;
  /** Of the application's roles, those that the login role can act as, and those that it is a member of. */
  readonly may_act_as: string[];
  readonly member_of: string[];
  /** The same for all connections to one database of one server. */
  readonly place: string;
  /** Whether everybody may take advisory locks, the signer's among them. */
  readonly locks_open: boolean;
  readonly remote: boolean;
  readonly tls: boolean;
}

/**
 * Asks the server, first as the login role without the settings that our pools bring (their `synchronous_commit = on` would hide
 * that of the server), then on a connection as the application makes it. Never throws for what the server says: that is a refusal.
 */
export async function checkSettings(writer: pg.Pool, logins: Logins = {}): Promise<GateResult> {
  let facts: Facts;
  try {
    // A pool hides its password from whoever lists its options.
    facts = await askAsLogin({ ...writer.options, password: writer.options.password });
  } catch (error) {
    return { refusals: [unreachable(error)], warnings: [] };
  }
  const roles = APP_ROLES.filter((role) =>
    OWN_LOGINS.every((own) => own.role !== role || logins[own.of] === undefined),
  );
  const refusals = refusalsOf(facts, roles);
  const warnings = warningsOf(facts);
  if (facts.migrated && roles.every((role) => facts.may_act_as.includes(role))) {
    try {
      refusals.push(...(await withClient(writer, sessionRefusals)));
      if (refusals.length === 0) {
        const schema = await withClient(writer, lookAtSchema);
        refusals.push(...schema.refusals);
        warnings.push(...schema.warnings);
      }
    } catch (error) {
      refusals.push(unreachable(error));
    }
  }
  if (facts.migrated) refusals.push(...(await loginRefusals(logins, facts)));
  return { refusals, warnings };
}

/** What is wrong with the logins that serve one role each. */
async function loginRefusals(logins: Logins, writer: Facts): Promise<string[]> {
  const refusals: string[] = [];
  const names = new Map([[writer.login, 'DATABASE_URL']]);
  for (const { of, role, setting, option } of OWN_LOGINS) {
    const connection = logins[of];
    if (connection === undefined) continue;
    try {
      const facts = await askAsLogin(connection);
      const { login, place, may_act_as: may, member_of: memberOf } = facts;
      const same = names.get(login);
      names.set(login, setting);
      if (same !== undefined) {
        refusals.push(`${setting} names the same role as ${same}: leave it out, or name another`);
        continue;
      }
      if (place !== writer.place) {
        refusals.push(`${setting} leads to another database than DATABASE_URL`);
        continue;
      }
      refusals.push(...roleRefusals(facts));
      if (!may.includes(role))
        refusals.push(`the role ${login} may not act as ${role}: run \`sealog migrate ${option} ${login}\``);
      else refusals.push(...(await ownSessionRefusals(connection, role, setting)));
      refusals.push(...othersRefusals(login, memberOf, [role]));
    } catch (error) {
      refusals.push(`${setting}: ${unreachable(error)}`);
    }
  }
  return refusals;
}

/** A login that could become what another login is there for would make that one useless. */
function othersRefusals(login: string, memberOf: readonly string[], own: readonly AppRole[]): string[] {
  const others = memberOf.filter((role) => !own.some((one) => one === role));
  return others.map(
    (role) => `the role ${login} may act as ${role}, for which there is another login: REVOKE ${role} FROM ${login}`,
  );
}

/** What we ask for when connecting must arrive. */
async function ownSessionRefusals(connection: pg.ClientConfig, role: AppRole, setting: string): Promise<string[]> {
  const { rows } = await ask<{ role: string }>(
    { ...connection, options: `-c role=${role}` },
    'SELECT current_user::text AS role',
    [],
  );
  if (rows[0]?.role === role) return [];
  return [
    `a connection of ${setting} does not keep its settings: take \`options\` out of it, and let a pooler pass them on`,
  ];
}

/** `$1` the application's roles, `$2` roles of PostgreSQL's own that are too much. Membership counts with and without SET: whoever may administer a role may also take it. */
const FACTS = `
SELECT (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN (
          'fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'wal_level', 'archive_mode', 'data_sync_retry',
          'synchronous_standby_names', 'tcp_user_timeout', 'client_connection_check_interval', 'zero_damaged_pages',
          'ignore_checksum_failure')) AS settings,
       current_setting('server_version_num')::integer AS version,
       current_setting('server_encoding') AS encoding,
       current_database()::text AS database,
       session_user::text AS login,
       me.rolsuper AS superuser,
       me.rolbypassrls AS bypass_rls,
       me.rolcreaterole AS create_role,
       ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE (r.rolsuper OR r.rolbypassrls OR r.rolname = ANY ($2))
             AND r.oid <> me.oid AND pg_has_role(session_user, r.oid, 'MEMBER') ORDER BY 1) AS powers,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'sealog_owner' AND pg_has_role(session_user, r.oid, 'MEMBER')) AS owner_member,
       ARRAY(SELECT o.name FROM (
               SELECT relname::text AS name, relowner AS owner FROM pg_class WHERE relnamespace = s.oid AND relkind IN ('r', 'p')
               UNION ALL SELECT proname::text, proowner FROM pg_proc WHERE pronamespace = s.oid) AS o
             WHERE o.owner <> coalesce((SELECT oid FROM pg_roles WHERE rolname = 'sealog_owner'), 0)
             AND pg_has_role(session_user, o.owner, 'MEMBER') ORDER BY 1) AS owns,
       s.oid IS NOT NULL AND pg_has_role(session_user, s.nspowner, 'MEMBER') AS owns_schema,
       pg_has_role(session_user, d.datdba, 'MEMBER') AS owns_database,
       EXISTS (SELECT FROM pg_class WHERE relnamespace = s.oid AND relname = 'migration') AS migrated,
       ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY ($1) AND pg_has_role(session_user, r.oid,
               CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)) AS may_act_as,
       ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY ($1) AND pg_has_role(session_user, r.oid, 'MEMBER') ORDER BY 1) AS member_of,
       extract(epoch FROM pg_postmaster_start_time()) || ' ' || d.oid AS place,
       has_function_privilege('public', 'pg_catalog.pg_advisory_lock(bigint)', 'EXECUTE') AS locks_open,
       coalesce(inet_server_addr() <> inet_client_addr(), false) AS remote,
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls
FROM pg_roles me JOIN pg_database d ON d.datname = current_database() LEFT JOIN pg_namespace s ON s.nspname = 'sealog'
WHERE me.rolname = session_user`;

/** Without the role that our connections take: one could not be made where it is missing. */
async function askAsLogin(connection: pg.ClientConfig): Promise<Facts> {
  return (await ask<Facts>({ ...connection, options: '' }, FACTS, [APP_ROLES, TOO_MUCH])).rows[0]!;
}

/** Asks on a connection of its own. */
async function ask<T extends pg.QueryResultRow>(
  connection: pg.ClientConfig,
  text: string,
  values: unknown[],
): Promise<pg.QueryResult<T>> {
  const client = new pg.Client({ connectionTimeoutMillis: ASK_MAX_MS, query_timeout: ASK_MAX_MS, ...connection });
  client.on('error', () => {});
  try {
    await client.connect();
    return await client.query<T>(text, values);
  } finally {
    await client.end().catch(() => {});
  }
}

function refusalsOf(facts: Facts, roles: readonly AppRole[]): string[] {
  const { settings } = facts;
  const refusals: string[] = [];
  const major = Math.floor(facts.version / 10_000);
  if (major < MAJOR_MIN) refusals.push(`PostgreSQL ${major} is too old: Sealog needs ${MAJOR_MIN} to ${MAJOR_MAX}`);
  if (settings['fsync'] !== 'on')
    refusals.push('fsync is off: a power cut would lose entries that have a receipt; set fsync = on');
  if (settings['full_page_writes'] !== 'on') {
    refusals.push('full_page_writes is off: a power cut could tear pages of the log; set full_page_writes = on');
  }
  const commit = settings['synchronous_commit'] ?? 'unknown';
  if (!['on', 'remote_apply'].includes(commit)) {
    refusals.push(
      `synchronous_commit is ${commit}: a receipt could be sent before its entry is durable; set synchronous_commit = on`,
    );
  }
  if (settings['zero_damaged_pages'] === 'on')
    refusals.push('zero_damaged_pages is on: damage would be silently emptied; set zero_damaged_pages = off');
  if (settings['data_sync_retry'] === 'on')
    refusals.push('data_sync_retry is on: a failed flush would be taken for a good one; set data_sync_retry = off');
  if (facts.encoding !== 'UTF8')
    refusals.push(`the encoding of the database is ${facts.encoding}: create one with ENCODING 'UTF8'`);
  return [...refusals, ...roleRefusals(facts), ...migrationRefusals(facts, roles)];
}

/** What the login role may do beyond acting as writer, reader and verifier. */
function roleRefusals(facts: Facts): string[] {
  const { login, database } = facts;
  // A superuser is everything else as well: one reason is enough.
  if (facts.superuser)
    return [`the role ${login} is a superuser, whom nothing in the database stops: connect as an ordinary role`];
  const refusals: string[] = [];
  if (facts.bypass_rls)
    refusals.push(`the role ${login} has BYPASSRLS, so tenants would not be apart: ALTER ROLE ${login} NOBYPASSRLS`);
  for (const power of facts.powers)
    refusals.push(`the role ${login} may act as ${power}, past the log's privileges: REVOKE ${power} FROM ${login}`);
  if (facts.create_role)
    refusals.push(`the role ${login} has CREATEROLE and could make itself the owner: ALTER ROLE ${login} NOCREATEROLE`);
  if (facts.owner_member)
    refusals.push(`the role ${login} is a member of sealog_owner: REVOKE sealog_owner FROM ${login}`);
  if (facts.owns.length > 0)
    refusals.push(
      `the role ${login} owns ${listed(facts.owns)} in the schema sealog: these must belong to sealog_owner`,
    );
  if (facts.owns_schema && !facts.owner_member)
    refusals.push(`the role ${login} owns the schema sealog and could drop its tables: it must belong to sealog_owner`);
  if (facts.owns_database) {
    refusals.push(
      `the role ${login} owns the database ${database} and could drop it: ALTER DATABASE ${database} OWNER TO another role`,
    );
  }
  return refusals;
}

function migrationRefusals(
  { migrated, may_act_as: may, member_of: memberOf, login }: Facts,
  roles: readonly AppRole[],
): string[] {
  if (!migrated)
    return [
      'the schema is not there: run `sealog migrate` as a role that may create roles and schemas in this database',
    ];
  const missing = roles.filter((role) => !may.includes(role));
  if (missing.length > 0)
    return [`the role ${login} may not act as ${listed(missing)}: run \`sealog migrate --app-role ${login}\``];
  return othersRefusals(login, memberOf, roles);
}

/** What we ask for when connecting must arrive: options in DATABASE_URL replace ours, and some poolers drop them. */
async function sessionRefusals(client: pg.PoolClient): Promise<string[]> {
  const { rows } = await client.query<{ role: string; commit: string }>(
    `SELECT current_user::text AS role, current_setting('synchronous_commit') AS commit`,
  );
  const { role, commit } = rows[0]!;
  if (role === 'sealog_writer' && commit === 'on') return [];
  return [
    `a connection does not keep its settings (role ${role}, synchronous_commit ${commit}): take \`options\` out of DATABASE_URL, and let a pooler pass them on`,
  ];
}

async function lookAtSchema(client: pg.PoolClient): Promise<GateResult> {
  const { rows: migrations } = await client.query<{ name: string }>('SELECT name FROM sealog.migration ORDER BY name');
  const done = migrations.map((row) => row.name);
  const known = await knownMigrations();
  const { beside, foreign } = newerMigrations(done, known);
  const missing = known.filter((name) => !done.includes(name));
  const warnings = beside.map(
    (name) =>
      `the schema is newer than this version of Sealog, which may go on beside it (${name}): install the newer one`,
  );
  const refused = (refusal: string): GateResult => ({ refusals: [refusal], warnings });
  if (foreign.length > 0)
    return refused(
      `the database's schema is newer than this version of Sealog (${listed(foreign)}): install the newer version`,
    );
  if (missing.length > 0)
    return refused(
      `the database's schema is older than this version of Sealog: run \`sealog migrate\` (${listed(missing)} missing)`,
    );
  const refusals: string[] = [];
  const { rows: open } = await client.query<{ name: string }>(
    `SELECT w.name FROM unnest($1::text[]) AS w (name) WHERE NOT EXISTS (
       SELECT FROM pg_class c WHERE c.relnamespace = 'sealog'::regnamespace AND c.relname = w.name
       AND c.relrowsecurity AND c.relforcerowsecurity) ORDER BY 1`,
    [GUARDED],
  );
  for (const { name } of open) {
    refusals.push(
      `row-level security is not forced on sealog.${name}: ALTER TABLE sealog.${name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`,
    );
  }
  // Every partition too: one made or attached by hand would be open to change.
  const { rows: bare } = await client.query<{ name: string; trigger: string }>(
    `WITH guarded AS (
       SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'sealog'::regnamespace AND c.relname = ANY ($1)
       UNION SELECT i.inhrelid, c.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
       WHERE p.relnamespace = 'sealog'::regnamespace AND p.relname = ANY ($1)),
     wanted AS (
       SELECT g.oid, g.relname, t.name FROM guarded g CROSS JOIN (VALUES ('append_only'), ('no_truncate')) AS t (name)
       UNION ALL SELECT g.oid, g.relname, 'guard' FROM guarded g WHERE g.relname = ANY ($2))
     SELECT w.relname::text AS name, w.name AS trigger FROM wanted w
     WHERE NOT EXISTS (SELECT FROM pg_trigger x WHERE x.tgrelid = w.oid AND x.tgname = w.name AND x.tgenabled = 'A') ORDER BY 1, 2`,
    [APPEND_ONLY, MOVING],
  );
  for (const { name, trigger } of bare) {
    refusals.push(
      `the trigger ${trigger} of sealog.${name} is missing or not ENABLE ALWAYS: the table could be changed; verify the log, then restore the trigger`,
    );
  }
  return { refusals, warnings };
}

function warningsOf(facts: Facts): string[] {
  const { settings } = facts;
  const warnings: string[] = [];
  const major = Math.floor(facts.version / 10_000);
  if (major > MAJOR_MAX) warnings.push(`PostgreSQL ${major} has not been tried with this version of Sealog`);
  if (settings['data_checksums'] !== 'on')
    warnings.push('data checksums are off: a flipped bit on disk is found by verification only');
  if (settings['ignore_checksum_failure'] === 'on')
    warnings.push('ignore_checksum_failure is on: damage on disk is not reported when it is read');
  if (settings['wal_level'] === 'minimal')
    warnings.push('wal_level is minimal: neither archiving nor a standby is possible');
  if (settings['archive_mode'] === 'off' && (settings['synchronous_standby_names'] ?? '') === '') {
    warnings.push('neither WAL archiving nor a synchronous standby: what this disk loses is lost');
  }
  if (facts.migrated && facts.locks_open) {
    warnings.push(
      'whoever may connect to this database may hold its advisory locks, and keep the signer from signing: run `sealog migrate` as a superuser',
    );
  }
  if (facts.remote && !facts.tls)
    warnings.push('the connection to a remote database is not encrypted: add sslmode=verify-full to DATABASE_URL');
  if (facts.remote && settings['tcp_user_timeout'] === '0') {
    warnings.push('tcp_user_timeout is 0: the server keeps locks of a client that vanished for many minutes');
  }
  if (facts.remote && settings['client_connection_check_interval'] === '0') {
    warnings.push('client_connection_check_interval is 0: the server notices a vanished client only when it answers');
  }
  return warnings;
}

/** Why there is no connection. The server's words name user and database, never the password. */
function unreachable(error: unknown): string {
  const cause = error instanceof Problem ? error.cause : error;
  if (cause instanceof pg.DatabaseError && cause.code?.startsWith('28'))
    return `PostgreSQL refuses the login: ${cause.message}; check user and password in DATABASE_URL`;
  if (cause instanceof pg.DatabaseError && cause.code === '3D000')
    return `${cause.message}: create it with ENCODING 'UTF8', then run \`sealog migrate\``;
  const { message = '', code = '' } = cause as NodeJS.ErrnoException;
  return `the database can not be used: ${message || code}`;
}

function listed(names: readonly string[]): string {
  return names.join(', ');
}
