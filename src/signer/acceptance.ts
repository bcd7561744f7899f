/**
 * Is this database the one that was signed? What the signer asks before it lets a server in, and recovery before it changes anything.
 *
 * The mark comes first: a database that contradicts it teaches nothing. Only where every stream continues what the mark knows may the mark learn
 * from it, and then only what the newest generation of our own keys signed and the stored trees agree with: so a mark that was restored from
 * an older copy catches up, and a thief of a retired seed can not make it follow another history.
 */
import { toHex } from '../chain/bytes.ts';
import { decodeCheckpoint } from '../chain/checkpoint.ts';
import { type Checkpointer, ContradictionError } from '../chain/checkpointer.ts';
import { decodeKeyStatement } from '../chain/key-statement.ts';
import { frontierRoot } from '../chain/merkle.ts';
import { claimedText, noteVerifier, openNote, parseVkey } from '../chain/note.ts';
import { EvidenceError, SettingsError } from '../errors.ts';
import type { SignerLease, StoredStream } from '../store/signer.ts';
import type { Mark, MarkFact, SignedHead } from './mark.ts';
import type { SigningKeys } from './seeds.ts';

export interface SignedLog {
  readonly lease: SignerLease;
  readonly mark: Mark;
  readonly checkpointer: Checkpointer;
  /** Of all generations, the first at 0. */
  readonly keys: readonly SigningKeys[];
  readonly origin: string;
  readonly folder: string;
}

export interface Contradiction {
  readonly name: string;
  readonly detail: string;
}

/**
 * The seeds MUST be those that this log is signed with: with others everything that was signed would be strange. A mark that is older than a
 * rotation learns of it here, by the new key's own word. Throws a SettingsError.
 */
export async function checkKeys({ lease, mark, keys, origin, folder }: SignedLog): Promise<void> {
  for (const { generation, vkey, note } of await lease.statedKeys(origin)) {
    const own = keys[generation - 1]?.signer(origin).vkey;
    if (own === undefined)
      throw new SettingsError([`the signing seed of generation ${generation} is missing in ${folder}: restore it`]);
    if (own !== vkey)
      throw new SettingsError([
        `the seeds in ${folder} are not those that sign this log: set SEALOG_SIGNER_DIR to its own`,
      ]);
    if (generation !== mark.generations.length + 1) continue;
    const { text } = openNote(note, [noteVerifier(parseVkey(own))]);
    await mark.append([{ kind: 'generation', generation, from: decodeKeyStatement(text).from }]);
  }
}

/** Returns what speaks against the database, and what the mark may learn from it once nothing does. */
export async function lookAt(log: SignedLog): Promise<{ against: Contradiction[]; learnt: MarkFact[] }> {
  const { lease, mark, checkpointer } = log;
  const streams = await lease.streams();
  const turned = await turnedSince(log, streams);
  const against = [
    ...behindCopy(mark, streams),
    ...contradictedClosings(mark, streams, new Set(turned.map(({ stream }) => stream))),
  ];
  try {
    await checkpointer.checkAll(mark.streams(), streams);
  } catch (error) {
    if (!(error instanceof ContradictionError)) throw error;
    against.push(...error.streams);
  }
  const learnt: MarkFact[] = [...turned];
  for (const { name, note } of await lease.storedNotes()) {
    const head = mark.head(name);
    const stored = streams.get(name);
    // What is not ahead of the mark teaches nothing; and what only claims to be is not worth a signature's check.
    if (stored === undefined || mark.closedAt(name) !== undefined || !isAhead(note, head)) continue;
    const signed = openOwn(log, name, note);
    if (signed === undefined) continue;
    const detail = await contradicts(lease, stored, head, signed);
    if (detail === undefined) learnt.push({ kind: 'checkpoint', stream: name, ...signed });
    else against.push({ name, detail });
  }
  return { against: [...new Map(against.map((one) => [one.name, one])).values()], learnt };
}

/** Returns what a note of a stream's checkpoint says, where the newest generation of our own keys signed it. */
export function openOwn({ mark, keys, origin }: SignedLog, stream: string, note: string): SignedHead | undefined {
  const name = `${origin}/${stream}`;
  const newest = keys[mark.generations.length - 1];
  if (newest === undefined) return undefined;
  try {
    const { text } = openNote(note, [noteVerifier(parseVkey(newest.signer(name).vkey))]);
    const says = decodeCheckpoint(text);
    return says.origin === name ? { size: says.size, root: toHex(says.root) } : undefined;
  } catch (error) {
    if (error instanceof EvidenceError) return undefined;
    throw error;
  }
}

/**
 * Epochs that were closed for a shorter policy of which the mark does not know, since it was restored from an older copy: their last size,
 * and the epoch that goes on, are signed by our own key.
 */
async function turnedSince(
  log: SignedLog,
  streams: ReadonlyMap<string, StoredStream>,
): Promise<(MarkFact & { readonly kind: 'turned' })[]> {
  const { lease, mark } = log;
  const known = new Set([...mark.turned(), ...mark.turning()].map(({ stream }) => stream));
  const unknown = [...streams.values()].filter(({ name, turned }) => turned && !known.has(name));
  if (unknown.length === 0) return [];
  const notes = new Map((await lease.storedNotes()).map(({ name, note }) => [name, note]));
  const signedSize = (name: string): number => openOwn(log, name, notes.get(name) ?? '')?.size ?? 0;
  return unknown.flatMap(({ name: stream, size }) => {
    const [tenant, category, epoch] = stream.split('/');
    const next = `${tenant}/${category}/e${Number(epoch?.slice(1) ?? 1) + 1}`;
    return mark.closedAt(stream) === undefined && signedSize(stream) === size && signedSize(next) > 0
      ? [{ kind: 'turned', stream, size, next } as const]
      : [];
  });
}

/**
 * Where the mark was restored together with the database, both have forgotten what was signed after the backup. To go on in the same epochs
 * would be to sign other roots of the same sizes.
 */
function behindCopy(mark: Mark, streams: ReadonlyMap<string, StoredStream>): Contradiction[] {
  return [...streams.values()]
    .filter(({ name, size, closed }) => size > 0 && !closed && mark.isBehind(name))
    .map(({ name }) => ({
      name,
      detail: 'was restored with a copy of the mark: what was signed after it is not known',
    }));
}

/** Epochs that were closed stay closed, with another one behind them; nobody else closes one. */
function contradictedClosings(
  mark: Mark,
  streams: ReadonlyMap<string, StoredStream>,
  learnt: ReadonlySet<string>,
): Contradiction[] {
  const against: Contradiction[] = mark
    .unfinished()
    .map(({ stream }) => ({ name: stream, detail: 'has a recovery that was begun and not finished' }));
  for (const [stream, next] of mark.closings()) {
    if (streams.get(stream)?.closed === false)
      against.push({ name: stream, detail: 'is open, though a recovery closed it' });
    else if (!streams.has(next)) against.push({ name: stream, detail: `was closed, and ${next} is gone` });
  }
  for (const { stream, size, next } of mark.turned()) {
    const stored = streams.get(stream);
    // One that is gone, or shorter, is found by what was signed of it.
    if (stored?.turned === false || (stored !== undefined && stored.size > size))
      against.push({ name: stream, detail: 'is open, though a shorter policy closed it' });
    else if (!streams.has(next)) against.push({ name: stream, detail: `was closed, and ${next} is gone` });
  }
  const turned = new Set([...learnt, ...[...mark.turned(), ...mark.turning()].map(({ stream }) => stream)]);
  for (const { name, closed, turned: isTurned } of streams.values())
    if (closed && mark.closedAt(name) === undefined && !(isTurned && turned.has(name)))
      against.push({ name, detail: 'is closed, though no recovery closed it' });
  return against;
}

/** What a note claims, unverified. */
function isAhead(note: string, head: SignedHead | undefined): boolean {
  try {
    const { size, root } = decodeCheckpoint(claimedText(note));
    return head === undefined || size > head.size || (size === head.size && toHex(root) !== head.root);
  } catch (error) {
    if (error instanceof EvidenceError) return false;
    throw error;
  }
}

async function contradicts(
  lease: SignerLease,
  stored: StoredStream,
  head: SignedHead | undefined,
  signed: SignedHead,
): Promise<string | undefined> {
  if (signed.size === head?.size) return `was signed with two roots at size ${head.size}`;
  if (signed.size > stored.size) return `has ${stored.size} entries, though ${signed.size} were signed`;
  try {
    const root = frontierRoot(signed.size, await lease.checkpoints().frontierAt(stored, signed.size));
    return toHex(root) === signed.root ? undefined : `has another root at size ${signed.size} than was signed`;
  } catch (error) {
    if (error instanceof EvidenceError) return error.message;
    throw error;
  }
}
