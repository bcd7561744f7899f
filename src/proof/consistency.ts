/** What a stream was like at two sizes, and that the later one continues the earlier. */
import type { Kysely } from 'kysely';
import { toHex } from '../chain/bytes.ts';
import {
  checkConsistency,
  consistencyNodes,
  consistencyPath,
  frontierNodes,
  frontierRoot,
  type GetNode,
} from '../chain/merkle.ts';
import type { Tables } from '../store/tables.ts';
import { treeNodes } from '../store/tree-hashes.ts';
import type { SignedStream } from './signed-stream.ts';

export interface Consistency {
  readonly stream: string;
  readonly from: number;
  readonly to: number;
  readonly path: readonly string[];
  readonly fromRoot: string;
  readonly toRoot: string;
  /** The signed note of the newest checkpoint, which both roots were held to. */
  readonly checkpoint: string;
}

/**
 * Returns the consistency path between two sizes, `from` ≤ `to` ≤ the checkpoint's, checked: both roots are those of trees that the signed
 * one began with. Throws an EvidenceError where what is stored does not show that.
 */
export async function proveConsistency(
  database: Kysely<Tables>,
  stream: SignedStream,
  from: number,
  to: number,
): Promise<Consistency> {
  const { size, root } = stream;
  const nodes = [from, to].flatMap(frontierNodes);
  const getNode = await treeNodes(database, stream, size, [
    ...nodes,
    ...consistencyNodes(from, to),
    ...consistencyNodes(to, size),
  ]);
  const fromRoot = rootOf(from, getNode);
  const toRoot = rootOf(to, getNode);
  const path = consistencyPath(from, to, getNode);
  checkConsistency(from, to, fromRoot, toRoot, path);
  checkConsistency(to, size, toRoot, root, consistencyPath(to, size, getNode));
  return {
    stream: stream.name,
    from,
    to,
    path: path.map(toHex),
    fromRoot: toHex(fromRoot),
    toRoot: toHex(toRoot),
    checkpoint: stream.note,
  };
}

function rootOf(size: number, getNode: GetNode): Uint8Array {
  return frontierRoot(
    size,
    frontierNodes(size).map(({ level, index }) => getNode(level, index)),
  );
}
