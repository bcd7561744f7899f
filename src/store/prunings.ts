/**
 * What pruning reads and writes (migrations/0011_pruning.sql): runs, what they certify, and the clock's mark. The rows of a run say how far it
 * is; each function here is one step of it, in one transaction, so that whoever finds it unfinished knows where to go on.
 */
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import type { Category } from '../chain/category.ts';
import { EvidenceError } from '../errors.ts';
import { withClient } from './database.ts';
import type { PruningState, Tables } from './tables.ts';

export interface Pruning {
  readonly id: string;
  readonly dropMonth: number;
  readonly requestedBy: string;
  /** Whether an outside time must say that the time has come. */
  readonly outside: boolean;
  readonly state: PruningState;
  /** What it waits for, or why it was given up. */
  readonly waiting: string | null;
  readonly monthKeys: readonly string[];
  /** Sinks that what went was not delivered to, as it was when it went. */
  readonly undelivered: readonly Undelivered[];
  readonly createdAt: Date;
  readonly droppedAt: Date | null;
  readonly finishedAt: Date | null;
}

/** Entries `from` up to, not including, `to`, of a stream that a sink never had. */
export interface Undelivered {
  readonly tenant: string;
  readonly sink: string;
  readonly stream: string;
  readonly from: number;
  readonly to: number;
}

/** What a stream has in a drop month: entries from `first` up to, not including, `end`. */
export interface ExpiredRange {
  readonly streamId: number;
  readonly tenantId: number;
  readonly tenant: string;
  readonly name: string;
  readonly category: Category;
  readonly epoch: number;
  readonly size: number;
  /** Where what is left of the stream begins, but for what is held. */
  readonly pruned: number;
  /** Where what expires for the first time begins; null where there is none, but what was held before. */
  readonly fresh: number | null;
  /** How long new entries are kept; null = for ever. */
  readonly months: number | null;
  readonly first: number;
  readonly end: number;
}

export interface StoredCertificate {
  readonly streamId: number;
  readonly tenantId: number;
  readonly tenant: string;
  readonly stream: string;
  readonly first: number;
  readonly end: number;
  /** How far the stream was pruned before. */
  readonly pruned: number;
  readonly retainUntil: number;
  /** Canonical text. */
  readonly certificate: string;
  /** Of its entry, once it is known. */
  readonly place: { readonly streamId: number; readonly stream: string; readonly seq: number } | undefined;
}

/** How far the entry of a certificate is vouched for. */
export interface CertificateAnchor {
  readonly stream: string;
  readonly isSigned: boolean;
  readonly isTicked: boolean;
  /** The latest time that somebody outside stated over it, milliseconds since 1970. */
  readonly outside: number | undefined;
  readonly retainUntil: number;
}

/** Keeps other replicas from pruning meanwhile; undefined where one does. */
export async function asPruner<T>(writer: pg.Pool, work: () => Promise<T>): Promise<T | undefined> {
  return withClient(writer, async (client) => {
    const { rows } = await client.query<{ taken: boolean }>(
      `SELECT pg_try_advisory_lock(hashtextextended('sealog.pruning', 0)) AS taken`,
    );
    if (rows[0]?.taken !== true) return undefined;
    try {
      return await work();
    } finally {
      await client.query(`SELECT pg_advisory_unlock(hashtextextended('sealog.pruning', 0))`);
    }
  });
}

// ---- What there is ----

/** Returns the drop months that have partitions, the oldest first: of calendar months alone. */
export async function storedMonths(database: Kysely<Tables>): Promise<number[]> {
  const { rows } = await sql<{ month: number }>`
    SELECT substring(c.relname FROM 7)::integer AS month FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'sealog.block'::regclass AND c.relname ~ '^block_[0-9]{6,7}$' ORDER BY 1`.execute(database);
  return rows.map(({ month }) => month);
}

/**
 * Returns what each stream has in a drop month; from stream to stream in the index, so that it takes as long for a million rows as for one. What
 * a pruning of the month moved that was then abandoned is among it: it is certified with what it stood among.
 */
export async function rangesIn(database: Kysely<Tables>, dropMonth: number): Promise<ExpiredRange[]> {
  const month = sql.lit(dropMonth);
  const { rows } = await sql<ExpiredRange>`
    WITH RECURSIVE step (stream) AS (
      SELECT min(b.stream) FROM sealog.block AS b WHERE b.drop_month = ${month}
      UNION ALL SELECT (SELECT min(b.stream) FROM sealog.block AS b WHERE b.drop_month = ${month} AND b.stream > step.stream)
      FROM step WHERE step.stream IS NOT NULL),
    moved AS (
      SELECT c.stream, min(greatest(c.first_seq, s.pruned)) AS first, max(c.end_seq) AS past
      FROM sealog.pruning AS p JOIN sealog.pruning_certificate AS c ON c.run = p.id JOIN sealog.stream AS s ON s.id = c.stream
      WHERE p.drop_month = ${month} AND p.state = 'abandoned' AND c.end_seq > s.pruned GROUP BY c.stream)
    SELECT s.id AS "streamId", s.tenant AS "tenantId", t.name AS tenant, s.name, s.category, s.epoch, s.size, s.pruned, s.retention_months AS months,
      least(m.first, (SELECT b.first_seq FROM sealog.block AS b WHERE b.drop_month = ${month} AND b.stream = s.id AND b.first_seq >= s.pruned
       ORDER BY b.first_seq LIMIT 1)) AS fresh,
      least(m.first, (SELECT b.first_seq FROM sealog.block AS b WHERE b.drop_month = ${month} AND b.stream = s.id
       ORDER BY b.first_seq LIMIT 1)) AS first,
      greatest(m.past, (SELECT b.first_seq + b.entries FROM sealog.block AS b WHERE b.drop_month = ${month} AND b.stream = s.id
       ORDER BY b.first_seq DESC LIMIT 1)) AS "end"
    FROM (SELECT stream FROM step WHERE stream IS NOT NULL UNION SELECT stream FROM moved) AS f
    JOIN sealog.stream AS s ON s.id = f.stream JOIN sealog.tenant AS t ON t.id = s.tenant LEFT JOIN moved AS m ON m.stream = s.id
    ORDER BY s.id`.execute(database);
  return rows;
}

/** A sink that must not lose anything, and where it stands in a stream: by name, those before `end`. */
export async function requiredSinksBehind(
  writer: pg.Pool,
  ranges: readonly Pick<ExpiredRange, 'streamId' | 'end'>[],
): Promise<{ sink: string; stream: string; nextSeq: number }[]> {
  const { rows } = await writer.query<{ sink: string; stream: string; nextSeq: number }>(
    `SELECT s.name AS sink, st.name AS stream, coalesce(c.next_seq, 0) AS "nextSeq"
     FROM unnest($1::integer[], $2::bigint[]) AS w (stream, past)
     JOIN sealog.stream AS st ON st.id = w.stream
     JOIN sealog.sink AS s ON s.tenant = st.tenant AND s.state <> 'deleted' AND coalesce((s.config ->> 'required')::boolean, false)
       AND coalesce(s.config #> '{filter,categories}' ? st.category, true)
     LEFT JOIN sealog.sink_cursor AS c ON c.sink = s.id AND c.stream = st.id
     WHERE coalesce(c.next_seq, 0) < w.past ORDER BY 1, 2 LIMIT 20`,
    [ranges.map(({ streamId }) => streamId), ranges.map(({ end }) => end)],
  );
  return rows;
}

// ---- The clock ----

/**
 * Notes the database's clock, and since when it can not be relied on: where it went on by more than `gapMs` since the last look, or back, nobody
 * knows what happened in between. Returns that, in milliseconds since 1970.
 */
export async function lookAtClock(writer: pg.Pool, now: number, gapMs: number): Promise<number | undefined> {
  const { rows } = await writer.query<{ doubted: number | null }>(
    `UPDATE sealog.clock_mark SET seen = $1,
       doubted_since = CASE WHEN $1 - seen BETWEEN -300000 AND $2 THEN doubted_since ELSE coalesce(doubted_since, seen) END
     RETURNING doubted_since AS doubted`,
    [now, gapMs],
  );
  return rows[0]?.doubted ?? undefined;
}

/** Somebody vouches for the clock as it is. */
export async function trustClock(writer: pg.Pool, now: number): Promise<void> {
  await writer.query('UPDATE sealog.clock_mark SET seen = $1, doubted_since = NULL', [now]);
}

/** Returns the last time that somebody outside stated, and the database's clock when it was recorded. */
export async function lastOutsideTime(writer: pg.Pool): Promise<{ statedMs: number; recordedMs: number } | undefined> {
  const { rows } = await writer.query<{ stated: number; recorded: Date }>(
    `SELECT evidence_time AS stated, recorded_at AS recorded FROM sealog.outside_evidence WHERE kind <> 'folder' ORDER BY id DESC LIMIT 1`,
  );
  const [row] = rows;
  return row && { statedMs: row.stated, recordedMs: row.recorded.getTime() };
}

// ---- Runs ----

const RUN = `p.id, p.drop_month AS "dropMonth", p.requested_by AS "requestedBy", p.outside, p.state, p.waiting, p.month_keys AS "monthKeys", p.undelivered,
  p.created_at AS "createdAt", p.dropped_at AS "droppedAt", p.finished_at AS "finishedAt"`;

/** Returns the run that is not finished; there is one at most. */
export async function unfinishedRun(writer: pg.Pool): Promise<Pruning | undefined> {
  const { rows } = await writer.query<Pruning>(
    `SELECT ${RUN} FROM sealog.pruning AS p WHERE p.state NOT IN ('done', 'abandoned')`,
  );
  return rows[0];
}

/** Begins a run. Two replicas at once: one does, the other throws. */
export async function beginRun(
  writer: pg.Pool,
  run: Pick<Pruning, 'dropMonth' | 'requestedBy' | 'outside'>,
): Promise<Pruning> {
  const { rows } = await writer.query<Pruning>(
    `INSERT INTO sealog.pruning AS p (drop_month, requested_by, outside) VALUES ($1, $2, $3) RETURNING ${RUN}`,
    [run.dropMonth, run.requestedBy, run.outside],
  );
  return rows[0]!;
}

/** Moves a run on; returns false where it stands elsewhere by now. */
export async function moveRun(
  writer: pg.Pool | pg.ClientBase,
  run: string,
  from: PruningState,
  to: PruningState,
  waiting?: string,
): Promise<boolean> {
  const { rowCount } = await writer.query(
    'UPDATE sealog.pruning SET state = $3, waiting = $4 WHERE id = $1 AND state = $2',
    [run, from, to, waiting?.slice(0, 1000) ?? null],
  );
  return rowCount === 1;
}

/** Says what a run waits for. */
export async function noteWaiting(writer: pg.Pool, run: string, waiting: string): Promise<void> {
  await writer.query('UPDATE sealog.pruning SET waiting = $2 WHERE id = $1 AND waiting IS DISTINCT FROM $2', [
    run,
    waiting.slice(0, 1000),
  ]);
}

export interface NewCertificate extends Pick<StoredCertificate, 'streamId' | 'tenantId' | 'first' | 'end'> {
  readonly retainUntil: number;
  readonly certificate: string;
  /** The leaf hashes of the unfinished tile at its end, one after the other; undefined where there is none, or it is full by now. */
  readonly edge: { readonly index: number; readonly hashes: Uint8Array } | undefined;
}

/** Fixes what a run certifies, and keeps the hashes at the edges: all or nothing. */
export async function writeCertificates(
  writer: pg.Pool,
  run: string,
  certificates: readonly NewCertificate[],
): Promise<boolean> {
  return withClient(writer, async (client) => {
    await client.query('BEGIN');
    try {
      for (const one of certificates) {
        await client.query(
          `INSERT INTO sealog.pruning_certificate (run, tenant, stream, first_seq, end_seq, retain_until, certificate)
           VALUES ($1, $2, $3, $4, $5, $6, $7)`,
          [run, one.tenantId, one.streamId, one.first, one.end, one.retainUntil, one.certificate],
        );
        if (one.edge !== undefined) await keepEdge(client, one, one.edge);
      }
      const isOurs = await moveRun(client, run, 'planned', 'written');
      await client.query(isOurs ? 'COMMIT' : 'ROLLBACK');
      return isOurs;
    } catch (error) {
      await client.query('ROLLBACK');
      throw error;
    }
  });
}

/** Throws an EvidenceError where what is kept of the tile, and would be read, is something else: soon it would be all that is left. */
async function keepEdge(
  client: pg.PoolClient,
  { tenantId, streamId }: NewCertificate,
  { index, hashes }: NonNullable<NewCertificate['edge']>,
): Promise<void> {
  await client.query(
    'INSERT INTO sealog.tile_edge (tenant, stream, tile_index, width, hashes) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING',
    [tenantId, streamId, index, hashes.length / 32, hashes],
  );
  const { rows } = await client.query<{ hashes: Buffer }>(
    'SELECT hashes FROM sealog.tile_edge WHERE stream = $1 AND tile_index = $2 ORDER BY width DESC LIMIT 1',
    [streamId, index],
  );
  // More are kept where later entries of the tile went before.
  if (rows[0]?.hashes.subarray(0, hashes.length).equals(hashes) !== true)
    throw new EvidenceError(`other hashes are kept of tile ${index} of stream ${streamId} than its entries have`);
}

export async function certificatesOf(writer: pg.Pool, run: string): Promise<StoredCertificate[]> {
  const { rows } = await writer.query<
    Omit<StoredCertificate, 'place'> & {
      entryStreamId: number | null;
      entryStream: string | null;
      entrySeq: number | null;
    }
  >(
    `SELECT c.stream AS "streamId", c.tenant AS "tenantId", t.name AS tenant, s.name AS stream, c.first_seq AS first, c.end_seq AS "end",
       s.pruned, c.retain_until AS "retainUntil", c.certificate, c.entry_stream AS "entryStreamId", a.name AS "entryStream", c.entry_seq AS "entrySeq"
     FROM sealog.pruning_certificate AS c JOIN sealog.stream AS s ON s.id = c.stream JOIN sealog.tenant AS t ON t.id = c.tenant
     LEFT JOIN sealog.stream AS a ON a.id = c.entry_stream WHERE c.run = $1 ORDER BY c.stream`,
    [run],
  );
  return rows.map(({ entryStreamId, entryStream, entrySeq, ...row }) => ({
    ...row,
    place: entryStreamId === null ? undefined : { streamId: entryStreamId, stream: entryStream!, seq: entrySeq! },
  }));
}

/** Notes where the entry of a certificate stands, by its id. Returns false where it does not stand anywhere. */
export async function notePlace(writer: pg.Pool, run: string, streamId: number, id: string): Promise<boolean> {
  const { rowCount } = await writer.query(
    `UPDATE sealog.pruning_certificate AS c SET entry_stream = f.stream, entry_seq = f.seq
     FROM (SELECT e.stream, e.seq, a.tenant FROM sealog.kept_places(sealog.id_hash($3)) AS e JOIN sealog.stream AS a ON a.id = e.stream
           WHERE a.category = 'log_administration'
           ORDER BY a.epoch DESC, e.seq LIMIT 1) AS f
     WHERE c.run = $1 AND c.stream = $2 AND c.tenant = f.tenant AND c.entry_seq IS NULL`,
    [run, streamId, id],
  );
  return rowCount === 1;
}

/** Returns how far the entries of a run's certificates are vouched for. */
export async function anchorsOfCertificates(writer: pg.Pool, run: string): Promise<CertificateAnchor[]> {
  const { rows } = await writer.query<Omit<CertificateAnchor, 'outside'> & { outside: number | null }>(
    `SELECT s.name AS stream, coalesce(c.entry_seq < k.size, false) AS "isSigned", f.ticked AS "isTicked", f.outside,
       c.retain_until AS "retainUntil"
     FROM sealog.pruning_certificate AS c JOIN sealog.stream AS s ON s.id = c.stream
     LEFT JOIN sealog.checkpoint AS k ON k.stream = c.entry_stream
     CROSS JOIN LATERAL sealog.anchored_at(c.entry_stream, c.entry_seq) AS f WHERE c.run = $1 ORDER BY c.stream`,
    [run],
  );
  return rows.map(({ outside, ...row }) => ({ ...row, outside: outside ?? undefined }));
}

/** Drops the month of a run. `busy`: somebody reads or writes there, and nobody was kept waiting for long; try again. Else throws what the database says. */
export async function dropMonth(writer: pg.Pool, run: string): Promise<'dropped' | 'busy'> {
  try {
    await writer.query('SELECT sealog.drop_month($1)', [run]);
    return 'dropped';
  } catch (error) {
    // Lock not available; a deadlock that the server broke.
    if (['55P03', '40P01'].includes((error as { code?: string }).code ?? '')) return 'busy';
    throw error;
  }
}

// ---- For those who ask ----

export interface ShownRun extends Pruning {
  readonly number: number;
  readonly streams: readonly {
    readonly stream: string;
    readonly first: number;
    readonly end: number;
    /** Entries that stay. */
    readonly held: number;
    readonly retainUntil: number;
    readonly entryStream: string | null;
    readonly entrySeq: number | null;
  }[];
}

/** Returns runs, newest first, with what they prune of one tenant, or of all (`undefined`); those before `below`. */
export async function listRuns(
  database: Kysely<Tables>,
  tenantId: number | undefined,
  {
    below,
    id,
    limit,
  }: { readonly below?: number | undefined; readonly id?: string | undefined; readonly limit: number },
): Promise<ShownRun[]> {
  const { rows } = await sql<ShownRun>`
    SELECT ${sql.raw(RUN)}, p.number, coalesce(f.streams, '[]'::jsonb) AS streams
    FROM sealog.pruning AS p LEFT JOIN LATERAL (
      SELECT jsonb_agg(jsonb_build_object('stream', s.name, 'first', c.first_seq, 'end', c.end_seq, 'retainUntil', c.retain_until,
               'held', (SELECT coalesce(sum((one ->> 1)::bigint - (one ->> 0)::bigint), 0) FROM jsonb_array_elements(c.certificate::jsonb -> 'held') AS one),
               'entryStream', a.name, 'entrySeq', c.entry_seq) ORDER BY s.name) AS streams
      FROM sealog.pruning_certificate AS c JOIN sealog.stream AS s ON s.id = c.stream LEFT JOIN sealog.stream AS a ON a.id = c.entry_stream
      WHERE c.run = p.id AND (${tenantId ?? null}::integer IS NULL OR c.tenant = ${tenantId ?? null}::integer)) AS f ON true
    WHERE (${below ?? null}::bigint IS NULL OR p.number < ${below ?? null}::bigint) AND (${id ?? null}::uuid IS NULL OR p.id = ${id ?? null}::uuid)
      AND (${tenantId ?? null}::integer IS NULL OR f.streams IS NOT NULL)
    ORDER BY p.number DESC LIMIT ${limit}`.execute(database);
  return rows;
}
