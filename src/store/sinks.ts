/**
 * Sinks, as those see and change them who configure: what each is, where it stands, how it fares. What its follower writes is in sink-followers.ts.
 *
 * Every change raises the sink's revision, and locks its row before its cursors: what a follower writes names the revision that he knows, so he changes
 * nothing behind a change, and reads the sink anew. A cursor is moved back at will, and forward only past one entry that is named.
 */
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { type Category, OWN_TENANT } from '../chain/category.ts';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

export type SinkState = 'active' | 'paused' | 'disabled';

export interface SinkRow {
  readonly id: string;
  readonly name: string;
  readonly config: { readonly [name: string]: unknown };
  readonly state: SinkState;
  readonly revision: number;
  readonly fromFile: boolean;
  readonly createdAt: Date;
  readonly createdBy: string;
  readonly deliveredAt: Date | null;
  readonly failures: number;
  readonly error: string | null;
  readonly errorAt: Date | null;
  readonly retryAt: Date | null;
}

/** What is secret in a sink, sealed under a data key; undefined = nothing. */
export type SinkSecret = { readonly sealed: Uint8Array; readonly keyId: string } | undefined;

/** How far a sink is behind the log, in the streams that the reader may see. */
export interface SinkLag {
  readonly sink: string;
  readonly entries: number;
  /** When the log took the oldest entry that is not delivered; within its block. Undefined where there is none. */
  readonly oldestMs: number | undefined;
}

/** A stream of a sink that does not go on by itself. */
export interface ParkedStream {
  readonly sink: string;
  /** Undefined: the deployment's anchor stream, which a tenant's reader does not see. */
  readonly stream: string | undefined;
  readonly seq: number;
  readonly reason: string;
  readonly at: Date;
}

export interface SinkPlace {
  readonly streamId: number;
  readonly nextSeq: number;
}

interface SinkContent {
  readonly name: string;
  readonly config: object;
  readonly secret: SinkSecret;
}

export interface NewSinkRow extends SinkContent {
  readonly id: string;
  readonly tenantId: number;
  readonly fromFile: boolean;
  readonly createdBy: string;
  /** `now`: in every stream behind what it has. Else these, and the beginning of all others. */
  readonly begin: 'now' | readonly SinkPlace[];
}

/** Which sink, and what of it was seen: where it was changed since, nothing happens. */
export interface SeenSink {
  readonly id: string;
  readonly tenantId: number;
  readonly revision: number;
}

const SHOWN = `s.id, s.name, s.config, s.state, s.revision, s.from_file AS "fromFile",
  s.created_at AS "createdAt", s.created_by AS "createdBy", s.delivered_at AS "deliveredAt", s.failures, s.error, s.error_at AS "errorAt",
  s.retry_at AS "retryAt"`;

/** Of what was before a change, nothing is said of what is behind it. */
const AFRESH = 'revision = s.revision + 1, failures = 0, error = NULL, error_at = NULL, retry_at = NULL';

const SECRET = 's.secret, s.secret_key::text AS "secretKey"';

interface Sealed {
  readonly secret: Buffer | null;
  readonly secretKey: string | null;
}

// ---- Reading ----

/** Returns a sink that the connection's role may see; where `sites` are given, only one that is held to some of them. */
export async function sinkById(
  database: Kysely<Tables>,
  id: string,
  sites: readonly string[] | undefined,
): Promise<SinkRow | undefined> {
  const { rows } = await sql<SinkRow>`
    SELECT ${sql.raw(SHOWN)} FROM ${sql.table('sealog.sink')} AS s
    WHERE s.id = ${id} AND s.state <> 'deleted' AND ${heldTo(sites)}`.execute(database);
  return rows[0];
}

/** Returns sinks that the connection's role may see, by name, from behind one on; where `sites` are given, only those held to some of them. */
export async function listSinks(
  database: Kysely<Tables>,
  behind: string | undefined,
  sites: readonly string[] | undefined,
  limit: number,
): Promise<SinkRow[]> {
  const { rows } = await sql<SinkRow>`
    SELECT ${sql.raw(SHOWN)} FROM ${sql.table('sealog.sink')} AS s
    WHERE s.state <> 'deleted' AND ${heldTo(sites)} AND ${behind === undefined ? sql`true` : sql`s.name COLLATE "C" > ${behind}`}
    ORDER BY s.name COLLATE "C" LIMIT ${limit}`.execute(database);
  return rows;
}

/** Returns how far sinks are behind, each in the streams of its categories. */
export async function lagsOf(
  database: Kysely<Tables>,
  sinks: readonly { readonly id: string; readonly categories: readonly Category[] }[],
): Promise<SinkLag[]> {
  if (sinks.length === 0) return [];
  const wanted = JSON.stringify(sinks.map(({ id, categories }) => ({ id, categories })));
  const { rows } = await sql<{ sink: string; entries: number; oldest: number | null }>`
    SELECT w.id AS sink, coalesce(sum(s.size - coalesce(c.next_seq, 0)), 0)::bigint AS entries, min(b.recorded_from) AS oldest
    FROM jsonb_to_recordset(${wanted}::jsonb) AS w (id uuid, categories jsonb)
    LEFT JOIN ${sql.table('sealog.stream')} AS s ON w.categories ? s.category
    LEFT JOIN ${sql.table('sealog.sink_cursor')} AS c ON c.sink = w.id AND c.stream = s.id
    LEFT JOIN LATERAL (
      SELECT o.recorded_from FROM ${sql.table('sealog.block')} AS o
      WHERE s.size > coalesce(c.next_seq, 0) AND o.stream = s.id AND o.first_seq <= coalesce(c.next_seq, 0)
      ORDER BY o.first_seq DESC LIMIT 1) AS b ON true
    GROUP BY w.id`.execute(database);
  return rows.map(({ sink, entries, oldest }) => ({ sink, entries, oldestMs: oldest ?? undefined }));
}

export async function parkedOf(database: Kysely<Tables>, sinks: readonly string[]): Promise<ParkedStream[]> {
  const { rows } = await sql<Omit<ParkedStream, 'stream'> & { stream: string | null }>`
    SELECT c.sink, s.name AS stream, c.next_seq AS seq, c.parked_reason AS reason, c.parked_at AS at
    FROM ${sql.table('sealog.sink_cursor')} AS c LEFT JOIN ${sql.table('sealog.stream')} AS s ON s.id = c.stream
    WHERE c.sink = ANY (${[...sinks]}::uuid[]) AND c.parked_at IS NOT NULL ORDER BY c.sink, s.name`.execute(database);
  return rows.map(({ stream, ...row }) => ({ ...row, stream: stream ?? undefined }));
}

export interface StreamOfSink {
  readonly id: number;
  readonly name: string;
  readonly category: Category;
  readonly epoch: number;
  readonly size: number;
}

/** Returns the streams of these categories that the connection's role may see, by epoch. */
export async function streamsIn(database: Kysely<Tables>, categories: readonly Category[]): Promise<StreamOfSink[]> {
  return database
    .selectFrom('sealog.stream')
    .select(['id', 'name', 'category', 'epoch', 'size'])
    .$narrowType<{ category: Category }>()
    .where('category', 'in', categories)
    .orderBy('category')
    .orderBy('epoch')
    .execute();
}

/** Returns how far a sink got, by stream; one that is missing is at 0. */
export async function cursorsOf(database: Kysely<Tables>, sink: string): Promise<Map<number, number>> {
  const rows = await database
    .selectFrom('sealog.sink_cursor')
    .select(['stream', 'next_seq'])
    .where('sink', '=', sink)
    .execute();
  return new Map(rows.map(({ stream, next_seq }) => [stream, next_seq]));
}

/** Returns the seq of the first entry of a stream's first block that ends at or behind an instant; undefined where there is none. */
export async function firstSeqEndingFrom(
  database: Kysely<Tables>,
  streamId: number,
  recordedFromMs: number,
): Promise<number | undefined> {
  const { rows } = await sql<{ seq: number }>`
    SELECT b.first_seq AS seq FROM ${sql.table('sealog.block')} AS b
    WHERE b.stream = ${streamId} AND b.recorded_to >= ${recordedFromMs} ORDER BY b.first_seq LIMIT 1`.execute(database);
  return rows[0]?.seq;
}

/** Returns the sinks that the operator's files have made, of all tenants, as the writer sees them. */
export async function sinksFromFile(
  writer: pg.Pool,
): Promise<(SinkRow & { readonly secret: SinkSecret; readonly tenantId: number; readonly tenant: string })[]> {
  const { rows } = await writer.query<SinkRow & Sealed & { tenantId: number; tenant: string }>(
    `SELECT ${SHOWN}, ${SECRET}, s.tenant AS "tenantId", t.name AS tenant FROM sealog.sink AS s JOIN sealog.tenant AS t ON t.id = s.tenant
     WHERE s.from_file AND s.state <> 'deleted' ORDER BY s.created_at, s.id`,
  );
  return rows.map(({ secretKey, ...row }) => ({ ...row, secret: secretOf({ ...row, secretKey }) }));
}

/**
 * Returns what is secret in a sink, as the writer alone sees it. Throws a Problem `busy` where the sink was changed since it was seen: what is
 * secret must not go with another address than the one that it is for.
 */
export async function secretOfSink(writer: pg.Pool, seen: SeenSink): Promise<SinkSecret> {
  const { rows } = await withClient(writer, (client) =>
    client.query<Sealed>(
      `SELECT ${SECRET} FROM sealog.sink AS s WHERE s.id = $1 AND s.tenant = $2 AND s.revision = $3 AND s.state <> 'deleted'`,
      seenOf(seen),
    ),
  ).catch((cause: unknown) => {
    throw refusalOf(cause, 'not_ready');
  });
  if (rows[0] === undefined) throw new Problem('busy', { detail: 'somebody else changed this sink at the same time' });
  return secretOf(rows[0]);
}

export interface SinkCounts {
  /** Sinks, by the state that is shown. */
  readonly byState: Readonly<Record<ShownSinkState, number>>;
  /** Streams that wait at an entry. */
  readonly parkedStreams: number;
  /** Of all sinks that are to be followed: entries that are to be read for them, and how long ago the log took the oldest. */
  readonly lagEntries: number;
  readonly lagSeconds: number;
}

export type ShownSinkState = 'running' | 'retrying' | 'parked' | 'paused' | 'disabled';

/** Counts the sinks of all tenants, and how far they are behind. Each looks up its own streams: to look through all for each takes seconds with some thousand tenants. */
export async function countSinks(writer: pg.Pool): Promise<SinkCounts> {
  const { rows } = await writer.query<{
    state: ShownSinkState;
    sinks: number;
    parked: number;
    lag: number;
    oldest: number | null;
    now: number;
  }>(
    `SELECT CASE WHEN s.state <> 'active' THEN s.state WHEN s.failures > 0 THEN 'retrying' WHEN a.parked > 0 THEN 'parked' ELSE 'running' END AS state,
       count(*) AS sinks, coalesce(sum(a.parked), 0)::bigint AS parked, coalesce(sum(a.lag), 0)::bigint AS lag, min(a.oldest) AS oldest,
       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
     FROM sealog.sink AS s, LATERAL (
       SELECT count(c.parked_at) AS parked, sum(st.size - coalesce(c.next_seq, 0)) AS lag, min(b.recorded_from) AS oldest
       FROM (
         SELECT o.id, o.size FROM sealog.stream AS o
         WHERE o.tenant = s.tenant AND o.category <> 'anchor' AND coalesce(s.config #> '{filter,categories}' ? o.category, true)
         UNION ALL
         SELECT o.id, o.size FROM sealog.stream AS o
         WHERE o.tenant = (SELECT id FROM sealog.tenant WHERE name = $1) AND o.category = 'anchor'
           AND coalesce((s.config ->> 'anchor')::boolean, false)
       ) AS st LEFT JOIN sealog.sink_cursor AS c ON c.sink = s.id AND c.stream = st.id
       LEFT JOIN LATERAL (
         SELECT o.recorded_from FROM sealog.block AS o
         WHERE s.state = 'active' AND st.size > coalesce(c.next_seq, 0) AND o.stream = st.id AND o.first_seq <= coalesce(c.next_seq, 0)
         ORDER BY o.first_seq DESC LIMIT 1) AS b ON true
     ) AS a
     WHERE s.state <> 'deleted' GROUP BY 1`,
    [OWN_TENANT],
  );
  const followed = rows.filter(({ state }) => state !== 'paused' && state !== 'disabled');
  const ages = followed.flatMap(({ oldest, now }) => (oldest === null ? [] : [Math.max(0, now - oldest) / 1000]));
  const sinksIn = (state: ShownSinkState): number => rows.find((row) => row.state === state)?.sinks ?? 0;
  return {
    byState: {
      running: sinksIn('running'),
      retrying: sinksIn('retrying'),
      parked: sinksIn('parked'),
      paused: sinksIn('paused'),
      disabled: sinksIn('disabled'),
    },
    parkedStreams: rows.reduce((sum, { parked }) => sum + parked, 0),
    lagEntries: followed.reduce((sum, { lag }) => sum + lag, 0),
    lagSeconds: Math.max(0, ...ages),
  };
}

// ---- Changing ----

/**
 * Makes a sink. Returns undefined where the tenant has `max` already; two callers at once: one waits for the other. Throws a Problem: `exists` where there
 * is one of its name, 503 where it was not stored, `outcome_unknown` where nobody knows.
 */
export async function createSink(writer: pg.Pool, sink: NewSinkRow, max: number): Promise<SinkRow | undefined> {
  return change(writer, async (client) => {
    await client.query(`SELECT pg_advisory_xact_lock(hashtextextended('sealog.sink', $1))`, [sink.tenantId]);
    const { rows } = await client.query<SinkRow>(
      `INSERT INTO sealog.sink AS s (id, tenant, name, config, secret, secret_key, from_file, created_by)
       SELECT $1::uuid, $2::integer, $3::text, $4::jsonb, $5::bytea, $6::bigint, $7::boolean, $8::text
       WHERE (SELECT count(*) FROM sealog.sink AS other WHERE other.tenant = $2 AND other.state <> 'deleted') < $9
       RETURNING ${SHOWN}`,
      [sink.id, sink.tenantId, ...contentOf(sink), sink.fromFile, sink.createdBy, max],
    );
    const [made] = rows;
    if (made === undefined) return undefined;
    if (sink.begin === 'now')
      await client.query(
        `INSERT INTO sealog.sink_cursor (sink, tenant, stream, next_seq)
         SELECT $1, $2, s.id, s.size FROM sealog.stream AS s WHERE s.tenant = $2 OR s.category = 'anchor'`,
        [sink.id, sink.tenantId],
      );
    else
      await client.query(
        `INSERT INTO sealog.sink_cursor (sink, tenant, stream, next_seq)
         SELECT $1, $2, p.stream, p.seq FROM unnest($3::integer[], $4::bigint[]) AS p (stream, seq)`,
        [sink.id, sink.tenantId, ...placesOf(sink.begin)],
      );
    return made;
  });
}

/**
 * Gives a sink another content. What it did not want before begins, in its streams, behind what they have now: `added`. Returns undefined where it was
 * changed since it was seen.
 */
export async function changeSink(
  writer: pg.Pool,
  seen: SeenSink,
  content: SinkContent,
  added: { readonly categories: readonly Category[]; readonly anchor: boolean },
): Promise<SinkRow | undefined> {
  return change(writer, async (client) => {
    const { rows } = await client.query<SinkRow>(
      `UPDATE sealog.sink AS s SET name = $4, config = $5, secret = $6, secret_key = $7, ${AFRESH}
       WHERE s.id = $1 AND s.tenant = $2 AND s.revision = $3 AND s.state <> 'deleted' RETURNING ${SHOWN}`,
      [...seenOf(seen), ...contentOf(content)],
    );
    const [changed] = rows;
    if (changed === undefined) return undefined;
    await client.query(
      `INSERT INTO sealog.sink_cursor (sink, tenant, stream, next_seq)
       SELECT $1, $2, s.id, s.size FROM sealog.stream AS s
       WHERE (s.tenant = $2 AND s.category = ANY ($3)) OR ($4 AND s.category = 'anchor')
       ON CONFLICT (sink, stream) DO UPDATE SET next_seq = excluded.next_seq, parked_at = NULL, parked_reason = NULL`,
      [seen.id, seen.tenantId, [...added.categories], added.anchor],
    );
    return changed;
  });
}

/** Pauses, disables or goes on with a sink. Returns undefined where it is gone. */
export async function setSinkState(
  writer: pg.Pool,
  { id, tenantId }: Pick<SeenSink, 'id' | 'tenantId'>,
  state: SinkState,
): Promise<SinkRow | undefined> {
  return change(writer, async (client) => {
    const { rows } = await client.query<SinkRow>(
      `UPDATE sealog.sink AS s SET state = $3, ${AFRESH} WHERE s.id = $1 AND s.tenant = $2 AND s.state <> 'deleted' RETURNING ${SHOWN}`,
      [id, tenantId, state],
    );
    return rows[0];
  });
}

/** Deletes a sink: its row stays as history, its secret does not. Returns false where it is gone. */
export async function deleteSink(
  writer: pg.Pool,
  { id, tenantId }: Pick<SeenSink, 'id' | 'tenantId'>,
): Promise<boolean> {
  return change(writer, async (client) => {
    const { rowCount } = await client.query(
      `UPDATE sealog.sink AS s SET state = 'deleted', secret = NULL, secret_key = NULL, ${AFRESH}
       WHERE s.id = $1 AND s.tenant = $2 AND s.state <> 'deleted'`,
      [id, tenantId],
    );
    return rowCount === 1;
  });
}

/** Moves cursors back to places, never forward, and lets parked streams of them go on. Returns undefined where the sink was changed since it was seen. */
export async function replaySink(
  writer: pg.Pool,
  seen: SeenSink,
  places: readonly SinkPlace[],
): Promise<SinkRow | undefined> {
  return change(writer, async (client) => {
    const raised = await raise(client, seen);
    // A stream without a cursor is at its beginning.
    if (raised !== undefined)
      await client.query(
        `UPDATE sealog.sink_cursor AS c SET next_seq = least(c.next_seq, p.seq), parked_at = NULL, parked_reason = NULL
         FROM unnest($2::integer[], $3::bigint[]) AS p (stream, seq) WHERE c.sink = $1 AND c.stream = p.stream`,
        [seen.id, ...placesOf(places)],
      );
    return raised;
  });
}

/** Goes on at a parked entry (`retry`) or behind it (`skip`), of one stream or of all. Returns undefined where the sink was changed, or is not parked there. */
export async function unparkSink(
  writer: pg.Pool,
  seen: SeenSink,
  where:
    | { readonly way: 'retry'; readonly streamId: number | undefined }
    | { readonly way: 'skip'; readonly streamId: number; readonly seq: number },
): Promise<SinkRow | undefined> {
  return change(writer, async (client) => {
    if (!(await lock(client, seen))) return undefined;
    const { rowCount } = await client.query(
      `UPDATE sealog.sink_cursor AS c SET next_seq = c.next_seq + $4, parked_at = NULL, parked_reason = NULL
       WHERE c.sink = $1 AND c.parked_at IS NOT NULL AND ($2::integer IS NULL OR c.stream = $2) AND ($3::bigint IS NULL OR c.next_seq = $3)`,
      where.way === 'skip' ? [seen.id, where.streamId, where.seq, 1] : [seen.id, where.streamId ?? null, null, 0],
    );
    return where.way === 'skip' && rowCount !== 1 ? undefined : raise(client, seen);
  });
}

/** Runs work that no two replicas do at once; another waits for so long. */
export async function oneAtATime<T>(
  writer: pg.Pool,
  what: string,
  waitMaxMs: number,
  work: () => Promise<T>,
): Promise<T> {
  const end = performance.now() + waitMaxMs;
  return withClient(writer, async (client) => {
    for (;;) {
      const { rows } = await client.query<{ taken: boolean }>(
        'SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS taken',
        [what],
      );
      if (rows[0]?.taken === true) break;
      if (performance.now() > end) throw new Problem('busy', { detail: 'another replica does this' });
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    try {
      return await work();
    } finally {
      await client.query('SELECT pg_advisory_unlock(hashtextextended($1, 0))', [what]);
    }
  });
}

// ---- Helpers ----

/** A follower's writes wait, and find another revision. */
async function lock(client: pg.PoolClient, seen: SeenSink): Promise<boolean> {
  const { rowCount } = await client.query(
    `SELECT FROM sealog.sink AS s WHERE s.id = $1 AND s.tenant = $2 AND s.revision = $3 AND s.state <> 'deleted' FOR UPDATE`,
    seenOf(seen),
  );
  return rowCount === 1;
}

async function raise(client: pg.PoolClient, seen: SeenSink): Promise<SinkRow | undefined> {
  const { rows } = await client.query<SinkRow>(
    `UPDATE sealog.sink AS s SET ${AFRESH} WHERE s.id = $1 AND s.tenant = $2 AND s.revision = $3 AND s.state <> 'deleted' RETURNING ${SHOWN}`,
    seenOf(seen),
  );
  return rows[0];
}

function seenOf({ id, tenantId, revision }: SeenSink): [string, number, number] {
  return [id, tenantId, revision];
}

function contentOf({ name, config, secret }: SinkContent): unknown[] {
  const sealed = secret === undefined ? null : Buffer.from(secret.sealed);
  return [name, JSON.stringify(config), sealed, secret?.keyId ?? null];
}

function placesOf(places: readonly SinkPlace[]): [number[], number[]] {
  return [places.map(({ streamId }) => streamId), places.map(({ nextSeq }) => nextSeq)];
}

function secretOf({ secret, secretKey }: Sealed): SinkSecret {
  return secret === null || secretKey === null ? undefined : { sealed: secret, keyId: secretKey };
}

/** A sink for all sites is held to none, and not within any. */
function heldTo(sites: readonly string[] | undefined) {
  return sites === undefined
    ? sql`true`
    : sql`coalesce(s.config #> '{filter,sites}' <@ ${JSON.stringify(sites)}::jsonb, false)`;
}

/** Makes a change in one transaction: it is there or not, unless the answer to its COMMIT was lost. */
async function change<T>(writer: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  try {
    return await withClient(writer, async (client) => {
      await client.query('BEGIN');
      let result: T;
      try {
        result = await work(client);
      } catch (cause) {
        await client.query('ROLLBACK').catch(() => {});
        throw refusalOf(cause, 'not_ready');
      }
      await client.query('COMMIT');
      return result;
    });
  } catch (cause) {
    throw refusalOf(cause, 'outcome_unknown');
  }
}

/** What the server refuses was not done. Its words stay here: they can hold the row. */
function refusalOf(cause: unknown, withoutAnswer: 'not_ready' | 'outcome_unknown'): unknown {
  if (cause instanceof Problem) return cause;
  if (cause instanceof pg.DatabaseError) {
    if (cause.constraint === 'sink_name') return new Problem('exists', { detail: 'there is a sink of this name' });
    // Class 23 and 42: a statement that can not be right.
    if (/^(22|23|42)/.test(cause.code ?? ''))
      return new Error(`a sink was not stored: ${cause.code} ${cause.constraint ?? ''}`);
    return new Problem('not_ready', { detail: 'the database refused to store', cause });
  }
  return new Problem(withoutAnswer, { detail: 'the database does not answer', cause });
}
