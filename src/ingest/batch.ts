/** A batch from its bytes to its answer: reading, validating, appending, and one answer an event, in order. */
import { type FieldError, Problem } from '../errors.ts';
import { problemFields } from '../http/problem.ts';
import { Appender, type AppenderDeps, type Settled } from './appender.ts';
import { BatchEntries, type BatchEvent } from './batch-entries.ts';
import { type Policies, type ReadEvent, readEvent, type Sender, Taker } from './events.ts';
import { type ReadItem, readItem, readJsonArray, splitLines } from './json-reader.ts';

export interface BatchLimits {
  /** Of one event's text. */
  readonly eventBytesMax: number;
  readonly batchEventsMax: number;
}

export interface Batch {
  readonly body: Uint8Array;
  /** NDJSON, else a JSON array. */
  readonly isLines: boolean;
  readonly atomic: boolean;
  readonly sender: Sender;
  /** The service's clock, milliseconds since 1970. */
  readonly now: number;
}

export interface BatchAnswer {
  readonly status: 200 | 201;
  /** The JSON text of the answer. */
  readonly text: string;
  /** How many of its events the sender may not send. */
  readonly forbidden: number;
}

export interface BatchDeps extends Pick<AppenderDeps<BatchEvent>, 'readEntries'> {
  /** Appends events of a batch, whose entries these are, in one transaction, see `Sequencer`. */
  readonly append: (
    entries: BatchEntries,
    ...asked: Parameters<AppenderDeps<BatchEvent>['append']>
  ) => ReturnType<AppenderDeps<BatchEvent>['append']>;
  readonly policies: Policies;
  readonly limits: BatchLimits;
  /** Called once with the number of events that it brings, valid or not. */
  readonly onEvents: (events: number) => void;
}

/** Returns the answer to a batch. Throws a Problem that is the whole call's. */
export async function answerBatch(
  batch: Batch,
  { append, readEntries, policies, limits, onEvents }: BatchDeps,
): Promise<BatchAnswer> {
  const { body, isLines, atomic, sender, now } = batch;
  const max = limits.batchEventsMax;
  const items: Iterable<Item> = isLines ? splitLines(body, { linesMax: max }) : readJsonArray(body, { itemsMax: max });
  const taker = new Taker(sender, policies);
  const entries = new BatchEntries();
  const taken: (BatchEvent | Problem)[] = [];
  let events = 0;
  let failed: { readonly error: unknown } | undefined;
  for (const item of items) {
    const read = readOrProblem(item, sender, now, limits);
    events += 1;
    // Where something can not be asked, the rest is read all the same: that no time will make a batch of it is the better answer.
    if (failed !== undefined) continue;
    try {
      const one = read instanceof Problem ? read : taker.take(read);
      const pending = one instanceof Promise ? await one : one;
      taken.push(pending instanceof Problem ? pending : entries.add(pending));
    } catch (error) {
      failed = { error };
    }
  }
  onEvents(events);
  if (failed !== undefined) throw failed.error;
  if (events === 0) throw new Problem('invalid_batch', { errors: [{ field: '', message: 'has no event' }] });

  const appender = new Appender<BatchEvent>({ append: (some, all) => append(entries, some, all), readEntries });
  const valid = taken.filter((one): one is BatchEvent => !(one instanceof Problem));
  const forbidden = taken.filter((one) => one instanceof Problem && one.code === 'forbidden').length;
  if (atomic) {
    if (valid.length < taken.length)
      throw new Problem(forbidden > 0 ? 'forbidden' : 'invalid_batch', { errors: errorsOf(taken) });
    return { status: 201, text: answerText(await appender.appendAll(valid)), forbidden };
  }
  const answers = await appender.append(valid);
  let next = 0;
  const text = answerText(taken.map((one) => (one instanceof Problem ? one : answers[next++]!)));
  return { status: 200, text, forbidden };
}

/** What is wrong with an item is its own, also with a line that is no JSON; everything else is the whole call's. */
function readOrProblem(item: Item, sender: Sender, now: number, limits: BatchLimits): ReadEvent | Problem {
  try {
    return readEvent(itemOf(item, limits), sender, now);
  } catch (error) {
    if (error instanceof Problem && error.status < 500) return error;
    throw error;
  }
}

/** A line, or an item of an array, that is read already. */
type Item = ReadItem | Uint8Array;

function itemOf(item: Item, { eventBytesMax }: BatchLimits): ReadItem {
  const length = item instanceof Uint8Array ? item.length : item.bytes;
  if (length > eventBytesMax) throw new Problem('too_large', { detail: `An event has at most ${eventBytesMax} bytes` });
  return item instanceof Uint8Array ? readItem(item) : item;
}

/** The errors of all items, their fields behind the item's index; as many as a person reads. */
function errorsOf(taken: readonly (BatchEvent | Problem)[]): FieldError[] {
  const errors = taken.flatMap((one, index) => {
    if (!(one instanceof Problem)) return [];
    const own = one.errors.length > 0 ? one.errors : [{ field: '', message: one.message }];
    return own.map((error) => ({ ...error, field: error.field === '' ? `[${index}]` : `[${index}].${error.field}` }));
  });
  return errors.slice(0, 20);
}

function answerText(answers: readonly (Settled | Problem)[]): string {
  const items = answers.map((answer) =>
    answer instanceof Problem ? problemFields(answer) : { status: answer.status, ...answer.receipt },
  );
  return JSON.stringify({ errors: answers.some((answer) => answer instanceof Problem), items });
}
