/**
 * The log as a whole for verification, or one tenant's part of it: streams, what was signed and anchored of them, and what the outside said.
 *
 * As in `verify-source.ts` each call is a statement or a few, bounded in what it reads, and nothing that is stored ends a verification. What
 * is looked up by name or number here (the entry of a tick, the name of a stream) is checked by whoever asks.
 */
import { type Kysely, sql } from 'kysely';
import { toHex, utf8 } from '../chain/bytes.ts';
import { decodeCanonical, type JsonObject, type JsonValue } from '../chain/canonical.ts';
import { OWN_TENANT, streamName } from '../chain/category.ts';
import { entryIdHash } from '../chain/entry.ts';
import { anchorEpoch, anchorStreamName } from '../chain/key-statement.ts';
import { consistencyNodes, consistencyPath, inclusionNodes, inclusionPath } from '../chain/merkle.ts';
import { openBlock } from '../chain/open-block.ts';
import { isOpen } from '../chain/part.ts';
import { certificateId } from '../chain/pruning-certificate.ts';
import { EvidenceError, KeyUnavailableError } from '../errors.ts';
import type { Closing, LogStream, LogWideSource, SourceEvidence, TickLeaf } from '../verify/log-wide-source.ts';
import { keyStatements } from './checkpoints.ts';
import { blockOf, placesInAll } from './log-reader.ts';
import type { Tables } from './tables.ts';
import { recordsOf, treeNodes } from './tree-hashes.ts';
import { orphanedStreams, type SourceKeys, verifySource } from './verify-source.ts';

/** Which part of the log: all of it without a scope. */
export interface LogScope {
  readonly tenantId: number;
  /** The streams of this category alone. */
  readonly category?: string | undefined;
}

const STREAMS_A_PAGE = 5000;
/** Epochs of one stream: each takes a recovery. */
const EPOCHS_MAX = 1000;

export function logWideSource(
  database: Kysely<Tables>,
  keys: SourceKeys,
  origin: string,
  scope?: LogScope | undefined,
): LogWideSource {
  let anchorStreams: Promise<readonly (LogStream & { epoch: number })[]> | undefined;
  /** As they were listed last; whoever wants to know of new epochs lists them again. */
  const anchors = () => {
    anchorStreams ??= listAnchorStreams(database);
    return anchorStreams;
  };

  return {
    origin,
    isWhole: scope === undefined,

    async streams() {
      const streams: LogStream[] = [];
      for (let after = ''; ; ) {
        let query = database.selectFrom('sealog.stream').select(['id', 'name']).where('name', '>', after);
        if (scope !== undefined) query = query.where('tenant', '=', scope.tenantId);
        if (scope?.category !== undefined) query = query.where('category', '=', scope.category);
        const page = await query.orderBy('name').limit(STREAMS_A_PAGE).execute();
        streams.push(...page);
        const last = page.at(-1);
        if (last === undefined || page.length < STREAMS_A_PAGE) return streams;
        after = last.name;
      }
    },

    anchorStreams() {
      anchorStreams = listAnchorStreams(database);
      return anchorStreams;
    },

    async orphans() {
      if (scope === undefined) {
        return {
          stored: await orphanedStreams(database),
          anchored: await orphanedStreams(database, ['anchor_leaf']),
        };
      }
      // Leaves of another part of the log are none of the tenant's business.
      const anchored: number[] = [];
      for (const stream of scope.category === undefined ? await orphanedStreams(database, ['anchor_leaf']) : []) {
        const leaf = await database
          .selectFrom('sealog.anchor_leaf')
          .select('tenant')
          .where('stream', '=', stream)
          .where('tenant', '=', scope.tenantId)
          .limit(1)
          .executeTakeFirst();
        if (leaf !== undefined) anchored.push(stream);
      }
      return { stored: [], anchored };
    },

    async administration(tenant) {
      const name = streamName(tenant, 'log_administration', 1);
      return database
        .selectFrom('sealog.stream')
        .select(['id', 'name'])
        .where((where) =>
          where.or([where('name', '=', name), where('name', 'like', `${name.replaceAll('_', '\\_')}/e%`)]),
        )
        .orderBy('epoch')
        .limit(EPOCHS_MAX)
        .execute();
    },

    open: (stream) => verifySource(database, keys, stream),

    keyStatements: (names) => keyStatements(database, names),

    async checkpoint(stream) {
      const { rows } = await sql<{ size: number; root: Buffer; generation: number; note: string; copies: number }>`
        SELECT ${exact('size')}, root, generation, note, count(*) OVER () AS copies FROM sealog.checkpoint WHERE stream = ${stream.id}`.execute(
        database,
      );
      return rows[0];
    },

    async leaves(stream, after, limit) {
      const behind =
        after === undefined
          ? sql``
          : sql`AND size >= ${after.size}::bigint AND (size, tick) > (${after.size}::bigint, ${Buffer.from(after.tick)})`;
      const { rows } = await sql<{ tick: Buffer; size: number; root: Buffer }>`
        SELECT tick, ${exact('size')}, root FROM sealog.anchor_leaf
        WHERE stream = ${stream.id} ${behind} ORDER BY anchor_leaf.size, tick LIMIT ${limit}`.execute(database);
      const places = await placesOf(
        database,
        await anchors(),
        rows.map(({ tick }) => tick),
      );
      return rows.map((row) => ({ ...row, place: places.get(toHex(row.tick)) }));
    },

    async tickLeaves(tick, fromPosition, limit) {
      const { rows } = await sql<LeafRow>`
        SELECT l.position, l.hash, l.stream, least(l.size, 9007199254740991) AS size, l.root, l.blind, s.name,
               e.evidence
        FROM sealog.anchor_leaf AS l
        LEFT JOIN sealog.stream AS s ON s.id = l.stream
        LEFT JOIN sealog.outside_evidence AS e ON e.id = l.evidence
        WHERE l.tick = ${Buffer.from(tick)} AND l.position >= ${fromPosition} ORDER BY l.position LIMIT ${limit}`.execute(
        database,
      );
      return rows.map(tickLeaf);
    },

    async anchors() {
      const names: string[] = [];
      for (let after = ''; ; ) {
        const row = await database
          .selectFrom('sealog.outside_evidence')
          .select('anchor')
          .where('anchor', '>', after)
          .orderBy('anchor')
          .limit(1)
          .executeTakeFirst();
        if (row === undefined) return names;
        names.push(row.anchor);
        after = row.anchor;
      }
    },

    async newestEvidence(anchor, epoch, limit) {
      const { rows } = await sql<EvidenceRow>`
        SELECT id, anchor, kind, ${exact('size')}, note, evidence, certificates, crls FROM sealog.outside_evidence
        WHERE anchor = ${anchor} AND stream = ${epoch.id} ORDER BY outside_evidence.id DESC LIMIT ${limit}`.execute(
        database,
      );
      return rows;
    },

    async evidenceNotes(epoch, after, limit) {
      const { rows } = await sql<Pick<EvidenceRow, 'id' | 'size' | 'note' | 'anchor'>>`
        SELECT id, ${exact('size')}, note, anchor FROM sealog.outside_evidence
        WHERE stream = ${epoch.id} AND size >= ${after.size}::bigint AND (size, id) > (${after.size}::bigint, ${after.id}::bigint)
        ORDER BY outside_evidence.size, id LIMIT ${limit}`.execute(database);
      return rows;
    },

    async closing(stream) {
      return closingOf(database, keys, stream);
    },

    async entryProof(stream, seq, size) {
      const [record] = await recordsOf(database, stream, seq, seq + 1);
      const getNode = await treeNodes(database, stream, size, inclusionNodes(seq, size));
      return { record: record!, path: inclusionPath(seq, size, getNode) };
    },

    async consistency(stream, from, to) {
      const getNode = await treeNodes(database, stream, to, consistencyNodes(from, to));
      return consistencyPath(from, to, getNode);
    },
  };
}

async function listAnchorStreams(database: Kysely<Tables>): Promise<(LogStream & { epoch: number })[]> {
  const rows = await database
    .selectFrom('sealog.stream')
    .select(['id', 'name'])
    .where('name', '>=', anchorStreamName(1))
    .where('name', '<', `${OWN_TENANT}/anchor0`)
    .limit(EPOCHS_MAX)
    .execute();
  return rows
    .flatMap((row) => {
      const epoch = anchorEpoch(row.name);
      return epoch === undefined ? [] : [{ ...row, epoch }];
    })
    .sort((a, b) => a.epoch - b.epoch);
}

/** Where the entries of ticks stand, by the tick in hex; the first place of each. An index, which verification of the anchor stream holds to its entries. */
async function placesOf(
  database: Kysely<Tables>,
  epochs: readonly { readonly id: number; readonly epoch: number }[],
  ticks: readonly Uint8Array[],
): Promise<Map<string, { epoch: number; seq: number }>> {
  const places = new Map<string, { epoch: number; seq: number }>();
  if (ticks.length === 0 || epochs.length === 0) return places;
  const wanted = new Map(ticks.map((tick) => [entryIdHash(toHex(tick)), toHex(tick)]));
  const { rows } = await sql<{ stream: number; seq: number; id: string }>`
    SELECT p.stream, p.seq, w.id FROM unnest(${[...wanted.keys()]}::uuid[]) AS w (id) CROSS JOIN LATERAL sealog.kept_places(w.id) AS p
    WHERE p.stream = ANY (${epochs.map(({ id }) => id)}::integer[]) ORDER BY p.stream, p.seq`.execute(database);
  const epochOf = new Map(epochs.map(({ id, epoch }) => [id, epoch]));
  for (const { stream, seq, id } of rows) {
    const tick = wanted.get(id)!;
    const place = { epoch: epochOf.get(stream)!, seq };
    const known = places.get(tick);
    if (known === undefined || place.epoch < known.epoch) places.set(tick, place);
  }
  return places;
}

/** What the first entry of the next epoch says of this one; undefined where there is no next, or it does not say. */
async function closingOf(database: Kysely<Tables>, keys: SourceKeys, stream: LogStream): Promise<Closing | undefined> {
  const [tenant, category, epoch] = stream.name.split('/');
  const next = `${tenant}/${category}/e${epoch === undefined ? 2 : Number(epoch.slice(1)) + 1}`;
  const successor = await database
    .selectFrom('sealog.stream')
    .select(['id', 'name'])
    .where('name', '=', next)
    .executeTakeFirst();
  if (successor === undefined) return undefined;
  try {
    const says = (await openingOf(database, keys, successor)) ?? (await certifiedOpening(database, successor.id));
    if (says === undefined) return undefined;
    const { closed, policy } = says as { closed?: { [name: string]: unknown }; policy?: unknown };
    if (closed?.['stream'] !== stream.name) return undefined;
    const { consistentSize, lastSize, lastRoot } = closed;
    if (!isSize(consistentSize) || !isSize(lastSize) || !isHash(lastRoot)) return undefined;
    return { consistentSize, lastSize, lastRoot, successor: next, isTurned: policy !== undefined };
  } catch (error) {
    if (error instanceof EvidenceError || error instanceof KeyUnavailableError || error instanceof TypeError)
      return undefined;
    throw error;
  }
}

/** What the first entry of an epoch says of the one before; undefined where it is not there, or says nothing. */
async function openingOf(
  database: Kysely<Tables>,
  keys: SourceKeys,
  { id, name }: { readonly id: number; readonly name: string },
): Promise<JsonValue | undefined> {
  const block = await blockOf(database, id, 0);
  if (block === undefined) return undefined;
  const { dataKey } = await keys.keysById(block.keyId);
  const [entry] = openBlock(block, name, dataKey, new Set([0]));
  if (entry?.record.action !== 'epoch.opened') return undefined;
  const details = entry.parts.find((part) => part.name === 'details');
  return details !== undefined && isOpen(details) ? decodeCanonical(details.value) : undefined;
}

/** The same out of the certificate of its pruning, where an entry of log_administration has that one's id. */
async function certifiedOpening(database: Kysely<Tables>, streamId: number): Promise<JsonValue | undefined> {
  const rows = await database
    .selectFrom('sealog.pruning_certificate')
    .select(['certificate', 'entry_stream', 'entry_seq'])
    .where('stream', '=', streamId)
    .where('first_seq', '=', 0)
    .where('entry_seq', 'is not', null)
    .limit(10)
    .execute();
  for (const row of rows) {
    const details = decodeCanonical(utf8(row.certificate)) as JsonObject;
    const places = await placesInAll(database, [row.entry_stream!], entryIdHash(certificateId(details)));
    if (places.some(({ seq }) => seq === row.entry_seq)) return details['opening'];
  }
  return undefined;
}

function isHash(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

type EvidenceRow = SourceEvidence;

interface LeafRow {
  readonly position: number;
  readonly hash: Buffer;
  readonly stream: number | null;
  readonly size: number | null;
  readonly root: Buffer | null;
  readonly blind: Buffer | null;
  readonly name: string | null;
  readonly evidence: Buffer | null;
}

function tickLeaf({ position, hash, stream, size, root, blind, name, evidence }: LeafRow): TickLeaf {
  if (stream === null || size === null || root === null || blind === null)
    return { position, hash, of: { evidence: evidence ?? undefined } };
  return { position, hash, of: { streamId: stream, stream: name ?? undefined, size, root, blind } };
}

/** A bigint column as a number that a double holds exactly. */
function exact(column: string) {
  return sql`greatest(least(${sql.ref(column)}, 9007199254740991), -9007199254740991) AS ${sql.ref(column)}`;
}
