/**
 * A batch thread: reads, validates, commits to and seals the events of batches, so that the main thread is left with giving places.
 * Asks the main thread for what only it has: streams, keys, places, stored entries.
 */
import assert from 'node:assert/strict';
import { parentPort, workerData } from 'node:worker_threads';
import type { StreamRef } from '../chain/entry.ts';
import type { Entry } from '../chain/open-block.ts';
import { addMonths, dropMonthOf } from '../chain/retain-until.ts';
import { type KeysFor, type StreamKeys, sealLaidOut, sealWith } from '../chain/sealed-run.ts';
import type { Outcome } from '../chain/sequencer.ts';
import { KeyUnavailableError, Problem } from '../errors.ts';
import { answerBatch, type Batch, type BatchAnswer, type BatchLimits } from './batch.ts';
import type { BatchEntries, BatchEvent } from './batch-entries.ts';
import { decodeOutcomes, encodeRun, type OutcomeColumns, type RunColumns, type SealedColumns } from './batch-wire.ts';
import type { EvidenceRule, OpenStream } from './events.ts';
import { ThreadCalls } from './thread-calls.ts';

assert(parentPort !== null, 'runs as a worker thread');

/** Keys that are remembered; they are asked for again when they were forgotten. */
const REMEMBERED_MAX = 10_000;
/** The main thread knows when a key has ended. */
const REMEMBERED_MS = 1000;

const open = new Map<number, { readonly entries: BatchEntries; readonly events: readonly BatchEvent[] }>();
let submissions = 0;

const main = new ThreadCalls(parentPort, {
  answer: (asked: { number: number; batch: Batch }) => answer(asked.number, asked.batch),
  reseal: (asked: { submission: number; entries: Uint32Array; dropMonth: number }) => reseal(asked),
});

const known = new Map<string, { readonly asked: Promise<StreamKeys>; readonly until: number }>();

const keysFor: KeysFor = (stream, dropMonth) => {
  const key = `${stream.id} ${dropMonth}`;
  const found = known.get(key);
  if (found !== undefined && performance.now() < found.until) return found.asked;
  const asked = main.call<StreamKeys>('keysFor', { stream, dropMonth });
  known.set(key, { asked, until: performance.now() + REMEMBERED_MS });
  asked.catch(() => known.delete(key));
  if (known.size > REMEMBERED_MAX) known.delete(known.keys().next().value ?? key);
  return asked;
};

const seal = sealWith(keysFor);

async function answer(number: number, batch: Batch): Promise<BatchAnswer> {
  // Asked for each batch anew: the main thread knows when a stream's epoch was closed.
  const openStream: OpenStream = (tenant, category) => main.call('openStream', { tenant, category });
  const evidenceRule: EvidenceRule = (tenant, category) => main.call('evidenceRule', { tenant, category });
  // The month in which an entry stamped now may be dropped. Where the sequencer sees another, it asks for sealing anew.
  const dropMonth = ({ retentionMonths }: StreamRef) =>
    dropMonthOf(retentionMonths === undefined ? undefined : addMonths(batch.now, retentionMonths));
  // Nobody waits for it: what it can throw it throws when the main thread is gone.
  const onEvents = (events: number): void => void main.call('events', { batch: number, events }).catch(() => {});
  return answerBatch(batch, {
    append: (entries, events, atomic) => append(number, entries, events, atomic, dropMonth),
    readEntries: (stream, seqs) => main.call<ReadonlyMap<number, Entry>>('readEntries', { stream, seqs }),
    policies: { openStream, evidenceRule },
    limits: workerData as BatchLimits,
    onEvents,
  });
}

async function append(
  batch: number,
  entries: BatchEntries,
  events: readonly BatchEvent[],
  atomic: boolean,
  dropMonth: (stream: StreamRef) => number,
): Promise<readonly (Outcome | undefined)[]> {
  if (events.length === 0) return [];
  const indexOf = new Map(events.map((event, index) => [event.index, index]));
  const sealedRuns = await sealLaidOut(entries.runsOf(events), dropMonth, seal).catch(tryLater);
  const runs = sealedRuns.map((run) => encodeRun(run, (entry) => indexOf.get(entry)!));
  const submission = submissions++;
  open.set(submission, { entries, events });
  try {
    const sealed: SealedColumns = { batch, submission, atomic, entries: entries.columnsOf(events), runs };
    const moved = [sealed.entries.frames, ...runs.map((run) => run.parts)].map((bytes) => bytes.buffer);
    const outcomes = await main.call<OutcomeColumns>('append', sealed, moved);
    return decodeOutcomes(
      outcomes,
      events.map(({ id }) => id),
    );
  } finally {
    open.delete(submission);
  }
}

/** Nothing was handed over yet: what has no key is not stored. */
function tryLater(error: unknown): never {
  if (!(error instanceof KeyUnavailableError)) throw error;
  throw new Problem('not_ready', { detail: 'a key that entries are sealed with can not be had now', cause: error });
}

async function reseal({
  submission,
  entries,
  dropMonth,
}: {
  submission: number;
  entries: Uint32Array;
  dropMonth: number;
}): Promise<RunColumns> {
  const of = open.get(submission);
  assert(of !== undefined, 'the submission is open');
  const indexOf = new Map(Array.from(entries, (index) => [of.events[index]!.index, index]));
  const laidOut = of.entries.runsOf(Array.from(entries, (index) => of.events[index]!));
  const [run] = await sealLaidOut(laidOut, () => dropMonth, seal);
  return encodeRun(run!, (entry) => indexOf.get(entry)!);
}
