/**
 * Holds a stream's tree, while it grows over the stored entries, to roots that were stated before: by its signed checkpoint, by the leaves
 * of ticks, by checkpoints that the verifier was given, by the signer's own mark, by the epoch that goes on for this one.
 *
 * Somebody who rewrites entries, links, tiles and the stream's row consistently still has another root at each size behind the
 * first entry that he changed. Statements are read one after the other, in the order of their sizes, as the tree comes to them.
 */
import { equalBytes } from '../chain/bytes.ts';
import type { FindingKind, Findings } from './findings.ts';
import type { RootListener, TreeRoots } from './tree-check.ts';

/** What somebody stated: the stream had this root at this size. */
export interface StatedRoot {
  readonly size: number;
  readonly root: Uint8Array;
  readonly kind: StatementKind;
  /** Who says so, in words: "the stored checkpoint". */
  readonly name: string;
}

export type StatementKind = 'checkpoint' | 'anchor' | 'given' | 'mark' | 'successor';

/** In the order of their sizes. */
export type StatedRoots = AsyncIterable<StatedRoot> | readonly StatedRoot[];

/** Statements of one kind that the entries contradict: where it begins, and how many. */
interface Contradiction {
  readonly first: StatedRoot;
  readonly lastGood: number;
  count: number;
}

const FINDING: Readonly<Record<StatementKind, FindingKind>> = {
  checkpoint: 'checkpoint',
  anchor: 'inconsistent',
  given: 'inconsistent',
  mark: 'inconsistent',
  successor: 'inconsistent',
};

export class RootCheck implements RootListener {
  readonly #findings: Findings;
  readonly #statements: AsyncIterator<StatedRoot> | Iterator<StatedRoot>;
  #next: StatedRoot | undefined;
  /** The largest size at which the entries were found to be those of a statement. */
  #lastGood = 0;
  readonly #contradictions = new Map<StatementKind, Contradiction>();
  #largestUnknown: StatedRoot | undefined;

  readonly #onAgreed: ((statement: StatedRoot) => void) | undefined;

  private constructor(findings: Findings, roots: StatedRoots, onAgreed: ((statement: StatedRoot) => void) | undefined) {
    this.#findings = findings;
    this.#onAgreed = onAgreed;
    this.#statements = Symbol.asyncIterator in roots ? roots[Symbol.asyncIterator]() : roots[Symbol.iterator]();
  }

  static async begin(
    findings: Findings,
    roots: StatedRoots,
    onAgreed?: (statement: StatedRoot) => void,
  ): Promise<RootCheck> {
    const check = new RootCheck(findings, roots, onAgreed);
    await check.#advance();
    return check;
  }

  get nextSize(): number {
    return this.#next?.size ?? Infinity;
  }

  /** Compares what was stated of this size. What was stated of sizes before it, which nobody asked about, is not known. */
  async at(size: number, roots: TreeRoots | undefined): Promise<void> {
    for (let one = this.#next; one !== undefined && one.size <= size; one = this.#next) {
      if (one.size < size || roots === undefined) this.#largestUnknown = one;
      else if (equalBytes(one.root, roots.own) || equalBytes(one.root, roots.said)) this.#agree(one);
      else this.#contradict(one);
      await this.#advance();
    }
  }

  /** `size` is how far the entries were checked; `now` gives the stream's size at this moment, since statements may have come meanwhile. */
  async end(size: number, now: () => Promise<number>): Promise<void> {
    await this.at(size, undefined);
    for (const { first, lastGood, count } of this.#contradictions.values()) {
      const more = count === 1 ? '' : `, and ${count - 1} more of its kind`;
      const good = lastGood === 0 ? '' : `; at size ${lastGood} they still were what was stated`;
      const detail = `the first ${first.size} entries are not those that ${first.name} states${more}${good}`;
      this.#findings.add(FINDING[first.kind], detail, first.size - 1);
    }
    if (this.#largestUnknown !== undefined) {
      const detail = 'the root that was stated: entries before it can not be read';
      this.#findings.leaveUnchecked(detail, size, this.#largestUnknown.size - 1);
    }
    if (this.#next === undefined) return;
    const sizeNow = await now();
    const beyond = new Map<StatementKind, StatedRoot>();
    for (; this.#next !== undefined; await this.#advance())
      if (this.#next.size > sizeNow) beyond.set(this.#next.kind, this.#next);
    for (const { size: stated, name } of beyond.values()) {
      const detail = `entries ${sizeNow} to ${stated - 1} are not there, and ${name} states that they were`;
      this.#findings.add('truncated', detail, sizeNow);
    }
  }

  #agree(statement: StatedRoot): void {
    this.#lastGood = statement.size;
    this.#onAgreed?.(statement);
  }

  #contradict(statement: StatedRoot): void {
    const known = this.#contradictions.get(statement.kind);
    if (known !== undefined) known.count += 1;
    else this.#contradictions.set(statement.kind, { first: statement, lastGood: this.#lastGood, count: 1 });
  }

  /** Every tree began empty: a statement of size 0 says nothing. */
  async #advance(): Promise<void> {
    do {
      const { done, value } = await this.#statements.next();
      this.#next = done === true ? undefined : value;
    } while (this.#next?.size === 0);
  }
}
