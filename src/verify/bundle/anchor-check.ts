/**
 * Anchors: what shows that a stream had a root when somebody outside looked (docs/format.md sections 20 and 22).
 *
 * The way goes from the stream's checkpoint through a tick's tree to the tick's entry, from there through the anchor stream's tree to a
 * signed checkpoint of it, and from that to what the outside said to it. Each step is checked whoever is trusted; outside evidence counts
 * only where the verifier was told to trust whoever made it.
 */
import { checkpointLeafHash, rootFromSteps, TICK_ACTION } from '../../chain/anchor-tick.ts';
import { equalBytes, toHex } from '../../chain/bytes.ts';
import { canonicalText } from '../../chain/canonical.ts';
import { type Checkpoint, encodeCheckpoint } from '../../chain/checkpoint.ts';
import { checkCosignature, isLineOf, parseCosignerVkey } from '../../chain/cosignature.ts';
import { type AnchorPlace, anchorEpoch } from '../../chain/key-statement.ts';
import { checkInclusion, leafHash } from '../../chain/merkle.ts';
import { parseSignatureLine } from '../../chain/note.ts';
import { partsHashHex } from '../../chain/part.ts';
import { decodeRecord } from '../../chain/record.ts';
import { formatInstant } from '../../chain/retain-until.ts';
import { sha256 } from '../../chain/sha256.ts';
import { EvidenceError } from '../../errors.ts';
import { checkTimeStamp } from '../time-stamp.ts';
import type { TrustedKey } from '../trusted-keys.ts';
import type { ReadAnchor, ReadEvidence } from './bundle-files.ts';
import type { BundleFindings, Voucher } from './bundle-report.ts';
import { wordsOf } from './range-check.ts';
import { readStated, type StatedCheckpoint, signedUpTo, signersOf, signsNow } from './signed-checkpoint.ts';

export interface AnchorContext {
  /** Of the deployment. */
  readonly origin: string;
  readonly stream: string;
  /** The root that the stream had at a size, undefined where the bundle does not say. */
  rootAt(size: number): Uint8Array | undefined;
  readonly keys: readonly TrustedKey[];
  /** False where the verifier knows the key of one stream alone: then nobody can say who signed the anchor stream's checkpoints. */
  readonly knowsAnchorKeys: boolean;
  readonly authorities: readonly Uint8Array[];
  readonly witnesses: readonly string[];
  /** Checkpoints of the anchor stream that the verifier was given. */
  readonly given: readonly StatedCheckpoint[];
}

export interface CheckedAnchor {
  /** Of the stream's checkpoint: the entries before are anchored where there are vouchers. */
  readonly size: number;
  /** Where its tick stands: entry `size` of the anchor stream. */
  readonly tick: AnchorPlace;
  readonly vouchers: readonly Voucher[];
  /** Whether the anchor stream's checkpoint is signed by the generation that signs now. */
  readonly signedNow: boolean;
}

const NO_PARTS = partsHashHex([]);
const TICK_SOURCE = canonicalText({ service: 'sealog' });

/** Checks an anchor; what is wrong goes to `findings`. Returns undefined where it shows nothing. */
export async function checkAnchor(
  anchor: ReadAnchor,
  context: AnchorContext,
  findings: BundleFindings,
): Promise<CheckedAnchor | undefined> {
  const { stream } = context;
  let stated: StatedCheckpoint;
  let tick: AnchorPlace;
  let place: AnchorPlace;
  try {
    stated = readStated(anchor.checkpoint);
    ({ tick, place } = checkWay(anchor, stated, context));
  } catch (error) {
    findings.add('anchor', wordsOf(error), stream);
    return undefined;
  }
  let signers: TrustedKey[] = [];
  if (context.knowsAnchorKeys) {
    try {
      signers = signersOf(stated, context.keys);
    } catch (error) {
      findings.add('signature', `a checkpoint of the anchor stream: ${wordsOf(error)}`, stream);
      return undefined;
    }
    if (!signedUpTo(signers, place)) {
      findings.add('key', 'a checkpoint of the anchor stream is signed by a key that signed no more then', stream);
      return undefined;
    }
  }
  if (
    context.given.some(
      (one) => one.origin === stated.origin && one.size === stated.size && !sameCheckpoint(one, stated),
    )
  )
    findings.add(
      'inconsistent',
      `a given checkpoint of the anchor stream has another root for ${stated.size} entries`,
      stream,
    );
  const vouchers: Voucher[] = [];
  for (const evidence of anchor.evidence) {
    try {
      const voucher = await checkEvidence(evidence, stated, context);
      if (voucher !== undefined) vouchers.push(voucher);
    } catch (error) {
      findings.add('anchor', `${evidence.name}: ${wordsOf(error)}`, stream);
    }
  }
  if (context.given.some((one) => sameCheckpoint(one, stated)))
    vouchers.push({ anchor: 'checkpoint', kind: 'checkpoint' });
  return {
    size: anchor.leaf.size,
    tick,
    vouchers: context.knowsAnchorKeys ? vouchers : [],
    signedNow: signsNow(signers),
  };
}

/** From the stream's checkpoint to that of the anchor stream. Throws an EvidenceError. */
function checkWay(
  { leaf, tick }: ReadAnchor,
  stated: StatedCheckpoint,
  { origin, stream, rootAt }: AnchorContext,
): { tick: AnchorPlace; place: AnchorPlace } {
  const root = rootAt(leaf.size);
  if (root === undefined || leaf.size === 0)
    throw new EvidenceError(`an anchor is of size ${leaf.size}, of which the bundle has no root`);
  const text = encodeCheckpoint({ origin: `${origin}/${stream}`, size: leaf.size, root });
  const tickRoot = toHex(rootFromSteps(checkpointLeafHash(leaf.blind, text), leaf.steps));

  const record = decodeRecord(tick.record);
  const epoch = anchorEpoch(record.stream);
  const isTick =
    record.action === TICK_ACTION &&
    record.outcome === 'success' &&
    record.parts === NO_PARTS &&
    record.retainUntil === undefined &&
    canonicalText(record.source) === TICK_SOURCE;
  if (epoch === undefined || !isTick || record.seq !== tick.seq)
    throw new EvidenceError('the record of a tick is none');
  if (record.id !== tickRoot) throw new EvidenceError('the leaf of an anchor leads to another tick');
  if (stated.origin !== `${origin}/${record.stream}`)
    throw new EvidenceError('the checkpoint of an anchor is not of the stream that its tick is in');
  checkInclusion(tick.seq, stated.size, leafHash(tick.record), tick.path, stated.root);
  return { tick: { epoch, size: tick.seq }, place: { epoch, size: stated.size } };
}

/** Returns undefined where nobody told the verifier to trust whoever made the evidence. Throws an EvidenceError. */
async function checkEvidence(
  evidence: ReadEvidence,
  { text }: StatedCheckpoint,
  { authorities, witnesses }: AnchorContext,
): Promise<Voucher | undefined> {
  const { kind, name } = evidence;
  switch (kind) {
    case 'rfc3161': {
      const { token, certificates, crls } = evidence;
      const check = { token, imprint: sha256(text), trusted: authorities, certificates, crls };
      const verdict = await checkTimeStamp(check);
      return verdict.kind === 'good' ? { anchor: name, kind, time: formatInstant(verdict.time) } : undefined;
    }
    case 'witness': {
      const line = parseSignatureLine(evidence.line);
      const vkey = witnesses.find((one) => isLineOf(parseCosignerVkey(one), line));
      if (vkey === undefined) return undefined;
      const { time } = checkCosignature(evidence.line, text, vkey);
      return { anchor: name, kind, ...timeOf(time) };
    }
    default: {
      const never: never = kind;
      throw new TypeError(`no such evidence: ${never}`);
    }
  }
}

/** A witness may state seconds that no date has. */
function timeOf(seconds: number): { time: string } | Record<string, never> {
  const ms = seconds * 1000;
  return ms <= Date.UTC(9999, 11, 31, 23, 59, 59) ? { time: formatInstant(ms) } : {};
}

export function sameCheckpoint(a: Checkpoint, b: Checkpoint): boolean {
  return a.origin === b.origin && a.size === b.size && equalBytes(a.root, b.root);
}
