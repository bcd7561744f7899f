/**
 * Writes an evidence bundle (docs/format.md section 22).
 *
 * Its manifest stands first and says the hash of everything behind it, so entries and openings are spooled, and what is sent is sent from
 * there. Nothing holds a snapshot: what a signed checkpoint covers never changes, and it is all that a bundle is about. The writer vouches
 * for nothing; what it read wrong, the verifier finds.
 */
import { createHash } from 'node:crypto';
import type { Kysely } from 'kysely';
import type { StoredBlock } from '../chain/block.ts';
import { equalBytes, fromUtf8, toHex, utf8 } from '../chain/bytes.ts';
import { canonicalText, type JsonValue } from '../chain/canonical.ts';
import type { Category } from '../chain/category.ts';
import { entryIdHash } from '../chain/entry.ts';
import { erasedParts } from '../chain/entry-view.ts';
import {
  BUNDLE_LIMITS,
  type BundleConsistency,
  type BundleQuestion,
  type BundleRange,
  CERTIFICATES_FILE,
  STREAM_FILES,
  type SummaryStream,
  summaryText,
} from '../chain/evidence-bundle.ts';
import {
  consistencyNodes,
  consistencyPath,
  frontierNodes,
  frontierRoot,
  type GetNode,
  inclusionNodes,
  inclusionPath,
  subtreesUpTo,
} from '../chain/merkle.ts';
import { type Entry, openBlock, openRecords } from '../chain/open-block.ts';
import { commitmentOf, isOpen, type PartName } from '../chain/part.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { TAR_END, tarHeader, tarPadding } from '../chain/tar.ts';
import { encodeEntryBundle } from '../chain/tile.ts';
import { EvidenceError, KeyUnavailableError, Problem } from '../errors.ts';
import { checkpointsOf, keyStatements, type StoredCheckpoint } from '../store/checkpoints.ts';
import type { AsTenant } from '../store/database.ts';
import { erasedOf } from '../store/erasures.ts';
import { blockOf, blocksFrom, placesOfId, prunedOf } from '../store/log-reader.ts';
import { type StreamRow, streamsOf } from '../store/streams.ts';
import type { Tables } from '../store/tables.ts';
import { rootAt, treeNodes } from '../store/tree-hashes.ts';
import { type AnchorStream, anchorStreams, bundleAnchors } from './bundle-anchors.ts';
import { Spool, type SpooledBytes } from './spool.ts';

export interface BundleSources {
  readonly origin: string;
  /** Sees the tenant. */
  readonly ask: AsTenant;
  /** Sees the anchor stream, and all leaves of a tick. */
  readonly verifier: Kysely<Tables>;
  readonly keys: { keysById(id: string): Promise<{ readonly dataKey: Uint8Array }> };
}

export interface BundleRequest {
  readonly tenant: string;
  readonly category: Category;
  /** Milliseconds since 1970: entries recorded from `from` on and before `to`. */
  readonly from: number | undefined;
  readonly to: number | undefined;
  /** Sizes of checkpoints that the verifier has. */
  readonly since: readonly number[];
  readonly withhold: ReadonlySet<PartName>;
  /** These entries of one stream, whatever was asked for: the question is then about those recorded after the first and not after the last. */
  readonly only?: { readonly stream: string; readonly first: number; readonly end: number };
}

/** A bundle that is ready to be sent; it MUST be closed. */
export interface Bundle {
  readonly bytes: number;
  /** May be called once. */
  content(): AsyncGenerator<Uint8Array>;
  close(): Promise<void>;
}

/** What one bundle may hold: minutes of work, and room in the folder for temporary files. */
export interface BundleBounds {
  readonly entriesMax: number;
  readonly bytesMax: number;
}

export const BUNDLE_BOUNDS: BundleBounds = { entriesMax: 1_000_000, bytesMax: 2 ** 30 };

interface SignedEpoch {
  readonly row: StreamRow;
  readonly checkpoint: StoredCheckpoint;
}

/** The entries of a range: asked for from `askedFirst` up to, not including, `askedEnd`, and their neighbours. */
interface Range {
  readonly first: number;
  readonly end: number;
  readonly askedFirst: number;
  readonly askedEnd: number;
}

interface FileContent {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly from: { readonly spool: Spool; readonly run: SpooledBytes } | { readonly text: Uint8Array };
}

/** Blocks that are read at once: 2 MiB of records and parts. */
const BLOCKS_AT_ONCE = 16;

/**
 * Returns the bundle, or throws a Problem: `not_found` where the tenant has no such stream, `not_yet_checkpointed`, `too_large`,
 * `not_ready`. Ends early when the signal is aborted.
 */
export async function writeBundle(
  sources: BundleSources,
  request: BundleRequest,
  bounds: BundleBounds,
  signal: AbortSignal,
): Promise<Bundle> {
  const { only } = request;
  const all = await signedEpochs(sources, request.category);
  const epochs = only === undefined ? all : all.filter(({ row }) => row.name === only.stream);
  if (epochs.length === 0) throw new Problem('not_found');
  try {
    return await bundleOf(sources, request, epochs, bounds, signal);
  } catch (error) {
    throw (await expiredMeanwhile(sources, epochs, error)) ?? error;
  }
}

/** What is not there, or does not open, may have expired while the bundle was made. */
async function expiredMeanwhile(
  { ask }: BundleSources,
  epochs: readonly SignedEpoch[],
  error: unknown,
): Promise<Problem | undefined> {
  const mayBe = error instanceof EvidenceError || (error instanceof Problem && error.code === 'not_ready');
  if (!mayBe) return undefined;
  for (const { row } of epochs) {
    const pruned = await ask((database) => prunedOf(database, row.id));
    if (pruned > row.pruned) return expired(row.name, pruned);
  }
  return undefined;
}

function expired(name: string, pruned: number): Problem {
  const detail = `the entries of ${name} before ${pruned} have expired and are gone: ask for what was recorded after entry ${pruned}`;
  return new Problem('not_found', { detail });
}

async function bundleOf(
  sources: BundleSources,
  request: BundleRequest,
  epochs: readonly SignedEpoch[],
  bounds: BundleBounds,
  signal: AbortSignal,
): Promise<Bundle> {
  const { only } = request;
  const asked = only === undefined ? request : { ...request, ...(await timeOf(sources.ask, epochs[0]!, only)) };
  const anchors = await anchorStreams(sources.verifier);
  const ranges: Range[] = [];
  for (const { row, checkpoint } of epochs) {
    ranges.push(await findRange(sources.ask, row, checkpoint.size, asked));
    signal.throwIfAborted();
  }
  const entries = ranges.reduce((sum, { first, end }) => sum + end - first, 0);
  if (entries > bounds.entriesMax)
    throw tooLarge(`${entries} entries were recorded in this time, more than ${bounds.entriesMax}`);

  const records = await Spool.make();
  const openings = await Spool.make();
  const close = async (): Promise<void> => {
    await Promise.all([records.close(), openings.close()]);
  };
  try {
    const files: FileContent[] = [];
    const certificates = new Set<string>();
    const summary: SummaryStream[] = [];
    const evidenceMax = Math.floor(BUNDLE_LIMITS.evidence / epochs.length);
    for (const [i, epoch] of epochs.entries()) {
      const range = ranges[i]!;
      const erased = await spoolEntries(sources, epoch.row, range, request.withhold, records, openings, bounds, signal);
      for (const id of erased) certificates.add(id);
      const made = await streamFiles(sources, epoch, range, request.since, anchors, evidenceMax);
      const texts: Readonly<Record<string, string>> = made.texts;
      for (const name of STREAM_FILES) {
        const path = `${i}/${name}`;
        const spool = name === 'entries' ? records : name === 'openings.ndjson' ? openings : undefined;
        if (spool === undefined) files.push(textFile(path, texts[name]!));
        else {
          const run = await spool.end();
          files.push({ name: path, bytes: run.bytes, sha256: run.sha256, from: { spool, run } });
        }
      }
      const { askedFirst: first, askedEnd: end } = range;
      summary.push({ name: epoch.row.name, first, end, size: epoch.checkpoint.size, anchors: made.anchors });
      signal.throwIfAborted();
    }
    const question: BundleQuestion = {
      tenant: request.tenant,
      category: request.category,
      ...(asked.from === undefined ? {} : { from: formatInstant(asked.from) }),
      ...(asked.to === undefined ? {} : { to: formatInstant(asked.to) }),
    };
    const certified = await certificateLines(sources, [...certificates]);
    const keys = await bundleKeys(sources, [
      ...new Set([...epochs.map(({ row }) => row.name), ...certified.streams, ...anchors.map(({ name }) => name)]),
    ]);
    const version = certified.lines === '' ? 1 : 2;
    files.unshift(
      textFile('summary.txt', summaryText(sources.origin, question, summary, version)),
      textFile('keys.json', canonicalText(keys)),
      ...(version === 1 ? [] : [textFile(CERTIFICATES_FILE, certified.lines)]),
    );
    const listed = files.map(({ name, bytes, sha256 }) => ({ name, bytes, sha256 }));
    files.unshift(
      textFile('manifest.json', jsonText({ bundle: version, files: listed, origin: sources.origin, question })),
    );
    return {
      bytes: files.reduce((sum, { bytes }) => sum + 512 + bytes + tarPadding(bytes), TAR_END.length),
      content: () => tarOf(files),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function* tarOf(files: readonly FileContent[]): AsyncGenerator<Uint8Array> {
  for (const { name, bytes, from } of files) {
    yield tarHeader(name, bytes);
    if ('text' in from) yield from.text;
    else yield* from.spool.read(from.run);
    yield new Uint8Array(tarPadding(bytes));
  }
  yield TAR_END;
}

// ---- What there is ----

/**
 * The epochs of a category, each with its newest checkpoint. An older epoch that was closed because its database contradicts what was
 * signed may not come to its checkpoint any more: it is left out, and so is one that has expired; a verifier then says that it is missing.
 */
async function signedEpochs({ ask }: BundleSources, category: Category): Promise<SignedEpoch[]> {
  const rows = (await ask((database) => streamsOf(database, category))).filter(({ size }) => size > 0);
  const newest = rows.at(-1);
  if (newest === undefined) throw new Problem('not_found');
  const checkpoints = await ask((database) =>
    checkpointsOf(
      database,
      rows.map(({ id }) => id),
    ),
  );
  const epochs: SignedEpoch[] = [];
  for (const row of rows) {
    const checkpoint = checkpoints.find(({ streamId }) => streamId === row.id);
    const isNewest = row === newest;
    if (checkpoint === undefined || checkpoint.size === 0) continue;
    // Nothing is left of it to show.
    if (!isNewest && row.pruned >= row.size) continue;
    if (isNewest || (await comesTo(ask, row, checkpoint))) epochs.push({ row, checkpoint });
  }
  if (epochs.length === 0) throw new Problem('not_yet_checkpointed');
  return epochs.slice(-BUNDLE_LIMITS.streams);
}

async function comesTo(ask: AsTenant, row: StreamRow, { size, root }: StoredCheckpoint): Promise<boolean> {
  if (size > row.size) return false;
  try {
    return equalBytes(await ask((database) => rootAt(database, row, size)), root);
  } catch (error) {
    if (error instanceof EvidenceError) return false;
    throw error;
  }
}

async function findRange(
  ask: AsTenant,
  { id, name, pruned }: StreamRow,
  size: number,
  { from, to, only }: Pick<BundleRequest, 'from' | 'to' | 'only'>,
): Promise<Range> {
  const askedFirst = from === undefined ? 0 : await seqFrom(ask, id, pruned, size, from);
  // What a range begins with is shown by the entry before it.
  if (pruned > 0 && askedFirst <= pruned) throw expired(name, pruned);
  const askedEnd = to === undefined ? size : Math.max(askedFirst, await seqFrom(ask, id, askedFirst, size, to));
  return {
    first: only?.first ?? Math.max(0, askedFirst - 1),
    end: Math.min(size, askedEnd + 1),
    askedFirst,
    askedEnd,
  };
}

/** The time that leaves the first entry as the one before it (but at the stream's beginning), and ends behind the last. */
async function timeOf(
  ask: AsTenant,
  { row, checkpoint }: SignedEpoch,
  { first, end }: NonNullable<BundleRequest['only']>,
): Promise<{ from: number | undefined; to: number | undefined }> {
  const stampOf = async (seq: number): Promise<number> => {
    const block = await ask((database) => blockOf(database, row.id, seq));
    if (block === undefined) throw new EvidenceError(`entry ${seq} of ${row.name} is missing`);
    return Date.parse(openRecords(block)[seq - block.firstSeq]!.record.recordedAt);
  };
  return {
    from: first === 0 ? undefined : (await stampOf(first)) + 1,
    to: end >= checkpoint.size ? undefined : (await stampOf(end - 1)) + 1,
  };
}

/** Returns the first seq from `begin` on and below `size` that was recorded at `instant` or later, else `size`. recordedAt never decreases. */
async function seqFrom(ask: AsTenant, streamId: number, begin: number, size: number, instant: number): Promise<number> {
  let [low, high] = [begin, size];
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    const block = await ask((database) => blockOf(database, streamId, middle));
    if (block === undefined) throw new EvidenceError(`entry ${middle} of stream ${streamId} is missing`);
    if (block.recordedTo < instant) low = block.firstSeq + block.entries;
    else if (block.recordedFrom >= instant) high = Math.min(high, block.firstSeq);
    else {
      const inBlock = openRecords(block).findIndex(({ record }) => Date.parse(record.recordedAt) >= instant);
      return Math.min(size, block.firstSeq + (inBlock < 0 ? block.entries : inBlock));
    }
  }
  return Math.min(low, size);
}

// ---- Files ----

/** Writes the records and openings of a range. Returns the ids of the certificates by which parts of them were erased. */
async function spoolEntries(
  { ask, keys }: BundleSources,
  { id, name }: StreamRow,
  { first, end }: Range,
  withhold: ReadonlySet<PartName>,
  records: Spool,
  openings: Spool,
  bounds: BundleBounds,
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  const certificates = new Set<string>();
  for (let next = first; next < end; ) {
    const blocks = await ask((database) => blocksFrom(database, id, next, BLOCKS_AT_ONCE));
    const before = next;
    for (const block of blocks) {
      signal.throwIfAborted();
      if (next >= end) break;
      if (block.firstSeq > next) throw new EvidenceError(`${name} has no block with entry ${next}`);
      const entries = await openEntries(keys, name, block, next, end);
      const lacking = entries.filter((entry) => erasedParts(entry).length > 0).map(({ record }) => record.seq);
      for (const { certificate } of await ask((database) => erasedOf(database, id, lacking)))
        certificates.add(certificate);
      for (const entry of entries) {
        await records.write(encodeEntryBundle([entry.bytes]));
        await openings.write(utf8(openingLine(entry, withhold)));
      }
      next = Math.min(end, Math.max(next, block.firstSeq + block.entries));
      if (records.bytes + openings.bytes > bounds.bytesMax)
        throw tooLarge(`these entries have more than ${bounds.bytesMax} bytes`);
    }
    if (next === before) throw new EvidenceError(`${name} has no block with entry ${next}`);
  }
  return certificates;
}

async function openEntries(
  keys: BundleSources['keys'],
  stream: string,
  block: StoredBlock,
  from: number,
  end: number,
): Promise<Entry[]> {
  let dataKey: Uint8Array;
  try {
    ({ dataKey } = await keys.keysById(block.keyId));
  } catch (cause) {
    if (cause instanceof KeyUnavailableError)
      throw new Problem('not_ready', { detail: 'a key that entries are sealed with can not be had now', cause });
    throw cause;
  }
  return openBlock(block, stream, dataKey).filter(({ record }) => record.seq >= from && record.seq < end);
}

/** The entries that certify erasures, as far as a checkpoint of their stream covers them, in order of epoch and seq, and their streams. */
async function certificateLines(
  { ask, keys }: BundleSources,
  ids: readonly string[],
): Promise<{ lines: string; streams: readonly string[] }> {
  if (ids.length === 0) return { lines: '', streams: [] };
  const lines: string[] = [];
  const streams: string[] = [];
  const rows = await ask((database) => streamsOf(database, 'log_administration'));
  const checkpoints = await ask((database) =>
    checkpointsOf(
      database,
      rows.map(({ id }) => id),
    ),
  );
  for (const row of rows.toSorted((a, b) => a.epoch - b.epoch)) {
    const checkpoint = checkpoints.find(({ streamId }) => streamId === row.id);
    if (checkpoint === undefined || !(await comesTo(ask, row, checkpoint))) continue;
    const seqs: number[] = [];
    for (const id of ids) {
      const places = await ask((database) => placesOfId(database, [row.id], entryIdHash(id)));
      seqs.push(...places.map(({ seq }) => seq).filter((seq) => seq < checkpoint.size));
    }
    for (const seq of [...new Set(seqs)]
      .sort((a, b) => a - b)
      .slice(0, BUNDLE_LIMITS.certificateEntries - lines.length)) {
      const block = await ask((database) => blockOf(database, row.id, seq));
      if (block === undefined) continue;
      const [entry] = await openEntries(keys, row.name, block, seq, seq + 1);
      if (entry === undefined || !ids.includes(entry.record.id)) continue;
      const getNode = await ask((database) =>
        treeNodes(database, row, checkpoint.size, inclusionNodes(seq, checkpoint.size)),
      );
      const path = inclusionPath(seq, checkpoint.size, getNode).map(toHex);
      const note = canonicalText(checkpoint.note);
      const record = canonicalText(fromUtf8(entry.bytes));
      lines.push(
        `{"checkpoint":${note},"parts":${partsText(entry, WITHHELD)},"path":${jsonText(path)},"record":${record}}\n`,
      );
      if (!streams.includes(row.name)) streams.push(row.name);
    }
  }
  return { lines: lines.join(''), streams };
}

/** Of a certificate: who brought it about is no business of a bundle about something else. */
const WITHHELD: ReadonlySet<PartName> = new Set<PartName>(['actor', 'target', 'reason']);

/** A line of `openings.ndjson`. Values are canonical texts already; so is what is put around them. */
function openingLine(entry: Entry, withhold: ReadonlySet<PartName>): string {
  return `{"parts":${partsText(entry, withhold)},"seq":${entry.record.seq}}\n`;
}

function partsText({ parts }: Entry, withhold: ReadonlySet<PartName>): string {
  const members = parts.map((part) => {
    if (isOpen(part) && !withhold.has(part.name))
      return `"${part.name}":{"salt":"${toHex(part.salt)}","value":${fromUtf8(part.value)}}`;
    const state = isOpen(part) ? 'withheld' : 'erased';
    return `"${part.name}":{"commitment":"${toHex(commitmentOf(part))}","state":"${state}"}`;
  });
  return `{${members.join(',')}}`;
}

/** The files of a folder but for entries and openings, and how many anchors there are. */
async function streamFiles(
  { ask, verifier, origin }: BundleSources,
  { row, checkpoint }: SignedEpoch,
  { first, end }: Range,
  since: readonly number[],
  streams: readonly AnchorStream[],
  evidenceMax: number,
): Promise<{
  texts: Record<'checkpoint' | 'range.json' | 'consistency.json' | 'anchors.json', string>;
  anchors: number;
}> {
  const { size } = checkpoint;
  const generations = await keyStatements(verifier, [origin]);
  const isRetired = generations.some(({ generation }) => generation > checkpoint.generation);
  const anchors = await bundleAnchors(verifier, streams, row.id, end, isRetired ? size : undefined, evidenceMax);
  // A leaf may be of a newer checkpoint than this one: between reading the two, the signer went on.
  const covered = anchors.filter(({ leaf }) => leaf.size <= size);
  const sizes = [...new Set([...covered.map(({ leaf }) => leaf.size), ...since])]
    .filter((one) => one > 0 && one < size)
    .sort((a, b) => a - b);
  const right = subtreesUpTo(end, size);
  const wanted = [
    ...frontierNodes(first),
    ...right,
    ...sizes.flatMap((one) => [...frontierNodes(one), ...consistencyNodes(one, size)]),
  ];
  const getNode: GetNode = await ask((database) => treeNodes(database, row, size, wanted));
  const hashesOf = (nodes: readonly { level: number; index: number }[]) =>
    nodes.map(({ level, index }) => getNode(level, index));
  const range: BundleRange = {
    first,
    end,
    left: hashesOf(frontierNodes(first)).map(toHex),
    right: hashesOf(right).map(toHex),
  };
  const consistency: BundleConsistency[] = sizes.map((from) => ({
    from,
    root: toHex(frontierRoot(from, hashesOf(frontierNodes(from)))),
    path: consistencyPath(from, size, getNode).map(toHex),
  }));
  const texts = {
    checkpoint: checkpoint.note,
    'range.json': jsonText(range),
    'consistency.json': jsonText(consistency),
    'anchors.json': jsonText(covered),
  };
  return { texts, anchors: covered.length };
}

/** The deployment's statements by generation, then those of these streams, by name and generation. */
async function bundleKeys({ verifier, origin }: BundleSources, streams: readonly string[]): Promise<string[]> {
  const names = new Set(streams.map((stream) => `${origin}/${stream}`));
  const statements = await keyStatements(verifier, [origin, ...names]);
  const rank = ({ name }: { name: string }): string => (name === origin ? '' : name);
  return statements
    .toSorted((a, b) => {
      const [left, right] = [rank(a), rank(b)];
      return left === right ? a.generation - b.generation : left < right ? -1 : 1;
    })
    .map(({ note }) => note);
}

function textFile(name: string, content: string): FileContent {
  const text = utf8(content);
  return { name, bytes: text.length, sha256: createHash('sha256').update(text).digest('hex'), from: { text } };
}

function jsonText(value: unknown): string {
  return canonicalText(value as JsonValue);
}

function tooLarge(detail: string): Problem {
  return new Problem('too_large', {
    detail: `${detail}: ask for a shorter time`,
    errors: [{ field: 'from', message: 'must be nearer to `to`' }],
  });
}
