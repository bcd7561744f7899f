/** What somebody kept of a log outside its database: signed checkpoints, receipts, the signer's own record; held to a log that was restored. */
import { readFile } from 'node:fs/promises';
import { newestCheckpoint } from '../anchor/write-once-folder.ts';
import type { Statement } from '../backup/missing-entries.ts';
import { toHex } from '../chain/bytes.ts';
import { decodeCheckpoint } from '../chain/checkpoint.ts';
import { ANCHOR_STREAM } from '../chain/key-statement.ts';
import { leafHash } from '../chain/merkle.ts';
import { claimedText, noteVerifier, openNote, parseVkey } from '../chain/note.ts';
import { openRecords } from '../chain/open-block.ts';
import type { Config } from '../config.ts';
import { EvidenceError, SettingsError } from '../errors.ts';
import { Mark, readMark, type SignedHead } from '../signer/mark.ts';
import { readSeeds, seedCount } from '../signer/seeds.ts';
import { keyStatements } from '../store/checkpoints.ts';
import { tryLockFolder } from '../store/data-dir-lock.ts';
import type { Database } from '../store/database.ts';
import { blockOf } from '../store/log-reader.ts';
import { listStreams } from '../store/streams.ts';
import { trustedKeys } from '../verify/trusted-keys.ts';
import { UsageError } from './usage.ts';

export interface SignedNote extends Statement {
  readonly root: string;
  readonly note: string;
}

/** Reads the given checkpoints, and the newest of each write-once folder; those that no key of this log signed are wrong. */
export async function signedNotes(
  { verifier }: Database,
  origin: string | null,
  {
    checkpoints,
    anchors,
    key,
  }: { readonly checkpoints: readonly string[]; readonly anchors: readonly string[]; readonly key: string | undefined },
): Promise<{ good: SignedNote[]; wrong: string[] }> {
  const texts: { name: string; note: string }[] = [];
  for (const path of checkpoints) texts.push({ name: `the checkpoint ${path}`, note: await readGivenText(path) });
  for (const folder of anchors) {
    const { newest, damaged } = await newestCheckpoint(folder, `${origin}/${ANCHOR_STREAM}`);
    if (newest === undefined)
      throw new SettingsError([`there is no checkpoint of ${origin}/${ANCHOR_STREAM} in ${folder}`]);
    texts.push({ name: `the newest checkpoint in ${folder}`, note: newest.note });
    if (damaged.length > 0) texts.push({ name: `${folder}/${damaged[0]}`, note: '' });
  }
  const good: SignedNote[] = [];
  const wrong: string[] = [];
  const deployment = origin === null ? [] : await keyStatements(verifier, [origin]);
  const trusted = key ?? deployment[0]?.vkey;
  for (const { name, note } of texts) {
    try {
      const says = decodeCheckpoint(claimedText(note));
      if (!says.origin.startsWith(`${origin}/`)) throw new EvidenceError(`it is of ${says.origin}`);
      if (trusted === undefined || origin === null)
        throw new EvidenceError('nothing in the backup is signed: give --key');
      const own = await keyStatements(verifier, [says.origin]);
      const { keys } = trustedKeys(
        origin,
        trusted,
        [...deployment, ...own].map((one) => one.note),
      );
      openNote(
        note,
        keys.filter((one) => one.name === says.origin).map(({ vkey }) => noteVerifier(parseVkey(vkey))),
      );
      good.push({
        stream: says.origin.slice(origin.length + 1),
        size: says.size,
        root: toHex(says.root),
        by: name,
        note,
      });
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      wrong.push(`${name}: ${error.message}`);
    }
  }
  return { good, wrong };
}

export interface Receipt {
  readonly id: string;
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
}

/** Holds receipts, as clients got them, to the entries: a file has one, an array of them, or one a line. */
export async function checkReceipts(
  { verifier }: Database,
  paths: readonly string[],
): Promise<{ count: number; missing: Receipt[]; wrong: string[] }> {
  const streams = new Map((await listStreams(verifier)).map((stream) => [stream.name, stream]));
  const missing: Receipt[] = [];
  const wrong: string[] = [];
  let count = 0;
  for (const path of paths) {
    for (const receipt of receiptsIn(await readGivenText(path), path)) {
      count++;
      const stream = streams.get(receipt.stream);
      if (stream === undefined || receipt.seq >= stream.size) {
        missing.push(receipt);
        continue;
      }
      const block = await blockOf(verifier, stream.id, receipt.seq);
      const found = block && openRecords(block).find(({ record }) => record.seq === receipt.seq);
      // Without a block it was pruned, or is gone: verification says which.
      if (found !== undefined && toHex(leafHash(found.bytes)) !== receipt.hash)
        wrong.push(`${receipt.stream} has another entry at ${receipt.seq} than the receipt of ${receipt.id} says`);
    }
  }
  return { count, missing, wrong };
}

function receiptsIn(text: string, path: string): Receipt[] {
  const isReceipt = (value: unknown): value is Receipt => {
    const { id, stream, seq, hash } = (value ?? {}) as Record<string, unknown>;
    return (
      typeof id === 'string' && typeof stream === 'string' && Number.isSafeInteger(seq) && typeof hash === 'string'
    );
  };
  const parse = (one: string): unknown => {
    try {
      return JSON.parse(one);
    } catch {
      return undefined;
    }
  };
  const whole = parse(text);
  const values = whole === undefined ? text.split('\n').filter(Boolean).map(parse) : [whole].flat();
  if (values.length === 0 || !values.every(isReceipt)) throw new UsageError(`${path} has something else than receipts`);
  return values;
}

async function readGivenText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new UsageError(`${path} can not be read: ${(error as Error).message}`);
  }
}

/** Returns the last signed heads by the signer's own record; undefined where there is none. */
export async function markOf({ signerDir }: Config): Promise<ReadonlyMap<string, SignedHead> | undefined> {
  if (signerDir === undefined) return undefined;
  return readMark(signerDir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
}

/** Notes in a mark that was restored that it is a copy: its database is as old, and nobody knows what was signed since. */
export async function noteCopy(signerDir: string): Promise<void> {
  const lock = await tryLockFolder(signerDir);
  if (lock === undefined)
    throw new SettingsError([`the signer folder ${signerDir} is in use: stop the service that signs`]);
  const mark = await Mark.open(signerDir);
  try {
    await mark.append([{ kind: 'copied' }]);
  } finally {
    await mark.close();
    await lock.release();
  }
}

/**
 * Writes into the mark what was signed later than it knows: else the signer would go on from an older state, and sign a second root for a size.
 * Only what its own keys signed counts. Returns what contradicts it.
 */
export async function raiseMark({ signerDir }: Config, notes: readonly SignedNote[]): Promise<string[]> {
  if (signerDir === undefined || (await seedCount(signerDir)) === 0) return [];
  const lock = await tryLockFolder(signerDir);
  if (lock === undefined)
    throw new SettingsError([`the signer folder ${signerDir} is in use: stop the service that signs`]);
  const mark = await Mark.open(signerDir);
  try {
    const seeds = await readSeeds(signerDir);
    const wrong: string[] = [];
    for (const { stream, size, root, by, note } of notes.toSorted((a, b) => a.size - b.size)) {
      const { origin } = decodeCheckpoint(claimedText(note));
      const isOwn = seeds.some((keys) => opens(note, keys.signer(origin).vkey));
      const head = mark.head(stream);
      if (!isOwn || mark.closedAt(stream) !== undefined) continue;
      if (head?.size === size && head.root !== root)
        wrong.push(`${by} and the signer's own record state two roots of ${stream} at size ${size}`);
      if (size > (head?.size ?? 0)) await mark.append([{ kind: 'checkpoint', stream, size, root }]);
    }
    return wrong;
  } finally {
    await mark.close();
    await lock.release();
  }
}

function opens(note: string, vkey: string): boolean {
  try {
    openNote(note, [noteVerifier(parseVkey(vkey))]);
    return true;
  } catch (error) {
    if (error instanceof EvidenceError) return false;
    throw error;
  }
}
