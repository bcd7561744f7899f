/**
 * Writes a stream's rows by the book (docs/format.md), from its records and parts: what another implementation would
 * store, in blocks cut anywhere and packed either way. Also the forger's tool: it writes what it is given.
 */
import { randomBytes } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import * as log from './naive-log.ts';
import { placed, tagKey, tagsOf } from './naive-tags.ts';
import { dropMonth } from './naive-time.ts';
import { type BlockRow, type DataKeyRow, type IdRow, type Rows, type StreamRow, spansOf } from './naive-verify.ts';

/** An entry as its bytes, what they are taken to say for the rows around them, and its parts. */
export interface WrittenEntry {
  readonly bytes: Uint8Array;
  readonly record: log.NaiveRecord;
  readonly parts: readonly log.Part[];
  /** Where its tags are to be made of other parts. */
  readonly tagged?: readonly log.Part[];
}

export interface WriteOptions {
  /** The row of a data key of the stream, and the key itself. */
  readonly keyOf: (dropMonth: number) => { readonly row: DataKeyRow; readonly dataKey: Uint8Array };
  /** Whether a new block begins with this entry, though the month has not changed. */
  readonly cutsBefore: (seq: number) => boolean;
  readonly compresses: (seq: number) => boolean;
}

/** The rows with this stream's own rows replaced by those of the entries; keys, tenants and other streams stay. */
export function rewriteStream(
  rows: Rows,
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  { keyOf, cutsBefore, compresses }: WriteOptions,
): Rows {
  const { id, tenant, name } = stream;
  const place = { stream: id, tenant };
  const monthOf = (entry: WrittenEntry): number => dropMonth(entry.record.retainUntil);
  const starts = entries.flatMap((entry, seq) => {
    const before = entries[seq - 1];
    return before === undefined || monthOf(before) !== monthOf(entry) || cutsBefore(seq) ? [seq] : [];
  });

  const blocks: BlockRow[] = [];
  const ids: IdRow[] = [];
  const dataKeys = new Map(rows.dataKeys.map((row) => [row.id, row]));
  for (const [i, firstSeq] of starts.entries()) {
    const own = entries.slice(firstSeq, starts[i + 1]);
    const month = monthOf(own[0] as WrittenEntry);
    const { row, dataKey } = keyOf(month);
    dataKeys.set(row.id, row);
    const pack = (payload: Uint8Array): Buffer =>
      compresses(firstSeq) ? log.join(Buffer.of(1), zstdCompressSync(payload)) : log.join(Buffer.of(0), payload);
    const partsHashes = own.map(({ record }) => Buffer.from(record.parts, 'hex'));
    const parts = pack(log.writeParts(own.map((entry) => entry.parts)));
    const key = tagKey(dataKey);
    const tags = own.flatMap((entry) => tagsOf(entry.record, entry.tagged ?? entry.parts, key));
    blocks.push({
      ...place,
      ...spansOf(own.map(({ record }) => record)),
      firstSeq,
      entries: own.length,
      dropMonth: month,
      keyId: row.id,
      records: pack(log.writeBundle(own.map(({ bytes }) => bytes))),
      parts: log.seal(dataKey, randomBytes(32), name, partsHashes, parts),
      tags: [...new Set(tags.map((tag) => placed(tag, id, firstSeq)))],
    });
    for (const [j, { record }] of own.entries()) {
      ids.push({ ...place, seq: firstSeq + j, id: log.idHash(record.id), dropMonth: month });
    }
  }

  const hashes = entries.map(({ bytes }) => log.entryHash(bytes));
  const last = entries.at(-1)?.record;
  const row: StreamRow = {
    ...stream,
    size: entries.length,
    head: hashes.at(-1) ?? Buffer.alloc(32),
    frontier: log.frontier(hashes),
    recordedAt: last?.recordedAt ?? 0,
    retainUntil: last?.retainUntil ?? null,
  };
  const others = <Row extends { readonly stream: number }>(all: readonly Row[]): readonly Row[] =>
    all.filter((each) => each.stream !== id);
  return {
    tenants: rows.tenants,
    streams: rows.streams.map((each) => (each.id === id ? row : each)),
    blocks: [...others(rows.blocks), ...blocks],
    ids: [...others(rows.ids), ...ids],
    tiles: [...others(rows.tiles), ...log.fullTiles(hashes).map((tile) => ({ ...place, ...tile }))],
    dataKeys: [...dataKeys.values()],
    edges: rows.edges,
  };
}
