/**
 * Verification by the book: docs/format.md sections 17, 18 and 24, written from that page alone. It tells whether a stream
 * is intact, not which change explains best what is wrong: every rule that does not hold is a line of text. So its
 * verdict can be compared with that of `src/verify/`, its blame can not.
 *
 * It derives everything from the records and the opened parts and compares what it derives with what is stored.
 */
import { jcs, readCanonical } from './naive-json.ts';
import * as log from './naive-log.ts';
import { type CertificateEntry, type EdgeRow, isHeld, keptHashes, type Pruned, prunedOf } from './naive-pruning.ts';
import { placed, tagKey, tagsOf } from './naive-tags.ts';
import { clientInstant, dropMonth } from './naive-time.ts';

/** The tables of section 17. Hashes and payloads are bytes, times milliseconds, ids of entries UUIDs. */
export interface Rows {
  readonly tenants: readonly TenantRow[];
  readonly streams: readonly StreamRow[];
  readonly blocks: readonly BlockRow[];
  readonly ids: readonly IdRow[];
  readonly tiles: readonly TileRow[];
  readonly dataKeys: readonly DataKeyRow[];
  readonly edges: readonly EdgeRow[];
}

export interface TenantRow {
  readonly id: number;
  readonly name: string;
}

export interface StreamRow {
  readonly id: number;
  readonly tenant: number;
  readonly category: string;
  readonly epoch: number;
  readonly name: string;
  readonly size: number;
  readonly head: Uint8Array;
  readonly frontier: Uint8Array;
  readonly recordedAt: number;
  readonly retainUntil: number | null;
}

/** What a block's row says of its entries. */
export interface Spans {
  readonly recordedFrom: number;
  readonly recordedTo: number;
  readonly occurredFrom: number;
  readonly occurredTo: number;
  readonly severityMin: number;
  readonly severityMax: number;
  readonly outcomes: number;
}

export interface BlockRow extends Spans {
  readonly stream: number;
  readonly tenant: number;
  readonly firstSeq: number;
  readonly entries: number;
  readonly dropMonth: number;
  readonly keyId: number;
  readonly records: Uint8Array;
  readonly parts: Uint8Array;
  readonly tags: readonly (bigint | null)[];
}

export interface IdRow {
  readonly stream: number;
  readonly tenant: number;
  readonly seq: number;
  readonly id: string;
  readonly dropMonth: number;
}

export interface TileRow extends log.Tile {
  readonly stream: number;
  readonly tenant: number;
}

export interface DataKeyRow {
  readonly id: number;
  readonly stream: number;
  readonly tenant: number;
  readonly dropMonth: number;
  readonly monthKey: string;
  readonly wrapped: Uint8Array;
}

export interface Outcome {
  readonly verdict: 'intact' | 'incomplete' | 'tampered';
  /** What is wrong, in words. */
  readonly problems: readonly string[];
  readonly unchecked: readonly string[];
}

/** A root that was stated of the stream: section 18.5. */
export interface StatedRoot {
  readonly size: number;
  readonly root: Uint8Array;
}

/** Verifies one stream. `monthKeys` are the keys that can be had, by name; `certificates` what a sound log_administration says was pruned. */
export function verify(
  rows: Rows,
  streamId: number,
  monthKeys: ReadonlyMap<string, Uint8Array>,
  roots: readonly StatedRoot[] = [],
  certificates: readonly CertificateEntry[] = [],
): Outcome {
  const stream = rows.streams.find((row) => row.id === streamId) as StreamRow;
  const findings: Findings = { problems: [], unchecked: [] };
  const tenant = rows.tenants.find((row) => row.name === stream.name.split('/')[0])?.id;

  const blocks = ofStream(rows.blocks, stream).sort((a, b) => a.firstSeq - b.firstSeq || a.dropMonth - b.dropMonth);
  const mayStand = (seq: number): boolean => isHeld(stream, certificates, seq);
  const checked = blocks.map((block) => checkBlock(rows, stream, block, monthKeys, findings, mayStand));
  const pruned = prunedOf(stream, certificates);
  const entries: Found[] = [];
  const passOver = (to: number): void => {
    for (let by = coverOf(pruned, entries.length); entries.length < to && by !== undefined; ) {
      const held = by.held.find(([from]) => from > entries.length)?.[0] ?? by.end;
      const end = Math.min(to, by.end, held);
      entries.push(...prunedEntries(rows, stream, by, entries, end, findings));
      by = coverOf(pruned, end);
    }
  };
  for (const [i, block] of blocks.entries()) {
    passOver(block.firstSeq);
    must(block.firstSeq === entries.length, `a block begins at ${block.firstSeq}, not at ${entries.length}`, findings);
    must(block.tenant === tenant, `the tenant of the block at ${block.firstSeq}`, findings);
    must(checked[i]!.records.length === block.entries, `the block at ${block.firstSeq} holds others`, findings);
    for (const bytes of checked[i]!.records)
      entries.push({ hash: log.entryHash(bytes), record: tryTo(() => log.readRecord(bytes)), isGone: false });
  }
  passOver(stream.size);
  must(entries.length === stream.size, `entries end at ${entries.length}, the stream at ${stream.size}`, findings);

  checkChain(stream, entries, findings);
  checkHead(rows, stream, entries, findings);
  const hashes = entries.map(({ hash }) => hash);
  for (const { size, root } of roots) {
    must(size <= stream.size, `entries up to ${size} were stated`, findings);
    must(
      Buffer.from(log.root(hashes.slice(0, size))).equals(root),
      `another root was stated of size ${size}`,
      findings,
    );
  }

  const tiles = log.fullTiles(hashes).map(tileText);
  const tileRows = ofStream(rows.tiles, stream);
  same('tiles', tileRows.map(tileText), tiles, findings);
  const ids = ofStream(rows.ids, stream);
  same('ids', ids.map(idText), checked.flatMap((block) => block.ids).map(idText), findings);
  for (const row of [...tileRows, ...ids]) must(row.tenant === tenant, 'the tenant of a row', findings);

  const { problems, unchecked } = findings;
  return {
    verdict: problems.length > 0 ? 'tampered' : unchecked.length > 0 ? 'incomplete' : 'intact',
    problems,
    unchecked,
  };
}

/** The spans of a block with these entries: section 11. */
export function spansOf(records: readonly log.NaiveRecord[]): Spans {
  const recorded = records.map((record) => record.recordedAt);
  const occurred = records.map((record) => clientInstant(record.occurredAt));
  const severities = records.flatMap((record) => (record.severity === undefined ? [] : [record.severity]));
  const has = (outcome: string): number => (records.some((record) => record.outcome === outcome) ? 1 : 0);
  return {
    recordedFrom: Math.min(...recorded),
    recordedTo: Math.max(...recorded),
    occurredFrom: Math.min(...occurred),
    occurredTo: Math.max(...occurred),
    severityMin: severities.length === 0 ? -1 : Math.min(...severities),
    severityMax: severities.length === 0 ? -1 : Math.max(...severities),
    outcomes: has('success') + 2 * has('failure') + 4 * has('unknown'),
  };
}

/** The data key of a row; null where the month key can not be had or does not open it: section 13. */
export function dataKeyOf(
  row: DataKeyRow,
  stream: StreamRow,
  monthKeys: ReadonlyMap<string, Uint8Array>,
): Uint8Array | null {
  const monthKey = /^([1-9]\d*|for-ever)$/.test(row.monthKey) ? monthKeys.get(row.monthKey) : undefined;
  if (monthKey === undefined) return null;
  return tryTo(() => log.unwrap(monthKey, stream.name, row.dropMonth, row.wrapped));
}

interface Findings {
  readonly problems: string[];
  readonly unchecked: string[];
}

interface CheckedBlock {
  readonly records: readonly Uint8Array[];
  readonly ids: readonly IdRow[];
}

function checkBlock(
  rows: Rows,
  stream: StreamRow,
  block: BlockRow,
  monthKeys: ReadonlyMap<string, Uint8Array>,
  findings: Findings,
  /** Whether an entry may stand under a later drop month than its own. */
  isHeldAt: (seq: number) => boolean,
): CheckedBlock {
  const at = `the block at ${block.firstSeq}`;
  const records = tryTo(() => log.readBundle(log.unpack(block.records))) ?? [];
  must(records.length > 0 && records.length === block.entries, `${at} does not hold its entries`, findings);
  const read = records.map((record) => tryTo(() => log.readRecord(record)));
  const valid = read.filter((record) => record !== null);
  const ids = valid.map((record) => ({
    ...block,
    seq: record.seq,
    id: log.idHash(record.id),
    dropMonth: block.dropMonth,
  }));
  if (valid.length < records.length || records.length === 0) {
    findings.problems.push(`a record of ${at} is not valid`);
    return { records, ids };
  }

  for (const [i, record] of valid.entries()) {
    must(
      record.stream === stream.name && record.seq === block.firstSeq + i,
      `${at}: record ${i} names another place`,
      findings,
    );
    const own = dropMonth(record.retainUntil);
    const isThere = own === block.dropMonth || (own !== 0 && own < block.dropMonth && isHeldAt(block.firstSeq + i));
    must(isThere, `${at}: drop month of record ${i}`, findings);
  }
  const spans = tryTo(() => spansOf(valid));
  for (const [name, span] of Object.entries(spans ?? { occurredFrom: Number.NaN })) {
    must(block[name as keyof Spans] === span, `${at}: ${name}`, findings);
  }

  const parts = openParts(rows, stream, block, valid, monthKeys, findings);
  if (parts === null) return { records, ids };
  const tags = valid.flatMap((record, i) => tagsOf(record, parts.entries[i] ?? [], tagKey(parts.dataKey)));
  const expected = new Set(tags.map((tag) => placed(tag, block.stream, block.firstSeq)));
  same(`tags of ${at}`, block.tags.map(String), [...expected].map(String), findings);
  return { records, ids };
}

/** The parts of each entry, checked; null where they can not be had or are wrong, which is said then. */
function openParts(
  rows: Rows,
  stream: StreamRow,
  block: BlockRow,
  records: readonly log.NaiveRecord[],
  monthKeys: ReadonlyMap<string, Uint8Array>,
  findings: Findings,
): { readonly entries: readonly (readonly log.Part[])[]; readonly dataKey: Uint8Array } | null {
  const at = `the block at ${block.firstSeq}`;
  const row = rows.dataKeys.find((key) => key.id === block.keyId);
  must(row !== undefined, `${at}: no such data key`, findings);
  if (row === undefined) return null;
  must(
    row.stream === block.stream && row.tenant === block.tenant && row.dropMonth === block.dropMonth,
    `${at}: the data key of another stream, month or tenant`,
    findings,
  );
  const dataKey = dataKeyOf(row, stream, monthKeys);
  if (dataKey === null) {
    findings.unchecked.push(`${at}: its parts`);
    return null;
  }
  const partsHashes = records.map((record) => Buffer.from(record.parts, 'hex'));
  const entries = tryTo(() => log.readParts(log.unpack(log.open(dataKey, stream.name, partsHashes, block.parts))));
  must(entries?.length === records.length, `${at}: its parts do not open`, findings);
  if (entries?.length !== records.length) return null;
  for (const [i, parts] of entries.entries()) {
    must(log.partsHash(parts).toString('hex') === records[i]?.parts, `${at}: parts of record ${i}`, findings);
    for (const part of parts) {
      const canonical = 'closed' in part ? null : tryTo(() => jcs(readCanonical(part.value)));
      must(
        canonical !== null,
        `${at}: part ${part.name} of record ${i} is closed without a certificate, or not canonical`,
        findings,
      );
      if (canonical === null) return null;
    }
  }
  return { entries, dataKey };
}

/** An entry of the stream; of one that was pruned its hash, and of the last of a certificate its record. */
interface Found {
  readonly hash: Uint8Array;
  /** Null where it is not valid, or gone. */
  readonly record: log.NaiveRecord | null;
  readonly isGone: boolean;
}

function coverOf(pruned: readonly Pruned[], seq: number): Pruned | undefined {
  return pruned.find(
    ({ first, end, held }) => seq >= first && seq < end && !held.some(([from, to]) => seq >= from && seq < to),
  );
}

/** What stands for the entries that a certificate covers, behind those that are known already: section 24, Verification. */
function prunedEntries(
  rows: Rows,
  stream: StreamRow,
  by: Pruned,
  before: readonly Found[],
  end: number,
  findings: Findings,
): Found[] {
  const kept = keptHashes(rows, stream, end).slice(before.length);
  must(!kept.includes(null), `hashes of pruned entries before ${end} are not kept`, findings);
  const own = kept.map((hash): Found => ({ hash: hash ?? Buffer.alloc(32), record: null, isGone: true }));
  if (end < by.end) return own;
  own[own.length - 1] = { hash: by.lastHash, record: by.last, isGone: true };
  const root = log.root([...before, ...own].map(({ hash }) => hash));
  must(by.root.equals(root), `the hashes before ${end} are not those of the certificate`, findings);
  return own;
}

/** Links and stamps, over all entries. */
function checkChain(stream: StreamRow, entries: readonly Found[], findings: Findings): void {
  let previous = '0'.repeat(64);
  let recordedAt = 0;
  let retainUntil = 0;
  for (const [seq, { hash, record, isGone }] of entries.entries()) {
    if (record === null && !isGone) return; // said already
    if (record !== null) {
      const entryRetainUntil = record.retainUntil ?? Number.POSITIVE_INFINITY;
      must(record.previous === previous, `${stream.name} ${seq}: previous`, findings);
      must(record.recordedAt >= recordedAt, `${stream.name} ${seq}: recordedAt goes back`, findings);
      must(entryRetainUntil >= retainUntil, `${stream.name} ${seq}: retainUntil goes back`, findings);
      must(entryRetainUntil >= record.recordedAt, `${stream.name} ${seq}: retainUntil before recordedAt`, findings);
      [recordedAt, retainUntil] = [record.recordedAt, entryRetainUntil];
    }
    previous = Buffer.from(hash).toString('hex');
  }
}

/** The stream's own row. */
function checkHead(rows: Rows, stream: StreamRow, entries: readonly Found[], findings: Findings): void {
  const hashes = entries.map(({ hash }) => hash);
  const last = entries.at(-1)?.record;
  must(Buffer.from(hashes.at(-1) ?? Buffer.alloc(32)).equals(stream.head), 'head', findings);
  must(log.frontier(hashes).equals(stream.frontier), 'frontier', findings);
  if (last !== undefined && last !== null) {
    must(stream.recordedAt === last.recordedAt, 'recorded_at of the stream', findings);
    must(stream.retainUntil === last.retainUntil, 'retain_until of the stream', findings);
  }
  const tenant = rows.tenants.find((row) => row.id === stream.tenant)?.name;
  const epoch = stream.epoch === 1 ? '' : `/e${stream.epoch}`;
  must(stream.name === `${tenant}/${stream.category}${epoch}`, 'the name of the stream', findings);
}

function must(holds: boolean, what: string, findings: Findings): void {
  if (!holds) findings.problems.push(what);
}

/** Each row once: compared as sorted lists. */
function same(what: string, stored: readonly string[], expected: readonly string[], findings: Findings): void {
  must([...stored].sort().join() === [...expected].sort().join(), `the ${what} are not those of the entries`, findings);
}

function ofStream<Row extends { readonly stream: number }>(rows: readonly Row[], stream: StreamRow): Row[] {
  return rows.filter((row) => row.stream === stream.id);
}

function tileText(tile: log.Tile): string {
  const [hashes, root] = [tile.hashes, tile.root].map((bytes) => Buffer.from(bytes).toString('hex'));
  return `${tile.level} ${tile.index} ${hashes} ${root}`;
}

function idText(row: IdRow): string {
  return `${row.seq} ${row.id} ${row.dropMonth}`;
}

function tryTo<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}
