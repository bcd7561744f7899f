/** The proof of an entry: docs/format.md section 21. */
import type { Kysely } from 'kysely';
import { fromHex, fromUtf8, toHex } from '../chain/bytes.ts';
import { type CertifiedErasure, erasedParts } from '../chain/entry-view.ts';
import { checkInclusion, inclusionNodes, inclusionPath } from '../chain/merkle.ts';
import type { Entry } from '../chain/open-block.ts';
import { commitmentOf, isOpen, type Part } from '../chain/part.ts';
import { encodeTlogProof } from '../chain/tlog-proof.ts';
import { Problem } from '../errors.ts';
import { erasedOf } from '../store/erasures.ts';
import type { Tables } from '../store/tables.ts';
import { treeNodes } from '../store/tree-hashes.ts';
import { type SignedStream, signedStream } from './signed-stream.ts';

/** An entry under the newest checkpoint of its stream. */
export interface EntryProof {
  readonly entry: Entry;
  readonly stream: SignedStream;
  /** The inclusion path, lowest hash first. */
  readonly path: readonly Uint8Array[];
  /** What certifies that parts were erased. */
  readonly erasures: readonly CertifiedErasure[];
}

/**
 * Returns the proof of an entry, checked: what is given out leads to the root that was signed. Throws a Problem `not_yet_checkpointed`, and an
 * EvidenceError where what is stored does not lead there.
 */
export async function proveEntry(database: Kysely<Tables>, origin: string, entry: Entry): Promise<EntryProof> {
  const { seq, stream: name } = entry.record;
  const stream = await signedStream(database, origin, name);
  const { size, root } = stream;
  if (seq >= size) throw new Problem('not_yet_checkpointed');
  const getNode = await treeNodes(database, stream, size, inclusionNodes(seq, size));
  const path = inclusionPath(seq, size, getNode);
  checkInclusion(seq, size, fromHex(entry.hash), path, root);
  const erasures = erasedParts(entry).length === 0 ? [] : await erasedOf(database, stream.id, [seq]);
  return { entry, stream, path, erasures };
}

/** Returns a proof as JSON. Without `withValues` parts are given as commitments only: enough to check, and nothing of people. */
export function proofJson({ entry, stream, path, erasures }: EntryProof, withValues: boolean): string {
  const place = JSON.stringify({
    stream: stream.name,
    seq: entry.record.seq,
    hash: entry.hash,
    record: fromUtf8(entry.bytes),
  });
  const parts = entry.parts.map((part) => `"${part.name}":${partJson(part, withValues, erasures)}`);
  const proof = JSON.stringify({ size: stream.size, path: path.map(toHex), checkpoint: stream.note });
  return `${place.slice(0, -1)},"parts":{${parts.join(',')}},${proof.slice(1)}`;
}

/** Returns a proof as C2SP tlog-proof. */
export function proofText({ entry, stream, path }: EntryProof): string {
  return encodeTlogProof({ index: entry.record.seq, path, checkpoint: stream.note });
}

/** A value is put in as the canonical text that was committed to, never parsed and written again. */
function partJson(part: Part, withValues: boolean, erasures: readonly CertifiedErasure[]): string {
  if (isOpen(part) && withValues) return `{"salt":"${toHex(part.salt)}","value":${fromUtf8(part.value)}}`;
  const commitment = toHex(commitmentOf(part));
  if (isOpen(part)) return JSON.stringify({ commitment, state: 'withheld' });
  const certificate = erasures.find(({ parts }) => parts.includes(part.name))?.certificate;
  return JSON.stringify({ commitment, state: 'erased', certificate });
}
