/**
 * Follows the chain and tells which entry a broken link speaks against.
 *
 * Each entry names the hash of the one before, and the stream's row that of the last: what vouches for an entry is its successor. So
 * where entry b does not name the hash of entry a, and entry c names that of b, it is a that was changed; the hash that b names is then
 * the one that a had, and what the tree is computed from. Where c does not name the hash of b either, b may have been changed in what it
 * names. An entry is therefore settled two entries later.
 */
import { fromHex, toHex } from '../chain/bytes.ts';
import { NO_PREVIOUS } from '../chain/record.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import type { Findings } from './findings.ts';
import type { StreamState } from './log-source.ts';
import type { Leaf, TreeCheck } from './tree-check.ts';

/** An entry as the chain sees it. */
export interface Link {
  readonly seq: number;
  /** Its hash, and the same in hex. */
  readonly leaf: Uint8Array;
  readonly hash: string;
  /** Hex; undefined when the record can not be the one that belongs here, which was found already. */
  readonly previous: string | undefined;
}

export class ChainCheck {
  readonly #findings: Findings;
  readonly #tree: TreeCheck;
  readonly #onSettled: (seq: number, isSound: boolean) => void;
  /** The last two entries, not settled yet. */
  #tail: Link[] = [];
  #leaves: (Leaf | undefined)[] = [];

  /** `onSettled` is called for each entry, in order: can conclusions be drawn from what it says? */
  constructor(findings: Findings, tree: TreeCheck, onSettled: (seq: number, isSound: boolean) => void) {
    this.#findings = findings;
    this.#tree = tree;
    this.#onSettled = onSettled;
  }

  async append(links: readonly Link[]): Promise<void> {
    for (const link of links) {
      if (link.seq === 0 && link.previous !== undefined && link.previous !== NO_PREVIOUS)
        this.#findings.add('link', 'the first entry names a previous one', 0);
      this.#tail.push(link);
      if (this.#tail.length > 2) this.#settle(this.#tail.shift()!, this.#tail[0], this.#tail[1]);
    }
    await this.#flush();
  }

  /** Goes on at `size`; nobody vouches for the entry before the hole. */
  async leaveHole(size: number): Promise<void> {
    await this.rest();
    this.#tree.leaveHole(size);
  }

  /** Settles what is open: what follows does not come through here, or names nobody. */
  async rest(): Promise<void> {
    const [a, b] = this.#tail;
    if (a !== undefined) this.#settle(a, b, undefined);
    if (b !== undefined) this.#settle(b, undefined, undefined);
    this.#tail = [];
    await this.#flush();
  }

  /** Compares the last entry with the stream's row, which vouches for it with head and frontier. */
  async end({ size, head, frontier }: StreamState): Promise<void> {
    const named = toHex(head);
    const [before, last] = this.#tail.length === 2 ? this.#tail : [undefined, this.#tail[0]];
    this.#tail = [];
    if (last !== undefined) {
      // Head and frontier may agree on another last entry: then it is the entry that is another.
      const isOther = named !== last.hash && this.#isRow(before, last, head, frontier);
      if (before !== undefined) this.#settle(before, last, { previous: isOther ? named : last.hash });
      await this.#flush();
      if (isOther) this.#accuse(last, "its hash is not the stream's head: it was changed");
      else if (named !== last.hash)
        this.#findings.add('head', "the stream's head is not the hash of its last entry", last.seq);
      this.#onSettled(last.seq, !isOther && last.previous !== undefined);
      await this.#tree.append([{ hash: isOther ? head : last.leaf, isDoubtful: false }]);
    } else if (size === 0 && named !== NO_PREVIOUS) {
      this.#findings.add('head', 'the stream has no entries, and a head');
    }
    this.#tree.end(frontier);
  }

  /** Whether the frontier is that of a tree whose last leaf is the head. */
  #isRow(before: Link | undefined, last: Link, head: Uint8Array, frontier: Uint8Array): boolean {
    if (head.length !== HASH_SIZE) return false;
    if (before === undefined) return this.#tree.isFrontier(frontier, [head]);
    return [before.hash, last.previous ?? before.hash].some((hash) =>
      this.#tree.isFrontier(frontier, [fromHex(hash), head]),
    );
  }

  #settle(a: Link, b: Link | undefined, c: Pick<Link, 'previous'> | undefined): void {
    const isWrong = a.previous === undefined;
    const hash = a.leaf;
    if (b?.previous === undefined) {
      this.#leaves.push(isWrong ? undefined : { hash, isDoubtful: true });
      this.#onSettled(a.seq, !isWrong);
    } else if (b.previous === a.hash) {
      // What is named by an entry that is another itself may have been made to fit.
      const isDoubtful = c?.previous !== undefined && c.previous !== b.hash;
      this.#leaves.push({ hash, isDoubtful });
      this.#onSettled(a.seq, !isWrong && !isDoubtful);
    } else if (isWrong || c?.previous === b.hash) {
      this.#accuse(a, `its hash is not the one that entry ${b.seq} names: it was changed`);
      this.#leaves.push({ hash: fromHex(b.previous), isDoubtful: c?.previous !== b.hash });
      this.#onSettled(a.seq, false);
    } else {
      this.#findings.add('link', `it does not name the hash of entry ${a.seq}`, b.seq);
      this.#leaves.push({ hash, otherwise: fromHex(b.previous), isDoubtful: true });
      this.#onSettled(a.seq, false);
    }
  }

  /** Unless it was found already. */
  #accuse({ seq, previous }: Link, detail: string): void {
    if (previous !== undefined) this.#findings.add('record', detail, seq);
  }

  async #flush(): Promise<void> {
    await this.#tree.append(this.#leaves);
    this.#leaves = [];
  }
}
