/**
 * Legal holds (migrations/0015_holds.sql). The database holds to it by itself: a hold's number is given under a lock that pruning takes too, and
 * none is released but by what two persons agreed on.
 */
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import type { HoldScope } from '../chain/hold.ts';
import type { HeldRange } from '../chain/pruning-certificate.ts';
import { placedTags } from '../chain/tag.ts';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import { newestAbout, type StoredProposal } from './proposals.ts';
import type { Tables } from './tables.ts';

/** The kind of proposals that end a hold; their request: `{hold}`. */
export const HOLD_RELEASE = 'hold_release';

/** `placing`: the log does not tell of it yet; it counts all the same. */
export type HoldState = 'placing' | 'active' | 'released';

export interface NewHold extends HoldScope {
  /** A UUID. */
  readonly id: string;
  readonly tenantId: number;
  readonly reason: string;
  readonly placedBy: string;
}

export interface StoredHold extends NewHold {
  readonly number: number;
  readonly tenant: string;
  readonly placedAt: Date;
  readonly state: HoldState;
  /** The proposal by which it was released. */
  readonly release: string | null;
  readonly releasedAt: Date | null;
}

const COLUMNS = `h.id, h.number, h.tenant AS "tenantId", t.name AS tenant, h.category, h.epoch, h.criteria, h.reason, h.placed_by AS "placedBy",
  h.placed_at AS "placedAt", h.state, h.release, h.released_at AS "releasedAt"`;

const PLACES_A_READ = 10_000;

// ---- Placing and releasing ----

/** Stores a hold, which counts from here on. Returns false where the tenant has `countingMax` of them. */
export async function placeHold(writer: pg.Pool, hold: NewHold, countingMax: number): Promise<boolean> {
  const { id, tenantId, category, epoch, criteria, reason, placedBy } = hold;
  const rowCount = await change(
    writer,
    `INSERT INTO sealog.hold (id, tenant, category, epoch, criteria, reason, placed_by)
     SELECT $1::uuid, $2::integer, $3::text, $4::integer, $5::jsonb, $6::text, $7::text
     WHERE (SELECT count(*) FROM sealog.hold AS o WHERE o.tenant = $2 AND o.state <> 'released') < $8`,
    [id, tenantId, category, epoch, JSON.stringify(criteria), reason, placedBy, countingMax],
  );
  return rowCount === 1;
}

/** The log tells of it. */
export async function activateHold(writer: pg.Pool, id: string): Promise<void> {
  await change(writer, `UPDATE sealog.hold SET state = 'active' WHERE id = $1 AND state = 'placing'`, [id]);
}

/** Ends a hold that two persons agreed to end. May be called again. */
export async function releaseHold(writer: pg.Pool, proposal: string): Promise<void> {
  await change(writer, 'SELECT sealog.release_hold($1)', [proposal]);
}

async function change(writer: pg.Pool, text: string, values: unknown[]): Promise<number | null> {
  try {
    return await withClient(writer, async (client) => (await client.query(text, values)).rowCount);
  } catch (cause) {
    throw new Problem('not_ready', { detail: 'the database does not take it now', cause });
  }
}

/** Returns holds that the log does not tell of, though they were stored some time ago: whoever placed them ended before. */
export async function untoldHolds(writer: pg.Pool, silentMs: number): Promise<StoredHold[]> {
  const { rows } = await writer.query<StoredHold>(
    `SELECT ${COLUMNS} FROM sealog.hold AS h JOIN sealog.tenant AS t ON t.id = h.tenant
     WHERE h.state = 'placing' AND h.placed_at < clock_timestamp() - make_interval(secs => $1 / 1000.0) ORDER BY h.number LIMIT 100`,
    [silentMs],
  );
  return rows;
}

export interface ApprovedRelease {
  readonly id: string;
  readonly hold: string;
  readonly tenant: string;
}

/** Returns the releases that were approved some time ago, and not carried out. */
export async function approvedReleases(writer: pg.Pool, silentMs: number): Promise<ApprovedRelease[]> {
  const { rows } = await writer.query<ApprovedRelease>(
    `SELECT p.id, p.request ->> 'hold' AS hold, t.name AS tenant FROM sealog.proposal AS p JOIN sealog.tenant AS t ON t.id = p.tenant
     WHERE p.kind = '${HOLD_RELEASE}' AND p.state = 'approved' AND p.decided_at < clock_timestamp() - make_interval(secs => $1 / 1000.0)
     ORDER BY p.number LIMIT 100`,
    [silentMs],
  );
  return rows;
}

// ---- Those that count ----

/** Returns the holds that count, of a tenant or of all, in the order of their numbers. */
export async function countingHolds(writer: pg.Pool, tenantId?: number): Promise<StoredHold[]> {
  const { rows } = await writer.query<StoredHold>(
    `SELECT ${COLUMNS} FROM sealog.hold AS h JOIN sealog.tenant AS t ON t.id = h.tenant
     WHERE h.state <> 'released' AND ($1::integer IS NULL OR h.tenant = $1) ORDER BY h.number`,
    [tenantId ?? null],
  );
  return rows;
}

/** The number of the last hold: all that count from here on and were placed before have none above it. */
export async function lastHold(writer: pg.Pool): Promise<number> {
  const { rows } = await writer.query<{ last: number }>('SELECT coalesce(max(number), 0) AS last FROM sealog.hold');
  return rows[0]!.last;
}

// ---- For those who ask ----

/** Returns the holds that the connection's role may see, newest first, from below a number; or one. */
export async function listHolds(
  database: Kysely<Tables>,
  which: { readonly below?: number | undefined; readonly id?: string | undefined; readonly limit: number },
): Promise<StoredHold[]> {
  const { below = Number.MAX_SAFE_INTEGER, id, limit } = which;
  const { rows } = await sql<StoredHold>`
    SELECT ${sql.raw(COLUMNS)} FROM ${sql.table('sealog.hold')} AS h JOIN ${sql.table('sealog.tenant')} AS t ON t.id = h.tenant
    WHERE h.number < ${below} AND (${id ?? null}::uuid IS NULL OR h.id = ${id ?? null}::uuid)
    ORDER BY h.number DESC LIMIT ${limit}`.execute(database);
  return rows;
}

/** Returns the newest proposal to release each of these holds, by hold. */
export async function releasesOf(
  database: Kysely<Tables>,
  holds: readonly string[],
): Promise<ReadonlyMap<string, StoredProposal>> {
  const found = new Map<string, StoredProposal>();
  for (const hold of holds) {
    const proposal = await newestAbout(database, HOLD_RELEASE, { hold });
    if (proposal !== undefined) found.set(hold, proposal);
  }
  return found;
}

// ---- While pruning ----

/** Notes which holds there are: what is decided then is decided by all of these, at least. */
export async function lookAtHolds(writer: pg.Pool, run: string): Promise<void> {
  await writer.query('SELECT sealog.look_at_holds($1)', [run]);
}

/** Says whether a hold was placed since that may be about what the run certifies. */
export async function hasNewerHolds(writer: pg.Pool, run: string): Promise<boolean> {
  const { rows } = await writer.query<{ has: boolean }>('SELECT sealog.has_newer_holds($1) AS has', [run]);
  return rows[0]!.has;
}

/** The drop month that what is held goes to now. */
export async function monthOfHeld(writer: pg.Pool): Promise<number> {
  const { rows } = await writer.query<{ month: number }>('SELECT sealog.month_of_held() AS month');
  return rows[0]!.month;
}

/** Returns where entries from `first` up to, not including, `end` stand in other drop months, in order. */
export async function standingElsewhere(
  database: Kysely<Tables>,
  streamId: number,
  dropMonth: number,
  { first, end }: { readonly first: number; readonly end: number },
): Promise<HeldRange[]> {
  const rows = await database
    .selectFrom('sealog.block')
    .select(['first_seq', 'entries'])
    .where('stream', '=', streamId)
    .where('first_seq', '>=', first)
    .where('first_seq', '<', end)
    .where('drop_month', '<>', dropMonth)
    .orderBy('first_seq')
    .execute();
  return rows.map(({ first_seq, entries }) => ({ from: first_seq, to: first_seq + entries }));
}

/** Where the blocks of a stream in a drop month stand, in order; without what is in them. */
export async function* placesIn(
  database: Kysely<Tables>,
  streamId: number,
  dropMonth: number,
): AsyncGenerator<{ readonly firstSeq: number; readonly entries: number }> {
  for (let next = 0; ; ) {
    const rows = await database
      .selectFrom('sealog.block')
      .select(['first_seq', 'entries'])
      .where('drop_month', '=', dropMonth)
      .where('stream', '=', streamId)
      .where('first_seq', '>=', next)
      .orderBy('first_seq')
      .limit(PLACES_A_READ)
      .execute();
    for (const { first_seq, entries } of rows) yield { firstSeq: first_seq, entries };
    const last = rows.at(-1);
    if (last === undefined || rows.length < PLACES_A_READ) return;
    next = last.first_seq + 1;
  }
}

/** A block that is put in the place of another, or of a part of it. */
export interface PlacedBlock {
  readonly firstSeq: number;
  readonly entries: number;
  readonly dropMonth: number;
  readonly keyId: string;
  readonly recordedFrom: number;
  readonly recordedTo: number;
  readonly occurredFrom: number;
  readonly occurredTo: number;
  readonly severityMin: number;
  readonly severityMax: number;
  readonly outcomes: number;
  readonly records: Uint8Array;
  readonly parts: Uint8Array;
  readonly tags: readonly bigint[];
}

/** What is put in place of a block. */
export interface CutBlock {
  /** SHA-256 of the sealed parts that it was made from. */
  readonly oldHash: Uint8Array;
  readonly blocks: readonly PlacedBlock[];
}

/** Puts blocks in place of one, in one transaction. Returns false where it is another by now. */
export async function moveHeld(
  writer: pg.Pool,
  run: string,
  { streamId, firstSeq }: { readonly streamId: number; readonly firstSeq: number },
  { oldHash, blocks }: CutBlock,
): Promise<boolean> {
  const rows = blocks.map(({ records: _, parts: __, tags, firstSeq: first, keyId, dropMonth, ...block }) => ({
    ...block,
    ...{
      first,
      key: Number(keyId),
      month: dropMonth,
      tags: [...placedTags(tags, streamId, first)].map(String),
    },
  }));
  const { rows: answers } = await writer.query<{ done: boolean }>(
    'SELECT sealog.move_held($1, $2, $3, $4, $5::jsonb, $6::bytea[], $7::bytea[]) AS done',
    [
      ...[run, streamId, firstSeq, oldHash, JSON.stringify(rows)],
      blocks.map(({ records }) => Buffer.from(records)),
      blocks.map(({ parts }) => Buffer.from(parts)),
    ],
  );
  return answers[0]!.done;
}
