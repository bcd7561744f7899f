/**
 * The fast implementation against a second one: `reference/naive-*.ts` is written from docs/format.md alone, shares no code
 * with `src/`, and is as plain and slow as can be. Thousands of random histories go through the real sequencer; then the
 * reference works out every stored byte again, from the events and from what is stored. It also writes logs itself, for the
 * fast verifier to read, and damages them: both verifiers must come to the same verdict.
 *
 * `npm run test:hard` runs many times more.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decodeParts, encodeParts, packPayload, unpackPayload } from '../src/chain/block.ts';
import { canonicalText, decodeCanonical, type JsonValue } from '../src/chain/canonical.ts';
import { type EventFields, entryIdHash, pendingEntry } from '../src/chain/entry.ts';
import { appendLeaves, decodeFrontier, encodeFrontier, frontierRoot } from '../src/chain/merkle.ts';
import { type Entry, openBlock } from '../src/chain/open-block.ts';
import { decodeRecord } from '../src/chain/record.ts';
import { isRepeat, receiptOf } from '../src/chain/repeat.ts';
import { addMonths, dropMonthOf, parseInstant } from '../src/chain/retain-until.ts';
import { normalizeEmail, normalizeIp } from '../src/chain/tag.ts';
import { fullTilesBetween, tileRoot } from '../src/chain/tile.ts';
import { EvidenceError, KeyUnavailableError } from '../src/errors.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring, type KeyStore } from '../src/keys/keyring.ts';
import type { MonthKeys } from '../src/keys/month-keys.ts';
import type { LogSource } from '../src/verify/log-source.ts';
import { verifyStream } from '../src/verify/verify-stream.ts';
import { damageRow, forge, openStream, recut } from './reference/damage.ts';
import { type History, isSound, monthsAt, plans, play, receiptsOf, type Sent } from './reference/history.ts';
import { type Commit, keyById, memorySource } from './reference/memory-log.ts';
import { type Json, jcs, canonicalText as naiveText, readCanonical } from './reference/naive-json.ts';
import * as naive from './reference/naive-log.ts';
import { normalEmail, normalIp } from './reference/naive-tags.ts';
import { clientInstant, dropMonth, addMonths as naiveAddMonths, ownInstant, timeText } from './reference/naive-time.ts';
import { type Rows, type StreamRow, verify } from './reference/naive-verify.ts';
import type { WrittenEntry } from './reference/naive-writer.ts';
import { email, ip, json, Random, randomEvent } from './reference/random-events.ts';

/** How often each property is tried, and for how long a test may take. */
const TIMES = process.env['SEALOG_TEST_HARD'] === '1' ? 20 : 1;
const LIMIT_MS = 60_000 * TIMES;

let folder: string;
let monthKeys: MonthKeys;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sealog-reference-'));
  monthKeys = fileMonthKeys(folder);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe('random histories', () => {
  const small = plans({ steps: 8, submissions: 3, events: 6, burst: 0 });
  const large = plans({ steps: 6, submissions: 3, events: 4, burst: 400 });

  test('short ones are stored as the reference has it', { timeout: LIMIT_MS }, async () => {
    await fc.assert(
      fc.asyncProperty(small, async (plan) => checkHistory(await play(plan, monthKeys))),
      { numRuns: 1500 * TIMES },
    );
  });

  test('long ones too, across the ends of blocks and tiles', { timeout: LIMIT_MS }, async () => {
    await fc.assert(
      fc.asyncProperty(large, async (plan) => checkHistory(await play(plan, monthKeys))),
      { numRuns: 40 * TIMES },
    );
  });

  test('are the same log in other blocks, written by the reference', { timeout: LIMIT_MS }, async () => {
    await fc.assert(
      fc.asyncProperty(small, fc.nat(), async (plan, seed) => {
        const { log } = await play(plan, monthKeys);
        for (const stream of log.streams) {
          const entries = openStream(log, stream, openedKeys());
          const rows = await recut(log, stream, entries, new Random(seed), { monthKeys, opened: openedKeys });
          expect(await verdicts(rows, stream)).toEqual(['intact', 'intact']);
        }
      }),
      { numRuns: 300 * TIMES },
    );
  });

  test('once damaged get one verdict from both verifiers', { timeout: LIMIT_MS }, async () => {
    const seen = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(small, fc.array(fc.nat(), { minLength: 1, maxLength: 8 }), async (plan, seeds) => {
        const { log } = await play(plan, monthKeys);
        for (const seed of seeds) {
          const random = new Random(seed);
          const stream = random.pick(log.streams);
          const entries = openStream(log, stream, openedKeys());
          const { what, rows } =
            entries.length === 0 || random.chance(50)
              ? damageRow(log, stream, random)
              : await forge(log, stream, entries, random, { monthKeys, opened: openedKeys });
          const hidden = random.chance(10) ? random.pick([...openedKeys().keys()]) : undefined;
          const [verdict, expected] = await verdicts(rows, rows.streams.find(({ id }) => id === stream.id)!, hidden);
          expect(verdict, `${what}${hidden === undefined ? '' : `, without the key ${hidden}`}`).toBe(expected);
          seen.set(expected, (seen.get(expected) ?? 0) + 1);
        }
      }),
      { numRuns: 400 * TIMES },
    );
    expect([...seen.keys()].sort()).toEqual(['incomplete', 'intact', 'tampered']);
  });
});

describe('formats', () => {
  const seeds = fc.nat();

  test('canonical JSON is written and read alike', () => {
    const values = fc.oneof(
      fc.jsonValue({ maxDepth: 4, stringUnit: 'binary' }) as fc.Arbitrary<Json>,
      seeds.map((seed) => json(new Random(seed), 5) as Json),
    );
    fc.assert(
      fc.property(values, seeds, (value, seed) => {
        const bytes = jcs(value);
        expect(canonicalText(value as JsonValue)).toBe(naiveText(value));
        expect(decodeCanonical(bytes)).toEqual(value);
        const other = bent(bytes, new Random(seed));
        expect(fast(() => decodeCanonical(other))).toEqual(slow(() => readCanonical(other)));
      }),
      { numRuns: 4000 * TIMES },
    );
  });

  test('records are read alike, sound and bent', () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const random = new Random(seed);
        const bytes = naive.writeRecord({
          ...recordHead(randomEvent(seed, 'usual', 'id')),
          parts: naive.H('parts').toString('hex'),
          previous: naive.H('previous').toString('hex'),
          recordedAt: random.u32() * 500,
          retainUntil: random.chance(70) ? random.u32() * 900 : null,
          seq: random.u32() * random.below(1000),
          stream: 'acme/data_access',
        });
        for (const each of [bytes, ...random.list(5, () => bent(bytes, random))]) {
          const text = slow(() => naive.writeRecord(naive.readRecord(each)).toString('utf8'));
          expect(fast(() => Buffer.from(each) && decodeRecord(each) && each.toString('utf8'))).toEqual(text);
        }
      }),
      { numRuns: 2000 * TIMES },
    );
  });

  test('times are read and months added alike', () => {
    fc.assert(
      fc.property(seeds, fc.integer({ min: 0, max: 250_000_000_000_000 }), fc.nat(120), (seed, instant, months) => {
        const random = new Random(seed);
        const { occurredAt } = randomEvent(seed, 'usual', 'id');
        expect(pendingEntry(STREAM, randomEvent(seed, 'usual', 'id'), true).occurredAt).toBe(clientInstant(occurredAt));
        expect(addMonths(instant, months)).toBe(naiveAddMonths(instant, months));
        expect(dropMonthOf(instant)).toBe(dropMonth(instant));
        const text = bent(Buffer.from(timeText(instant)), random).toString('latin1');
        expect(parseInstant(text)).toBe(slow(() => ownInstant(text)));
      }),
      { numRuns: 4000 * TIMES },
    );
  });

  test('addresses have one normal form', () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const random = new Random(seed);
        const [someIp, someEmail] = [ip(random), email(random)];
        expect(normalizeIp(someIp), JSON.stringify(someIp)).toBe(normalIp(someIp));
        expect(normalizeEmail(someEmail), JSON.stringify(someEmail)).toBe(normalEmail(someEmail));
      }),
      { numRuns: 20_000 * TIMES },
    );
  });

  test('ids are hashed alike', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme-ascii' }), (id) => expect(entryIdHash(id)).toBe(naive.idHash(id))),
    );
  });

  test('payloads are packed and read alike, sound and bent', () => {
    fc.assert(
      fc.property(fc.array(seeds, { maxLength: 12 }), seeds, (events, seed) => {
        const random = new Random(seed);
        const entries = events.map((each) =>
          pendingEntry(STREAM, randomEvent(each, 'usual', 'id'), true).parts.map(
            (part): naive.Part => (random.chance(80) ? part : { name: part.name, closed: naive.commitment(part) }),
          ),
        );
        const payload = naive.writeParts(entries);
        const fastEntries = entries.map((parts) =>
          parts.map((part) => ('closed' in part ? { name: part.name, commitment: part.closed } : part)),
        );
        expect(Buffer.from(encodeParts(fastEntries))).toEqual(payload);
        for (const each of [payload, ...random.list(4, () => bent(payload, random))]) {
          const again = slow(() => naive.writeParts(naive.readParts(each)).toString('hex'));
          expect(fast(() => Buffer.from(encodeParts(decodeParts(each))).toString('hex'))).toEqual(again);
        }
        const packed = Buffer.from(packPayload(payload));
        const frame = naive.join(Buffer.of(1), zstdCompressSync(payload));
        for (const each of [
          packed,
          frame,
          bent(packed, random),
          bent(frame, random),
          naive.join(frame, frame.subarray(1)),
        ]) {
          const hex = slow(() => naive.unpack(each).toString('hex'));
          expect(fast(() => Buffer.from(unpackPayload(each)).toString('hex'))).toEqual(hex);
        }
      }),
      { numRuns: 800 * TIMES },
    );
  });

  test('a payload is exactly one frame of zstd, and no longer than 16 MiB', () => {
    const skippable = Buffer.from('502a4d180400000001020304', 'hex');
    const frame = zstdCompressSync(Buffer.from('payload'));
    const bytes = Buffer.alloc(16 * 1024 * 1024 + 1);
    const wrong = [[], [skippable], [skippable, frame], [frame, skippable], [zstdCompressSync(bytes)]];
    const packed = [...wrong.map((frames) => naive.join(Buffer.of(1), ...frames)), naive.join(Buffer.of(0), bytes)];
    for (const each of [...packed, Buffer.of(), Buffer.of(2)]) {
      expect(() => naive.unpack(each)).toThrow();
      expect(() => unpackPayload(each)).toThrow(EvidenceError);
    }
    const longest = naive.join(Buffer.of(0), bytes.subarray(1));
    expect(unpackPayload(longest).length).toBe(naive.unpack(longest).length);
  });
});

describe('trees', () => {
  /** Grows a tree by these numbers of leaves and compares it after each. */
  function checkGrowth(steps: readonly number[], from: number): void {
    const leaves = Array.from({ length: from + steps.reduce((sum, step) => sum + step, 0) }, (_, i) => naive.H(`${i}`));
    const rootOf = new Map<string, Uint8Array>();
    let [size, nodes] = [0, decodeFrontier(0, new Uint8Array(0))];
    for (const step of [from, ...steps]) {
      nodes = appendLeaves(size, nodes, leaves.slice(size, size + step));
      const full = naive.fullTiles(leaves.slice(0, size + step));
      const before = new Set(naive.fullTiles(leaves.slice(0, size)).map(({ level, index }) => `${level} ${index}`));
      const grown = full.filter(({ level, index }) => !before.has(`${level} ${index}`));
      expect(fullTilesBetween(size, size + step)).toEqual(grown.map(({ level, index }) => ({ level, index })));
      for (const tile of grown) expect(Buffer.from(tileRoot(tile.hashes))).toEqual(tile.root);
      for (const tile of grown) rootOf.set(`${tile.level} ${tile.index}`, tile.root);
      size += step;
      expect(Buffer.from(encodeFrontier(nodes))).toEqual(naive.frontier(leaves.slice(0, size)));
      expect(Buffer.from(frontierRoot(size, nodes))).toEqual(Buffer.from(naive.root(leaves.slice(0, size))));
      expect(naive.rootFromFrontier(encodeFrontier(nodes))).toEqual(naive.root(leaves.slice(0, size)));
    }
    expect(rootOf.size).toBe(naive.fullTiles(leaves).length);
  }

  test('grow alike by any steps', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.nat(5), fc.nat(300)), { maxLength: 8 }), (steps) => checkGrowth(steps, 0)),
      { numRuns: 150 * TIMES },
    );
  });

  test('grow alike past 65,536 leaves, where a tile of level 1 is full', { timeout: LIMIT_MS }, () => {
    checkGrowth([1, 1, 255, 300], 65_534);
  });
});

const STREAM = { id: 7, tenantId: 3, name: 'acme/data_access', retentionMonths: 12 };

/** Everything that was stored, against everything that was sent. */
async function checkHistory(history: History): Promise<void> {
  const { plan, log, sent } = history;
  checkOutcomes(history);
  const salts: string[] = [];
  for (const [index, stream] of log.streams.entries()) {
    const own = sent.filter((one) => one.stream === index);
    const says = verify(log, stream.id, openedKeys());
    expect(says).toEqual({ verdict: 'intact', problems: [], unchecked: [] });
    const { verdict, findings } = await verifyStream(memorySource(log, stream.id, keysOf(log)));
    expect({ verdict, findings }).toEqual({ verdict: 'intact', findings: [] });

    const entries = openStream(log, stream, openedKeys());
    const stamps = checkCommits(log.commits, stream, entries, (step) => monthsAt(plan, index, step));
    checkEntries(stream, entries, own, stamps);
    await checkReading(log, stream, entries, own);
    salts.push(
      ...entries.flatMap(({ parts }) =>
        parts.map((part) => Buffer.from('salt' in part ? part.salt : []).toString('hex')),
      ),
    );
  }
  expect(new Set(salts).size, 'each salt is fresh').toBe(salts.length);
}

/** Each event is appended or stood there already; an atomic submission as a whole or not at all. */
function checkOutcomes({ plan, sent }: History): void {
  for (const own of Map.groupBy(sent, ({ submission }) => submission).values()) {
    const kinds = new Set(own.map(({ outcome }) => (typeof outcome === 'string' ? outcome : outcome.kind)));
    if (isSound(plan.steps[own[0]!.step]!)) expect(kinds).not.toContain('refused');
    if (kinds.has('refused') || kinds.has('unknown')) expect(kinds.size).toBe(1);
    if (own[0]!.isAtomic)
      expect(kinds.has('appended') ? kinds.size : Number(!kinds.has('seen'))).toBe(
        Number(kinds.has('appended') || !kinds.has('seen')),
      );
    else expect(kinds).not.toContain('dropped');
    for (const { mayRepeat, outcome } of own) {
      if (!mayRepeat && typeof outcome === 'object') expect(outcome.kind).toBe('appended');
    }
  }
}

interface Stamps {
  readonly recordedAt: number;
  readonly retainUntil: number | null;
}

/** The stream's row after every commit, against the entries up to there. Returns the stamps that follow for each entry. */
function checkCommits(
  commits: readonly Commit[],
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  monthsAtStep: (step: number) => number | null,
): readonly Stamps[] {
  const hashes = entries.map(({ bytes }) => naive.entryHash(bytes));
  const stamps: Stamps[] = [];
  for (const { now, step, heads } of commits) {
    const head = heads.find(({ id }) => id === stream.id);
    if (head === undefined) continue;
    const { sizeBefore, size, recordedAt, retainUntil, frontier } = head;
    const [months, before] = [monthsAtStep(step), stamps.at(-1)];
    const next: Stamps = {
      recordedAt: Math.max(now, before?.recordedAt ?? 0),
      retainUntil: null,
    };
    const isForEver = months === null || before?.retainUntil === null;
    const until = isForEver ? null : Math.max(naiveAddMonths(next.recordedAt, months), before?.retainUntil ?? 0);
    expect({ sizeBefore, recordedAt, retainUntil: retainUntil ?? null }).toEqual({
      sizeBefore: stamps.length,
      recordedAt: next.recordedAt,
      retainUntil: until,
    });
    while (stamps.length < size) stamps.push({ ...next, retainUntil: until });
    expect(Buffer.from(head.head)).toEqual(hashes[size - 1]);
    expect(Buffer.from(frontier)).toEqual(naive.frontier(hashes.slice(0, size)));
    expect(Buffer.from(frontierRoot(size, decodeFrontier(size, frontier)))).toEqual(
      Buffer.from(naive.root(hashes.slice(0, size))),
    );
  }
  expect(stamps.length).toBe(entries.length);
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
  expect(bySeq.size, 'each entry has one receipt').toBe(receipts.length);
  const unanswered = own.filter(({ outcome }) => outcome === 'unknown');
  let previous = '0'.repeat(64);
  for (const [seq, { bytes, parts }] of entries.entries()) {
    const answered = bySeq.get(seq);
    const place = {
      ...stamps[seq]!,
      seq,
      previous,
      stream: stream.name,
      parts: naive.partsHash(parts).toString('hex'),
    };
    const expected = (event: EventFields): string => {
      const values = naive.PART_NAMES.flatMap((name) =>
        event.parts[name] === undefined ? [] : [`${name}=${naiveText(event.parts[name] as Json)}`],
      );
      return [naive.writeRecord({ ...recordHead(event), ...place }).toString('utf8'), ...values].join('\n');
    };
    const values = parts.map(
      (part) => `${part.name}=${'closed' in part ? '' : Buffer.from(part.value).toString('utf8')}`,
    );
    const stored = [Buffer.from(bytes).toString('utf8'), ...values].join('\n');
    previous = naive.entryHash(bytes).toString('hex');
    if (answered === undefined) {
      expect(unanswered.map(({ event }) => expected(event))).toContain(stored);
      continue;
    }
    expect(stored).toBe(expected(answered.sent.event));
    const { recordedAt, retainUntil } = stamps[seq]!;
    expect(answered.receipt).toEqual({
      ...{ id: answered.sent.event.id, stream: stream.name, seq, hash: previous, recordedAt: timeText(recordedAt) },
      ...(retainUntil === null ? {} : { retainUntil: timeText(retainUntil) }),
    });
  }
  for (const of of Map.groupBy(receipts, ({ sent }) => sent.submission).values()) {
    const seqs = of.map(({ receipt }) => receipt.seq);
    expect(seqs, 'in the order in which they were sent').toEqual(seqs.toSorted((a, b) => a - b));
  }
  const ids = entries.map(({ record }) => record.id);
  expect(new Set(ids).size, 'no id stands twice').toBe(ids.length);
}

/** What the service reads back: entries, receipts, and what is a repeat. */
async function checkReading(
  rows: Rows,
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  own: readonly Sent[],
): Promise<void> {
  const opened = new Map<number, Entry>();
  const keys = keysOf(rows);
  for (const row of rows.blocks.filter((block) => block.stream === stream.id)) {
    const { dataKey } = await keys(String(row.keyId));
    const of = openBlock({ ...row, keyId: String(row.keyId) }, stream.name, dataKey);
    for (const entry of of) opened.set(entry.record.seq, entry);
    const parts = naive.writeParts(entries.slice(row.firstSeq, row.firstSeq + row.entries).map((entry) => entry.parts));
    // By its own estimate, which leaves out a few bytes an entry and counts characters.
    const bytes = naive.unpack(row.records).length + parts.length;
    expect(row.entries === 1 || (row.entries <= 1024 && bytes <= 256 * 1024)).toBe(true);
  }
  expect(opened.size).toBe(entries.length);
  for (const { event, outcome } of own) {
    if (typeof outcome === 'string') continue;
    const entry = opened.get(outcome.kind === 'seen' ? outcome.seq : outcome.receipt.seq)!;
    expect(entry.record.id).toBe(event.id);
    const { record, parts } = entries[entry.record.seq]!;
    const isSame =
      contentOf(recordHead(event), event.parts) ===
      contentOf(
        record,
        Object.fromEntries(parts.map((part) => [part.name, 'value' in part ? readCanonical(part.value) : null])),
      );
    expect(isRepeat(event, entry)).toBe(isSame);
    if (outcome.kind === 'appended') expect([isSame, receiptOf(entry)]).toEqual([true, outcome.receipt]);
  }
}

/** What makes an event another: all that the client said, but not what Sealog adds to it. */
function contentOf({ action, outcome, severity, occurredAt, source }: naive.EventHead, parts: object): string {
  return naiveText({
    action,
    outcome,
    severity: severity ?? null,
    occurredAt,
    source,
    parts: Object.fromEntries(Object.entries(parts).filter(([, part]) => part !== undefined)),
  });
}

/** The members of an event that its record repeats. */
function recordHead({ id, action, outcome, occurredAt, source, severity, evidence }: EventFields): naive.EventHead {
  return {
    ...{ id, action, outcome, occurredAt, source: source as naive.EventHead['source'] },
    ...(severity === undefined ? {} : { severity }),
    ...(evidence === undefined ? {} : { evidence }),
  };
}

/** The verdicts of the fast verifier and of the reference; `hidden` is a month key that can not be had. */
async function verdicts(rows: Rows, stream: StreamRow, hidden?: string): Promise<readonly [string, string]> {
  const known = new Map([...openedKeys()].filter(([name]) => name !== hidden));
  const { verdict } = await verifyStream(memorySource(rows, stream.id, keysOf(rows, hidden)));
  return [verdict, verify(rows, stream.id, known).verdict];
}

/** Opens the data keys of the rows as the service does. */
function keysOf(rows: Rows, hidden?: string): LogSource['keys'] {
  const available: MonthKeys = {
    ...monthKeys,
    unwrap: async (monthKey, wrapped, context) => {
      if (monthKey === hidden) throw new KeyUnavailableError('this month key is hidden');
      return monthKeys.unwrap(monthKey, wrapped, context);
    },
  };
  const store: KeyStore = {
    byId: async (id) => keyById(rows, id),
    findOrStore: () => assert.fail('reading makes no key'),
  };
  const keyring = new Keyring(available, store);
  return (keyId) => keyring.keysById(keyId);
}

const opened = new Map<string, Uint8Array>();

/** The month keys as they lie in their folder. */
function openedKeys(): ReadonlyMap<string, Uint8Array> {
  for (const file of readdirSync(folder)) {
    const name = file.replace(/\.key$/, '');
    if (file.endsWith('.key') && !opened.has(name))
      opened.set(name, Buffer.from(readFileSync(join(folder, file), 'latin1').trim(), 'hex'));
  }
  return opened;
}

/** The bytes with something wrong in them, or not. */
function bent(bytes: Uint8Array, random: Random): Buffer {
  const copy = Buffer.from(bytes);
  const at = random.below(Math.max(1, copy.length));
  if (copy.length > 0)
    copy[at] = random.pick([copy[at]! ^ (1 << random.below(8)), 0x20, 0x30, 0x22, 0x5c, 0x2c, 0xff, 0]);
  const kind = random.below(6);
  if (kind === 0) return copy.subarray(0, at);
  if (kind === 1) return naive.join(bytes, random.pick([' ', '\0', '}', '0']));
  if (kind === 2)
    return naive.join(bytes.subarray(0, at), random.pick([' ', '0', '"', '\\', '\ufeff']), bytes.subarray(at));
  return copy;
}

/** What the fast implementation reads; undefined where it refuses that as wrong evidence. It throws nothing else. */
function fast<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof EvidenceError) return undefined;
    throw error;
  }
}

/** What the reference reads; undefined where it refuses that, however. */
function slow<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
