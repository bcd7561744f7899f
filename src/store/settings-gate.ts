/**
 * The settings gate: what PostgreSQL must be like before Sealog becomes ready.
 *
 * What can lose or change a receipted entry, or lets the application reach past its privileges, refuses the start, each with one
 * clear reason. What only makes damage harder to notice or a failure slower to heal is a warning.
 */
import type pg from 'pg';
import { withClient } from './database.ts';
import { knownMigrations } from './migrate.ts';

export interface GateResult {
  readonly refusals: readonly string[];
  readonly warnings: readonly string[];
}

const MAJOR_MIN = 15;
const MAJOR_MAX = 18;
/** The tables that must be under forced row-level security. */
const GUARDED = ['tenant', 'stream', 'data_key', 'block', 'tag', 'entry_id', 'tile'];
const APPEND_ONLY = ['deployment', ...GUARDED];

interface Facts {
  readonly settings: Record<string, string>;
  readonly version: number;
  readonly encoding: string;
  readonly session_role: string;
  readonly superuser: boolean;
  readonly bypass_rls: boolean;
  readonly owner_member: boolean;
  readonly owns: string[];
  readonly schema_there: boolean;
  readonly remote: boolean;
  readonly tls: boolean;
}

/** Asks the server, on a connection as the application makes it (its settings are those that commits will have). */
export async function checkSettings(writer: pg.Pool): Promise<GateResult> {
  return withClient(writer, async (client) => {
    const facts = (await client.query<Facts>(FACTS)).rows[0]!;
    const refusals = refusalsOf(facts);
    if (facts.schema_there && refusals.length === 0) refusals.push(...(await schemaRefusals(client)));
    return { refusals, warnings: warningsOf(facts) };
  });
}

/** session_user is who logged in; current_user is already the writer. */
const FACTS = `
SELECT (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN (
          'fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'wal_level', 'archive_mode', 'data_sync_retry',
          'synchronous_standby_names', 'idle_in_transaction_session_timeout', 'lock_timeout', 'tcp_user_timeout',
          'client_connection_check_interval', 'zero_damaged_pages', 'ignore_checksum_failure', 'wal_sync_method')) AS settings,
       current_setting('server_version_num')::integer AS version,
       current_setting('server_encoding') AS encoding,
       session_user::text AS session_role,
       r.rolsuper AS superuser,
       r.rolbypassrls AS bypass_rls,
       EXISTS (SELECT FROM pg_roles o WHERE o.rolname = 'sealog_owner' AND pg_has_role(session_user, o.oid, 'MEMBER')) AS owner_member,
       ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'sealog' AND c.relowner = r.oid ORDER BY 1) AS owns,
       to_regnamespace('sealog') IS NOT NULL AS schema_there,
       coalesce(inet_server_addr() <> inet_client_addr(), false) AS remote,
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls
FROM pg_roles r WHERE r.rolname = session_user`;

function refusalsOf(facts: Facts): string[] {
  const { settings, session_role: role } = facts;
  const refusals: string[] = [];
  const major = Math.floor(facts.version / 10_000);
  if (major < MAJOR_MIN) refusals.push(`PostgreSQL ${major} is too old: Sealog needs ${MAJOR_MIN} to ${MAJOR_MAX}`);
  if (settings['fsync'] !== 'on')
    refusals.push('fsync is off: a power cut would lose entries that have a receipt; set fsync = on');
  if (settings['full_page_writes'] !== 'on') {
    refusals.push('full_page_writes is off: a power cut could tear pages of the log; set full_page_writes = on');
  }
  if (!['on', 'remote_apply'].includes(settings['synchronous_commit'] ?? '')) {
    refusals.push(
      'synchronous_commit is off: a receipt would be sent before its entry is durable; set synchronous_commit = on',
    );
  }
  if (settings['zero_damaged_pages'] === 'on')
    refusals.push('zero_damaged_pages is on: damage would be silently emptied; set it to off');
  if (settings['data_sync_retry'] === 'on')
    refusals.push('data_sync_retry is on: a failed flush would be taken for a good one; set it to off');
  if (facts.encoding !== 'UTF8')
    refusals.push(`the database's encoding is ${facts.encoding}: create it with ENCODING 'UTF8'`);
  if (facts.superuser)
    refusals.push(`the role ${role} is a superuser, whom nothing in the database stops: connect as an ordinary role`);
  if (facts.bypass_rls)
    refusals.push(`the role ${role} has BYPASSRLS, so tenants would not be apart: ALTER ROLE ${role} NOBYPASSRLS`);
  if (!facts.superuser && facts.owner_member)
    refusals.push(`the role ${role} is a member of sealog_owner: REVOKE sealog_owner FROM ${role}`);
  if (facts.owns.length > 0)
    refusals.push(`the role ${role} owns ${facts.owns.join(', ')}: tables must belong to sealog_owner`);
  if (!facts.schema_there)
    refusals.push('the schema is not there: run `sealog migrate` as a role that may create roles and schemas');
  return refusals;
}

async function schemaRefusals(client: pg.PoolClient): Promise<string[]> {
  const refusals: string[] = [];
  const done = (await client.query<{ name: string }>('SELECT name FROM sealog.migration ORDER BY name')).rows.map(
    (row) => row.name,
  );
  const known = await knownMigrations();
  const newer = done.filter((name) => !known.includes(name));
  const missing = known.filter((name) => !done.includes(name));
  if (newer.length > 0) {
    refusals.push(
      `the database's schema is newer than this version of Sealog (${newer.join(', ')}): install the newer version`,
    );
  }
  if (missing.length > 0)
    refusals.push(
      `the database's schema is older than this version of Sealog: run \`sealog migrate\` (${missing.join(', ')})`,
    );
  const { rows: open } = await client.query<{ name: string }>(
    `SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relname = ANY ($1)
     AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY 1`,
    [GUARDED],
  );
  for (const { name } of open)
    refusals.push(
      `row-level security is not forced on sealog.${name}: ALTER TABLE sealog.${name} FORCE ROW LEVEL SECURITY`,
    );
  // Every partition too: a detached or hand-made one would be open to change.
  const { rows: bare } = await client.query<{ name: string; trigger: string }>(
    `WITH guarded AS (
       SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'sealog'::regnamespace AND c.relname = ANY ($1)
       UNION SELECT i.inhrelid, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
       WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind = 'r')
     SELECT g.relname::text AS name, t.wanted AS trigger FROM guarded g CROSS JOIN (VALUES ('append_only'), ('no_truncate')) AS t (wanted)
     WHERE NOT EXISTS (SELECT FROM pg_trigger x WHERE x.tgrelid = g.oid AND x.tgname = t.wanted AND x.tgenabled = 'A') ORDER BY 1, 2`,
    [APPEND_ONLY],
  );
  for (const { name, trigger } of bare) {
    refusals.push(
      `the trigger ${trigger} of sealog.${name} is missing or not ENABLE ALWAYS: the table can be changed; verify the log, then restore it`,
    );
  }
  return refusals;
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
  if (facts.remote && !facts.tls)
    warnings.push('the connection to a remote database is not encrypted: use sslmode=verify-full');
  if (facts.remote && settings['tcp_user_timeout'] === '0') {
    warnings.push('tcp_user_timeout is 0: the server keeps locks of a client that vanished for many minutes');
  }
  if (facts.remote && settings['client_connection_check_interval'] === '0') {
    warnings.push('client_connection_check_interval is 0: the server notices a vanished client only when it answers');
  }
  return warnings;
}
