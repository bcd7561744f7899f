/**
 * Search: entries of a tenant in the order of recordedAt, newest or oldest first, over any number of streams.
 *
 * Each stream is walked by its drop months and, within one, over the blocks that its tags and spans let through; the entries that
 * match are merged. A request looks at a bounded number of blocks and then answers with what it has and a cursor, so that a rare
 * match costs more requests, never a long one. The cursor says for each stream from which seq on to go on: entries that are
 * appended meanwhile neither shift a page nor repeat one.
 */
import type { Kysely } from 'kysely';
import type { StoredBlock } from '../chain/block.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { parseInstant } from '../chain/retain-until.ts';
import { blockOf, monthsOf, scanBlocks, seqAtInstant } from '../store/log-reader.ts';
import type { StreamRow } from '../store/streams.ts';
import type { Tables } from '../store/tables.ts';
import { blockFilter, type EntryQuery, matches } from './entry-filter.ts';

/** Blocks that one request looks at: at about 0.3 ms each, well under a second. */
const BLOCKS_LOOKED_MAX = 256;
const BLOCKS_A_LOOK = 16;

export interface Keys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
}

export interface Page {
  readonly entries: readonly { readonly entry: Entry; readonly stream: StreamRow }[];
  /** For each stream name the seq to go on from; undefined when everything was seen. */
  readonly next: ReadonlyMap<string, number> | undefined;
}

/** How the lookups reach the database: each as a short transaction of the tenant. */
export type AsTenant = <T>(work: (database: Kysely<Tables>) => Promise<T>) => Promise<T>;

interface Budget {
  blocks: number;
}

/** Returns a page. `positions` comes from a cursor; a stream that it does not name is walked from its end (`desc`) or start (`asc`). */
export async function search(
  ask: AsTenant,
  keys: Keys,
  streams: readonly StreamRow[],
  query: EntryQuery,
  order: 'asc' | 'desc',
  limit: number,
  positions: ReadonlyMap<string, number>,
): Promise<Page> {
  const budget: Budget = { blocks: BLOCKS_LOOKED_MAX };
  const months = await ask((database) =>
    monthsOf(
      database,
      streams.map((stream) => stream.id),
    ),
  );
  const walks = streams.map(
    (stream) =>
      new Walk(
        ask,
        keys,
        stream,
        months.filter((month) => month.streamId === stream.id),
        query,
        order,
        budget,
        positions.get(stream.name),
      ),
  );
  const entries: { entry: Entry; stream: StreamRow }[] = [];
  let starved = false;
  while (entries.length < limit && !starved) {
    let best: Walk | undefined;
    for (const walk of walks) {
      await walk.fill();
      // A walk that ran out of budget may hold what comes next: nothing more can be put in order.
      if (walk.starved) starved = true;
      else if (walk.head !== undefined && (best === undefined || precedes(walk.head, best.head!, order))) best = walk;
    }
    if (starved || best === undefined) break;
    entries.push({ entry: best.take(), stream: best.stream });
  }
  const done = walks.every((walk) => walk.head === undefined && !walk.starved);
  return { entries, next: done ? undefined : new Map(walks.map((walk) => [walk.stream.name, walk.position])) };
}

/** By recordedAt; entries stamped alike by stream, then seq. Both ways round the same, so that `asc` is `desc` reversed. */
function precedes(a: Entry, b: Entry, order: 'asc' | 'desc'): boolean {
  const difference =
    compare(a.record.recordedAt, b.record.recordedAt) ||
    compare(a.record.stream, b.record.stream) ||
    a.record.seq - b.record.seq;
  return order === 'asc' ? difference < 0 : difference > 0;
}

function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** The matching entries of one stream, one after the other. */
class Walk {
  readonly stream: StreamRow;
  /** Where to go on: entries before this seq (`desc`), or from it on (`asc`), have not been given out. */
  position: number;
  starved = false;
  readonly #ask: AsTenant;
  readonly #keys: Keys;
  readonly #query: EntryQuery;
  readonly #order: 'asc' | 'desc';
  readonly #budget: Budget;
  readonly #months: { dropMonth: number; keyId: string }[];
  /** Entries found and not given out, in order; with the position after each. */
  #found: Entry[] = [];
  #blocks: StoredBlock[] = [];
  /** Where the scan of the current month stands: behind what was found and the blocks at hand. */
  #scanned: number;
  #month: { dropMonth: number; keyId: string; end: number } | undefined;

  constructor(
    ask: AsTenant,
    keys: Keys,
    stream: StreamRow,
    months: readonly { dropMonth: number; keyId: string }[],
    query: EntryQuery,
    order: 'asc' | 'desc',
    budget: Budget,
    position: number | undefined,
  ) {
    this.#ask = ask;
    this.#keys = keys;
    this.stream = stream;
    this.#query = query;
    this.#order = order;
    this.#budget = budget;
    // A stream's drop months rise with seq, but for what is kept for ever (0), which is then the only one.
    this.#months = order === 'asc' ? [...months] : [...months].reverse();
    this.position = position ?? (order === 'asc' ? 0 : stream.size);
    this.#scanned = this.position;
  }

  get head(): Entry | undefined {
    return this.#found[0];
  }

  take(): Entry {
    const entry = this.#found.shift()!;
    this.position = this.#order === 'asc' ? entry.record.seq + 1 : entry.record.seq;
    return entry;
  }

  /** Finds the next entry, unless one is at hand, everything was seen, or the budget is used up (`starved`). */
  async fill(): Promise<void> {
    while (this.#found.length === 0 && !this.starved) {
      const block = this.#blocks.shift();
      if (block !== undefined) {
        await this.#open(block);
      } else if (this.#month === undefined) {
        if (!(await this.#nextMonth())) return;
      } else if (this.#budget.blocks <= 0) {
        this.starved = true;
        this.#advance();
      } else {
        await this.#look();
      }
    }
  }

  async #open(block: StoredBlock): Promise<void> {
    const { dataKey } = await this.#keys.keysById(block.keyId);
    const entries = openBlock(block, this.stream.name, dataKey).filter(
      (entry) => this.#isAhead(entry) && matches(this.#query, entry),
    );
    this.#found = this.#order === 'asc' ? entries : entries.reverse();
    if (this.#found.length === 0 && this.#blocks.length === 0) this.#advance();
  }

  #isAhead(entry: Entry): boolean {
    return this.#order === 'asc' ? entry.record.seq >= this.position : entry.record.seq < this.position;
  }

  async #nextMonth(): Promise<boolean> {
    const month = this.#months.shift();
    if (month === undefined) return false;
    if (this.#order === 'asc' && this.#scanned > 0) {
      // Scanning upwards counts in whole blocks: begin with the one that the position lies in.
      const begun = await this.#ask((database) => blockOf(database, this.stream.id, this.#scanned, month.dropMonth));
      if (begun !== undefined) this.#scanned = begun.firstSeq;
    }
    const { from, to } = this.#query;
    const { id } = this.stream;
    // Bounds of recordedAt become bounds of seq, which the blocks are in order of.
    const start = this.#order === 'asc' ? from : to;
    const end = this.#order === 'asc' ? to : from;
    const [first, last] = await this.#ask(async (database) => [
      start === undefined
        ? undefined
        : await seqAtInstant(
            database,
            id,
            month.dropMonth,
            this.#order === 'asc' ? { before: start } : { after: start },
          ),
      end === undefined
        ? undefined
        : await seqAtInstant(database, id, month.dropMonth, this.#order === 'asc' ? { after: end } : { before: end }),
    ]);
    if (first !== undefined)
      this.#scanned = this.#order === 'asc' ? Math.max(this.#scanned, first) : Math.min(this.#scanned, first);
    this.#month = { ...month, end: last ?? (this.#order === 'asc' ? Infinity : -1) };
    return true;
  }

  async #look(): Promise<void> {
    const month = this.#month!;
    const { tagKey } = await this.#keys.keysById(month.keyId);
    const limit = Math.min(BLOCKS_A_LOOK, this.#budget.blocks);
    const filter = blockFilter(this.#query, tagKey);
    const scan = await this.#ask((database) =>
      scanBlocks(database, this.stream.id, month.dropMonth, filter, this.#order, this.#scanned, limit),
    );
    this.#budget.blocks -= scan.looked;
    this.#blocks.push(...scan.blocks);
    const last = scan.lastFirstSeq;
    const exhausted =
      scan.looked < limit || last === undefined || (this.#order === 'asc' ? last >= month.end : last <= month.end);
    if (last !== undefined) this.#scanned = this.#order === 'asc' ? last + 1 : last;
    if (exhausted) this.#month = undefined;
    if (this.#blocks.length === 0) this.#advance();
  }

  /** Everything up to where the scan stands was given out or does not match. */
  #advance(): void {
    this.position =
      this.#order === 'asc' ? Math.max(this.position, this.#scanned) : Math.min(this.position, this.#scanned);
  }
}

/** Returns the instant that a query parameter names, in milliseconds: `YYYY-MM-DDThh:mm:ss.sssZ` or any RFC 3339 with an offset. */
export function instantOf(text: string): number {
  return parseInstant(text) ?? Date.parse(text);
}
