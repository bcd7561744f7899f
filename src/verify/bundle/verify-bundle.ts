/**
 * Verifies an evidence bundle (docs/format.md section 22), offline: everything that is needed is in the bundle, but for whom to trust.
 *
 * The bundle is foreign: whatever is wrong with it is a finding, never an exception, and nothing in it can make this run for long (time is
 * linear in its bytes, `BUNDLE_LIMITS` bounds the rest).
 */
import { fromUtf8 } from '../../chain/bytes.ts';
import { parseCosignerVkey } from '../../chain/cosignature.ts';
import {
  BUNDLE_FILES,
  BUNDLE_LIMITS,
  type BundleManifest,
  CERTIFICATES_FILE,
  STREAM_FILES,
  type SummaryStream,
  summaryText,
} from '../../chain/evidence-bundle.ts';
import { anchorEpoch, decodeKeyStatement } from '../../chain/key-statement.ts';
import { checkConsistency } from '../../chain/merkle.ts';
import { claimedText, noteVerifier, parseVkey } from '../../chain/note.ts';
import { sha256Hex } from '../../chain/sha256.ts';
import { readTar, type TarFile } from '../../chain/tar.ts';
import { EvidenceError } from '../../errors.ts';
import { type Certificates, NO_CERTIFICATES } from '../certificates.ts';
import { type TrustedKey, trustedKeys } from '../trusted-keys.ts';
import { type AnchorContext, type CheckedAnchor, checkAnchor, sameCheckpoint } from './anchor-check.ts';
import {
  ascending,
  type ReadAnchor,
  type ReadConsistency,
  type ReadRange,
  readAnchors,
  readConsistency,
  readKeys,
  readManifest,
  readRange,
} from './bundle-files.ts';
import {
  type BundleFindingKind,
  BundleFindings,
  type BundleKey,
  type BundleReport,
  type BundleStreamReport,
  type BundleUnchecked,
  type SeqRange,
  type Voucher,
} from './bundle-report.ts';
import { checkCertificates } from './certificate-check.ts';
import { checkRange, wordsOf } from './range-check.ts';
import { readStated, type StatedCheckpoint, signedBefore, signersOf, signsNow } from './signed-checkpoint.ts';

/** Whom and what the verifier trusts: never anything out of the bundle. */
export interface BundleTrust {
  /** The vkey of the deployment, or of one stream. */
  readonly key: string;
  /** Notes of checkpoints that the verifier kept, of the stream or of the anchor stream. */
  readonly checkpoints: readonly string[];
  /** Certificates of time-stamp authorities (roots), DER. */
  readonly authorities: readonly Uint8Array[];
  /** vkeys of witnesses. */
  readonly witnesses: readonly string[];
}

type Files = ReadonlyMap<string, Uint8Array>;

interface Context {
  readonly manifest: BundleManifest;
  readonly files: Files;
  readonly trust: BundleTrust;
  readonly keys: readonly TrustedKey[];
  readonly findings: BundleFindings;
  readonly unchecked: BundleUnchecked[];
  /** What was given, of this question's streams and of the anchor stream, signed by trusted keys. */
  readonly given: readonly GivenCheckpoint[];
  readonly certificates: Certificates;
}

interface GivenCheckpoint extends StatedCheckpoint {
  readonly stream: string;
}

interface StreamFolder {
  readonly epoch: number;
  readonly report: BundleStreamReport;
  /** Items of outside evidence. */
  readonly evidence: number;
  /** Undefined where the folder can not be read so far. */
  readonly summary: SummaryStream | undefined;
}

/** Kinds that leave open whether the entries are all that were asked for. */
const AGAINST_COMPLETENESS: readonly BundleFindingKind[] = [
  'bundle',
  'checkpoint',
  'gap',
  'inconsistent',
  'key',
  'link',
  'record',
  'signature',
  'stamp',
  'truncated',
];

/** Throws an EvidenceError where what the verifier was told to trust is malformed: a mistake of who asks, not of the bundle. */
export function checkTrust({ key, witnesses }: BundleTrust): void {
  noteVerifier(parseVkey(key));
  for (const vkey of witnesses) parseCosignerVkey(vkey);
}

/** Returns what the bundle shows to somebody who trusts so much. Throws as `checkTrust` does, and else never. */
export async function verifyBundle(tar: Uint8Array, trust: BundleTrust): Promise<BundleReport> {
  checkTrust(trust);
  const findings = new BundleFindings();
  const unchecked: BundleUnchecked[] = [];
  let manifest: BundleManifest | undefined;
  let key: BundleKey | undefined;
  let streams: readonly BundleStreamReport[] = [];
  try {
    const { files, folders } = openBundle(tar);
    manifest = readManifest(files.get('manifest.json')!);
    checkManifest(manifest, files, findings);
    const keys = readTrustedKeys(manifest, files, trust, findings);
    key = signingNow(manifest, keys);
    const given = readGiven(manifest, trust, keys, findings, unchecked);
    const certificates = readCertified(manifest, files, trust, keys, findings);
    const context: Context = { manifest, files, trust, keys, findings, unchecked, given, certificates };
    streams = await checkStreams(context, folders);
  } catch (error) {
    findings.add('bundle', wordsOf(error));
  }
  const tampered = findings.list.length > 0;
  const open = streams.some(({ unanchored, pinned }) =>
    unanchored.some(({ to }) => !pinned.some(({ size }) => size >= to)),
  );
  return {
    verdict: tampered ? 'tampered' : unchecked.length > 0 ? 'incomplete' : open ? 'not_provable' : 'intact',
    ...(manifest === undefined ? {} : { origin: manifest.origin, question: manifest.question }),
    ...(key === undefined ? {} : { key }),
    findings: findings.list,
    truncated: findings.truncated,
    unchecked,
    streams,
  };
}

// ---- The file ----

/** Returns the files by name, and how many streams have a folder. Throws an EvidenceError. */
function openBundle(tar: Uint8Array): { files: Files; folders: number } {
  if (tar.length > BUNDLE_LIMITS.bytes) throw new EvidenceError(`a bundle has at most ${BUNDLE_LIMITS.bytes} bytes`);
  const files = readTar(tar, BUNDLE_FILES.length + 1 + STREAM_FILES.length * BUNDLE_LIMITS.streams);
  const first =
    files[BUNDLE_FILES.length]?.name === CERTIFICATES_FILE ? [...BUNDLE_FILES, CERTIFICATES_FILE] : BUNDLE_FILES;
  const folders = Math.floor((files.length - first.length) / STREAM_FILES.length);
  if (folders < 1) throw new EvidenceError('the bundle is of no stream');
  const names = [
    ...first,
    ...Array.from({ length: folders }, (_, i) => STREAM_FILES.map((name) => `${i}/${name}`)).flat(),
  ];
  if (names.length !== files.length || names.some((name, i) => files[i]!.name !== name))
    throw new EvidenceError('the files of the bundle are not those that it must have, in their order');
  return { files: new Map(files.map(({ name, bytes }: TarFile) => [name, bytes])), folders };
}

/** Throws an EvidenceError where the manifest is of other files. */
function checkManifest(manifest: BundleManifest, files: Files, findings: BundleFindings): void {
  const others = [...files].slice(1);
  if (manifest.files.length !== others.length || others.some(([name], i) => manifest.files[i]!.name !== name))
    throw new EvidenceError('the manifest lists other files');
  if ((manifest.bundle === 2) !== files.has(CERTIFICATES_FILE))
    throw new EvidenceError('certificates.ndjson is there in version 2, and in no other');
  for (const [i, [name, bytes]] of others.entries()) {
    const listed = manifest.files[i]!;
    if (listed.bytes !== bytes.length || listed.sha256 !== sha256Hex(bytes))
      findings.add('bundle', `${name} is not the file that the manifest lists`);
  }
}

function readCertified(
  manifest: BundleManifest,
  files: Files,
  trust: BundleTrust,
  keys: readonly TrustedKey[],
  findings: BundleFindings,
): Certificates {
  const bytes = files.get(CERTIFICATES_FILE);
  if (bytes === undefined) return NO_CERTIFICATES;
  const isUnknownKey = (stream: string): boolean => isOfOtherStream(manifest, trust, stream);
  try {
    return checkCertificates(bytes, manifest, keys, findings, isUnknownKey);
  } catch (error) {
    findings.add('bundle', wordsOf(error));
    return NO_CERTIFICATES;
  }
}

// ---- Keys and checkpoints ----

function readTrustedKeys(
  manifest: BundleManifest,
  files: Files,
  trust: BundleTrust,
  findings: BundleFindings,
): readonly TrustedKey[] {
  let statements: string[] = [];
  try {
    statements = readKeys(files.get('keys.json')!);
    checkKeyOrder(manifest.origin, statements);
  } catch (error) {
    findings.add('bundle', `keys.json: ${wordsOf(error)}`);
  }
  const { keys, problems } = trustedKeys(manifest.origin, trust.key, statements);
  for (const { kind, detail } of problems) findings.add(kind, detail);
  return keys;
}

/** Returns the newest key that the given one leads to. */
function signingNow({ origin }: BundleManifest, keys: readonly TrustedKey[]): BundleKey | undefined {
  const own = keys.filter(({ name, generation }) => name === origin || generation === undefined);
  const newest = own.reduce<TrustedKey | undefined>(
    (a, b) => (a === undefined || (b.generation ?? 0) > (a.generation ?? 0) ? b : a),
    undefined,
  );
  return newest && { vkey: newest.vkey, generation: newest.generation ?? null };
}

/** The deployment's statements by generation, then those of streams, by name, then generation. */
function checkKeyOrder(origin: string, statements: readonly string[]): void {
  const places: { name: string; generation: number }[] = [];
  for (const note of statements) {
    try {
      const { vkey, generation } = decodeKeyStatement(claimedText(note));
      const { name } = parseVkey(vkey);
      places.push({ name: name === origin ? '' : name, generation });
    } catch (error) {
      // What is no statement is told by `trustedKeys`.
      wordsOf(error);
    }
  }
  ascending(
    places,
    (a, b) => (a.name === b.name ? a.generation - b.generation : a.name < b.name ? -1 : 1),
    'key statements',
  );
}

/** Only a key of the whole deployment tells who signs the anchor stream. */
function knowsAnchorKeys({ manifest, trust }: Pick<Context, 'manifest' | 'trust'>): boolean {
  return parseVkey(trust.key).name === manifest.origin;
}

/** The key of one stream tells nothing of who signs another. */
function isOfOtherStream(manifest: BundleManifest, trust: BundleTrust, stream: string): boolean {
  const { name } = parseVkey(trust.key);
  return name.startsWith(`${manifest.origin}/`) && name !== `${manifest.origin}/${stream}`;
}

function readGiven(
  manifest: BundleManifest,
  trust: BundleTrust,
  keys: readonly TrustedKey[],
  findings: BundleFindings,
  unchecked: BundleUnchecked[],
): GivenCheckpoint[] {
  const given: GivenCheckpoint[] = [];
  for (const note of trust.checkpoints) {
    try {
      const stated = readStated(note);
      const stream = stated.origin.slice(manifest.origin.length + 1);
      const isOfLog = stated.origin === `${manifest.origin}/${stream}`;
      const isAnchor = isOfLog && anchorEpoch(stream) !== undefined;
      if (!isAnchor && !(isOfLog && epochOf(manifest, stream) !== undefined)) {
        unchecked.push({ detail: `a given checkpoint is of ${stated.origin}, which the bundle is not about` });
        continue;
      }
      if (isAnchor && !knowsAnchorKeys({ manifest, trust })) continue;
      if (isOfOtherStream(manifest, trust, stream)) {
        unchecked.push({ stream, detail: `a given checkpoint is of ${stream}, whose key is not known` });
        continue;
      }
      signersOf(stated, keys);
      given.push({ ...stated, stream });
    } catch (error) {
      findings.add('signature', `a given checkpoint: ${wordsOf(error)}`);
    }
  }
  return given;
}

/** Returns the epoch that a stream is of the manifest's tenant and category, or undefined. */
function epochOf({ question: { tenant, category } }: BundleManifest, stream: string): number | undefined {
  const first = `${tenant}/${category}`;
  if (stream === first) return 1;
  const match = stream.startsWith(`${first}/`) ? /^e([1-9]\d{0,8})$/.exec(stream.slice(first.length + 1)) : null;
  return match === null || match[1] === '1' ? undefined : Number(match[1]);
}

// ---- Streams ----

async function checkStreams(context: Context, folders: number): Promise<BundleStreamReport[]> {
  const { manifest, findings, unchecked } = context;
  const streams: StreamFolder[] = [];
  for (let i = 0; i < folders; i++) {
    try {
      const before = streams.at(-1);
      streams.push(await checkFolder(context, `${i}/`, before?.epoch ?? 0, before?.evidence ?? 0));
    } catch (error) {
      findings.add('bundle', `folder ${i}: ${wordsOf(error)}`);
    }
  }
  const epochs = streams.map(({ epoch }) => epoch);
  const lastEpoch = epochs.at(-1) ?? 0;
  if (streams.length === folders && lastEpoch !== folders)
    unchecked.push({
      detail: `of ${lastEpoch} epochs, the bundle has ${folders}: entries of the others are not shown`,
    });
  for (const { stream, size } of streams.length === folders ? context.given : []) {
    const epoch = epochOf(manifest, stream);
    if (epoch !== undefined && size > 0 && !epochs.includes(epoch))
      findings.add('truncated', `a given checkpoint is of ${stream}, of which the bundle has nothing`, stream);
  }
  checkSummary(context, streams, folders);
  return streams.map(({ report }) => ({
    ...report,
    complete: report.complete && !findings.has(report.stream, AGAINST_COMPLETENESS),
  }));
}

/** Throws an EvidenceError where nobody can say which stream the folder is of. */
async function checkFolder(
  context: Context,
  folder: string,
  epochBefore: number,
  evidenceBefore: number,
): Promise<StreamFolder> {
  const { manifest, files, findings, unchecked, keys } = context;
  const file = (name: (typeof STREAM_FILES)[number]): Uint8Array => files.get(`${folder}${name}`)!;
  const checkpoint = readStated(fromUtf8(file('checkpoint')));
  const { size, root } = checkpoint;
  const stream = checkpoint.origin.slice(manifest.origin.length + 1);
  const epoch = checkpoint.origin === `${manifest.origin}/${stream}` ? epochOf(manifest, stream) : undefined;
  if (epoch === undefined) throw new EvidenceError('the checkpoint is not of a stream that the question is about');
  if (epoch <= epochBefore) throw new EvidenceError(`${stream} is not in its place`);
  if (size === 0) throw new EvidenceError(`${stream} has no entries`);
  const attempt = <T>(name: (typeof STREAM_FILES)[number], read: (bytes: Uint8Array) => T, otherwise: T): T => {
    try {
      return read(file(name));
    } catch (error) {
      findings.add('bundle', `${name}: ${wordsOf(error)}`, stream);
      return otherwise;
    }
  };
  let signers: TrustedKey[] | undefined;
  if (isOfOtherStream(manifest, context.trust, stream))
    unchecked.push({ stream, detail: 'who signed its checkpoint: the given key is that of another stream' });
  else {
    try {
      signers = signersOf(checkpoint, keys);
    } catch (error) {
      findings.add('signature', `the checkpoint: ${wordsOf(error)}`, stream);
    }
  }

  const given = context.given.filter((one) => one.stream === stream);
  const range = attempt<ReadRange | undefined>('range.json', readRange, undefined);
  const result =
    range === undefined
      ? { asked: undefined, roots: new Map<number, Uint8Array>(), unproven: 0 }
      : checkRange(
          {
            stream,
            size,
            root,
            range,
            entries: file('entries'),
            openings: file('openings.ndjson'),
            question: manifest.question,
            sizes: given.map((one) => one.size),
            certificates: context.certificates,
          },
          findings,
        );
  if (result.unproven > 0)
    unchecked.push({
      stream,
      detail: `who certified what was erased from ${result.unproven} entries: the given key is that of another stream`,
    });
  const paths = attempt<ReadConsistency[] | undefined>('consistency.json', readConsistency, undefined);
  const roots = checkConsistencies(stream, checkpoint, paths ?? [], findings);

  const readAll = attempt<ReadAnchor[] | undefined>('anchors.json', readAnchors, undefined);
  const evidence = (readAll ?? []).reduce((sum, one) => sum + one.evidence.length, evidenceBefore);
  const isTooMuch = evidence > BUNDLE_LIMITS.evidence;
  if (isTooMuch) findings.add('bundle', `more than ${BUNDLE_LIMITS.evidence} items of evidence up to here`, stream);
  // Without the roots at other sizes nothing can be said of the anchors.
  const readable = paths === undefined || isTooMuch ? [] : (readAll ?? []);
  const anchors = await checkAnchors(context, stream, roots, readable);
  if (signers !== undefined && !signsNow(signers) && !wasSignedInTime(signers, size, anchors))
    findings.add(
      'key',
      'the checkpoint is signed by a key that signs no more, and no anchor shows that it did then',
      stream,
    );

  const pinned: { size: number }[] = [];
  for (const one of given) {
    const known = one.size === 0 ? one.root : (roots.get(one.size) ?? result.roots.get(one.size));
    if (one.size > size)
      findings.add(
        'truncated',
        `a given checkpoint is of ${one.size} entries, the newest in the bundle of ${size}`,
        stream,
      );
    else if (known === undefined)
      unchecked.push({
        stream,
        detail: `the bundle does not show the tree of the ${one.size} entries of a given checkpoint`,
      });
    else if (!sameCheckpoint(one, { ...one, root: known }))
      findings.add('inconsistent', `a given checkpoint has another root for ${one.size} entries`, stream);
    else pinned.push({ size: one.size });
  }

  const { first, end } = range ?? { first: 0, end: 0 };
  const asked = result.asked ?? { from: first, to: first };
  return {
    epoch,
    evidence,
    report: {
      stream,
      size,
      first,
      end,
      asked,
      entries: asked.to - asked.from,
      complete: result.asked !== undefined && signers !== undefined,
      ...anchoredParts({ from: first, to: end }, anchors),
      pinned: pinned.sort((a, b) => a.size - b.size),
    },
    summary:
      result.asked === undefined || readAll === undefined
        ? undefined
        : { name: stream, first: asked.from, end: asked.to, size, anchors: readAll.length },
  };
}

/** Returns the roots that are shown, by size: with that of the checkpoint. */
function checkConsistencies(
  stream: string,
  checkpoint: StatedCheckpoint,
  paths: readonly ReadConsistency[],
  findings: BundleFindings,
): Map<number, Uint8Array> {
  const roots = new Map([[checkpoint.size, checkpoint.root]]);
  for (const { from, root, path } of paths) {
    try {
      if (from === 0 || from >= checkpoint.size)
        throw new EvidenceError(`a consistency path from size ${from} to ${checkpoint.size} says nothing`);
      checkConsistency(from, checkpoint.size, root, checkpoint.root, path);
      roots.set(from, root);
    } catch (error) {
      findings.add('anchor', `from size ${from}: ${wordsOf(error)}`, stream);
    }
  }
  return roots;
}

// ---- Anchors ----

async function checkAnchors(
  context: Context,
  stream: string,
  roots: ReadonlyMap<number, Uint8Array>,
  anchors: readonly ReadAnchor[],
): Promise<CheckedAnchor[]> {
  const { manifest, trust, keys, findings, given } = context;
  const anchorContext: AnchorContext = {
    origin: manifest.origin,
    stream,
    rootAt: (size) => roots.get(size),
    keys,
    knowsAnchorKeys: knowsAnchorKeys(context),
    authorities: trust.authorities,
    witnesses: trust.witnesses,
    given: given.filter((one) => anchorEpoch(one.stream) !== undefined),
  };
  const checked: CheckedAnchor[] = [];
  for (const anchor of anchors) {
    const one = await checkAnchor(anchor, anchorContext, findings);
    if (one !== undefined) checked.push(one);
  }
  checkAnchorOrder(stream, anchors, findings);
  return checked;
}

/** By the size of the leaf, then by the place of the tick, then by the size of the anchor stream's checkpoint. */
function checkAnchorOrder(stream: string, anchors: readonly ReadAnchor[], findings: BundleFindings): void {
  const places: AnchorOrder[] = [];
  for (const { leaf, tick, checkpoint } of anchors) {
    try {
      const stated = readStated(checkpoint);
      places.push([leaf.size, stated.origin.length, stated.origin, tick.seq, stated.size]);
    } catch (error) {
      // That it is no checkpoint is told already.
      wordsOf(error);
    }
  }
  try {
    ascending(places, comparePlacesOf, 'anchors');
  } catch (error) {
    findings.add('bundle', wordsOf(error), stream);
  }
}

/** Names of later epochs are longer, or greater. */
type AnchorOrder = readonly [size: number, nameLength: number, name: string, seq: number, anchorSize: number];

function comparePlacesOf(a: AnchorOrder, b: AnchorOrder): number {
  const unequal = a.findIndex((value, i) => value !== b[i]);
  if (unequal < 0) return 0;
  return a[unequal]! < b[unequal]! ? -1 : 1;
}

/**
 * Docs/format.md section 19: what a retired key signed counts where it was a tick's leaf while that key still signed. Who stole a retired
 * key could make an anchor stream of his own and have it stamped today: only who signs now, or the verifier's own file, says where a tick
 * stands.
 */
function wasSignedInTime(signers: readonly TrustedKey[], size: number, anchors: readonly CheckedAnchor[]): boolean {
  return anchors.some(
    (anchor) =>
      anchor.size === size &&
      (anchor.signedNow || anchor.vouchers.some(({ kind }) => kind === 'checkpoint')) &&
      signedBefore(signers, anchor.tick),
  );
}

/** Cuts a range where other anchors begin to vouch: entries before an anchor's size are anchored by it. */
function anchoredParts(
  range: SeqRange,
  anchors: readonly CheckedAnchor[],
): Pick<BundleStreamReport, 'anchored' | 'unanchored'> {
  const vouched = anchors.filter(({ vouchers }) => vouchers.length > 0);
  const ends = [...new Set(vouched.map(({ size }) => Math.min(size, range.to)))].sort((a, b) => a - b);
  const anchored: { from: number; to: number; by: Voucher[] }[] = [];
  let from = range.from;
  for (const to of ends) {
    if (to <= from) continue;
    anchored.push({ from, to, by: vouched.filter(({ size }) => size >= to).flatMap(({ vouchers }) => vouchers) });
    from = to;
  }
  return { anchored, unanchored: from < range.to ? [{ from, to: range.to }] : [] };
}

/** Where other findings keep us from knowing what the summary must say, they say enough. */
function checkSummary({ manifest, files, findings }: Context, streams: readonly StreamFolder[], folders: number): void {
  const known = streams.map(({ summary }) => summary).filter((summary) => summary !== undefined);
  if (known.length !== folders) return;
  const expected = summaryText(manifest.origin, manifest.question, known, manifest.bundle);
  let actual: string | undefined;
  try {
    actual = fromUtf8(files.get('summary.txt')!);
  } catch (error) {
    wordsOf(error);
  }
  if (actual !== expected) findings.add('bundle', 'summary.txt does not say what the other files say');
}
