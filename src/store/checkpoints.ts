/** Signed checkpoints and key statements, as stored. None of it is trusted for standing here: its signatures are. */
import type { Kysely } from 'kysely';
import type pg from 'pg';
import type { Tables } from './tables.ts';

export interface StoredCheckpoint {
  readonly streamId: number;
  readonly size: number;
  readonly root: Uint8Array;
  readonly generation: number;
  /** The signed note. */
  readonly note: string;
}

export interface StoredKeyStatement {
  readonly name: string;
  readonly generation: number;
  readonly vkey: string;
  readonly note: string;
}

/** A checkpoint that is stored, and when it was signed, by the database's clock. */
export interface DatedCheckpoint extends StoredCheckpoint {
  readonly signedAt: Date;
}

/** Returns the newest checkpoints of these streams, in any order; a stream that was never signed has none. */
export async function checkpointsOf(
  database: Kysely<Tables>,
  streamIds: readonly number[],
): Promise<DatedCheckpoint[]> {
  if (streamIds.length === 0) return [];
  const rows = await database
    .selectFrom('sealog.checkpoint')
    .select(['stream', 'size', 'root', 'generation', 'note', 'signed_at'])
    .where('stream', 'in', streamIds)
    .execute();
  return rows.map(({ stream, signed_at, ...row }) => ({ streamId: stream, ...row, signedAt: signed_at }));
}

/** Returns a stream by its name, where the connection's role may see it, with its newest checkpoint if it has one. */
export async function streamWithCheckpoint(
  database: Kysely<Tables>,
  name: string,
): Promise<{ id: number; name: string; checkpoint: StoredCheckpoint | undefined } | undefined> {
  const row = await database
    .selectFrom('sealog.stream as s')
    .leftJoin('sealog.checkpoint as c', 'c.stream', 's.id')
    .select(['s.id', 'c.size', 'c.root', 'c.generation', 'c.note'])
    .where('s.name', '=', name)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  const { id, size, root, generation, note } = row;
  const isThere = size !== null && root !== null && generation !== null && note !== null;
  return { id, name, checkpoint: isThere ? { streamId: id, size, root, generation, note } : undefined };
}

/** Returns the newest checkpoints of streams, by name. */
export async function checkpointsByName(
  database: Kysely<Tables>,
  names: readonly string[],
): Promise<{ stream: string; size: number; note: string }[]> {
  return database
    .selectFrom('sealog.checkpoint as c')
    .innerJoin('sealog.stream as s', 's.id', 'c.stream')
    .select(['s.name as stream', 'c.size', 'c.note'])
    .where('s.name', 'in', names)
    .execute();
}

/** Stores new checkpoints; one that is there already is only ever moved forward (a trigger holds that). */
export async function saveCheckpoints(
  writer: pg.Pool | pg.ClientBase,
  checkpoints: readonly (StoredCheckpoint & { readonly tenantId: number })[],
): Promise<void> {
  await writer.query({
    name: 'save_checkpoints',
    text: `INSERT INTO sealog.checkpoint AS c (stream, tenant, size, root, generation, note)
           SELECT * FROM unnest($1::integer[], $2::integer[], $3::bigint[], $4::bytea[], $5::integer[], $6::text[])
           ON CONFLICT (stream) DO UPDATE SET size = excluded.size, root = excluded.root, generation = excluded.generation,
             note = excluded.note, signed_at = clock_timestamp()
           WHERE (c.size, c.generation) IS DISTINCT FROM (excluded.size, excluded.generation)`,
    values: [
      checkpoints.map((one) => one.streamId),
      checkpoints.map((one) => one.tenantId),
      checkpoints.map((one) => one.size),
      checkpoints.map((one) => one.root),
      checkpoints.map((one) => one.generation),
      checkpoints.map((one) => one.note),
    ],
  });
}

/** Returns all statements of these keys, or of all, by name and generation. */
export async function keyStatements(
  database: Kysely<Tables>,
  names?: readonly string[],
): Promise<StoredKeyStatement[]> {
  let query = database.selectFrom('sealog.key_statement').select(['name', 'generation', 'vkey', 'note']);
  if (names !== undefined) query = query.where('name', 'in', names);
  return query.orderBy('name').orderBy('generation').execute();
}

/** Stores a statement; a second of the same key and generation is not stored. */
export async function saveKeyStatement(writer: pg.Pool | pg.ClientBase, statement: StoredKeyStatement): Promise<void> {
  await writer.query(
    'INSERT INTO sealog.key_statement (name, generation, vkey, note) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING',
    [statement.name, statement.generation, statement.vkey, statement.note],
  );
}
