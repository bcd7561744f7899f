/**
 * What the outside said to a stream, as an evidence bundle tells it: which leaves of ticks, and what is behind their ticks.
 *
 * Read as the verifier, since the tick's other leaves are other tenants'; what goes out of them is hashes beside the way, and each leaf has
 * a blind.
 */
import type { Kysely } from 'kysely';
import { tickSteps } from '../chain/anchor-tick.ts';
import { fromUtf8, toBase64, toHex } from '../chain/bytes.ts';
import { canonicalText, type JsonValue } from '../chain/canonical.ts';
import { entryIdHash } from '../chain/entry.ts';
import { BUNDLE_LIMITS, type BundleAnchor, type BundleEvidence } from '../chain/evidence-bundle.ts';
import { inclusionNodes, inclusionPath } from '../chain/merkle.ts';
import { openRecords } from '../chain/open-block.ts';
import { EvidenceError } from '../errors.ts';
import {
  evidenceFrom,
  leafHashes,
  leavesFrom,
  newestLeaves,
  type OutsideEvidence,
  type StoredLeaf,
} from '../store/anchors.ts';
import { checkpointsOf } from '../store/checkpoints.ts';
import { blockOf, placesInAll } from '../store/log-reader.ts';
import { type StreamRow, streamsOf } from '../store/streams.ts';
import type { Tables } from '../store/tables.ts';
import { treeNodes } from '../store/tree-hashes.ts';

/** The newest checkpoint of an epoch of the anchor stream. */
export interface AnchorStream {
  readonly id: number;
  readonly name: string;
  readonly epoch: number;
  readonly size: number;
  readonly note: string;
}

/** A leaf whose tick is in the anchor stream, and what the outside said behind it. */
interface PlacedLeaf {
  readonly leaf: StoredLeaf;
  readonly stream: AnchorStream;
  readonly seq: number;
  /** The first of each anchor. */
  readonly evidence: readonly OutsideEvidence[];
}

/** Ticks that lack their entry, after a crash, are passed over; so many in a row there are not. */
const LEAVES_MAX = 20;
/** Newest leaves among which one with outside evidence is looked for: half an hour of ticks. */
const NEWEST_MAX = 30;
/** Rows of evidence among which the first of each anchor is looked for. */
const EVIDENCE_MAX = 64;

export async function anchorStreams(verifier: Kysely<Tables>): Promise<AnchorStream[]> {
  const rows = await streamsOf(verifier, 'anchor');
  const checkpoints = await checkpointsOf(
    verifier,
    rows.map((row) => row.id),
  );
  return rows.flatMap(({ id, name, epoch }: StreamRow) => {
    const checkpoint = checkpoints.find((one) => one.streamId === id);
    return checkpoint === undefined ? [] : [{ id, name, epoch, size: checkpoint.size, note: checkpoint.note }];
  });
}

/**
 * Returns the anchors for the entries of a stream before `end`, in the bundle's order: those of the oldest leaf that covers them all; where
 * that has no outside evidence yet, also those of the newest leaf that has. With `exactly` also what shows that the stream's checkpoint of
 * that size is as old as its key (docs/format.md section 19). They have at most `evidenceMax` items of evidence together.
 */
export async function bundleAnchors(
  verifier: Kysely<Tables>,
  streams: readonly AnchorStream[],
  streamId: number,
  end: number,
  exactly: number | undefined,
  evidenceMax: number,
): Promise<BundleAnchor[]> {
  const place = async (leaf: StoredLeaf) => placed(verifier, streams, leaf);
  const first = await firstOf(await leavesFrom(verifier, streamId, end, LEAVES_MAX), place);
  const chosen = first === undefined ? [] : [first];
  if (first === undefined || first.evidence.length === 0) {
    const newest = await firstOf(await newestLeaves(verifier, streamId, NEWEST_MAX), async (leaf) => {
      const one = await place(leaf);
      return one === undefined || one.evidence.length === 0 ? undefined : one;
    });
    if (newest !== undefined) chosen.push(newest);
  }
  const anchors = new Map<string, BundleAnchor>();
  const add = async (one: PlacedLeaf, note: string, size: number, evidence: readonly OutsideEvidence[]) => {
    const key = [one.leaf.size, one.stream.epoch, one.seq, size].map((n) => String(n).padStart(16, '0')).join(' ');
    if (!anchors.has(key)) anchors.set(key, await anchorOf(verifier, one, note, size, evidence));
  };
  for (const one of chosen) {
    for (const [size, evidence] of Map.groupBy(one.evidence, (each) => each.size))
      await add(one, evidence[0]!.note, size, evidence);
    // Whoever has the anchor stream's checkpoint, out of a write-once folder, can still make something of it.
    if (one.evidence.length === 0) await add(one, one.stream.note, one.stream.size, []);
  }
  if (exactly !== undefined) {
    const own = (await leavesFrom(verifier, streamId, exactly, LEAVES_MAX)).filter(({ size }) => size === exactly);
    const one = await firstOf(own, place);
    if (one !== undefined) await add(one, one.stream.note, one.stream.size, []);
  }
  let left = evidenceMax;
  return [...anchors]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .slice(0, BUNDLE_LIMITS.anchors)
    .map(([, anchor]) => {
      const evidence = anchor.evidence.slice(0, left);
      left -= evidence.length;
      return { ...anchor, evidence };
    });
}

async function placed(
  verifier: Kysely<Tables>,
  streams: readonly AnchorStream[],
  leaf: StoredLeaf,
): Promise<PlacedLeaf | undefined> {
  const ids = streams.map(({ id }) => id);
  const [place] = await placesInAll(verifier, ids, entryIdHash(toHex(leaf.tick)));
  const stream = streams.find(({ id }) => id === place?.streamId);
  if (place === undefined || stream === undefined || place.seq >= stream.size) return undefined;
  const evidence = await evidenceFrom(verifier, stream.id, place.seq + 1, EVIDENCE_MAX);
  const first = new Map<string, OutsideEvidence>();
  for (const one of evidence) if (!first.has(one.anchor)) first.set(one.anchor, one);
  return { leaf, stream, seq: place.seq, evidence: [...first.values()] };
}

async function anchorOf(
  verifier: Kysely<Tables>,
  { leaf, stream, seq }: PlacedLeaf,
  note: string,
  size: number,
  evidence: readonly OutsideEvidence[],
): Promise<BundleAnchor> {
  const block = await blockOf(verifier, stream.id, seq);
  if (block === undefined) throw new EvidenceError(`${stream.name} has no entry ${seq}`);
  const record = openRecords(block)[seq - block.firstSeq]!;
  const getNode = await treeNodes(verifier, stream, size, inclusionNodes(seq, size));
  const steps = tickSteps(await leafHashes(verifier, leaf.tick), leaf.position);
  return {
    checkpoint: note,
    evidence: evidence
      .flatMap(bundleEvidence)
      .map((one) => [canonicalText(one as unknown as JsonValue), one] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([, one]) => one)
      .slice(0, BUNDLE_LIMITS.evidencePerAnchor),
    leaf: {
      blind: toHex(leaf.blind),
      path: steps.map(({ side, hash }) => (side === 'left' ? { left: toHex(hash) } : { right: toHex(hash) })),
      size: leaf.size,
    },
    tick: { path: inclusionPath(seq, size, getNode).map(toHex), record: fromUtf8(record.bytes), seq },
  };
}

/** What is in a folder is the checkpoint itself, which its holder gives to the verifier. */
function bundleEvidence({ kind, anchor: name, evidence, certificates, crls }: OutsideEvidence): BundleEvidence[] {
  switch (kind) {
    case 'rfc3161':
      return [{ kind, name, token: toBase64(evidence), certificates: texts(certificates), crls: texts(crls) }];
    case 'witness':
      return [{ kind, name, line: fromUtf8(evidence) }];
    case 'folder':
      return [];
    default: {
      const never: never = kind;
      throw new TypeError(`no such evidence: ${never}`);
    }
  }
}

function texts(items: readonly Uint8Array[]): string[] {
  return [...new Set(items.map(toBase64))].sort();
}

async function firstOf<T, U>(items: readonly T[], find: (item: T) => Promise<U | undefined>): Promise<U | undefined> {
  for (const item of items) {
    const found = await find(item);
    if (found !== undefined) return found;
  }
  return undefined;
}
