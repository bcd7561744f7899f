/**
 * The checkpointer: signs for each stream what is consistent with what was signed before, and nothing else.
 *
 * A round: which streams grew → is what they hold a continuation of what the mark says was signed → the mark, flushed → signatures →
 * stored. A crash between any two of these leaves the mark at or ahead of what anybody holds: the same size is then signed again with the
 * same root, or the database is found to have gone back. That the trees agree is worked out here, from the mark's own frontier
 * and the hashes between: what the database says of its own root is compared, never taken.
 */
import { EvidenceError } from '../errors.ts';
import { equalBytes, toHex } from './bytes.ts';
import { encodeCheckpoint } from './checkpoint.ts';
import { appendSubtrees, decodeFrontier, type Frontier, frontierRoot, type Subtree, subtreesUpTo } from './merkle.ts';
import { type NoteSigner, signNote } from './note.ts';

/** A stream's row as the checkpointer needs it. */
export interface SignableStream {
  readonly id: number;
  readonly tenantId: number;
  readonly name: string;
  readonly size: number;
  readonly frontier: Uint8Array;
}

export interface SignedCheckpoint {
  readonly streamId: number;
  readonly tenantId: number;
  readonly name: string;
  readonly size: number;
  readonly root: Uint8Array;
  readonly generation: number;
  readonly note: string;
}

export interface CheckpointStore {
  /** Hashes of perfect subtrees of a stream's tree of `size`, in order. Throws an EvidenceError where what is stored does not have them. */
  subtreeHashes(
    stream: { readonly id: number; readonly name: string },
    size: number,
    nodes: readonly Subtree[],
  ): Promise<Uint8Array[]>;
  /** The frontier of an earlier size. */
  frontierAt(stream: { readonly id: number; readonly name: string }, size: number): Promise<Frontier>;
  save(checkpoints: readonly SignedCheckpoint[]): Promise<void>;
}

/** What was signed, kept outside the database: `signer/mark.ts`. */
export interface HighWaterMark {
  head(stream: string): { readonly size: number; readonly root: string } | undefined;
  closedAt(stream: string): number | undefined;
  /** Returns when it is flushed; only then may what it tells of be released. */
  raise(heads: readonly { readonly stream: string; readonly size: number; readonly root: string }[]): Promise<void>;
}

export interface CheckpointerOptions {
  readonly origin: string;
  readonly store: CheckpointStore;
  readonly mark: HighWaterMark;
  /** Called between any two steps, for tests that end the process there. */
  readonly onStep?: ((step: Step) => void | Promise<void>) | undefined;
}

export type Step = 'checked' | 'marked' | 'signed' | 'stored';

/** A stream contradicts what was signed of it: the database was put back to an older state, or rewritten. */
export class ContradictionError extends Error {
  override readonly name = 'ContradictionError';
  readonly streams: readonly { readonly name: string; readonly detail: string }[];

  constructor(streams: readonly { readonly name: string; readonly detail: string }[]) {
    const shown = streams.slice(0, SHOWN_STREAMS).map(({ name, detail }) => `${name} ${detail}`);
    const more = streams.length > shown.length ? `; and ${streams.length - shown.length} other streams` : '';
    super(`${shown.join('; ')}${more}`);
    this.streams = streams;
  }
}

/** Named in a refusal; the log has more. */
const SHOWN_STREAMS = 3;

interface Grown {
  readonly stream: SignableStream;
  readonly frontier: Frontier;
  readonly root: Uint8Array;
}

/** Frontiers that are remembered between rounds; others are worked out again from the tiles. */
const FRONTIERS_MAX = 20_000;
/**
 * Streams that are looked at in one way to the database, each by some questions for a tile or two; the last must be answered in time. One by one, a
 * signer of 1,000 streams needed 15 s to start under load.
 */
const STREAMS_AT_ONCE = 16;

export class Checkpointer {
  readonly #options: CheckpointerOptions;
  /** Frontiers at the mark. */
  readonly #frontiers = new Map<string, { size: number; frontier: Frontier }>();

  constructor(options: CheckpointerOptions) {
    this.#options = options;
  }

  /**
   * Signs these streams as they are now, with the keys of a generation, and returns the checkpoints. Throws a ContradictionError, with nothing of the
   * round signed, where one of them is not a continuation of what was signed.
   */
  async sign(
    streams: readonly SignableStream[],
    generation: number,
    signer: (name: string) => NoteSigner,
  ): Promise<SignedCheckpoint[]> {
    const { origin, store, mark, onStep } = this.#options;
    const grown = await this.#grow(streams);
    await onStep?.('checked');
    const raised = grown.filter(({ stream, root }) => {
      const head = mark.head(stream.name);
      return head === undefined || head.size < stream.size || head.root !== toHex(root);
    });
    await mark.raise(raised.map(({ stream, root }) => ({ stream: stream.name, size: stream.size, root: toHex(root) })));
    for (const { stream, frontier } of grown) this.#remember(stream.name, stream.size, frontier);
    await onStep?.('marked');
    const checkpoints = grown.map(({ stream, root }) => {
      const name = `${origin}/${stream.name}`;
      const note = signNote(encodeCheckpoint({ origin: name, size: stream.size, root }), [signer(name)]);
      const { id: streamId, tenantId, size } = stream;
      return { streamId, tenantId, name: stream.name, size, root, generation, note };
    });
    await onStep?.('signed');
    if (checkpoints.length > 0) await store.save(checkpoints);
    await onStep?.('stored');
    return checkpoints;
  }

  /** Throws a ContradictionError unless every stream that the mark knows is there and a continuation of it. */
  async checkAll(known: readonly string[], streams: ReadonlyMap<string, SignableStream>): Promise<void> {
    const wrong: { name: string; detail: string }[] = [];
    const there: SignableStream[] = [];
    for (const name of known) {
      if (this.#options.mark.closedAt(name) !== undefined) continue;
      const stream = streams.get(name);
      if (stream === undefined) wrong.push({ name, detail: 'is gone' });
      else there.push(stream);
    }
    try {
      await this.#grow(there);
    } catch (error) {
      if (!(error instanceof ContradictionError)) throw error;
      wrong.push(...error.streams);
    }
    if (wrong.length > 0) throw new ContradictionError(wrong);
  }

  /** Forgets what is remembered: the server is another. */
  forget(): void {
    this.#frontiers.clear();
  }

  async #grow(streams: readonly SignableStream[]): Promise<Grown[]> {
    const grown: Grown[] = [];
    const wrong: { name: string; detail: string }[] = [];
    for (let at = 0; at < streams.length; at += STREAMS_AT_ONCE) {
      const some = streams.slice(at, at + STREAMS_AT_ONCE);
      for (const [index, one] of (await Promise.allSettled(some.map((stream) => this.#growOne(stream)))).entries()) {
        if (one.status === 'fulfilled') grown.push(one.value);
        else if (one.reason instanceof EvidenceError)
          wrong.push({ name: some[index]!.name, detail: one.reason.message });
        else throw one.reason;
      }
    }
    if (wrong.length > 0) throw new ContradictionError(wrong);
    return grown;
  }

  async #growOne(stream: SignableStream): Promise<Grown> {
    const { store, mark } = this.#options;
    const { name, size } = stream;
    if (mark.closedAt(name) !== undefined) throw new EvidenceError('is open, though a recovery closed it');
    const stored = decodeFrontier(size, stream.frontier);
    const root = frontierRoot(size, stored);
    const head = mark.head(name);
    if (head === undefined && size === 0) return { stream, frontier: stored, root };
    if (head !== undefined && size < head.size)
      throw new EvidenceError(`has ${size} entries, though ${head.size} were signed`);
    if (head !== undefined && size === head.size) {
      if (toHex(root) !== head.root) throw new EvidenceError(`has another root at size ${size} than was signed`);
      return { stream, frontier: stored, root };
    }

    const from = await this.#signedFrontier(stream, head);
    const hashes = await store.subtreeHashes(stream, size, subtreesUpTo(from.size, size));
    const frontier = appendSubtrees(from.size, from.frontier, size, hashes);
    if (!equalBytes(frontierRoot(size, frontier), root))
      throw new EvidenceError(`is no continuation of the ${from.size} entries that were signed`);
    return { stream, frontier, root };
  }

  /** The frontier at the mark: as remembered, or from the tiles, and then held to the root that was signed. */
  async #signedFrontier(
    stream: SignableStream,
    head: { readonly size: number; readonly root: string } | undefined,
  ): Promise<{ size: number; frontier: Frontier }> {
    if (head === undefined) return { size: 0, frontier: [] };
    const known = this.#frontiers.get(stream.name);
    if (known?.size === head.size && toHex(frontierRoot(known.size, known.frontier)) === head.root) return known;
    const frontier = await this.#options.store.frontierAt(stream, head.size);
    if (toHex(frontierRoot(head.size, frontier)) !== head.root)
      throw new EvidenceError(`has another root at size ${head.size} than was signed`);
    return { size: head.size, frontier };
  }

  #remember(name: string, size: number, frontier: Frontier): void {
    this.#frontiers.delete(name);
    this.#frontiers.set(name, { size, frontier });
    if (this.#frontiers.size > FRONTIERS_MAX) this.#frontiers.delete(this.#frontiers.keys().next().value!);
  }
}
