/**
 * The ways into PostgreSQL: three pools, each under the role that its work needs and no more, and with a login of its own where there is one:
 *
 * - `writer` appends, for all tenants; few connections, because appending is one transaction at a time.
 * - `reader` answers clients: each transaction names one tenant, and row-level security shows it nothing else; nor do its statements ask
 *   for anything else (`tenant-filter.ts`).
 * - `verifier` reads everything and writes nothing: verification.
 *
 * (The signer has a connection of its own, `signer.ts`.) A session can become every role that its login may act as. So with one login for all of
 * them the roles keep our own mistakes apart; with a login each, also whoever gets a connection to run statements of his.
 *
 * Every wait has an end. The client's limit is longer than the server's, so that the server's clear answer comes first; after a
 * time-out a connection is thrown away, since nobody knows what it will still say (`bounded-client.ts`).
 */
import assert from 'node:assert/strict';
import { Kysely, type KyselyPlugin, PostgresDialect } from 'kysely';
import pg from 'pg';
import { EvidenceError, KeyUnavailableError, Problem } from '../errors.ts';
import { BoundedClient, type BoundedConfig, PEER_SETTINGS, Reconnects } from './bounded-client.ts';
import type { Tables } from './tables.ts';
import { tenantFilter } from './tenant-filter.ts';

export interface DatabaseOptions {
  /** Where to connect: a connection string, or host, port, user, password and database. Of the writer, and of whom has no login of his own. */
  readonly connection: pg.ClientConfig;
  readonly logins?: Logins | undefined;
  readonly readersMax: number;
  readonly log: { warn(facts: object, message: string): void };
}

/** What the application acts as; nobody logs in as one of these. */
export const APP_ROLES = ['sealog_writer', 'sealog_reader', 'sealog_verifier', 'sealog_signer'] as const;
export type AppRole = (typeof APP_ROLES)[number];
type PoolRole = Exclude<AppRole, 'sealog_signer'>;

/** Logins that serve one role each; the writer's serves the others. */
export interface Logins {
  readonly reader?: pg.ClientConfig | undefined;
  readonly verifier?: pg.ClientConfig | undefined;
  readonly signer?: pg.ClientConfig | undefined;
}

/** How reads of one tenant reach the database: each `work` in a short transaction that sees nothing else. */
export type AsTenant = <T>(work: (database: Kysely<Tables>) => Promise<T>) => Promise<T>;

export interface Database {
  readonly writer: pg.Pool;
  readonly reader: pg.Pool;
  readonly verifier: Kysely<Tables>;
  /** How many connections each pool has, how many of them nobody uses, and how many wait for one. */
  connections(): readonly PoolCount[];
  close(): Promise<void>;
}

export interface PoolCount {
  readonly role: string;
  readonly open: number;
  readonly idle: number;
  readonly waiting: number;
}

const CONNECT_MAX_MS = 2000;
const LOCK_WAIT_MAX_MS = 2000;
const STATEMENT_MAX_MS = 4000;
const ANSWER_MAX_MS = 5000;
/** Who asks whether we are ready waits for it, and for a connection. */
const CLOCK_MAX_MS = 2000;
const IDLE_IN_TRANSACTION_MAX_MS = 5000;
const WRITERS_MAX = 4;
/** Verification reads ahead while it looks up what the index must have. */
const VERIFIERS_MAX = 4;

/** A newer version changed what a prepared statement of this connection gives: on another one it is prepared anew. */
const PLAN_OUTDATED = '0A000';

/** bigint columns hold seq, size and milliseconds, all within a double's integers; a column that does not is read as text. */
export const typesOfDatabase: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') => {
    if (oid === pg.types.builtins.INT8) return (text: string) => safeInteger(text);
    if (oid === 1016) return (text: string) => (text === '{}' ? [] : text.slice(1, -1).split(',').map(safeInteger));
    return pg.types.getTypeParser(oid, format as 'text');
  }) as pg.CustomTypesConfig['getTypeParser'],
};

function safeInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError('a bigint column holds more than 2^53−1');
  return value;
}

export function openDatabase(options: DatabaseOptions): Database {
  let closing = false;
  const { connection, logins = {} } = options;
  const reconnects = new Reconnects();
  const pools = new Map<string, pg.Pool>();
  const pool = (role: PoolRole, max: number, login: pg.ClientConfig = connection): pg.Pool => {
    const settings = {
      role,
      search_path: 'pg_catalog',
      synchronous_commit: 'on',
      lock_timeout: `${LOCK_WAIT_MAX_MS}`,
      statement_timeout: `${STATEMENT_MAX_MS}`,
      idle_in_transaction_session_timeout: `${IDLE_IN_TRANSACTION_MAX_MS}`,
      // Compiling takes longer than any statement of ours, and goes by costs that enable_seqscan makes up.
      jit: 'off',
      // What the writer prepares is planned once: planning takes longer than a small batch, and values would not change the plan. It may be
      // planned while a table is small, and must serve when it is large (append.ts).
      ...(role === 'sealog_writer' ? { plan_cache_mode: 'force_generic_plan', enable_seqscan: 'off' } : {}),
      ...PEER_SETTINGS,
    };
    const config: BoundedConfig = {
      ...login,
      Client: BoundedClient,
      reconnects,
      max,
      types: typesOfDatabase,
      application_name: role,
      connectionTimeoutMillis: CONNECT_MAX_MS,
      query_timeout: ANSWER_MAX_MS,
      options: Object.entries(settings)
        .map(([name, value]) => `-c ${name}=${value}`)
        .join(' '),
    };
    const made = new pg.Pool(config);
    pools.set(role, made);
    made.on('error', (error: Error & { code?: string }) => {
      // The error has the whole client in it: only its words are told.
      if (!closing)
        options.log.warn({ code: error.code, reason: error.message, role }, 'an idle database connection was lost');
    });
    return made;
  };
  const writer = pool('sealog_writer', WRITERS_MAX);
  const reader = pool('sealog_reader', options.readersMax, logins.reader);
  const verifier = new Kysely<Tables>({
    dialect: new PostgresDialect({ pool: pool('sealog_verifier', VERIFIERS_MAX, logins.verifier) }),
  });
  return {
    writer,
    reader,
    verifier,
    connections: () =>
      [...pools].map(([role, { totalCount, idleCount, waitingCount }]) => ({
        role: role.slice('sealog_'.length),
        ...{ open: totalCount, idle: idleCount, waiting: waitingCount },
      })),
    async close() {
      closing = true;
      await Promise.all([writer.end(), reader.end(), verifier.destroy()]);
    },
  };
}

/** Runs `work` on a connection of the pool; one that failed for another reason than an answer of the server is thrown away. */
export async function withClient<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  let client: pg.PoolClient;
  try {
    client = await pool.connect();
  } catch (cause) {
    // Every connection is in use, and was for as long as one may be waited for.
    if (pool.totalCount >= pool.options.max && pool.idleCount === 0) throw new Problem('busy', { cause });
    throw new Problem('not_ready', { detail: 'the database can not be reached', cause });
  }
  let broken = true;
  try {
    const result = await work(client);
    broken = false;
    return result;
  } catch (error) {
    broken = !(error instanceof pg.DatabaseError) || error.code === PLAN_OUTDATED;
    throw error;
  } finally {
    client.release(broken);
  }
}

/**
 * Runs `work` in a read-only transaction that sees one tenant, by its id: what it asks for is filtered, and so is what it gets. What the
 * database can not do now is a Problem 503; a mistake of ours in a statement stays the error it is. Only tests take the filter away that
 * is ours, to see row-level security hold alone.
 */
export async function asTenant<T>(
  pool: pg.Pool,
  tenantId: number,
  work: (transaction: Kysely<Tables>) => Promise<T>,
  ownFilter = true,
): Promise<T> {
  assert(Number.isSafeInteger(tenantId));
  try {
    return await withClient(pool, async (client) => {
      // The connection is a pipeline: nothing waits for this answer, and when it fails, so does all that follows.
      const begun = client.query(`BEGIN READ ONLY; SELECT set_config('sealog.tenant', '${tenantId}', true)`);
      begun.catch(() => {});
      try {
        const result = await work(kyselyOn(client, ownFilter ? [tenantFilter(tenantId)] : []));
        await begun;
        return result;
      } finally {
        await client.query('COMMIT').catch(() => {});
      }
    });
  } catch (error) {
    const isMistake =
      error instanceof pg.DatabaseError && error.code?.startsWith('42') === true && error.code !== '42501';
    if (isMistake || error instanceof Problem || isOfThisProject(error)) throw error;
    throw new Problem('not_ready', { detail: 'the database does not answer', cause: error });
  }
}

/** Evidence, keys, and what we assert are told by who knows about them. */
function isOfThisProject(error: unknown): boolean {
  return (
    error instanceof EvidenceError ||
    error instanceof KeyUnavailableError ||
    error instanceof assert.AssertionError ||
    error instanceof TypeError ||
    error instanceof RangeError
  );
}

/** Returns kysely on one connection, which stays its owner's. */
function kyselyOn(client: pg.PoolClient, plugins: KyselyPlugin[]): Kysely<Tables> {
  const lent = { query: client.query.bind(client), release() {} } as unknown as pg.PoolClient;
  return new Kysely<Tables>({
    plugins,
    dialect: new PostgresDialect({ pool: { connect: async () => lent, end: async () => {}, options: {} } }),
  });
}

/** Returns the database's clock in milliseconds since 1970, or undefined when it does not answer within two seconds of a connection. */
export async function databaseClock(writer: pg.Pool): Promise<number | undefined> {
  try {
    const question = {
      text: 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now',
      // The driver knows it, its types do not.
      query_timeout: CLOCK_MAX_MS,
    };
    const { rows } = await writer.query<{ now: number }>(question);
    return rows[0]?.now;
  } catch {
    return undefined;
  }
}
