/**
 * Pruning by the book: docs/format.md sections 24 and 25, written from that page alone. What a certificate says, what makes one count, the hashes that are kept of what is
 * gone, and what stays of the tables.
 */
import { isObject, type Json, jcs, readCanonical } from './naive-json.ts';
import * as log from './naive-log.ts';
import { dropMonth, timeText } from './naive-time.ts';
import type { Rows, StreamRow } from './naive-verify.ts';

/** The row of `tile_edge`. */
export interface EdgeRow {
  readonly stream: number;
  readonly index: number;
  readonly width: number;
  readonly hashes: Uint8Array;
}

/** An entry of a verified `log_administration`, of the stream's tenant, with the action `retention.pruned`. */
export interface CertificateEntry {
  readonly recordedAt: number;
  readonly details: Uint8Array;
  /** The log says that the pruning was abandoned. */
  readonly abandoned?: true;
}

/** One that counts. */
export interface Pruned {
  readonly first: number;
  readonly end: number;
  readonly root: Buffer;
  readonly last: log.NaiveRecord;
  readonly lastHash: Buffer;
  /** Of these: section 25. */
  readonly held: readonly (readonly [number, number])[];
}

/** What certificates that count say of a stream. */
export function prunedOf(stream: StreamRow, entries: readonly CertificateEntry[]): readonly Pruned[] {
  const counting = entries.flatMap((entry) => {
    try {
      return [readCertificate(stream, entry)];
    } catch {
      return [];
    }
  });
  return counting.sort((a, b) => a.first - b.first);
}

/** Whether a certificate, be it of a pruning that was abandoned, names an entry as held. */
export function isHeld(stream: StreamRow, entries: readonly CertificateEntry[], seq: number): boolean {
  return prunedOf(
    stream,
    entries.map(({ recordedAt, details }) => ({ recordedAt, details })),
  ).some(({ held }) => held.some(([from, to]) => seq >= from && seq < to));
}

function readCertificate(stream: StreamRow, { recordedAt, details, abandoned }: CertificateEntry): Pruned {
  must(abandoned !== true);
  const says = readCanonical(details);
  must(isObject(says) && says['stream'] === stream.name && stream.category !== 'log_administration');
  const {
    run,
    first,
    end,
    size,
    lastRecord,
    path,
    root,
    held,
    retainUntil,
    dropMonth: month,
  } = says as { [name: string]: Json };
  must(typeof run === 'string' && isSeq(first) && isSeq(end) && first < end && size === end);
  must(typeof lastRecord === 'string' && typeof root === 'string' && Array.isArray(path) && path.every(isHash));
  must(isHash(root) && Array.isArray(held) && held.length <= 100_000);
  const stays = heldRuns(held as Json[], first as number, end as number);
  const last = log.readRecord(Buffer.from(lastRecord as string, 'utf8'));
  must(last.stream === stream.name && last.seq === (end as number) - 1 && last.retainUntil !== null);
  must(retainUntil === timeText(last.retainUntil!) && isSeq(month) && month >= dropMonth(last.retainUntil));
  must(recordedAt >= last.retainUntil!);
  // The last leaf of a tree has left neighbours alone: one for each perfect subtree of the leaves before it.
  const lastHash = log.entryHash(Buffer.from(lastRecord as string, 'utf8'));
  const left = (path as string[]).map((hash) => Buffer.from(hash, 'hex'));
  must(left.length === [...((end as number) - 1).toString(2)].filter((bit) => bit === '1').length);
  must(left.reduce((above, hash) => log.node(hash, above), lastHash).toString('hex') === root);
  return {
    first: first as number,
    end: end as number,
    root: Buffer.from(root as string, 'hex'),
    last,
    lastHash,
    held: stays,
  };
}

/** In order, none empty, none touching another, within the certificate. */
function heldRuns(held: readonly Json[], first: number, end: number): (readonly [number, number])[] {
  let behind = first - 1;
  return held.map((run) => {
    must(Array.isArray(run) && run.length === 2);
    const [from, to] = run as readonly Json[];
    must(isSeq(from) && isSeq(to) && from > behind && from < to && to <= end);
    behind = to as number;
    return [from as number, to as number] as const;
  });
}

/** Everything of a stream's oldest drop month, certified and taken away; `rest` is what the certificate says besides. */
export function pruneOldest(
  rows: Rows,
  stream: StreamRow,
  rest: { readonly run: string; readonly months: number | null },
): { readonly rows: Rows; readonly certificate: CertificateEntry } | undefined {
  const own = rows.blocks.filter((block) => block.stream === stream.id).sort((a, b) => a.firstSeq - b.firstSeq);
  const month = own[0]?.dropMonth ?? 0;
  const going = own.filter((block) => block.dropMonth === month);
  // What is kept for ever never goes, and the month that is being written to has not expired.
  if (month === 0 || going.length === own.length) return undefined;
  const [first, end] = [going[0]!.firstSeq, going.at(-1)!.firstSeq + going.at(-1)!.entries];
  const records = going.flatMap((block) => log.readBundle(log.unpack(block.records)));
  const gone = keptHashes(rows, stream, first);
  const hashes = [...gone, ...records.map(log.entryHash)] as Uint8Array[];
  const last = log.readRecord(records.at(-1)!);
  const details = jcs({
    ...{ run: rest.run, stream: stream.name, dropMonth: month, first, end, size: end, held: [] },
    ...{ lastRecord: records.at(-1)!.toString('utf8'), retainUntil: timeText(last.retainUntil!) },
    path: path(end - 1, hashes).map((hash) => Buffer.from(hash).toString('hex')),
    root: Buffer.from(log.root(hashes)).toString('hex'),
    policy: { months: rest.months },
  });
  const index = Math.floor(end / 256);
  const isOpen = end % 256 > 0 && Math.floor(stream.size / 256) === index;
  const edge = { stream: stream.id, index, width: end % 256, hashes: log.join(...hashes.slice(index * 256)) };
  const stays = (row: { readonly stream: number; readonly dropMonth: number }): boolean =>
    row.stream !== stream.id || row.dropMonth !== month;
  return {
    certificate: { recordedAt: last.retainUntil!, details },
    rows: {
      ...{ tenants: rows.tenants, streams: rows.streams, tiles: rows.tiles },
      ...{ blocks: rows.blocks.filter(stays), ids: rows.ids.filter(stays) },
      dataKeys: rows.dataKeys.filter(stays),
      edges: [...rows.edges, ...(isOpen ? [edge] : [])],
    },
  };
}

/** The hashes of the entries before `end`, as they are kept; null where one is not. */
export function keptHashes(rows: Rows, stream: StreamRow, end: number): (Uint8Array | null)[] {
  return Array.from({ length: end }, (_, seq) => {
    const index = Math.floor(seq / 256);
    const isOfTile = (row: { stream: number; index: number }): boolean =>
      row.stream === stream.id && row.index === index;
    const tile = rows.tiles.find((row) => row.level === 0 && isOfTile(row));
    const [edge] = rows.edges.filter(isOfTile).sort((a, b) => b.width - a.width);
    const at = (seq % 256) * 32;
    const hash = (tile ?? edge)?.hashes.subarray(at, at + 32);
    return hash?.length === 32 ? hash : null;
  });
}

/** The inclusion path of a leaf, lowest first: RFC 6962 section 2.1.1. */
function path(leaf: number, hashes: readonly Uint8Array[]): Uint8Array[] {
  if (hashes.length <= 1) return [];
  let k = 1;
  while (k * 2 < hashes.length) k *= 2;
  const [left, right] = [hashes.slice(0, k), hashes.slice(k)];
  return leaf < k ? [...path(leaf, left), log.root(right)] : [...path(leaf - k, right), log.root(left)];
}

function isSeq(value: Json | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isHash(value: Json | undefined): boolean {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function must(holds: boolean): void {
  if (!holds) throw new Error('not a certificate that counts');
}
