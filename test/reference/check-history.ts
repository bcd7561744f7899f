/**
 * Holds what a history left in the tables to what was sent: the reference works out every record, hash, link, stamp, root,
 * frontier and receipt again, from the events, the clock at each commit, and the salts that it finds in the sealed parts.
 * That the rows agree among themselves (blocks, tiles, tags, ids, spans) is what `verify` says.
 */
import assert from 'node:assert/strict';
import { canonicalEvent, type EventFields } from '../../src/chain/entry.ts';
import { decodeFrontier, frontierRoot } from '../../src/chain/merkle.ts';
import { openBlock } from '../../src/chain/open-block.ts';
import { isRepeat, receiptOf } from '../../src/chain/repeat.ts';
import type { LogSource } from '../../src/verify/log-source.ts';
import { verifyStream } from '../../src/verify/verify-stream.ts';
import { openStream } from './damage.ts';
import { type History, isSound, monthsAt, receiptsOf, type Sent } from './history.ts';
import { memorySource } from './memory-log.ts';
import { canonicalText, type Json } from './naive-json.ts';
import * as naive from './naive-log.ts';
import { addMonths, timeText } from './naive-time.ts';
import { type Rows, type StreamRow, verify } from './naive-verify.ts';
import type { WrittenEntry } from './naive-writer.ts';

export interface HistoryKeys {
  /** The month keys by name, for the reference. */
  readonly byName: ReadonlyMap<string, Uint8Array>;
  /** The data keys by id, opened by the service's own code. */
  readonly dataKeys: LogSource['keys'];
}

/** Throws an AssertionError where anything that was stored is not what follows from what was sent. */
export async function checkHistory(history: History, keys: HistoryKeys): Promise<void> {
  const { log, sent } = history;
  checkOutcomes(history);
  const salts: string[] = [];
  for (const [index, stream] of log.streams.entries()) {
    if (stream.size === 0) {
      assert(![log.blocks, log.ids].some((rows) => rows.some((row) => row.stream === stream.id)));
      continue;
    }
    assert.deepEqual(verify(log, stream.id, keys.byName), { verdict: 'intact', problems: [], unchecked: [] });
    const { verdict, findings, size } = await verifyStream(memorySource(log, stream.id, keys.dataKeys));
    assert.deepEqual({ verdict, findings, size }, { verdict: 'intact', findings: [], size: stream.size });

    const entries = openStream(log, stream, keys.byName);
    const own = sent.filter((one) => one.stream === index);
    const stamps = checkCommits(history, index, entries);
    checkEntries(stream, entries, own, stamps);
    await checkReading(log, stream, entries, own, keys.dataKeys);
    salts.push(...entries.flatMap(({ parts }) => parts.map((part) => ('salt' in part ? hex(part.salt) : ''))));
  }
  assert.equal(new Set(salts).size, salts.length, 'each salt is fresh');
}

/** Each event is appended or stood there already; an atomic submission as a whole or not at all. */
function checkOutcomes({ plan, sent }: History): void {
  for (const own of Map.groupBy(sent, ({ submission }) => submission).values()) {
    const { isAtomic, step } = own[0]!;
    const kinds = own.map(({ outcome }) => (typeof outcome === 'string' ? outcome : outcome.kind));
    const all = (...allowed: readonly string[]): boolean => kinds.every((kind) => allowed.includes(kind));
    const isDropped = isAtomic && all('seen', 'dropped') && kinds.includes('seen');
    const isAnswered = isDropped || (isAtomic ? all('appended') : all('appended', 'seen'));
    const isFailed = !isSound(plan.steps[step]!) && (all('refused') || all('unknown'));
    assert(isAnswered || isFailed, `${isAtomic ? 'atomic' : 'not atomic'}: ${kinds.join()}`);
    assert(own.every(({ mayRepeat }, i) => mayRepeat || kinds[i] !== 'seen'));
  }
}

interface Stamps {
  readonly recordedAt: number;
  readonly retainUntil: number | null;
}

/** The stream's row after each commit, against the entries up to there. Returns the stamps that follow for each entry. */
function checkCommits({ plan, log }: History, index: number, entries: readonly WrittenEntry[]): readonly Stamps[] {
  const hashes = entries.map(({ bytes }) => naive.entryHash(bytes));
  const stamps: Stamps[] = [];
  for (const { now, step, heads } of log.commits) {
    const head = heads.find(({ id }) => id === log.streams[index]!.id);
    if (head === undefined) continue;
    const months = monthsAt(plan, index, step);
    const before = stamps.at(-1);
    const recordedAt = Math.max(now, before?.recordedAt ?? 0);
    const isForEver = months === null || before?.retainUntil === null;
    const retainUntil = isForEver ? null : Math.max(addMonths(recordedAt, months), before?.retainUntil ?? 0);
    assert.equal(head.sizeBefore, stamps.length);
    assert.equal(head.recordedAt, recordedAt);
    assert.equal(head.retainUntil ?? null, retainUntil);
    while (stamps.length < head.size) stamps.push({ recordedAt, retainUntil });

    const { size, frontier } = head;
    assert.equal(hex(head.head), hex(hashes[size - 1]!));
    assert.equal(hex(frontier), hex(naive.frontier(hashes.slice(0, size))));
    assert.equal(hex(frontierRoot(size, decodeFrontier(size, frontier))), hex(naive.root(hashes.slice(0, size))));
  }
  assert.equal(stamps.length, entries.length);
  return stamps;
}

/** Each entry is what the reference makes of its event, byte by byte; each receipt is that of its entry. */
function checkEntries(
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  own: readonly Sent[],
  stamps: readonly Stamps[],
): void {
  const receipts = receiptsOf(own);
  const bySeq = new Map(receipts.map((one) => [one.receipt.seq, one]));
  assert.equal(bySeq.size, receipts.length, 'each receipt is of another entry');
  const unanswered = own.filter(({ outcome }) => outcome === 'unknown');
  let previous = '0'.repeat(64);
  for (const [seq, { bytes, parts }] of entries.entries()) {
    const { recordedAt, retainUntil } = stamps[seq]!;
    const place = { recordedAt, retainUntil, seq, previous, stream: stream.name };
    const recordOf = (event: EventFields): string =>
      naive.writeRecord({ ...headOf(event), ...place, parts: hex(naive.partsHash(parts)) }).toString('utf8');
    const record = Buffer.from(bytes).toString('utf8');
    const values = canonicalText(valuesOf(parts));
    previous = hex(naive.entryHash(bytes));

    const answered = bySeq.get(seq);
    if (answered === undefined) {
      assert(unanswered.some(({ event }) => recordOf(event) === record && canonicalText(sentParts(event)) === values));
      continue;
    }
    const { sent, receipt } = answered;
    assert.equal(record, recordOf(sent.event));
    assert.equal(values, canonicalText(sentParts(sent.event)));
    const until = retainUntil === null ? {} : { retainUntil: timeText(retainUntil) };
    const says = { id: sent.event.id, stream: stream.name, seq, hash: previous, recordedAt: timeText(recordedAt) };
    assert.deepEqual(receipt, { ...says, ...until });
  }
  for (const together of Map.groupBy(receipts, ({ sent }) => sent.submission).values()) {
    const seqs = together.map(({ receipt }) => receipt.seq);
    assert.deepEqual(
      seqs,
      seqs.toSorted((a, b) => a - b),
      'entries stand in the order in which they were sent',
    );
  }
  const ids = entries.map(({ record }) => record.id);
  assert.equal(new Set(ids).size, ids.length, 'no id stands twice');
}

/** What the service reads back: entries, receipts, and what is a repeat. Also how blocks are cut. */
async function checkReading(
  rows: Rows,
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  own: readonly Sent[],
  dataKeys: LogSource['keys'],
): Promise<void> {
  const opened: Awaited<ReturnType<typeof openBlock>> = [];
  const blocks = rows.blocks.filter((block) => block.stream === stream.id);
  for (const row of blocks.toSorted((a, b) => a.firstSeq - b.firstSeq)) {
    const { dataKey } = await dataKeys(String(row.keyId));
    opened.push(...openBlock(row, stream.name, dataKey));
    const held = entries.slice(row.firstSeq, row.firstSeq + row.entries);
    const bytes = naive.unpack(row.records).length + naive.writeParts(held.map(({ parts }) => parts)).length;
    // The writer estimates: it leaves out some bytes of each entry and counts characters of a record, not bytes.
    assert(row.entries === 1 || (row.entries <= 1024 && bytes <= 512 * 1024), 'a block is small enough');
  }
  assert.deepEqual(
    opened.map(({ bytes }) => hex(bytes)),
    entries.map(({ bytes }) => hex(bytes)),
  );
  for (const { event, outcome } of own) {
    if (typeof outcome === 'string') continue;
    const seq = outcome.kind === 'seen' ? outcome.seq : outcome.receipt.seq;
    const [entry, { record, parts }] = [opened[seq]!, entries[seq]!];
    assert.equal(record.id, event.id);
    const isSame = contentOf(record, valuesOf(parts)) === contentOf(headOf(event), sentParts(event));
    assert.equal(isRepeat(canonicalEvent(event), entry), isSame);
    if (outcome.kind === 'appended') assert.deepEqual([isSame, receiptOf(entry)], [true, outcome.receipt]);
  }
}

/** The members of an event that its record repeats. */
export function headOf({ id, action, outcome, occurredAt, source, severity, evidence }: EventFields): naive.EventHead {
  return {
    ...{ id, action, outcome, occurredAt, source: source as naive.EventHead['source'] },
    ...(severity === undefined ? {} : { severity }),
    ...(evidence === undefined ? {} : { evidence }),
  };
}

/** What makes an event another one: what the client said, but not what Sealog adds to it. */
function contentOf({ action, outcome, severity, occurredAt, source }: naive.EventHead, parts: Json): string {
  return canonicalText({ action, outcome, severity: severity ?? null, occurredAt, source, parts });
}

/** The canonical texts of the parts that were sent, by name. */
function sentParts(event: EventFields): { readonly [name: string]: string } {
  const parts = Object.entries(event.parts).filter(([, value]) => value !== undefined);
  return Object.fromEntries(parts.map(([name, value]) => [name, canonicalText(value as Json)]));
}

/** The texts of the parts that are stored, by name. */
function valuesOf(parts: readonly naive.Part[]): { readonly [name: string]: string } {
  return Object.fromEntries(
    parts.map((part) => [part.name, 'value' in part ? Buffer.from(part.value).toString() : '']),
  );
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
