/** Wrapped data keys, one for each stream and drop month; each wrapped by as many generations of its month key as there were since. */
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import type { StreamRef } from '../chain/entry.ts';
import { Problem } from '../errors.ts';
import type { Tables } from './tables.ts';

export interface WrappedKey {
  readonly id: string;
  /** The name of the month key in the key service. */
  readonly monthKey: string;
  readonly wrapped: Uint8Array;
  /** The same key, wrapped by later generations of the month key; the newest first. */
  readonly rewrapped: readonly { readonly monthKey: string; readonly wrapped: Uint8Array }[];
}

/** Who a stored key belongs to. */
export interface KeyRow extends WrappedKey {
  readonly stream: string;
  readonly dropMonth: number;
}

/** What whoever wraps a new data key must know, docs/keys.md. */
export interface NextWrap {
  readonly generation: number;
  /** Whether something was wrapped under that generation's key of the month before. */
  readonly isKnown: boolean;
}

interface Form {
  readonly month_key: string;
  readonly wrapped: Buffer;
}

/** Of one data key. There is one for each rotation that it lived through; somebody who adds others is not followed for ever. */
const FORMS_MAX = 64;

/**
 * Returns the key of a stream and drop month, storing what `make` gives when there is none; the partitions of the month are made
 * first, so that whoever has a key can also store. Two makers at once: one key wins, both use it.
 */
export async function findOrStoreKey(
  writer: pg.Pool,
  stream: StreamRef,
  dropMonth: number,
  make: (next: NextWrap) => Promise<{ monthKey: string; wrapped: Uint8Array }>,
): Promise<WrappedKey> {
  const find = async (): Promise<WrappedKey | undefined> => {
    const { rows } = await writer.query<{ id: number; month_key: string; wrapped: Buffer }>(
      'SELECT id, month_key, wrapped FROM sealog.data_key WHERE stream = $1 AND drop_month = $2',
      [stream.id, dropMonth],
    );
    const row = rows[0];
    if (row === undefined) return undefined;
    const id = String(row.id);
    return { id, monthKey: row.month_key, wrapped: row.wrapped, rewrapped: await rewrappedForms(writer, id) };
  };
  try {
    const found = await find();
    if (found !== undefined) return found;
    await ensureDropMonth(writer, dropMonth);
    const { generation } = await newestGeneration(writer);
    const { monthKey, wrapped } = await make({ generation, isKnown: await wasUsed(writer, dropMonth, generation) });
    await writer.query(
      'INSERT INTO sealog.data_key (tenant, stream, drop_month, month_key, wrapped) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING',
      [stream.tenantId, stream.id, dropMonth, monthKey, wrapped],
    );
    const stored = await find();
    if (stored !== undefined) return stored;
  } catch (cause) {
    const detail = isGone(cause)
      ? 'a stream is not in this database: the next attempt finds or makes it'
      : 'the key of a stream can not be had';
    throw new Problem('not_ready', { detail, cause });
  }
  throw new Problem('not_ready', { detail: 'the key of a stream could not be stored' });
}

/** Whether an error of `findOrStoreKey` is that its stream, or whose it is, has no row: it went with a primary that had told nobody of it. */
export function isStreamGone(error: unknown): boolean {
  return error instanceof Problem && isGone(error.cause);
}

function isGone(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '23503';
}

/** Makes the partitions of a drop month. Returns whether any was missing. */
export async function ensureDropMonth(writer: pg.Pool, dropMonth: number): Promise<boolean> {
  const { rows } = await writer.query<{ made: boolean }>('SELECT sealog.ensure_drop_month($1) AS made', [dropMonth]);
  return rows[0]?.made === true;
}

/** Returns a key by its id, or undefined. */
export async function keyById(database: Kysely<Tables>, id: string): Promise<KeyRow | undefined> {
  const row = await database
    .selectFrom('sealog.data_key as k')
    .innerJoin('sealog.stream as s', 's.id', 'k.stream')
    .select(['k.id', 'k.month_key', 'k.wrapped', 'k.drop_month', 's.name'])
    .where('k.id', '=', Number(id))
    .executeTakeFirst();
  if (row === undefined) return undefined;
  const forms = await sql<Form>`
    SELECT month_key, wrapped FROM ${sql.table('sealog.data_key_form')} AS f
    WHERE f.data_key = ${row.id}::bigint ORDER BY f.generation DESC LIMIT ${FORMS_MAX}`.execute(database);
  return {
    id: String(row.id),
    monthKey: row.month_key,
    wrapped: row.wrapped,
    rewrapped: forms.rows.map(asForm),
    dropMonth: row.drop_month,
    stream: row.name,
  };
}

async function rewrappedForms(writer: pg.Pool, id: string): Promise<WrappedKey['rewrapped']> {
  const { rows } = await writer.query<Form>(
    `SELECT month_key, wrapped FROM sealog.data_key_form WHERE data_key = $1 ORDER BY generation DESC LIMIT ${FORMS_MAX}`,
    [id],
  );
  return rows.map(asForm);
}

function asForm({ month_key, wrapped }: Form): { monthKey: string; wrapped: Uint8Array } {
  return { monthKey: month_key, wrapped };
}

// ---- Generations of month keys ----

export interface KeyGeneration {
  readonly generation: number;
  /** Null of the first, and where nobody called for it. */
  readonly begunAt: Date | null;
  readonly begunBy: string | null;
  /** Since when every data key is wrapped by it too, or by a later one. */
  readonly rewrappedAt: Date | null;
  /** Since when the keys of all earlier generations are destroyed. */
  readonly retiredAt: Date | null;
}

const FIRST: KeyGeneration = { generation: 1, begunAt: null, begunBy: null, rewrappedAt: null, retiredAt: null };
const PG_UNIQUE_VIOLATION = '23505';

/** Returns the generation that wraps what is new, and whether everything is wrapped by it. */
export async function newestGeneration(writer: pg.Pool): Promise<{ generation: number; isRewrapped: boolean }> {
  const { rows } = await writer.query<{ generation: number; rewrapped: boolean }>(
    `SELECT generation, rewrapped_at IS NOT NULL AS rewrapped FROM sealog.key_generation ORDER BY generation DESC LIMIT 1`,
  );
  return { generation: rows[0]?.generation ?? FIRST.generation, isRewrapped: rows[0]?.rewrapped ?? true };
}

/** Returns all generations, the newest first, each with the number of data keys whose newest form is its. */
export async function keyGenerations(writer: pg.Pool): Promise<(KeyGeneration & { readonly dataKeys: number })[]> {
  const { rows } = await writer.query<KeyGeneration>(
    `SELECT generation, begun_at AS "begunAt", begun_by AS "begunBy", rewrapped_at AS "rewrappedAt", retired_at AS "retiredAt"
     FROM sealog.key_generation ORDER BY generation DESC`,
  );
  const { rows: counts } = await writer.query<{ generation: number; keys: number }>(
    `SELECT coalesce(f.generation, ${BORN_IN}) AS generation, count(*) AS keys FROM sealog.data_key AS k
     LEFT JOIN LATERAL (SELECT max(generation) AS generation FROM sealog.data_key_form WHERE data_key = k.id) AS f ON true GROUP BY 1`,
  );
  const dataKeys = new Map(counts.map(({ generation, keys }) => [Number(generation), Number(keys)]));
  return [...rows, FIRST].map((row) => ({ ...row, dataKeys: dataKeys.get(row.generation) ?? 0 }));
}

/** In which generation a row was wrapped, by the name of its month key; of a name that is none, the first. */
const BORN_IN = `coalesce(substring(k.month_key FROM '[.]([0-9]{1,6})$')::integer, 1)`;

/** Begins the next generation after `after`; returns false where somebody else did. `by`: a person, or undefined: it was time. */
export async function beginGeneration(writer: pg.Pool, after: number, by: string | undefined): Promise<boolean> {
  try {
    await writer.query('INSERT INTO sealog.key_generation (generation, begun_by) VALUES ($1, $2)', [
      after + 1,
      by ?? null,
    ]);
    return true;
  } catch (error) {
    if ((error as pg.DatabaseError).code === PG_UNIQUE_VIOLATION) return false;
    throw error;
  }
}

/** Says of how old the newest generation is, in milliseconds by the database's clock; undefined while there is no data key. */
export async function generationAgeMs(writer: pg.Pool): Promise<number | undefined> {
  const { rows } = await writer.query<{ age: number | null }>(
    `SELECT floor(1000 * extract(epoch FROM clock_timestamp() -
       coalesce((SELECT max(begun_at) FROM sealog.key_generation), (SELECT created_at FROM sealog.data_key ORDER BY id LIMIT 1))))::bigint AS age`,
  );
  return rows[0]?.age ?? undefined;
}

/** Notes that every data key has a form of the generation, or that all generations before it are destroyed; once. */
export async function noteGeneration(
  writer: pg.Pool,
  generation: number,
  what: 'rewrapped_at' | 'retired_at',
): Promise<void> {
  await writer.query(
    `UPDATE sealog.key_generation SET ${what} = clock_timestamp() WHERE generation = $1 AND ${what} IS NULL`,
    [generation],
  );
}

/** Returns the newest generation by which everything has been wrapped for so many days, and the first that may still be there before it. */
export async function generationToRetire(
  writer: pg.Pool,
  keptDays: number,
): Promise<{ generation: number; from: number; isNoted: boolean } | undefined> {
  const { rows } = await writer.query<{ generation: number; noted: boolean; from: number }>(
    `SELECT g.generation, g.retired_at IS NOT NULL AS noted,
       coalesce((SELECT max(generation) FROM sealog.key_generation WHERE generation < g.generation AND retired_at IS NOT NULL), 1) AS "from"
     FROM sealog.key_generation AS g WHERE g.rewrapped_at < clock_timestamp() - make_interval(days => $1)
     ORDER BY g.generation DESC LIMIT 1`,
    [keptDays],
  );
  const row = rows[0];
  return row && { generation: row.generation, from: row.from, isNoted: row.noted };
}

/** Returns the drop months that there are data keys of. */
export async function dropMonthsOfKeys(writer: pg.Pool): Promise<number[]> {
  const { rows } = await writer.query<{ month: number }>(
    'SELECT DISTINCT drop_month AS month FROM sealog.data_key ORDER BY 1',
  );
  return rows.map(({ month }) => month);
}

/** Returns data keys by id, from behind `after`: all, or those that no form of a generation or a later one wraps. */
export async function keysFrom(
  writer: pg.Pool,
  after: string,
  limit: number,
  notWrappedBy?: number,
): Promise<KeyRow[]> {
  const { rows } = await writer.query<Form & { id: number; drop_month: number; name: string }>(
    `SELECT k.id, k.month_key, k.wrapped, k.drop_month, s.name FROM sealog.data_key AS k JOIN sealog.stream AS s ON s.id = k.stream
     WHERE k.id > $1 AND ($2::integer IS NULL OR ${BORN_IN} < $2
       AND NOT EXISTS (SELECT FROM sealog.data_key_form AS f WHERE f.data_key = k.id AND f.generation >= $2))
     ORDER BY k.id LIMIT $3`,
    [after, notWrappedBy ?? null, limit],
  );
  const found: KeyRow[] = [];
  for (const { id, month_key, wrapped, drop_month, name } of rows)
    found.push({
      ...{ id: String(id), monthKey: month_key, wrapped, dropMonth: drop_month, stream: name },
      rewrapped: await rewrappedForms(writer, String(id)),
    });
  return found;
}

/** Adds a form of a data key; returns the one that is stored, which may be another's. */
export async function storeForm(
  writer: pg.Pool,
  id: string,
  generation: number,
  form: { readonly monthKey: string; readonly wrapped: Uint8Array },
): Promise<{ monthKey: string; wrapped: Uint8Array }> {
  await writer.query(
    'INSERT INTO sealog.data_key_form (data_key, generation, month_key, wrapped) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING',
    [id, generation, form.monthKey, form.wrapped],
  );
  const { rows } = await writer.query<Form>(
    'SELECT month_key, wrapped FROM sealog.data_key_form WHERE data_key = $1 AND generation = $2',
    [id, generation],
  );
  return asForm(rows[0]!);
}

/** Returns of each drop month its last data key and its first, of one month together. */
export async function sampleOfKeys(database: Kysely<Tables>): Promise<KeyRow[]> {
  const { rows } = await sql<{ last: number; first: number }>`
    SELECT max(id) AS last, min(id) AS first FROM ${sql.table('sealog.data_key')} GROUP BY drop_month`.execute(
    database,
  );
  const ids = rows.flatMap(({ last, first }) => [...new Set([last, first])]);
  const found: KeyRow[] = [];
  for (const id of ids) {
    const row = await keyById(database, String(id));
    if (row !== undefined) found.push(row);
  }
  return found;
}

/** Says whether anything was ever wrapped under a generation's key of a month. */
async function wasUsed(writer: pg.Pool, dropMonth: number, generation: number): Promise<boolean> {
  // Forms do not count: a false one, of a generation that is not there yet, would keep new streams from their keys.
  const { rows } = await writer.query<{ used: boolean }>(
    `SELECT EXISTS (SELECT FROM sealog.data_key AS k WHERE k.drop_month = $1 AND ${BORN_IN} = $2) AS used`,
    [dropMonth, generation],
  );
  return rows[0]?.used === true;
}
