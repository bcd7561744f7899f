/**
 * Recovery: what to do with a database that contradicts what was signed (docs/format.md section 23).
 *
 * Each stream that does is closed at the last size at which it is known to be what was signed, and its next epoch begins with an entry that
 * names what is lost; what the old epoch still holds beyond is appended again. The number of the new epoch comes from the mark,
 * not from the database, which may have forgotten it. Every step can be repeated after a crash: the mark says which epochs are closed
 * and not finished, and an entry that is in the new epoch already is found by its id.
 */

import { toHex } from '../chain/bytes.ts';
import { CATEGORIES, type Category, streamName } from '../chain/category.ts';
import { Checkpointer, ContradictionError, type SignableStream } from '../chain/checkpointer.ts';
import { frontierRoot } from '../chain/merkle.ts';
import { EvidenceError } from '../errors.ts';
import type { SignerLease } from '../store/signer.ts';
import type { Mark, SignedHead } from './mark.ts';

/** A stream that contradicts what was signed. */
export interface Loss {
  readonly stream: string;
  readonly detail: string;
  /** What was last signed of it. */
  readonly last: SignedHead;
  /** The largest size at which what is stored is known to be what was signed. */
  readonly consistentSize: number;
  /** Undefined where the stream's row is gone. */
  readonly stored: SignableStream | undefined;
  readonly next: {
    readonly tenant: string;
    readonly category: Category;
    readonly epoch: number;
    readonly name: string;
  };
}

/** Returns the streams that contradict what was signed, and those whose recovery was begun and not finished. `openOwn` reads a stored note that our own keys signed. */
export async function findLosses(
  lease: SignerLease,
  mark: Mark,
  origin: string,
  openOwn: (stream: string, note: string) => SignedHead | undefined,
): Promise<Loss[]> {
  const streams = await lease.streams();
  const notes = new Map((await lease.storedNotes()).map(({ name, note }) => [name, note]));
  const checkpointer = new Checkpointer({
    origin,
    store: lease.checkpoints(),
    mark: { head: (stream) => mark.head(stream), closedAt: () => undefined, raise: async () => {} },
  });
  const begun = new Map(mark.unfinished().map((one) => [one.stream, one]));
  const losses: Loss[] = [];
  for (const stream of mark.streams()) {
    const last = mark.head(stream)!;
    const stored = streams.get(stream);
    const closed = begun.get(stream);
    if (closed === undefined && mark.closedAt(stream) !== undefined) continue;
    const next = nextEpoch(stream, [...mark.streams(), ...streams.keys()], closed?.next);
    if (closed !== undefined) {
      losses.push({ stream, detail: 'its recovery was begun', last, consistentSize: closed.size, stored, next });
      continue;
    }
    try {
      await checkpointer.checkAll([stream], streams);
    } catch (error) {
      if (!(error instanceof ContradictionError)) throw error;
      const note = notes.get(stream);
      const own = note === undefined ? undefined : openOwn(stream, note);
      const known = own === undefined ? mark.history(stream) : [...mark.history(stream), own];
      const consistentSize = stored === undefined ? 0 : await consistent(lease, stored, known);
      losses.push({ stream, detail: error.streams[0]!.detail, last, consistentSize, stored, next });
    }
  }
  return losses;
}

/** The largest size that was signed and at which the stored tree has the root that was signed; 0 where there is none. */
async function consistent(lease: SignerLease, stream: SignableStream, known: readonly SignedHead[]): Promise<number> {
  for (const head of known.toSorted((a, b) => b.size - a.size)) {
    if (head.size > stream.size) continue;
    try {
      const frontier = await lease.checkpoints().frontierAt(stream, head.size);
      if (toHex(frontierRoot(head.size, frontier)) === head.root) return head.size;
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
    }
  }
  return 0;
}

/** The epoch after the last that anybody knows of; one that was decided on before stays. */
function nextEpoch(stream: string, known: readonly string[], decided: string | undefined): Loss['next'] {
  const [tenant = '', category = ''] = stream.split('/');
  const found = CATEGORIES.find((one) => one === category);
  if (found === undefined) throw new EvidenceError(`${stream} is no stream's name`);
  const epochOf = (name: string): number => Number(/\/e(\d+)$/.exec(name)?.[1] ?? 1);
  const epochs = known.filter((name) => name.split('/').slice(0, 2).join('/') === `${tenant}/${category}`).map(epochOf);
  const epoch = decided === undefined ? Math.max(...epochs) + 1 : epochOf(decided);
  return { tenant, category: found, epoch, name: streamName(tenant, found, epoch) };
}
