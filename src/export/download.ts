/**
 * A download: what a caller may see of a range of the log, as lines, chunk by chunk.
 *
 * The streams follow each other by category and epoch, each in the order of its seqs. How far each goes is fixed at the beginning, by its size:
 * entries are never changed, so that is a snapshot without a transaction, and each read is one of its own. Nothing is made ahead of
 * the reader but a few blocks.
 *
 * The closing line vouches that nothing is missing between the first and the last seq. So where all entries of a range are asked for, a block
 * that is not there ends the download, like one that was tampered with; where a filter chooses, blocks are found by their tags, which
 * are an index and no evidence.
 */
import type { StoredBlock } from '../chain/block.ts';
import { utf8 } from '../chain/bytes.ts';
import type { Category } from '../chain/category.ts';
import { blockFilter, type EntryQuery } from '../chain/entry-filter.ts';
import { compareInstants } from '../chain/instant.ts';
import { EvidenceError, KeyUnavailableError, Problem } from '../errors.ts';
import type { AsTenant } from '../store/database.ts';
import {
  blockOf,
  type Lane,
  monthGroupsOf,
  monthsOf,
  prunedOf,
  type StreamMonth,
  scanBlocks,
  seqAtInstant,
} from '../store/log-reader.ts';
import { listStreams, type StreamRow } from '../store/streams.ts';
import { type DownloadCursor, formatCursor } from './download-cursor.ts';
import { closingLine, type DownloadedStream, type DownloadFormat } from './download-format.ts';
import type { Lines, LinesWanted } from './line-writer.ts';

export interface DownloadRequest {
  readonly tenant: string;
  readonly format: DownloadFormat;
  /** Undefined: all. */
  readonly categories: readonly Category[] | undefined;
  /** Of the one category; undefined: all. */
  readonly epoch: number | undefined;
  /** Of each stream: this seq and later, and before that. */
  readonly fromSeq: number | undefined;
  readonly toSeq: number | undefined;
  readonly query: EntryQuery;
  /** No more entries than that. */
  readonly limit: number | undefined;
  readonly cursor: DownloadCursor | undefined;
}

export interface DownloadSources {
  readonly ask: AsTenant;
  readonly keys: Keys;
  readonly write: (wanted: LinesWanted) => Promise<Lines>;
}

interface Keys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
}

/** Of one stream: the entries from `first` on and before `end`. */
interface Walk {
  readonly stream: StreamRow;
  /** Those together whose entries lie between each other. */
  readonly months: readonly (readonly StreamMonth[])[];
  readonly first: number;
  readonly end: number;
  /** The client has what is before `first`: what comes MUST join on. */
  readonly isContinued: boolean;
  readonly query: EntryQuery;
}

/** Of 256 KiB each at most, before compression: what one download holds, twice where the database is quicker than the reader. */
const BLOCKS_A_READ = 4;

/**
 * Yields the lines, the closing one last. Throws a Problem where the cursor is of another log, or something can not be had now, and an
 * EvidenceError where what is stored can not be what was written.
 */
export async function* download(
  sources: DownloadSources,
  request: DownloadRequest,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { ask, keys, write } = sources;
  const { tenant, format, cursor, limit = Number.POSITIVE_INFINITY } = request;
  const streams = (await ask(listStreams)).filter((stream) => isAsked(stream, request)).sort(inOrder);
  const until = cursor?.until ?? Math.max(0, ...streams.map(({ recordedAt }) => recordedAt));
  const query = cursor?.until === undefined ? request.query : upTo(request.query, until);
  const started = cursor === undefined ? 0 : streams.findIndex(({ name }) => name === cursor.stream);
  if (started === -1) throw foreignCursor();
  const months = await ask((database) => monthGroupsOf(database, streams));
  const done: Mutable<DownloadedStream>[] = [];
  let total = 0;
  for (const stream of streams.slice(started)) {
    const isContinued = stream.name === cursor?.stream && cursor.seq + 1 >= (request.fromSeq ?? 0);
    const of: Mutable<DownloadedStream> = { stream: stream.name, entries: 0, firstSeq: null, lastSeq: null };
    done.push(of);
    const walk: Walk = {
      ...{ stream, query, isContinued },
      months: months.get(stream.id) ?? [],
      first: isContinued ? cursor!.seq + 1 : (request.fromSeq ?? 0),
      end: Math.min(stream.size, request.toSeq ?? stream.size),
    };
    for await (const block of blocksOf(ask, keys, walk, signal)) {
      const opened = await keysOf(keys, block.keyId, () => isPruned(ask, stream, block.firstSeq));
      if (opened === undefined) {
        // What has expired is gone from the beginning on, and a download begins with what is left. What it has of a whole range must join on.
        if (of.firstSeq !== null && choosesNothing(query)) throw expired(stream, block.firstSeq + block.entries);
        continue;
      }
      const { dataKey } = opened;
      const lines = await write({
        block: { firstSeq: block.firstSeq, entries: block.entries, records: block.records, parts: block.parts },
        stream: { name: stream.name, category: stream.category, tenant },
        ...{ dataKey, query, format, first: walk.first, end: walk.end, limit: limit - total },
      });
      signal.throwIfAborted();
      if (lines.first === undefined || lines.last === undefined) continue;
      of.entries += lines.entries;
      of.firstSeq ??= lines.first;
      of.lastSeq = lines.last;
      total += lines.entries;
      yield lines.bytes;
      if (total < limit) continue;
      await mustStand(ask, streams);
      const next = formatCursor({ stream: stream.name, seq: lines.last, until });
      yield utf8(closingLine(format, { complete: false, entries: total, streams: done, cursor: next }));
      return;
    }
  }
  await mustStand(ask, streams);
  yield utf8(closingLine(format, { complete: true, entries: total, streams: done, cursor: null }));
}

/** What is moved meanwhile, because a hold keeps it, could stand where this had looked already: then no line vouches for what was given. */
async function mustStand(ask: AsTenant, streams: readonly StreamRow[]): Promise<void> {
  const moved = new Map((await ask(listStreams)).map((stream) => [stream.id, stream.moved]));
  if (streams.some((stream) => moved.get(stream.id) !== stream.moved))
    throw new Problem('not_ready', { detail: 'what is held was moved meanwhile: download it again' });
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

function isAsked({ category, epoch, size }: StreamRow, request: DownloadRequest): boolean {
  if (size === 0) return false;
  if (request.categories !== undefined && !request.categories.includes(category)) return false;
  return request.epoch === undefined || request.epoch === epoch;
}

/** By category, as it is written, and epoch. A client goes on from a line that he has, so this order MUST stay. */
function inOrder(a: StreamRow, b: StreamRow): number {
  if (a.category !== b.category) return a.category < b.category ? -1 : 1;
  return a.epoch - b.epoch;
}

function upTo(query: EntryQuery, until: number): EntryQuery {
  const end = { ms: until + 1, nanos: 0 };
  return query.to !== undefined && compareInstants(query.to, end) < 0 ? query : { ...query, to: end };
}

/** The blocks of a walk that can have what is asked for, in order. */
async function* blocksOf(ask: AsTenant, keys: Keys, walk: Walk, signal: AbortSignal): AsyncGenerator<StoredBlock> {
  const { stream, months, query, isContinued } = walk;
  const isWhole = choosesNothing(query);
  let end = walk.end;
  let seq = walk.first;
  /** Where the next block must begin; undefined = not known yet, since what has expired is gone from the beginning on. */
  let expected: number | undefined;
  if (isContinued && isWhole && seq < end) {
    const begun = await ask((database) => blockOf(database, stream.id, seq));
    if (begun === undefined) throw await absent(ask, stream, seq);
    expected = begun.firstSeq;
  }
  for (const group of months) {
    if (seq >= end) break;
    const dropMonths = group.map(({ dropMonth }) => dropMonth);
    const bounds = await ask(async (database) => ({
      begun: seq === 0 ? undefined : await blockOf(database, stream.id, seq, dropMonths),
      before: query.from && (await seqAtInstant(database, stream.id, dropMonths, { before: query.from.ms })),
      after: query.to && (await seqAtInstant(database, stream.id, dropMonths, { after: query.to.ms })),
    }));
    seq = bounds.begun?.firstSeq ?? seq;
    if (bounds.before !== undefined && bounds.before > seq) {
      seq = bounds.before;
      expected = seq;
    }
    if (bounds.after !== undefined) end = Math.min(end, bounds.after);
    const lanes: Lane[] = [];
    for (const { dropMonth, keyId } of group) {
      const opened = isWhole ? undefined : await keysOf(keys, keyId, () => isDropped(ask, stream, dropMonth));
      if (isWhole) lanes.push({ dropMonth, filter: { tags: [] } });
      else if (opened !== undefined) lanes.push({ dropMonth, filter: blockFilter(query, opened.tagKey) });
    }
    if (lanes.length === 0) continue;
    for (let isMore = true; isMore && seq < end; ) {
      signal.throwIfAborted();
      const from = seq;
      const scan = await ask((database) => scanBlocks(database, stream.id, lanes, 'asc', from, BLOCKS_A_READ));
      for (const block of scan.blocks) {
        // A part of what was read before it was cut, because a hold keeps it.
        if (expected !== undefined && block.firstSeq + block.entries <= expected) continue;
        if (isWhole && expected !== undefined && isMissing(stream, expected, block.firstSeq))
          throw await absent(ask, stream, Math.max(expected, stream.pruned));
        if (block.firstSeq >= end) return;
        expected = block.firstSeq + block.entries;
        yield block;
      }
      if (scan.lastFirstSeq !== undefined) seq = scan.lastFirstSeq + 1;
      isMore = !scan.isLast;
    }
    if (bounds.after !== undefined) break;
  }
  if (isWhole && expected !== undefined && expected < end && isMissing(stream, expected, end))
    throw await absent(ask, stream, Math.max(expected, stream.pruned));
}

/** Whether entries from `expected` to `seq` should be there: between what a hold keeps there are some that have expired and are gone. */
function isMissing({ pruned }: StreamRow, expected: number, seq: number): boolean {
  return expected !== seq && !(expected < seq && seq <= pruned);
}

/** Says whether a query is for all entries of a range, so that none may be missing. */
function choosesNothing({ from: _, to: __, ...others }: EntryQuery): boolean {
  return Object.values(others).every((wanted) => wanted === undefined);
}

/** Returns undefined where they expired: the month's key is destroyed, or they were pruned since the download began. */
async function keysOf(
  keys: Keys,
  id: string,
  werePruned: () => Promise<boolean>,
): Promise<Awaited<ReturnType<Keys['keysById']>> | undefined> {
  try {
    return await keys.keysById(id);
  } catch (cause) {
    if (!(cause instanceof KeyUnavailableError)) throw cause;
    if (cause.problem === 'destroyed' || (cause.problem === 'missing' && (await werePruned()))) return undefined;
    throw new Problem('not_ready', { detail: 'a key that entries are sealed with can not be had now', cause });
  }
}

async function isPruned(ask: AsTenant, { id }: StreamRow, seq: number): Promise<boolean> {
  return seq < (await ask((database) => prunedOf(database, id)));
}

/** Whether a month went since the download began. */
async function isDropped(ask: AsTenant, stream: StreamRow, dropMonth: number): Promise<boolean> {
  if (!(await isPruned(ask, stream, stream.pruned))) return false;
  const months = await ask((database) => monthsOf(database, [stream.id]));
  return months.every((month) => month.dropMonth !== dropMonth);
}

/** Why an entry that must be there is not: it expired, also while it was on its way, or somebody took it. */
async function absent(ask: AsTenant, stream: StreamRow, seq: number): Promise<Error> {
  const pruned = await ask((database) => prunedOf(database, stream.id));
  return seq < pruned ? expired(stream, pruned) : new EvidenceError(`entry ${seq} of ${stream.name} is not stored`);
}

function expired({ name }: StreamRow, before: number): Problem {
  return new Problem('not_found', { detail: `the entries of ${name} before ${before} have expired and are gone` });
}

function foreignCursor(): Problem {
  const message = 'names no stream of this download: send the same parameters with it';
  return new Problem('invalid_request', { errors: [{ field: 'cursor', message }] });
}
