/**
 * A log on paper: everything that a bundle is made of, in memory and with keys at hand, so that bundles can be made of any shape, sound or
 * not. It repeats from the same seed. What the service writes is tested elsewhere; this shows what the verifier makes of it.
 */
import { checkpointLeafHash, TICK_ACTION, tickRoot, tickSteps } from '../../src/chain/anchor-tick.ts';
import { fromUtf8, toBase64, toHex, utf8 } from '../../src/chain/bytes.ts';
import { canonicalBytes, canonicalText, type JsonValue } from '../../src/chain/canonical.ts';
import { encodeCheckpoint } from '../../src/chain/checkpoint.ts';
import { type Cosigner, cosigner } from '../../src/chain/cosignature.ts';
import { STREAM_FILES, summaryText } from '../../src/chain/evidence-bundle.ts';
import { type AnchorPlace, anchorEpoch, encodeKeyStatement } from '../../src/chain/key-statement.ts';
import {
  appendLeaves,
  consistencyPath,
  frontierNodes,
  frontierRoot,
  inclusionPath,
  leafHash,
  perfectRoot,
  subtreesUpTo,
} from '../../src/chain/merkle.ts';
import { type NoteSigner, noteSigner, signNote } from '../../src/chain/note.ts';
import { type PartName, partCommitment, partsHash } from '../../src/chain/part.ts';
import { encodeRecord, NO_PREVIOUS } from '../../src/chain/record.ts';
import { formatInstant } from '../../src/chain/retain-until.ts';
import { sha256, sha256Hex } from '../../src/chain/sha256.ts';
import { TAR_END, tarHeader, tarPadding } from '../../src/chain/tar.ts';
import { encodeEntryBundle } from '../../src/chain/tile.ts';

export type Parts = { readonly [name in PartName]?: JsonValue };

interface PaperEntry {
  readonly record: Uint8Array;
  readonly recordedAt: number;
  readonly leaf: Uint8Array;
  readonly parts: readonly { readonly name: PartName; readonly salt: Uint8Array; readonly value: Uint8Array }[];
}

interface PaperLeaf {
  readonly stream: string;
  readonly size: number;
  readonly blind: Uint8Array;
  readonly anchor: string;
  readonly seq: number;
  readonly leaves: readonly Uint8Array[];
  readonly index: number;
}

export interface PaperAnchor {
  /** Which tick of the stream, the first at 0. */
  readonly tick: number;
  /** Of the anchor stream's checkpoint; without it its whole size. */
  readonly size?: number;
  readonly evidence?: (checkpointText: string) => JsonValue[];
  /** Whose key signs the checkpoint; without it the newest. */
  readonly generation?: number;
}

export interface PaperQuestion {
  readonly category?: string;
  readonly tenant?: string;
  readonly from?: number;
  readonly to?: number;
  readonly since?: readonly number[];
  readonly withhold?: readonly PartName[];
  readonly erased?: readonly PartName[];
  readonly anchors?: readonly PaperAnchor[];
  /** Sizes of the checkpoints; without it all there is. */
  readonly sizes?: Readonly<Record<string, number>>;
  /** Whose keys sign the checkpoints; without it the newest. */
  readonly generation?: number;
  /** More than the range with its neighbours. */
  readonly widen?: number;
}

/** 1 January 2026, where these logs begin. */
export const BEGIN = Date.UTC(2026, 0, 1);

export class PaperLog {
  readonly origin: string;
  readonly #seed: string;
  readonly #streams = new Map<string, PaperEntry[]>();
  readonly #leaves = new Map<string, PaperLeaf[]>();
  /** The first place of each generation. */
  readonly #generations: AnchorPlace[] = [{ epoch: 1, size: 0 }];
  #anchor = 'sealog/anchor';
  #random = 0;

  constructor(seed = 'paper', origin = 'log.example') {
    this.#seed = seed;
    this.origin = origin;
  }

  /** The vkey of the deployment. */
  key(generation = this.#generations.length): string {
    return this.signer(this.origin, generation).vkey;
  }

  signer(name: string, generation = this.#generations.length): NoteSigner {
    return noteSigner(name, sha256(`${this.#seed} ${generation} ${name}`));
  }

  witness(name = 'witness.example'): Cosigner {
    return cosigner(name, sha256(`${this.#seed} ${name}`));
  }

  /** Appends entries, each `stepMs` after the one before. */
  append(
    stream: string,
    entries: number,
    { parts = usualParts, stepMs = 1000 }: { parts?: (seq: number) => Parts; stepMs?: number } = {},
  ): void {
    for (let i = 0; i < entries; i++) {
      const all = this.#streams.get(stream) ?? [];
      const at = all.length === 0 ? BEGIN : all.at(-1)!.recordedAt + stepMs;
      this.#push(
        stream,
        at,
        `event-${all.length}`,
        'role.update',
        { service: 'mes-gateway', site: 'plant-7' },
        parts(all.length),
      );
    }
  }

  size(stream: string): number {
    return this.#streams.get(stream)?.length ?? 0;
  }

  entry(stream: string, seq: number): PaperEntry {
    return this.#streams.get(stream)![seq]!;
  }

  /** Puts checkpoints of these streams, as they are now, under a tick; with leaves of others. */
  tick(streams: readonly string[], others = 2): void {
    const place = streams.map((stream) => ({ stream, size: this.size(stream), blind: this.#bytes(16) }));
    const leaves = place.map(({ stream, size, blind }) => checkpointLeafHash(blind, this.text(stream, size)));
    for (let i = 0; i < others; i++) leaves.splice((this.#random + i) % (leaves.length + 1), 0, this.#bytes(32));
    const seq = this.size(this.#anchor);
    for (const { stream, size, blind } of place) {
      const index = leaves.findIndex(
        (leaf) => toHex(leaf) === toHex(checkpointLeafHash(blind, this.text(stream, size))),
      );
      const all = this.#leaves.get(stream) ?? [];
      this.#leaves.set(stream, [...all, { stream, size, blind, anchor: this.#anchor, seq, leaves, index }]);
    }
    this.#push(
      this.#anchor,
      BEGIN + 60_000 * (seq + 1),
      toHex(tickRoot(leaves)),
      TICK_ACTION,
      { service: 'sealog' },
      {},
    );
  }

  /** A new generation of keys signs from here on. */
  rotate(): void {
    this.#generations.push({ epoch: anchorEpoch(this.#anchor)!, size: this.size(this.#anchor) });
  }

  root(stream: string, size: number): Uint8Array {
    const leaves = this.#streams
      .get(stream)!
      .slice(0, size)
      .map(({ leaf }) => leaf);
    return frontierRoot(size, appendLeaves(0, [], leaves));
  }

  text(stream: string, size: number): string {
    return encodeCheckpoint({ origin: `${this.origin}/${stream}`, size, root: this.root(stream, size) });
  }

  checkpoint(stream: string, size = this.size(stream), generation = this.#generations.length): string {
    return signNote(this.text(stream, size), [this.signer(`${this.origin}/${stream}`, generation)]);
  }

  /** Statements of all generations, of the deployment and of these streams. */
  statements(streams: readonly string[]): string[] {
    const state = (name: string, generation: number): string => {
      const own = this.signer(this.origin, generation);
      const before = generation === 1 ? undefined : this.signer(this.origin, generation - 1);
      const { vkey } = this.signer(name, generation);
      const from = this.#generations[generation - 1]!;
      const text = encodeKeyStatement({ origin: this.origin, generation, from, vkey, previous: before?.vkey });
      return signNote(text, name === this.origin && before !== undefined ? [before, own] : [own]);
    };
    const generations = this.#generations.map((_, i) => i + 1);
    const names = streams.map((stream) => `${this.origin}/${stream}`).sort();
    return [this.origin, ...names].flatMap((name) => generations.map((generation) => state(name, generation)));
  }

  /** The files of a bundle. */
  files(question: PaperQuestion = {}): Map<string, Uint8Array> {
    const { category = 'configuration_change', tenant = 'acme', from, to } = question;
    const asked = {
      category,
      tenant,
      ...(from === undefined ? {} : { from: formatInstant(from) }),
      ...(to === undefined ? {} : { to: formatInstant(to) }),
    };
    const streams = [...this.#streams.keys()].filter((name) =>
      new RegExp(`^${tenant}/${category}(/e\\d+)?$`).test(name),
    );
    const files = new Map<string, Uint8Array>();
    const summary: Parameters<typeof summaryText>[2][number][] = [];
    for (const [i, stream] of streams.entries()) {
      const folder = this.#folder(stream, question);
      for (const name of STREAM_FILES) files.set(`${i}/${name}`, folder.files[name]!);
      summary.push(folder.summary);
    }
    const keys = this.statements([
      ...streams,
      ...[...this.#streams.keys()].filter((name) => anchorEpoch(name) !== undefined),
    ]);
    const all = new Map<string, Uint8Array>([
      ['summary.txt', utf8(summaryText(this.origin, asked as Parameters<typeof summaryText>[1], summary))],
      ['keys.json', canonicalBytes(keys)],
      ...files,
    ]);
    return new Map([['manifest.json', manifestOf(this.origin, asked, all)], ...all]);
  }

  bundle(question: PaperQuestion = {}): Uint8Array {
    return packTar(this.files(question));
  }

  #folder(stream: string, question: PaperQuestion) {
    const { from = 0, to = Number.POSITIVE_INFINITY, since = [], anchors = [], widen = 0 } = question;
    const size = question.sizes?.[stream] ?? this.size(stream);
    const entries = this.#streams.get(stream)!.slice(0, size);
    const countBefore = (instant: number): number => {
      const index = entries.findIndex(({ recordedAt }) => recordedAt >= instant);
      return index < 0 ? size : index;
    };
    const [askedFirst, askedEnd] = [countBefore(from), countBefore(to)];
    const first = Math.max(0, askedFirst - 1 - widen);
    const end = Math.min(size, askedEnd + 1 + widen);
    const range = entries.slice(first, end);
    const leaves = this.#leaves.get(stream) ?? [];
    const chosen = anchors.filter(({ tick }) => leaves[tick] !== undefined && leaves[tick].size <= size);
    const sizes = [...new Set([...chosen.map(({ tick }) => leaves[tick]!.size), ...since])]
      .filter((one) => one > 0 && one < size)
      .sort((a, b) => a - b);
    const getNode = nodesOf(entries.map(({ leaf }) => leaf));
    const hexOf = (nodes: readonly { level: number; index: number }[]) =>
      nodes.map(({ level, index }) => toHex(getNode(level, index)));
    const files: Record<string, Uint8Array> = {
      checkpoint: utf8(this.checkpoint(stream, size, question.generation)),
      'range.json': canonicalBytes({
        first,
        end,
        left: hexOf(frontierNodes(first)),
        right: hexOf(subtreesUpTo(end, size)),
      }),
      entries: encodeEntryBundle(range.map(({ record }) => record)),
      'openings.ndjson': utf8(range.map((entry, i) => openingLine(entry, first + i, question)).join('')),
      'consistency.json': canonicalBytes(
        sizes.map((one) => ({
          from: one,
          root: toHex(this.root(stream, one)),
          path: consistencyPath(one, size, getNode).map(toHex),
        })),
      ),
      'anchors.json': canonicalBytes(chosen.map((anchor) => this.#anchorItem(leaves[anchor.tick]!, anchor))),
    };
    return { files, summary: { name: stream, first: askedFirst, end: askedEnd, size, anchors: chosen.length } };
  }

  #anchorItem(
    leaf: PaperLeaf,
    { size = this.size(leaf.anchor), evidence = () => [], generation }: PaperAnchor,
  ): JsonValue {
    const ticks = this.#streams.get(leaf.anchor)!.slice(0, size);
    const steps = tickSteps(leaf.leaves, leaf.index);
    const items = evidence(this.text(leaf.anchor, size)).map((one) => [canonicalText(one), one] as const);
    return {
      checkpoint: this.checkpoint(leaf.anchor, size, generation),
      evidence: items.sort(([a], [b]) => (a < b ? -1 : 1)).map(([, one]) => one),
      leaf: {
        blind: toHex(leaf.blind),
        path: steps.map(({ side, hash }) => (side === 'left' ? { left: toHex(hash) } : { right: toHex(hash) })),
        size: leaf.size,
      },
      tick: {
        path: inclusionPath(leaf.seq, size, nodesOf(ticks.map((tick) => tick.leaf))).map(toHex),
        record: fromUtf8(ticks[leaf.seq]!.record),
        seq: leaf.seq,
      },
    };
  }

  #push(
    stream: string,
    recordedAt: number,
    id: string,
    action: string,
    source: { [name: string]: string },
    values: Parts,
  ): void {
    const all = this.#streams.get(stream) ?? [];
    this.#streams.set(stream, all);
    const names = (Object.keys(values) as PartName[]).sort();
    const parts = names.map((name) => ({ name, salt: this.#bytes(16), value: canonicalBytes(values[name]!) }));
    const commitments = parts.map(({ name, salt, value }) => ({ name, commitment: partCommitment(name, salt, value) }));
    const at = formatInstant(recordedAt);
    const record = utf8(
      encodeRecord({
        stream,
        id,
        action,
        outcome: 'success',
        occurredAt: at,
        source,
        parts: toHex(partsHash(commitments)),
        seq: all.length,
        previous: all.length === 0 ? NO_PREVIOUS : toHex(all.at(-1)!.leaf),
        recordedAt: at,
        ...(anchorEpoch(stream) === undefined ? { retainUntil: formatInstant(recordedAt + 365 * 86_400_000) } : {}),
      }),
    );
    all.push({ record, recordedAt, leaf: leafHash(record), parts });
  }

  #bytes(length: number): Uint8Array {
    this.#random += 1;
    return sha256(`${this.#seed} random ${this.#random}`).subarray(0, length);
  }
}

/** A cosignature as an item of `evidence`. */
export function witnessEvidence(witness: Cosigner, time: number, name = 'witness-1'): (text: string) => JsonValue[] {
  return (text) => [{ kind: 'witness', name, line: witness.cosign(text, time) }];
}

/** Tokens as items of `evidence`. */
export function tokenEvidence(
  token: Uint8Array,
  certificates: readonly Uint8Array[] = [],
  crls: readonly Uint8Array[] = [],
) {
  return (): JsonValue[] => [
    {
      kind: 'rfc3161',
      name: 'tsa-1',
      token: toBase64(token),
      certificates: certificates.map(toBase64).sort(),
      crls: crls.map(toBase64).sort(),
    },
  ];
}

export function manifestOf(origin: string, question: JsonValue, files: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const listed = [...files].map(([name, bytes]) => ({ name, bytes: bytes.length, sha256: sha256Hex(bytes) }));
  return canonicalBytes({ bundle: 1, files: listed, origin, question });
}

export function packTar(files: Iterable<readonly [string, Uint8Array]>): Uint8Array {
  const parts = [...files].flatMap(([name, bytes]) => [
    tarHeader(name, bytes.length),
    bytes,
    new Uint8Array(tarPadding(bytes.length)),
  ]);
  return new Uint8Array(Buffer.concat([...parts, TAR_END]));
}

function openingLine({ parts }: PaperEntry, seq: number, { withhold = [], erased = [] }: PaperQuestion): string {
  const open = parts.map(({ name, salt, value }) => {
    const state = withhold.includes(name) ? 'withheld' : erased.includes(name) ? 'erased' : undefined;
    if (state === undefined)
      return [name, { salt: toHex(salt), value: JSON.parse(fromUtf8(value)) as JsonValue }] as const;
    return [name, { commitment: toHex(partCommitment(name, salt, value)), state }] as const;
  });
  return `${canonicalText({ seq, parts: Object.fromEntries(open) })}\n`;
}

function nodesOf(leaves: readonly Uint8Array[]): (level: number, index: number) => Uint8Array {
  return (level, index) => perfectRoot(leaves.slice(index * 2 ** level, (index + 1) * 2 ** level));
}

function usualParts(seq: number): Parts {
  return {
    actor: { type: 'user', id: `u-${seq % 3}`, name: 'Zoë Weiß' },
    ...(seq % 2 === 0 ? { changes: { before: { limit: 1.5, '10': null }, after: { limit: 1e21, ﬀ: '\\"' } } } : {}),
    ...(seq % 3 === 0 ? { reason: 'CR-1182 approved' } : {}),
    target: { type: 'role', id: 'operator' },
  };
}
