/**
 * Search: entries of a tenant in the order of recordedAt, newest or oldest first, over any number of streams.
 *
 * Each stream is walked by its drop months and, within one, over the blocks that its tags and spans let through (months whose entries lie between
 * each other, because of a hold, are walked together); the entries that match are merged. A request looks at a bounded number of blocks and then answers with what it has and a cursor, so that a rare
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
import { dropMonthOf, KEPT_FOR_EVER } from '../chain/retain-until.ts';
import type { AsTenant } from '../store/database.ts';
import {
  blockOf,
  type Lane,
  monthGroupsOf,
  monthsOf,
  type StreamMonth,
  scanBlocks,
  seqAtInstant,
} from '../store/log-reader.ts';
import { listStreams, type StreamRow } from '../store/streams.ts';
import type { Positions } from './cursor.ts';
import { isPruned, type Keys, openKeys } from './entries.ts';

/** In a cursor oldest first: the newest recordedAt when the search began. */
const UNTIL = 'until';
/** Blocks that one request looks at: at about 0.5 ms each, well under a second. Each stream is given one look in any case, or a cursor might never move. */
const BLOCKS_LOOKED_MAX = 256;
const BLOCKS_A_LOOK = 16;
/** Moving what is held takes seconds, once a month. */
const ATTEMPTS_MAX = 5;
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
  readonly view: (entry: Entry, stream: StreamRow) => string | Promise<string>;
}

export interface Page {
  readonly items: readonly string[];
  /** Undefined when everything was seen. */
  readonly next: Positions | undefined;
}

interface Budget {
  blocks: number;
}

/** Returns a page. What is moved meanwhile, because a hold keeps it, could stand where it was looked for already: then it is looked for anew. */
export async function search(ask: AsTenant, keys: Keys, question: Question): Promise<Page> {
  const ids = question.streams.map(({ id }) => id);
  for (let attempt = 1, asked = question; ; attempt++) {
    const months = await ask((database) => monthGroupsOf(database, asked.streams));
    const page = await findPage(ask, keys, asked, months);
    if (!mayMove(asked, months) || attempt === ATTEMPTS_MAX) return page;
    const streams = (await ask(listStreams)).filter(({ id }) => ids.includes(id));
    const wasMoved = streams.some(({ id, moved }) => moved !== asked.streams.find((one) => one.id === id)!.moved);
    if (!wasMoved) return page;
    // Each as long as it was.
    asked = {
      ...asked,
      streams: asked.streams.map((stream) => ({
        ...stream,
        moved: streams.find(({ id }) => id === stream.id)?.moved ?? stream.moved,
      })),
    };
  }
}

type MonthGroups = Awaited<ReturnType<typeof monthGroupsOf>>;

/** Only what has expired is moved. */
function mayMove({ streams }: Question, groups: MonthGroups): boolean {
  const now = dropMonthOf(Math.max(Date.now(), ...streams.map(({ recordedAt }) => recordedAt)));
  const months = [...groups.values()].flat(2).map(({ dropMonth }) => dropMonth);
  return months.some((month) => month !== KEPT_FOR_EVER && month < now);
}

async function findPage(ask: AsTenant, keys: Keys, question: Question, months: MonthGroups): Promise<Page> {
  const { streams, order, limit, view } = question;
  const until = order === 'asc' ? untilOf(question) : undefined;
  const query = until === undefined ? question.query : upTo(question.query, until);
  const budget: Budget = { blocks: BLOCKS_LOOKED_MAX };
  const walks = streams.map((stream) => {
    return new Walk(ask, keys, stream, months.get(stream.id) ?? [], query, order, budget, startOf(stream, question));
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
    const item = await view(best.take(), best.stream);
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
  readonly #months: (readonly StreamMonth[])[];
  /** Entries found and not given out, in order. */
  #found: Entry[] = [];
  #blocks: StoredBlock[] = [];
  /** Where the scan stands: behind what was found and the blocks at hand. */
  #scanned: number;
  #looked = false;
  /** Those that are walked together now. */
  #month: { readonly months: readonly StreamMonth[]; readonly end: number } | undefined;

  constructor(
    ask: AsTenant,
    keys: Keys,
    stream: StreamRow,
    months: readonly (readonly StreamMonth[])[],
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
    // They rise with seq.
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
    const { id, name } = this.stream;
    const opened = await openKeys(this.#keys, block.keyId, () => isPruned(this.#ask, id, block.firstSeq));
    const all = opened === undefined ? [] : openBlock(block, name, opened.dataKey);
    const entries = all.filter((entry) => this.#isAhead(entry) && matches(this.#query, entry));
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
    const months = this.#months.shift();
    if (months === undefined) return false;
    const dropMonths = months.map(({ dropMonth }) => dropMonth);
    if (this.#order === 'asc' && this.#scanned > 0) {
      // Scanning upwards counts in whole blocks: begin with the one that the position lies in.
      const begun = await this.#ask((database) => blockOf(database, this.stream.id, this.#scanned, dropMonths));
      if (begun !== undefined) this.#scanned = begun.firstSeq;
    }
    const { from, to } = this.#query;
    const isUp = this.#order === 'asc';
    // Bounds of recordedAt become bounds of seq, which the blocks are in order of.
    const first = await this.#boundary(dropMonths, isUp ? 'before' : 'after', isUp ? from : to);
    if (first !== undefined) this.#scanned = isUp ? Math.max(this.#scanned, first) : Math.min(this.#scanned, first);
    const last = await this.#boundary(dropMonths, isUp ? 'after' : 'before', isUp ? to : from);
    // Months rise with recordedAt: behind one that holds the end there is nothing.
    if (last !== undefined) this.#months.length = 0;
    this.#month = { months, end: last ?? (isUp ? Infinity : -1) };
    return true;
  }

  /** The first seq of the block of some months that is next `before` or `after` an instant. */
  async #boundary(
    dropMonths: readonly number[],
    side: 'before' | 'after',
    instant: Instant | undefined,
  ): Promise<number | undefined> {
    if (instant === undefined) return undefined;
    const { ms } = instant;
    return this.#ask((database) =>
      seqAtInstant(database, this.stream.id, dropMonths, side === 'after' ? { after: ms } : { before: ms }),
    );
  }

  async #look(): Promise<void> {
    const month = this.#month!;
    const lanes: Lane[] = [];
    for (const { dropMonth, keyId } of month.months) {
      const opened = await openKeys(this.#keys, keyId, () => this.#isDropped(dropMonth));
      if (opened !== undefined) lanes.push({ dropMonth, filter: blockFilter(this.#query, opened.tagKey) });
    }
    if (lanes.length === 0) {
      this.#month = undefined;
      if (this.#blocks.length === 0) this.#advance();
      return;
    }
    // Two at least: the first of them can be the one that the position lies in, which moves nothing.
    const limit = Math.max(2, this.#budget.blocks <= 0 ? BLOCKS_A_LOOK : Math.min(BLOCKS_A_LOOK, this.#budget.blocks));
    const scan = await this.#ask((database) =>
      scanBlocks(database, this.stream.id, lanes, this.#order, this.#scanned, limit),
    );
    this.#looked ||= scan.looked > 0;
    this.#budget.blocks -= scan.looked;
    this.#blocks.push(...scan.blocks);
    const last = scan.lastFirstSeq;
    const exhausted =
      scan.isLast || last === undefined || (this.#order === 'asc' ? last >= month.end : last <= month.end);
    if (last !== undefined) this.#scanned = this.#order === 'asc' ? last + 1 : last;
    if (exhausted) this.#month = undefined;
    if (this.#blocks.length === 0) this.#advance();
  }

  /** Whether a month went since the search began. */
  async #isDropped(dropMonth: number): Promise<boolean> {
    const { id, pruned } = this.stream;
    if (!(await isPruned(this.#ask, id, pruned))) return false;
    const months = await this.#ask((database) => monthsOf(database, [id]));
    return months.every((month) => month.dropMonth !== dropMonth);
  }

  /** Everything up to where the scan stands was given out or does not match. */
  #advance(): void {
    this.position =
      this.#order === 'asc' ? Math.max(this.position, this.#scanned) : Math.min(this.position, this.#scanned);
  }
}
