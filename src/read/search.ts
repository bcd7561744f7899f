/**
 * Search: entries of a tenant in the order of recordedAt, newest or oldest first, over any number of streams.
 *
 * Each stream is walked by its drop months and, within one, over the blocks that its tags and spans let through; the entries that
 * match are merged. A request looks at a bounded number of blocks and then answers with what it has and a cursor, so that a rare
 * match costs more requests, never a long one. The cursor says for each stream from which seq on to go on: entries that are
 * appended meanwhile neither shift a page nor repeat one.
 *
 * Each page leaves an entry itself. So that a search oldest first does not follow itself for ever, it ends where the log ended when it
 * began, which its cursor says too.
 */
import type { StoredBlock } from '../chain/block.ts';
import { CATEGORIES } from '../chain/category.ts';
import { blockFilter, type EntryQuery, matches } from '../chain/entry-filter.ts';
import { compareInstants, type Instant } from '../chain/instant.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import type { AsTenant } from '../store/database.ts';
import { blockOf, monthsOf, scanBlocks, seqAtInstant } from '../store/log-reader.ts';
import type { StreamRow } from '../store/streams.ts';
import type { Positions } from './cursor.ts';
import { type Keys, openKeys } from './entries.ts';

/** In a cursor oldest first: the newest recordedAt when the search began. */
const UNTIL = 'until';
/** Blocks that one request looks at: at about 0.3 ms each, well under a second. Each stream is given one look in any case, or a cursor might never move. */
const BLOCKS_LOOKED_MAX = 256;
const BLOCKS_A_LOOK = 16;
/** A page ends when its items have so many characters: the memory of one answer, and at most one event more. */
const PAGE_CHARS_MAX = 8 * 1024 * 1024;

export type Order = 'asc' | 'desc';

export interface Question {
  readonly streams: readonly StreamRow[];
  readonly query: EntryQuery;
  readonly order: Order;
  /** Items of a page, at most. */
  readonly limit: number;
  /** Of the page before, from its cursor. */
  readonly positions: Positions | undefined;
  /** Writes an entry as it is given out. */
  readonly view: (entry: Entry, stream: StreamRow) => string;
}

export interface Page {
  readonly items: readonly string[];
  /** Undefined when everything was seen. */
  readonly next: Positions | undefined;
}

interface Budget {
  blocks: number;
}

/** Returns a page. */
export async function search(ask: AsTenant, keys: Keys, question: Question): Promise<Page> {
  const { streams, order, limit, view } = question;
  const until = order === 'asc' ? untilOf(question) : undefined;
  const query = until === undefined ? question.query : upTo(question.query, until);
  const streamIds = streams.map((stream) => stream.id);
  const months = await ask((database) => monthsOf(database, streamIds));
  const budget: Budget = { blocks: BLOCKS_LOOKED_MAX };
  const walks = streams.map((stream) => {
    const own = months.filter((month) => month.streamId === stream.id);
    return new Walk(ask, keys, stream, own, query, order, budget, startOf(stream, question));
  });
  const items: string[] = [];
  let chars = 0;
  let starved = false;
  while (items.length < limit && chars < PAGE_CHARS_MAX && !starved) {
    let best: Walk | undefined;
    for (const walk of walks) {
      await walk.fill();
      // A walk that ran out of budget may hold what comes next: nothing more can be put in order.
      if (walk.starved) starved = true;
      else if (walk.head !== undefined && (best === undefined || precedes(walk.head, best.head!, order))) best = walk;
    }
    if (starved || best === undefined) break;
    const item = view(best.take(), best.stream);
    items.push(item);
    chars += item.length;
  }
  if (walks.every((walk) => walk.ended)) return { items, next: undefined };
  const next = new Map(walks.map((walk) => [keyOf(walk.stream), walk.position]));
  if (until !== undefined) next.set(UNTIL, until);
  return { items, next };
}

/** Up to when a search oldest first goes, in milliseconds since 1970. */
function untilOf({ positions, streams }: Question): number {
  return positions?.get(UNTIL) ?? Math.max(0, ...streams.map((stream) => stream.recordedAt));
}

function upTo(query: EntryQuery, until: number): EntryQuery {
  const end = { ms: until + 1, nanos: 0 };
  return query.to !== undefined && compareInstants(query.to, end) < 0 ? query : { ...query, to: end };
}

/** Names a stream of a tenant in a cursor, shorter than its name. */
function keyOf({ category, epoch }: StreamRow): string {
  return `${CATEGORIES.indexOf(category)}.${epoch}`;
}

/** Where a stream's walk begins: before this seq (`desc`), or at it (`asc`). */
function startOf(stream: StreamRow, { positions, order }: Question): number {
  const start = order === 'asc' ? 0 : stream.size;
  if (positions === undefined) return start;
  // A stream that a cursor does not know was made since: newest first, all of it belongs before the pages that were given.
  return positions.get(keyOf(stream)) ?? 0;
}

/** By recordedAt; entries stamped alike by stream, then seq. Both ways round the same, so that `asc` is `desc` reversed. */
function precedes(a: Entry, b: Entry, order: Order): boolean {
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
  /** Where to go on: of the entries before this seq (`desc`), or from it on (`asc`), none has been given out; all others are done with. */
  position: number;
  starved = false;
  readonly #ask: AsTenant;
  readonly #keys: Keys;
  readonly #query: EntryQuery;
  readonly #order: Order;
  readonly #budget: Budget;
  readonly #months: { dropMonth: number; keyId: string }[];
  /** Entries found and not given out, in order. */
  #found: Entry[] = [];
  #blocks: StoredBlock[] = [];
  /** Where the scan stands: behind what was found and the blocks at hand. */
  #scanned: number;
  #looked = false;
  #month: { dropMonth: number; keyId: string; end: number } | undefined;

  constructor(
    ask: AsTenant,
    keys: Keys,
    stream: StreamRow,
    months: readonly { dropMonth: number; keyId: string }[],
    query: EntryQuery,
    order: Order,
    budget: Budget,
    position: number,
  ) {
    this.#ask = ask;
    this.#keys = keys;
    this.stream = stream;
    this.#query = query;
    this.#order = order;
    this.#budget = budget;
    // A stream's drop months rise with seq, but for what is kept for ever (0), which is then the only one.
    this.#months = order === 'asc' ? [...months] : [...months].reverse();
    this.position = position;
    this.#scanned = this.position;
  }

  get head(): Entry | undefined {
    return this.#found[0];
  }

  /** Whether there is nothing more, as far as is known without another look. */
  get ended(): boolean {
    if (this.#order === 'asc' ? this.position >= this.stream.size : this.position === 0) return true;
    const atHand = this.#found.length + this.#blocks.length;
    return atHand === 0 && this.#month === undefined && this.#months.length === 0;
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
      } else if (this.#budget.blocks <= 0 && this.#looked) {
        this.starved = true;
        this.#advance();
      } else {
        await this.#look();
      }
    }
  }

  async #open(block: StoredBlock): Promise<void> {
    const { dataKey } = await openKeys(this.#keys, block.keyId);
    const entries = openBlock(block, this.stream.name, dataKey).filter(
      (entry) => this.#isAhead(entry) && matches(this.#query, entry),
    );
    this.#found = this.#order === 'asc' ? entries : entries.reverse();
    const first = this.#found[0];
    // What was passed over on the way to a rare match is not looked at again, even if another stream's entries come first.
    if (first !== undefined) this.position = this.#order === 'asc' ? first.record.seq : first.record.seq + 1;
    else if (this.#blocks.length === 0) this.#advance();
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
    const isUp = this.#order === 'asc';
    // Bounds of recordedAt become bounds of seq, which the blocks are in order of.
    const first = await this.#boundary(month.dropMonth, isUp ? 'before' : 'after', isUp ? from : to);
    if (first !== undefined) this.#scanned = isUp ? Math.max(this.#scanned, first) : Math.min(this.#scanned, first);
    const last = await this.#boundary(month.dropMonth, isUp ? 'after' : 'before', isUp ? to : from);
    // Months rise with recordedAt: behind one that holds the end there is nothing.
    if (last !== undefined) this.#months.length = 0;
    this.#month = { ...month, end: last ?? (isUp ? Infinity : -1) };
    return true;
  }

  /** The first seq of the block of a month that is next `before` or `after` an instant. */
  async #boundary(
    dropMonth: number,
    side: 'before' | 'after',
    instant: Instant | undefined,
  ): Promise<number | undefined> {
    if (instant === undefined) return undefined;
    const { ms } = instant;
    return this.#ask((database) =>
      seqAtInstant(database, this.stream.id, dropMonth, side === 'after' ? { after: ms } : { before: ms }),
    );
  }

  async #look(): Promise<void> {
    const month = this.#month!;
    const { tagKey } = await openKeys(this.#keys, month.keyId);
    // Two at least: the first of them can be the one that the position lies in, which moves nothing.
    const limit = Math.max(2, this.#budget.blocks <= 0 ? BLOCKS_A_LOOK : Math.min(BLOCKS_A_LOOK, this.#budget.blocks));
    const filter = blockFilter(this.#query, tagKey);
    const scan = await this.#ask((database) =>
      scanBlocks(database, this.stream.id, month.dropMonth, filter, this.#order, this.#scanned, limit),
    );
    this.#looked ||= scan.looked > 0;
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
