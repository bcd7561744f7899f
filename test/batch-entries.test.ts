/** What is kept of a batch's entries while they wait for their places, and how they and their outcomes go from thread to thread. */
import assert from 'node:assert/strict';
import { describe, expect, test } from 'vitest';
import { toHex } from '../src/chain/bytes.ts';
import type { PendingEntry, StreamRef } from '../src/chain/entry.ts';
import { leafHash } from '../src/chain/merkle.ts';
import { placeRecords } from '../src/chain/placed-records.ts';
import { decodeRecord } from '../src/chain/record.ts';
import { RunCutter } from '../src/chain/sealed-run.ts';
import type { Outcome } from '../src/chain/sequencer.ts';
import { decodeEntryBundle, encodeEntryBundle } from '../src/chain/tile.ts';
import { Problem } from '../src/errors.ts';
import { answerBatch } from '../src/ingest/batch.ts';
import { BatchEntries } from '../src/ingest/batch-entries.ts';
import { decodeEntries, decodeOutcomes, encodeOutcomes } from '../src/ingest/batch-wire.ts';
import { readEvent, Taker } from '../src/ingest/events.ts';
import { readItem } from '../src/ingest/json-reader.ts';
import { generateEvents } from './support/events.ts';

const PLACE = {
  previous: 'ab'.repeat(32),
  recordedAt: '2026-11-24T01:02:03.004Z',
  retainUntil: '2028-11-24T01:02:03.004Z',
};

/** Generated events, some of them beyond ASCII, one of a block's size: 300 of six streams. */
async function pendingEntries(): Promise<PendingEntry[]> {
  const streams = new Map<string, StreamRef>();
  const openStream = async (tenant: string, category: string): Promise<StreamRef> => {
    const id = streams.size + 1;
    streams.set(category, { id, tenantId: 1, name: `${tenant}/${category}`, retentionMonths: 12 });
    return streams.get(category)!;
  };
  const taker = new Taker({ tenant: 'acme' }, { openStream, evidenceRule: async () => 'flag' });
  const entries: PendingEntry[] = [];
  for (const [i, event] of generateEvents({ seed: 8, count: 300 }).entries()) {
    if (i % 7 === 0) event.source.host = `Prüfstand ${i} 日本`;
    if (i % 5 === 0) event.severity = i % 11;
    if (i === 100) event.raw = 'x'.repeat(300 * 1024);
    const taken = await taker.take(readEvent(readItem(Buffer.from(JSON.stringify(event))), { tenant: 'acme' }, 0));
    if (taken instanceof Error) throw taken;
    entries.push(taken);
  }
  expect(streams.size).toBe(6);
  return entries;
}

function runsOf(entries: readonly PendingEntry[], indexes: readonly number[]) {
  const cutter = new RunCutter<number>();
  for (const index of indexes) cutter.add(entries[index]!, index);
  return cutter.end();
}

describe('a batch that waits', () => {
  test('has its runs, and those of some of it, as if nothing else had been there', async () => {
    const entries = await pendingEntries();
    const batch = new BatchEntries();
    const events = entries.map((entry) => batch.add(entry));
    const all = runsOf(entries, [...entries.keys()]);
    expect(all.length).toBeGreaterThan(6);
    expect(batch.runsOf(events)).toEqual(all);

    // Of each run, cut alone: in a batch with gaps the cuts between runs stay where they were.
    for (const modulus of [2, 3, 50]) {
      const kept = new Set(events.filter(({ index }) => index % modulus === 1));
      const cut = all.flatMap((run) =>
        runsOf(
          entries,
          run.entries.filter((index) => index % modulus === 1),
        ),
      );
      expect(batch.runsOf([...kept])).toEqual(cut);
    }
  });

  test('reads its events back as they came', async () => {
    const entries = await pendingEntries();
    const batch = new BatchEntries();
    const events = entries.map((entry) => batch.add(entry));
    for (const [i, { event }] of entries.entries()) {
      const { parts, ...back } = events[i]!.event;
      const { parts: given, ...said } = event;
      const defined = Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined));
      expect(Object.fromEntries(Object.entries(back).filter(([, value]) => value !== undefined))).toEqual(defined);
      expect(parts.map(({ name, value }) => [name, Buffer.from(value).toString()])).toEqual(
        given.map(({ name, value }) => [name, Buffer.from(value).toString()]),
      );
    }
  });

  test('goes over with the same records, also some of it', async () => {
    const entries = await pendingEntries();
    const batch = new BatchEntries();
    const events = entries.map((entry) => batch.add(entry));
    for (const some of [events, events.filter(({ index }) => index % 3 === 2)]) {
      const there = decodeEntries(structuredClone(batch.columnsOf(some)));
      const here = some.map(({ index }) => entries[index]!);
      const bundles = [there, here].map((of) =>
        placeRecords(
          of.map(({ frame }) => frame),
          { seq: 9, ...PLACE },
        ),
      );
      expect(Buffer.compare(bundles[0]!.bundle, bundles[1]!.bundle)).toBe(0);
      expect(bundles[0]!.hashes).toEqual(bundles[1]!.hashes);
      const written = decodeEntryBundle(bundles[0]!.bundle);
      expect(Buffer.compare(encodeEntryBundle(written), bundles[0]!.bundle)).toBe(0);
      expect(bundles[0]!.leaves.map(toHex)).toEqual(written.map((record) => toHex(leafHash(record))));
      const records = decodeEntryBundle(bundles[0]!.bundle).map(decodeRecord);
      expect(records.map(({ seq, id, parts }) => [seq, id, parts])).toEqual(
        here.map(({ id, partsHash }, i) => [9 + i, id, partsHash]),
      );
      const rest = ({ stream, id, idHash, mayRepeat, bytes }: (typeof there)[number]) => [
        stream,
        id,
        idHash,
        mayRepeat,
        bytes,
      ];
      expect(there.map(rest)).toEqual(here.map(rest));
    }
  });
});

test('outcomes come over as they were', () => {
  const { previous: _, ...stamps } = PLACE;
  const appended = (id: string, stream: string, seq: number): Outcome => ({
    kind: 'appended',
    receipt: { id, stream, seq, hash: `${seq}`.repeat(64), ...stamps },
  });
  const { recordedAt } = PLACE;
  const epoch = { id: 4, tenantId: 1, name: 'acme/data_access/1', retentionMonths: 12, recordedAt: 1 };
  const outcomes: (Outcome | undefined)[] = [
    appended('a', 'acme/data_access', 1),
    { kind: 'seen', seq: 2 ** 40 },
    undefined,
    { kind: 'appended', receipt: { id: 'd', stream: 'acme/anchor', seq: 3, hash: '3'.repeat(64), recordedAt } },
    { kind: 'seen', seq: 7, stream: { ...epoch, retainUntil: undefined } },
    appended('f', 'acme/data_access', 2),
    appended('g', 'acme/security_event', 0),
  ];
  expect(decodeOutcomes(structuredClone(encodeOutcomes(outcomes)), [...'abcdefg'])).toStrictEqual(outcomes);
});

describe('while streams can not be had', () => {
  const answer = async (text: string) => {
    const counted: number[] = [];
    const never = async () => assert.fail('nothing is appended');
    const openStream = async () => {
      throw new Problem('not_ready');
    };
    const batch = { body: Buffer.from(text), isLines: false, atomic: false, sender: { tenant: 'acme' }, now: 0 };
    const answered = answerBatch(batch, {
      ...{ append: never, readEntries: never, onEvents: (events) => counted.push(events) },
      policies: { openStream, evidenceRule: async () => 'flag' },
      limits: { eventBytesMax: 1024 * 1024, batchEventsMax: 3 },
    });
    const code = await answered.then(
      () => assert.fail('is refused'),
      (problem: Problem) => problem.code,
    );
    return { code, counted };
  };
  const events = generateEvents({ seed: 9, count: 4 }).map((event) => JSON.stringify(event));

  test('a batch is counted, and may come again', async () => {
    expect(await answer(`[${events.slice(0, 3).join()}]`)).toEqual({ code: 'not_ready', counted: [3] });
  });

  test('what will never be a batch is told so', async () => {
    expect(await answer(`[${events.slice(0, 2).join()},{]`)).toEqual({ code: 'invalid_json', counted: [] });
    expect(await answer(`[${events.join()}]`)).toEqual({ code: 'invalid_batch', counted: [] });
  });
});
