/** A stream as far as its newest signed checkpoint covers it: all that proofs are about. */
import type { Kysely } from 'kysely';
import { equalBytes } from '../chain/bytes.ts';
import { decodeCheckpoint } from '../chain/checkpoint.ts';
import { claimedText } from '../chain/note.ts';
import { EvidenceError, Problem } from '../errors.ts';
import { streamWithCheckpoint } from '../store/checkpoints.ts';
import type { Tables } from '../store/tables.ts';

export interface SignedStream {
  readonly id: number;
  readonly name: string;
  /** Of the checkpoint, not of what the stream holds by now. */
  readonly size: number;
  readonly root: Uint8Array;
  /** The checkpoint as a signed note. */
  readonly note: string;
}

/**
 * Returns a stream that the connection may see, with its newest checkpoint. Throws a Problem (`not_found`, `not_yet_checkpointed`), and an
 * EvidenceError where the note does not say what its row says. Its signatures are not looked at: they are for those who are given it.
 */
export async function signedStream(database: Kysely<Tables>, origin: string, name: string): Promise<SignedStream> {
  const stream = await streamWithCheckpoint(database, name);
  if (stream === undefined) throw new Problem('not_found');
  if (stream.checkpoint === undefined) throw new Problem('not_yet_checkpointed');
  const { size, root, note } = stream.checkpoint;
  const says = decodeCheckpoint(claimedText(note));
  if (says.origin !== `${origin}/${name}` || says.size !== size || !equalBytes(says.root, root))
    throw new EvidenceError(`the checkpoint of ${name} says something else than its row`);
  return { id: stream.id, name, size, root, note };
}
