/**
 * A batch thread: reads, validates, commits to and seals the events of batches, so that the main thread is left with giving places.
 * Asks the main thread for what only it has: streams, keys, places, stored entries.
 */
import assert from 'node:assert/strict';
import { parentPort, workerData } from 'node:worker_threads';
import type { PendingEntry, StreamRef } from '../chain/entry.ts';
import type { Entry } from '../chain/open-block.ts';
import { addMonths, dropMonthOf } from '../chain/retain-until.ts';
import { type KeysFor, type StreamKeys, sealRuns, sealWith } from '../chain/sealed-run.ts';
import type { Outcome } from '../chain/sequencer.ts';
import { KeyUnavailableError, Problem } from '../errors.ts';
import { Appender } from './appender.ts';
import { answerBatch, type Batch, type BatchAnswer, type BatchLimits } from './batch.ts';
import { encodeEntries, encodeRun, type RunColumns, type SealedColumns } from './batch-wire.ts';
import type { EvidenceRule, OpenStream } from './events.ts';
import { ThreadCalls } from './thread-calls.ts';

assert(parentPort !== null, 'runs as a worker thread');

/** Keys that are remembered; they are asked for again when they were forgotten. */
const REMEMBERED_MAX = 10_000;
/** The main thread knows when a key has ended. */
const REMEMBERED_MS = 1000;

const open = new Map<number, { readonly entries: readonly PendingEntry[] }>();
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
  const appender = new Appender({
    append: (entries, atomic) => append(number, entries, atomic, dropMonth),
    readEntries: (stream, seqs) => main.call<ReadonlyMap<number, Entry>>('readEntries', { stream, seqs }),
  });
  // Nobody waits for it: what it can throw it throws when the main thread is gone.
  const onEvents = (events: number): void => void main.call('events', { batch: number, events }).catch(() => {});
  const policies = { openStream, evidenceRule };
  return answerBatch(batch, { appender, policies, limits: workerData as BatchLimits, onEvents });
}

async function append(
  batch: number,
  entries: readonly PendingEntry[],
  atomic: boolean,
  dropMonth: (stream: StreamRef) => number,
): Promise<readonly (Outcome | undefined)[]> {
  if (entries.length === 0) return [];
  const indexOf = new Map(entries.map((entry, index) => [entry, index]));
  const sealedRuns = await sealRuns(entries, dropMonth, seal).catch(tryLater);
  const runs = sealedRuns.map((run) => encodeRun(run, indexOf as Map<never, number>));
  const submission = submissions++;
  open.set(submission, { entries });
  try {
    const sealed: SealedColumns = { batch, submission, atomic, entries: encodeEntries(entries), runs };
    return await main.call<readonly (Outcome | undefined)[]>(
      'append',
      sealed,
      runs.map((run) => run.parts.buffer as ArrayBuffer),
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
  const all = open.get(submission)?.entries;
  assert(all !== undefined, 'the submission is open');
  const kept = Array.from(entries, (index) => all[index]!);
  const [run] = await sealRuns(kept, () => dropMonth, seal);
  return encodeRun(run!, new Map(kept.map((entry, i) => [entry, entries[i]!])));
}
