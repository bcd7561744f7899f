/** An anchor stream without a database: its leaves, its checkpoints, its consistency paths. */
import type { AnchorCheckpoint } from '../../src/anchor/anchor-runner.ts';
import { utf8 } from '../../src/chain/bytes.ts';
import { encodeCheckpoint } from '../../src/chain/checkpoint.ts';
import { appendLeaves, consistencyPath, frontierRoot, leafHash, nodeHash } from '../../src/chain/merkle.ts';
import { type NoteSigner, noteSigner, signNote } from '../../src/chain/note.ts';
import { sha256 } from '../../src/chain/sha256.ts';

export interface AnchorLog {
  readonly signer: NoteSigner;
  /** Returns the signed checkpoint of a size. */
  at(size: number): AnchorCheckpoint;
  path(from: number, to: number): Promise<Uint8Array[]>;
}

/** `past` tells logs of one name apart that have two pasts: their leaves differ from `since` on. */
export function anchorLog({
  origin = 'log.example/sealog/anchor',
  past = '',
  since = 0,
  seed = 'log',
} = {}): AnchorLog {
  const signer = noteSigner(origin, sha256(`seed of ${seed}`));
  const leaf = (seq: number): Uint8Array => leafHash(utf8(`entry ${seq}${seq >= since ? past : ''}`));
  const node = (level: number, index: number): Uint8Array =>
    level === 0 ? leaf(index) : nodeHash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1));
  return {
    signer,
    at(size) {
      const leaves = Array.from({ length: size }, (_, seq) => leaf(seq));
      const text = encodeCheckpoint({ origin, size, root: frontierRoot(size, appendLeaves(0, [], leaves)) });
      return { text, note: signNote(text, [signer]), size, stream: origin.replace(/^[^/]*\//, '') };
    },
    path: async (from, to) => consistencyPath(from, to, node),
  };
}
