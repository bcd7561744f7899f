/**
 * Recovery: what to do with a database that contradicts what was signed (docs/format.md section 23).
 *
 * Each stream that does is closed at the last size at which it is known to be what was signed, and the next epoch of its category begins with
 * an entry that names what is lost; what the old epoch still holds beyond is appended again. The number of the new epoch comes from the mark,
 * not from the database, which may have forgotten it. Every step can be repeated after a crash: the mark says which epochs are closed
 * and not finished, and what is in the new epoch already is found by its id.
 */
import { toHex } from '../chain/bytes.ts';
import { CATEGORIES, type Category, streamName } from '../chain/category.ts';
import { EMPTY_ROOT, frontierRoot } from '../chain/merkle.ts';
import { EvidenceError } from '../errors.ts';
import type { StoredStream } from '../store/signer.ts';
import { lookAt, openOwn, type SignedLog } from './acceptance.ts';
import type { SignedHead } from './mark.ts';

/** A stream that contradicts what was signed. */
export interface Loss {
  readonly stream: string;
  readonly epoch: number;
  readonly detail: string;
  /** What was last signed of it. */
  readonly last: SignedHead;
  /** The largest size at which what is stored is known to be what was signed. */
  readonly consistentSize: number;
  /** Undefined where the stream's row is gone. */
  readonly stored: StoredStream | undefined;
}

/** The losses of one tenant's category, newest epoch first, and the epoch that goes on for all of them. */
export interface LostCategory {
  readonly tenant: string;
  readonly category: Category;
  readonly next: {
    readonly tenant: string;
    readonly category: Category;
    readonly epoch: number;
    readonly name: string;
  };
  readonly losses: readonly Loss[];
}

/** Returns what contradicts what was signed, and what a recovery that was begun did not finish; streams in which recoveries are told come first. */
export async function findLosses(log: SignedLog): Promise<LostCategory[]> {
  const { lease, mark } = log;
  const { against } = await lookAt(log);
  const streams = await lease.streams();
  const notes = new Map((await lease.storedNotes()).map(({ name, note }) => [name, note]));
  const known = new Set([
    ...mark.streams(),
    ...streams.keys(),
    ...mark.closings().map(([, next]) => next),
    ...mark.turned().map(({ next }) => next),
  ]);
  const lost: LostCategory[] = [];
  for (const [prefix, own] of Map.groupBy(against, ({ name }) => name.split('/').slice(0, 2).join('/'))) {
    const losses: Loss[] = [];
    for (const { name, detail } of own) {
      const stored = streams.get(name);
      const note = notes.get(name);
      const signed = note === undefined ? undefined : openOwn(log, name, note);
      const heads = signed === undefined ? mark.history(name) : [...mark.history(name), signed];
      const consistentSize = mark.closedAt(name) ?? (stored === undefined ? 0 : await consistentAt(log, stored, heads));
      const last = mark.head(name) ?? { size: 0, root: toHex(EMPTY_ROOT) };
      losses.push({ stream: name, epoch: epochOf(name), detail, last, consistentSize, stored });
    }
    losses.sort((a, b) => b.epoch - a.epoch);
    const [tenant = '', category = ''] = prefix.split('/');
    lost.push({ tenant, category: categoryOf(category), next: nextEpoch(log, prefix, losses, known), losses });
  }
  // What is told of each goes there.
  const isTold = ({ category }: LostCategory) => category === 'log_administration';
  return lost.sort((a, b) => Number(isTold(b)) - Number(isTold(a)));
}

/** The largest size that was signed and at which the stored tree has the root that was signed; 0 where there is none. */
async function consistentAt({ lease }: SignedLog, stream: StoredStream, heads: readonly SignedHead[]): Promise<number> {
  for (const head of heads.toSorted((a, b) => b.size - a.size)) {
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

/** The epoch that a recovery decided on before, where it is still to be finished and nothing speaks against it; else one after all that anybody knows of. */
function nextEpoch(
  { mark }: SignedLog,
  prefix: string,
  losses: readonly Loss[],
  known: ReadonlySet<string>,
): LostCategory['next'] {
  const [tenant = '', category = ''] = prefix.split('/');
  const decided = new Map(mark.closings());
  const begun = new Set(losses.map(({ stream }) => decided.get(stream)));
  const [only] = begun;
  const isOpen =
    only !== undefined && begun.size === 1 && mark.head(only) === undefined && mark.closedAt(only) === undefined;
  const epochs = [...known].filter((name) => name.split('/').slice(0, 2).join('/') === prefix).map(epochOf);
  const epoch = isOpen ? epochOf(only) : Math.max(...epochs) + 1;
  const found = categoryOf(category);
  return { tenant, category: found, epoch, name: streamName(tenant, found, epoch) };
}

function epochOf(stream: string): number {
  return Number(/\/e(\d+)$/.exec(stream)?.[1] ?? 1);
}

function categoryOf(text: string): Category {
  const found = CATEGORIES.find((one) => one === text);
  if (found === undefined) throw new EvidenceError(`${text} is no category`);
  return found;
}
