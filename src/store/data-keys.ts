/** Wrapped data keys, one for each stream and drop month. */
import type { Kysely } from 'kysely';
import type pg from 'pg';
import type { StreamRef } from '../chain/entry.ts';
import { Problem } from '../errors.ts';
import type { Tables } from './tables.ts';

export interface WrappedKey {
  readonly id: string;
  /** The name of the month key in the key service. */
  readonly monthKey: string;
  readonly wrapped: Uint8Array;
}

/** Who a stored key belongs to. */
export interface KeyRow extends WrappedKey {
  readonly stream: string;
  readonly dropMonth: number;
}

/**
 * Returns the key of a stream and drop month, storing what `make` gives when there is none; the partitions of the month are made
 * first, so that whoever has a key can also store. Two makers at once: one key wins, both use it.
 */
export async function findOrStoreKey(
  writer: pg.Pool,
  stream: StreamRef,
  dropMonth: number,
  make: () => Promise<{ monthKey: string; wrapped: Uint8Array }>,
): Promise<WrappedKey> {
  const find = async (): Promise<WrappedKey | undefined> => {
    const { rows } = await writer.query<{ id: number; month_key: string; wrapped: Buffer }>(
      'SELECT id, month_key, wrapped FROM sealog.data_key WHERE stream = $1 AND drop_month = $2',
      [stream.id, dropMonth],
    );
    const row = rows[0];
    return row === undefined ? undefined : { id: String(row.id), monthKey: row.month_key, wrapped: row.wrapped };
  };
  try {
    const found = await find();
    if (found !== undefined) return found;
    await ensureDropMonth(writer, dropMonth);
    const { monthKey, wrapped } = await make();
    await writer.query(
      'INSERT INTO sealog.data_key (tenant, stream, drop_month, month_key, wrapped) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING',
      [stream.tenantId, stream.id, dropMonth, monthKey, wrapped],
    );
    const stored = await find();
    if (stored !== undefined) return stored;
  } catch (cause) {
    throw new Problem('not_ready', { detail: 'the key of a stream can not be had', cause });
  }
  throw new Problem('not_ready', { detail: 'the key of a stream could not be stored' });
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
  return {
    id: String(row.id),
    monthKey: row.month_key,
    wrapped: row.wrapped,
    dropMonth: row.drop_month,
    stream: row.name,
  };
}
