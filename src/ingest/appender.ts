/**
 * Appends events and settles repeats: an id that was seen before answers with its first receipt when the content is the same, and
 * is a conflict when it is not.
 */
import assert from 'node:assert/strict';
import type { CanonicalEvent, PlacelessEntry, StreamRef } from '../chain/entry.ts';
import type { Entry } from '../chain/open-block.ts';
import { isRepeat, isSame, receiptOf } from '../chain/repeat.ts';
import type { Outcome, Receipt } from '../chain/sequencer.ts';
import { Problem } from '../errors.ts';

/** An event whose entry waits for its place, as far as its outcome is settled by it. */
export interface AppendableEvent extends Pick<PlacelessEntry, 'stream' | 'id' | 'mayRepeat'> {
  readonly event: CanonicalEvent;
}

export interface AppenderDeps<E extends AppendableEvent> {
  /** Appends in one transaction, see `Sequencer`. */
  readonly append: (events: readonly E[], atomic: boolean) => Promise<readonly (Outcome | undefined)[]>;
  /** Reads committed entries of one stream, by seq. */
  readonly readEntries: (stream: SeenStream, seqs: readonly number[]) => Promise<ReadonlyMap<number, Entry>>;
}

/** Where an id stands: in the stream that the event is for, or in an epoch that this one goes on for. */
export type SeenStream = Pick<StreamRef, 'id' | 'tenantId' | 'name'>;

/** Stored now (201), or found from before (200). */
export interface Settled {
  readonly status: 200 | 201;
  readonly receipt: Receipt;
}

export class Appender<E extends AppendableEvent> {
  readonly #deps: AppenderDeps<E>;

  constructor(deps: AppenderDeps<E>) {
    this.#deps = deps;
  }

  /** Appends what is new; each event gets its receipt, or a Problem `id_conflict`. Throws a Problem when nothing was stored or nobody knows. */
  async append(events: readonly E[]): Promise<(Settled | Problem)[]> {
    const outcomes = await this.#deps.append(events, false);
    return this.#settle(events, outcomes.map(known));
  }

  /** Appends all or nothing. Throws a Problem `id_conflict` that names the items when an id belongs to another event. */
  async appendAll(events: readonly E[]): Promise<Settled[]> {
    const first = new Map<string, number>();
    const twins = new Map<number, number>();
    for (const [index, { id, stream, mayRepeat }] of events.entries()) {
      if (!mayRepeat) continue;
      const key = `${stream.id} ${id}`;
      const earlier = first.get(key);
      if (earlier === undefined) first.set(key, index);
      else if (isSame(events[earlier]!.event, events[index]!.event)) twins.set(index, earlier);
      else throw conflicts([index]);
    }
    const settled: (Settled | undefined)[] = Array.from({ length: events.length });
    let open = [...events.keys()].filter((index) => !twins.has(index));
    // Ends: each round settles at least one seen id for good, or appends.
    while (open.length > 0) {
      const batch = open.map((index) => events[index]!);
      const outcomes = await this.#deps.append(batch, true);
      const withheld = outcomes.some((outcome) => outcome === undefined || outcome.kind === 'seen');
      const decided = outcomes.flatMap((outcome, i) => (outcome === undefined ? [] : [{ index: open[i]!, outcome }]));
      const answers = await this.#settle(
        decided.map(({ index }) => events[index]!),
        decided.map(({ outcome }) => outcome),
      );
      const wrong = decided.filter((_, i) => isConflict(answers[i])).map(({ index }) => index);
      if (wrong.length > 0) throw conflicts(wrong);
      // Only what was seen before is read, and then nothing was appended.
      const unread = answers.find((answer) => answer instanceof Problem);
      if (unread !== undefined) throw unread;
      for (const [i, { index }] of decided.entries()) settled[index] = answers[i] as Settled;
      if (withheld) assert(decided.length > 0, 'an atomic submission is withheld only for an id that was seen');
      open = open.filter((index) => settled[index] === undefined);
    }
    for (const [index, earlier] of twins) settled[index] = { status: 200, receipt: settled[earlier]!.receipt };
    return settled as Settled[];
  }

  async #settle(events: readonly E[], outcomes: readonly Outcome[]): Promise<(Settled | Problem)[]> {
    const seen = new Map<SeenStream, number[]>();
    for (const [index, outcome] of outcomes.entries()) {
      if (outcome.kind === 'appended') continue;
      const stream = streamOf(events[index]!, outcome);
      const seqs = seen.get(stream);
      if (seqs === undefined) seen.set(stream, [outcome.seq]);
      else seqs.push(outcome.seq);
    }
    const stored = new Map<SeenStream, ReadonlyMap<number, Entry> | Problem>();
    for (const [stream, seqs] of seen) stored.set(stream, await this.#read(stream, seqs));
    return outcomes.map((outcome, index) => {
      if (outcome.kind === 'appended') return { status: 201, receipt: outcome.receipt };
      const { event } = events[index]!;
      const found = stored.get(streamOf(events[index]!, outcome));
      if (found instanceof Problem) return found;
      const entry = found?.get(outcome.seq);
      if (entry === undefined) return unreadable();
      return isRepeat(event, entry)
        ? { status: 200, receipt: receiptOf(entry) }
        : new Problem('id_conflict', { errors: [CONFLICT] });
    });
  }

  async #read(stream: SeenStream, seqs: readonly number[]): Promise<ReadonlyMap<number, Entry> | Problem> {
    try {
      return await this.#deps.readEntries(stream, seqs);
    } catch (error) {
      return error instanceof Problem ? error : unreadable(error);
    }
  }
}

function streamOf({ stream }: AppendableEvent, seen: Outcome & { readonly kind: 'seen' }): SeenStream {
  return seen.stream ?? stream;
}

/** Others of the same call may be stored by now, so what can not be read is told of its own event alone. */
function unreadable(cause?: unknown): Problem {
  return new Problem('not_ready', { detail: 'the entry that has this id can not be read now', cause });
}

const CONFLICT = { field: 'id', message: 'belongs to another event of this stream' };

function conflicts(indexes: readonly number[]): Problem {
  return new Problem('id_conflict', {
    errors: indexes.slice(0, 20).map((index) => ({ field: `[${index}].id`, message: CONFLICT.message })),
  });
}

function isConflict(answer: Settled | Problem | undefined): boolean {
  return answer instanceof Problem && answer.code === 'id_conflict';
}

function known(outcome: Outcome | undefined): Outcome {
  assert(outcome !== undefined, 'only an atomic submission leaves entries undecided');
  return outcome;
}
