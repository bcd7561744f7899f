/**
 * Looks for a person's entries in the background, block by block, and stores what it finds for two persons to look at.
 *
 * By tag it looks at the blocks that may have the person as actor or target; in full at all of them, for a name may stand in `raw` or `details`. Each
 * look is a short statement, and between two blocks others have their turn. Some searches run at a time, of a tenant one, and each ends when its
 * proposal is open no more. If the process ends, its searches end with it, since who is looked for is nowhere else: the request is then shown as
 * failed, and is made again.
 */
import { setImmediate } from 'node:timers/promises';
import type { StoredBlock } from '../chain/block.ts';
import { isErasable } from '../chain/certificate.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import type { PartName } from '../chain/part.ts';
import { EvidenceError, KeyUnavailableError } from '../errors.ts';
import type { AsTenant } from '../store/database.ts';
import type { FoundEntry, Refusal } from '../store/erasures.ts';
import { monthsOf, scanBlocks } from '../store/log-reader.ts';
import { listStreams, type StreamRow } from '../store/streams.ts';
import { type Person, PersonFinder } from './person.ts';

export interface Wanted {
  readonly id: string;
  readonly tenantId: number;
  readonly ask: AsTenant;
  readonly person: Person;
  /** Parts that may be erased; undefined = all. */
  readonly parts: readonly PartName[] | undefined;
  readonly isFull: boolean;
}

/** Which of these entries must be left alone, by seq, and why. */
export type RefusalsOf = (
  stream: Pick<StreamRow, 'tenantId' | 'category' | 'epoch'>,
  entries: readonly Entry[],
) => Promise<ReadonlyMap<number, Refusal>>;

export interface SearchDeps {
  readonly keys: { keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }> };
  readonly refusalsOf: RefusalsOf;
  /** Returns whether anybody still wants to know: the proposal waits for a decision. */
  readonly add: (of: Wanted, found: readonly FoundEntry[], blocks: number) => Promise<boolean>;
  readonly end: (of: Wanted, state: 'found' | 'failed', more: boolean) => Promise<void>;
  readonly log: { warn(facts: object, message: string): void };
}

/** Of one erasure: what somebody can still look through, and a second person answer for. */
export const ENTRIES_MAX = 10_000;
/** A search that is silent for a minute is shown as failed. */
const ALIVE_EVERY_MS = 15_000;
/** Of a tenant, with the one that runs: as many as it may have proposals open. */
const SEARCHES_MAX = 20;
/** Of different tenants: a scan of a large log keeps others from theirs for hours, and each takes its share of what opens blocks. */
const AT_ONCE = 4;
/** Of 256 KiB each at most. */
const BLOCKS_A_LOOK = 16;

export class ErasureSearch {
  readonly #deps: SearchDeps;
  readonly #timer: NodeJS.Timeout;
  /** In the order in which they came. */
  readonly #waiting = new Set<Wanted>();
  /** By tenant. */
  readonly #running = new Map<number, { readonly wanted: Wanted; readonly over: Promise<void> }>();
  #isClosed = false;

  constructor(deps: SearchDeps) {
    this.#deps = deps;
    // Also while others have their turn: who is not heard of is given up.
    this.#timer = setInterval(() => void this.#sayAlive(), ALIVE_EVERY_MS).unref();
  }

  /** Whether a tenant may search for more. */
  hasRoom(tenantId: number): boolean {
    const waiting = [...this.#waiting].filter((wanted) => wanted.tenantId === tenantId).length;
    return waiting + (this.#running.has(tenantId) ? 1 : 0) < SEARCHES_MAX;
  }

  start(wanted: Wanted): void {
    this.#waiting.add(wanted);
    this.#startNext();
  }

  /** Ends those that run. Those that wait are shown as failed in a minute. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#waiting.clear();
    await Promise.all([...this.#running.values()].map(({ over }) => over));
  }

  #startNext(): void {
    while (this.#running.size < AT_ONCE) {
      const wanted = [...this.#waiting].find(({ tenantId }) => !this.#running.has(tenantId));
      if (wanted === undefined) return;
      this.#waiting.delete(wanted);
      const over = this.#run(wanted).finally(() => {
        this.#running.delete(wanted.tenantId);
        this.#startNext();
      });
      this.#running.set(wanted.tenantId, { wanted, over });
    }
  }

  async #sayAlive(): Promise<void> {
    for (const wanted of [...this.#waiting, ...[...this.#running.values()].map((one) => one.wanted)]) {
      const isWanted = await this.#deps.add(wanted, [], 0).catch(() => true);
      if (!isWanted) this.#waiting.delete(wanted);
    }
  }

  async #run(wanted: Wanted): Promise<void> {
    const { end, log } = this.#deps;
    try {
      const found = await this.#search(wanted);
      await end(wanted, found === 'cut' ? 'failed' : 'found', found === 'more');
    } catch (error) {
      // What is wrong with a block names its place. Any other error may name what was looked for.
      const isEvidence = error instanceof EvidenceError;
      const reason = isEvidence ? error.message : error instanceof Error ? error.name : 'unknown';
      log.warn({ erasure: wanted.id, reason }, 'a search failed');
      await end(wanted, 'failed', false).catch(() => {});
    }
  }

  /** Returns whether there is more than one erasure takes, or the search was cut short. */
  async #search(wanted: Wanted): Promise<'all' | 'more' | 'cut'> {
    const { ask, person } = wanted;
    const finder = new PersonFinder(person);
    const streams = (await ask(listStreams)).filter(({ category }) => isErasable(category));
    const months = await ask((database) =>
      monthsOf(
        database,
        streams.map(({ id }) => id),
      ),
    );
    let left = ENTRIES_MAX;
    for (const stream of streams)
      for (const { streamId, dropMonth, keyId } of months) {
        if (streamId !== stream.id) continue;
        const count = await this.#searchMonth(wanted, finder, stream, { dropMonth, keyId }, left);
        if (count === undefined) return 'cut';
        left -= count;
        if (left <= 0) return 'more';
      }
    return 'all';
  }

  /** Returns how many entries were found; undefined where it is of no use to go on. */

  async #searchMonth(
    wanted: Wanted,
    finder: PersonFinder,
    stream: StreamRow,
    { dropMonth, keyId }: { readonly dropMonth: number; readonly keyId: string },
    max: number,
  ): Promise<number | undefined> {
    const { keys, add } = this.#deps;
    const { ask, isFull } = wanted;
    const opened = await keysUnlessDestroyed(keys, keyId);
    // What nobody can open any more is erased already.
    if (opened === undefined) return 0;
    const filter = { tags: isFull ? [] : [finder.tags(opened.tagKey)] };
    let count = 0;
    for (let seq = 0; count < max; ) {
      const scan = await ask((database) =>
        scanBlocks(database, stream.id, [{ dropMonth, filter }], 'asc', seq, BLOCKS_A_LOOK),
      );
      const found: FoundEntry[] = [];
      for (const block of scan.blocks) {
        const { dataKey } = await keys.keysById(block.keyId);
        found.push(...(await this.#foundIn(wanted, finder, stream, openedBlock(block, stream.name, dataKey))));
        await setImmediate();
      }
      const some = found.slice(0, max - count);
      if (!(await add(wanted, some, scan.looked)) || this.#isClosed) return undefined;
      count += some.length;
      if (scan.lastFirstSeq === undefined || scan.isLast) break;
      seq = scan.lastFirstSeq + 1;
    }
    return count;
  }

  async #foundIn(
    { parts: allowed, isFull }: Wanted,
    finder: PersonFinder,
    stream: StreamRow,
    entries: readonly Entry[],
  ): Promise<FoundEntry[]> {
    const found: { entry: Entry; parts: PartName[] }[] = [];
    for (const entry of entries) {
      const parts = finder.partsIn(entry, isFull).filter((name) => allowed === undefined || allowed.includes(name));
      if (parts.length > 0) found.push({ entry, parts });
    }
    if (found.length === 0) return [];
    const refusals = await this.#deps.refusalsOf(
      stream,
      found.map(({ entry }) => entry),
    );
    return found.map(({ entry: { record }, parts }) => ({
      ...{ streamId: stream.id, seq: record.seq, eventId: record.id, parts },
      refused: refusals.get(record.seq),
    }));
  }
}

function openedBlock(block: StoredBlock, stream: string, dataKey: Uint8Array): Entry[] {
  try {
    return openBlock(block, stream, dataKey);
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    throw new EvidenceError(`the block at entry ${block.firstSeq} of ${stream}: ${error.message}`, { cause: error });
  }
}

/** Returns a block's keys; undefined where its month key was destroyed, and nobody opens it any more. One that is only away will be back. */
export async function keysUnlessDestroyed(keys: SearchDeps['keys'], keyId: string) {
  try {
    return await keys.keysById(keyId);
  } catch (error) {
    if (error instanceof KeyUnavailableError && error.problem === 'destroyed') return undefined;
    throw error;
  }
}
