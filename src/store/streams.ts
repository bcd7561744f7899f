/** Tenants and streams: found, or made on first use. */
import type { Kysely, Selectable } from 'kysely';
import type pg from 'pg';
import { type Category, streamName } from '../chain/category.ts';
import type { EarlierEpoch, EarlierRetention, StreamRef } from '../chain/entry.ts';
import type { StreamHead } from '../chain/sequencer.ts';
import { Problem } from '../errors.ts';
import type { Tables } from './tables.ts';

export interface StreamRow extends StreamHead {
  readonly tenantId: number;
  readonly category: Category;
  readonly epoch: number;
  /** Entries before this one have expired and were pruned, but for what is held. */
  readonly pruned: number;
  /** How many blocks were moved to a later drop month than their own, because of a hold. */
  readonly moved: number;
}

/** As the column `retention_before` has it: months, and until when they counted. */
export type StoredRetention = readonly (readonly [months: number, until: number])[];

/** Epochs that a newer one goes on for: those of a year, in which nobody shortens a policy more often. */
const EARLIER_MAX = 12;

/** Returns a tenant's id, making the tenant where `make`; undefined when it is not there. Two makers at once: the name is unique, both find the first. */
export async function tenantId(writer: pg.Pool, name: string, make: boolean): Promise<number | undefined> {
  const find = async (): Promise<number | undefined> => {
    const { rows } = await ask<{ id: number }>(writer, 'SELECT id FROM sealog.tenant WHERE name = $1', [name]);
    return rows[0]?.id;
  };
  const found = await find();
  if (found !== undefined || !make) return found;
  await ask(writer, 'INSERT INTO sealog.tenant (name) VALUES ($1) ON CONFLICT (name) DO NOTHING', [name]);
  return find();
}

interface OpenedRow {
  readonly id: number;
  readonly name: string;
  readonly recorded_at: number;
  readonly retain_until: number | null;
  readonly retention_months: number | null;
  readonly retention_before: StoredRetention | null;
  readonly turned: boolean;
}

/** Returns the stream that a tenant's events of a category go to: its last epoch. Makes the first. */
export async function openStream(
  writer: pg.Pool,
  tenant: { readonly id: number; readonly name: string },
  category: Category,
): Promise<StreamRef> {
  const find = async (): Promise<StreamRef | undefined> => {
    const { rows } = await ask<OpenedRow>(
      writer,
      `SELECT id, name, recorded_at, retain_until, retention_months, retention_before, turned FROM sealog.stream
       WHERE tenant = $1 AND category = $2 ORDER BY epoch DESC LIMIT $3`,
      [tenant.id, category, 1 + EARLIER_MAX],
    );
    const [newest, ...others] = rows.map((row) => ({ ...epochOf(tenant.id, row), turned: row.turned }));
    if (newest === undefined) return undefined;
    const end = others.findIndex(({ turned }) => !turned);
    const earlier = (end === -1 ? others : others.slice(0, end)).map(({ turned: _, ...epoch }) => epoch);
    const { id, tenantId, name, retentionMonths, retentionBefore } = newest;
    return { id, tenantId, name, retentionMonths, retentionBefore, ...(earlier.length === 0 ? {} : { earlier }) };
  };
  const found = await find();
  if (found !== undefined) return found;
  await ask(writer, 'INSERT INTO sealog.stream (tenant, category, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', [
    tenant.id,
    category,
    streamName(tenant.name, category, 1),
  ]);
  const made = await find();
  if (made === undefined) throw new Problem('not_ready', { detail: 'the stream could not be made' });
  return made;
}

/** Returns the streams that the connection's role may see, by name. */
export async function listStreams(database: Kysely<Tables>): Promise<StreamRow[]> {
  const rows = await database.selectFrom('sealog.stream').selectAll().orderBy('name').execute();
  return rows.map(streamRow);
}

/** Returns the newest stamp of the whole log, in milliseconds since 1970; undefined where there is no entry. */
export async function newestStamp(writer: pg.Pool): Promise<number | undefined> {
  const { rows } = await ask<{ newest: number | null }>(
    writer,
    'SELECT max(recorded_at) AS newest FROM sealog.stream WHERE size > 0',
    [],
  );
  return rows[0]?.newest ?? undefined;
}

/** Returns the streams of a category that the connection's role may see, by epoch. */
export async function streamsOf(database: Kysely<Tables>, category: Category): Promise<StreamRow[]> {
  const rows = await database
    .selectFrom('sealog.stream')
    .selectAll()
    .where('category', '=', category)
    .orderBy('tenant')
    .orderBy('epoch')
    .execute();
  return rows.map(streamRow);
}

/** Returns how far a stream was pruned. */
export async function prunedUpTo(database: Kysely<Tables>, streamId: number): Promise<number> {
  const row = await database
    .selectFrom('sealog.stream')
    .select('pruned')
    .where('id', '=', streamId)
    .executeTakeFirstOrThrow();
  return row.pruned;
}

export function streamRow(row: Selectable<Tables['sealog.stream']>): StreamRow {
  return {
    id: row.id,
    name: row.name,
    tenantId: row.tenant,
    category: row.category as Category,
    epoch: row.epoch,
    size: row.size,
    head: row.head,
    frontier: row.frontier,
    recordedAt: row.recorded_at,
    retainUntil: row.retain_until ?? undefined,
    pruned: row.pruned,
    moved: row.moved,
    retentionMonths: row.retention_months ?? undefined,
    retentionBefore: earlierRetention(row.retention_before),
  };
}

export function earlierRetention(stored: StoredRetention | null): EarlierRetention[] {
  return (stored ?? []).map(([months, until]) => ({ months, until }));
}

function epochOf(tenantId: number, row: OpenedRow): EarlierEpoch {
  return {
    ...{ id: row.id, tenantId, name: row.name, recordedAt: row.recorded_at },
    retainUntil: row.retain_until ?? undefined,
    retentionMonths: row.retention_months ?? undefined,
    retentionBefore: earlierRetention(row.retention_before),
  };
}

async function ask<R extends pg.QueryResultRow>(
  writer: pg.Pool,
  text: string,
  values: unknown[],
): Promise<pg.QueryResult<R>> {
  try {
    return await writer.query<R>(text, values);
  } catch (cause) {
    throw new Problem('not_ready', { detail: 'the database does not answer', cause });
  }
}
