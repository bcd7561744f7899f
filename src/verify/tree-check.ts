/**
 * Holds the stored tiles and the stream's frontier to the tree over the entries.
 *
 * Where a tile of level 0 contradicts the entries, one of the two was changed, and which one is told by a third: the frontier of
 * the stream's row is that of the tree over the entries, or that over what the tiles say. So two trees are grown, and the verdict is left
 * to the end. The levels above are held to either of the two, so that one change is found once.
 *
 * A hash that is not known (behind a hole, or in one) is left out of the comparison.
 */
import { concatBytes, equalBytes } from '../chain/bytes.ts';
import { appendLeaves, encodeFrontier, type Frontier, frontierRoot } from '../chain/merkle.ts';
import { decodeTile, TILE_WIDTH, tileRoot } from '../chain/tile.ts';
import { EvidenceError } from '../errors.ts';
import type { LogSource, SourceTile } from './log-source.ts';

/** A leaf as the entry has it and, where the chain leaves it open, as the next entry names it. */
export interface Leaf {
  readonly hash: Uint8Array;
  readonly otherwise?: Uint8Array;
  /** No sound entry names the hash. */
  readonly isDoubtful: boolean;
}

/** One hash of a tile: in the tree over the entries, and in the one over what is said of them. Undefined = not known. */
type Expected =
  | { readonly own: Uint8Array; readonly said: Uint8Array; readonly isDoubtful?: boolean | undefined }
  | undefined;

/** A level's tile that is being filled, and the stored tiles that were read ahead. */
interface Filling {
  expected: Expected[];
  index: number;
  stored: readonly SourceTile[];
  /** Stored tiles before this index were asked for. */
  asked: number;
}

/** The entries of a tile of level 0 of which two hashes are said. */
interface Dispute {
  readonly index: number;
  readonly isStored: boolean;
  readonly seqs: readonly number[];
}

/** Who wants to know roots on the way. */
export interface RootListener {
  /** The next size that is of interest. */
  readonly nextSize: number;
  at(size: number, roots: TreeRoots | undefined): Promise<void>;
}

export interface TreeFinding {
  readonly kind: 'tile' | 'record' | 'frontier';
  readonly detail: string;
  readonly seq: number | undefined;
}

/** The root over the entries, and that over what is said of them: the same where nobody contradicts an entry. */
export interface TreeRoots {
  readonly own: Uint8Array;
  readonly said: Uint8Array;
}

const TILES_A_CHUNK = 64;

export class TreeCheck {
  readonly #source: LogSource;
  readonly #find: (finding: TreeFinding) => void;
  readonly #disputesMax: number;
  readonly #levels: Filling[] = [];
  readonly #disputes: Dispute[] = [];
  /** Over the full tiles of level 0; undefined behind a hole, since the tree can not be computed past it. */
  #full: { readonly own: Frontier; readonly said: Frontier } | undefined = { own: [], said: [] };
  #size = 0;
  readonly #onRoots: RootListener | undefined;
  /** The frontiers at the last size whose root was asked for. */
  #last: { readonly size: number; readonly own: Frontier; readonly said: Frontier } | undefined;

  /** `onRoots` gets the roots of the sizes that it names next. */
  constructor(
    source: LogSource,
    disputesMax: number,
    find: (finding: TreeFinding) => void,
    onRoots?: RootListener | undefined,
  ) {
    this.#source = source;
    this.#disputesMax = disputesMax;
    this.#find = find;
    this.#onRoots = onRoots;
  }

  /** A leaf that is not known is undefined. */
  async append(leaves: readonly (Leaf | undefined)[]): Promise<void> {
    for (const leaf of leaves) {
      this.#size += 1;
      const expected =
        leaf === undefined
          ? undefined
          : { own: leaf.hash, said: leaf.otherwise ?? leaf.hash, isDoubtful: leaf.isDoubtful };
      if (this.#add(0, expected)) await this.#closeTile(0);
      if (this.#onRoots !== undefined && this.#size >= this.#onRoots.nextSize)
        await this.#onRoots.at(this.#size, this.roots());
    }
  }

  /** Returns the roots of the tree so far; undefined where a hash is not known. */
  roots(): TreeRoots | undefined {
    const edge = this.#levels[0]?.expected ?? [];
    if (this.#full === undefined || this.#size % TILE_WIDTH !== edge.length) return undefined;
    if (!edge.every((hash) => hash !== undefined)) return undefined;
    const full = this.#size - edge.length;
    const known = this.#last !== undefined && this.#last.size >= full ? this.#last : undefined;
    const { own, said } = known ?? this.#full;
    const from = known?.size ?? full;
    const more = edge.slice(from - full);
    this.#last = {
      size: this.#size,
      own: appendLeaves(
        from,
        own,
        more.map((hash) => hash.own),
      ),
      said: appendLeaves(
        from,
        said,
        more.map((hash) => hash.said),
      ),
    };
    return { own: frontierRoot(this.#size, this.#last.own), said: frontierRoot(this.#size, this.#last.said) };
  }

  /** Goes on at `size`; the leaves before are not known. Takes as long for a billion as for one. */
  leaveHole(size: number): void {
    this.#size = size;
    this.#full = undefined;
    for (let level = 0, hashes = size; hashes > 0 || level < this.#levels.length; level++) {
      const filling = this.#level(level);
      const index = Math.floor(hashes / TILE_WIDTH);
      if (index !== filling.index) {
        filling.expected = [];
        filling.index = index;
      }
      while (filling.expected.length < hashes % TILE_WIDTH) filling.expected.push(undefined);
      hashes = index;
    }
  }

  /** Says whether the frontier is that of the tree, over the entries or over what is said of them, with these leaves at its end. */
  isFrontier(frontier: Uint8Array, leaves: readonly Uint8Array[] = []): boolean {
    return this.#frontierIs('own', frontier, leaves) || this.#frontierIs('said', frontier, leaves);
  }

  /** Decides what was left open, by the frontier of the stream's row; without one, because of a hole, the tiles are what is wrong. */
  end(frontier: Uint8Array | undefined): void {
    const edge = this.#levels[0]?.expected ?? [];
    this.#dispute(Math.floor(this.#size / TILE_WIDTH), edge, false);
    const isKnown = frontier !== undefined && this.#full !== undefined && !edge.includes(undefined);
    const isOwn = !isKnown || this.#frontierIs('own', frontier);
    const isSaid = !isOwn && this.#frontierIs('said', frontier);
    for (const { index, isStored, seqs } of this.#disputes) {
      if (isSaid) {
        const detail = "its hash is not the one that the tree has and the stream's row confirms: it was changed";
        for (const seq of seqs) this.#find({ kind: 'record', detail, seq });
      } else if (isStored) {
        const more = seqs.length === 1 ? '' : `, and ${seqs.length - 1} more`;
        const detail = `the tile ${index} of level 0 has another hash of this entry${more}`;
        this.#find({ kind: 'tile', detail, seq: seqs[0]! });
      }
    }
    if (isOwn || isSaid) return;
    // What no tile has, and no sound entry names, is what differs; else it is the frontier itself.
    const doubtful = edge.flatMap((hash, i) => (hash?.isDoubtful === true ? [this.#size - edge.length + i] : []));
    const [first] = doubtful;
    if (first !== undefined) {
      const more = doubtful.length === 1 ? 'it' : `it or another of ${doubtful.length} such entries`;
      const detail = `it is named by entries only that were changed, and ${more} is not the one that the tree has`;
      this.#find({ kind: 'record', detail, seq: first });
    } else {
      const detail = "the stream's frontier is not that of the tree over its entries";
      this.#find({ kind: 'frontier', detail, seq: this.#size === 0 ? undefined : this.#size - 1 });
    }
  }

  #frontierIs(tree: 'own' | 'said', frontier: Uint8Array, leaves: readonly Uint8Array[] = []): boolean {
    const edge = (this.#levels[0]?.expected ?? []).flatMap((hashes) => hashes?.[tree] ?? []);
    if (this.#full === undefined || this.#size % TILE_WIDTH !== edge.length) return false;
    const full = this.#size - edge.length;
    return equalBytes(encodeFrontier(appendLeaves(full, this.#full[tree], [...edge, ...leaves])), frontier);
  }

  #level(level: number): Filling {
    this.#levels[level] ??= { expected: [], index: 0, stored: [], asked: 0 };
    return this.#levels[level];
  }

  #add(level: number, expected: Expected): boolean {
    const filling = this.#level(level);
    filling.expected.push(expected);
    return filling.expected.length === TILE_WIDTH;
  }

  async #closeTile(level: number): Promise<void> {
    const filling = this.#level(level);
    const { expected, index } = filling;
    filling.expected = [];
    filling.index += 1;
    const root = this.#compare(level, index, expected, await this.#stored(level, index));
    if (level === 0 && this.#full !== undefined) {
      const { own, said } = this.#full;
      this.#full =
        root === undefined
          ? undefined
          : { own: appendLeaves(index, own, [root.own]), said: appendLeaves(index, said, [root.said]) };
    }
    if (this.#add(level + 1, root)) await this.#closeTile(level + 1);
  }

  /** Returns the tile's hash one level up. */
  #compare(level: number, index: number, expected: readonly Expected[], stored: SourceTile | undefined): Expected {
    const width = TILE_WIDTH ** level;
    const firstSeq = index * TILE_WIDTH * width;
    const name = `tile ${index} of level ${level}`;
    const find = (detail: string, seq = firstSeq): void => this.#find({ kind: 'tile', detail, seq });
    if (stored === undefined) find(`the ${name} is missing`);
    const whole = stored === undefined ? undefined : rootWhereEqual(expected, stored);
    if (whole !== undefined) return { own: whole, said: whole };
    const tile = stored === undefined ? undefined : readTile(stored, name, find);
    if (tile === undefined) {
      if (level === 0) this.#dispute(index, expected, false);
      return rootOf(expected);
    }
    const { hashes, root } = tile;
    // The tile says what the entries leave open, and what is not known of them.
    const both = expected.map((hash, i) => ({ own: hash?.own ?? hashes[i]!, said: hashes[i]! }));
    if (level === 0) this.#dispute(index, both, true);
    else {
      const wrong = expected.flatMap((hash, i) => (hash === undefined || isEither(hash, hashes[i]!) ? [] : [i]));
      const [first] = wrong;
      const more = wrong.length === 1 ? '' : `, and ${wrong.length - 1} more`;
      if (first !== undefined)
        find(`the ${name} has another hash ${first} than the entries${more}`, firstSeq + first * width);
    }
    const isOne = both.every(({ own, said }) => equalBytes(own, said));
    const own = isOne ? root : tileRoot(concatBytes(...both.map((hash) => hash.own)));
    if (!equalBytes(stored!.root, root) && !equalBytes(stored!.root, own))
      find(`the root of ${name} is not that of its hashes`);
    return { own, said: root };
  }

  #dispute(index: number, expected: readonly Expected[], isStored: boolean): void {
    const first = index * TILE_WIDTH;
    const seqs = expected.flatMap((hash, i) =>
      hash === undefined || equalBytes(hash.own, hash.said) ? [] : [first + i],
    );
    if (seqs.length > 0 && this.#disputes.length < this.#disputesMax) this.#disputes.push({ index, isStored, seqs });
  }

  async #stored(level: number, index: number): Promise<SourceTile | undefined> {
    const filling = this.#level(level);
    if (index >= filling.asked) {
      filling.stored = await this.#source.tiles(level, index, TILES_A_CHUNK);
      filling.asked = index + TILES_A_CHUNK;
    }
    const [tile, again] = filling.stored.filter((one) => one.index === index);
    if (again !== undefined) {
      const detail = `the tile ${index} of level ${level} is stored twice`;
      this.#find({ kind: 'tile', detail, seq: index * TILE_WIDTH ** (level + 1) });
    }
    return tile;
  }
}

/** Returns the root of a stored tile that is right in everything, and nothing else was said of its hashes: nearly every one. */
function rootWhereEqual(expected: readonly Expected[], stored: SourceTile): Uint8Array | undefined {
  const hashes: Uint8Array[] = [];
  for (const hash of expected) {
    if (hash === undefined || hash.own !== hash.said) return undefined;
    hashes.push(hash.own);
  }
  if (stored.foreign || !equalBytes(concatBytes(...hashes), stored.hashes)) return undefined;
  const root = tileRoot(stored.hashes);
  return equalBytes(root, stored.root) ? root : undefined;
}

/** Returns the hashes of a stored tile, its row checked; undefined when it has none that could be compared. */
function readTile(
  stored: SourceTile,
  name: string,
  find: (detail: string) => void,
): { hashes: Uint8Array[]; root: Uint8Array } | undefined {
  if (stored.foreign) find(`the ${name} is stored under another tenant`);
  try {
    const root = tileRoot(stored.hashes);
    return { hashes: decodeTile(stored.hashes), root };
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    find(`the ${name} can not be read: ${error.message}`);
    return undefined;
  }
}

function isEither(hash: { readonly own: Uint8Array; readonly said: Uint8Array }, stored: Uint8Array): boolean {
  return equalBytes(hash.own, stored) || equalBytes(hash.said, stored);
}

function rootOf(expected: readonly Expected[]): Expected {
  if (!expected.every((hash) => hash !== undefined)) return undefined;
  const root = (tree: 'own' | 'said') => tileRoot(concatBytes(...expected.map((hash) => hash[tree])));
  return { own: root('own'), said: root('said') };
}
