/**
 * The parts of one block, opened and held to what the records commit to: commitments, canonical form, erasures, and the tags that follow.
 *
 * It is half of the work of a verification and needs nothing but the block and its records, so whoever has a thread to spare lets that do it
 * (`PartsChecker`).
 */

import { equalBytes } from '../chain/bytes.ts';
import { checkCanonical, decodeCanonical, type JsonValue } from '../chain/canonical.ts';
import { CERTIFICATE_ACTIONS, streamParts } from '../chain/certificate.ts';
import { checkParts, openParts } from '../chain/open-block.ts';
import { isOpen, type Part, type PartName } from '../chain/part.ts';
import type { Rec } from '../chain/record.ts';
import { type Mark, marksOf, type TagKind, tagOf } from '../chain/tag.ts';
import { EvidenceError } from '../errors.ts';
import type { FindingKind } from './findings.ts';

/** A block's parts, and what its records say. */
export interface PartsJob {
  readonly stream: string;
  /** The seq of the first entry. */
  readonly begin: number;
  /** As stored: sealed. */
  readonly parts: Uint8Array;
  /** Of each entry, as far as parts and tags go. */
  readonly records: readonly Pick<Rec, 'seq' | 'parts' | 'action' | 'source'>[];
  readonly dataKey: Uint8Array;
  readonly tagKey: Uint8Array;
}

export interface PartsResult {
  /** Why the block's parts do not open; undefined where they do. */
  readonly closed: string | undefined;
  readonly findings: readonly { readonly kind: FindingKind; readonly detail: string; readonly seq: number }[];
  /** Parts of which only the commitment is left. Whether a certificate says why is not known here. */
  readonly gone: readonly GonePart[];
  /** Entries of `log_administration` that say that they are certificates: their details, which are what the record commits to. */
  readonly certificates: readonly { readonly seq: number; readonly details: Uint8Array }[];
  /** The tags of the block, each once, as its open parts have them; undefined where they are not known. */
  readonly tags: readonly bigint[] | undefined;
}

export interface GonePart {
  readonly seq: number;
  readonly name: PartName;
}

/** What checks blocks, one after the other or several at once. */
export interface PartsChecker {
  check(job: PartsJob): PartsResult | Promise<PartsResult>;
}

/** Checks on this thread. */
export class PartsCheck implements PartsChecker {
  readonly #tags = new Tags();

  check({ stream, begin, parts: sealed, records, dataKey, tagKey }: PartsJob): PartsResult {
    let parts: Part[][];
    try {
      parts = openParts({ parts: sealed }, stream, dataKey, records);
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      return { closed: error.message, findings: [], gone: [], certificates: [], tags: undefined };
    }
    const found: Found = { findings: [], gone: [], certificates: [] };
    const tags = this.#tags.start(tagKey);
    const mayCertify = streamParts(stream)?.category === 'log_administration';
    for (let i = 0; i < records.length; i++) checkEntry(records[i]!, parts[i]!, begin + i, tags, mayCertify, found);
    return { closed: undefined, ...found, tags: found.findings.length === 0 ? tags.all : undefined };
  }
}

interface Found {
  readonly findings: { kind: FindingKind; detail: string; seq: number }[];
  readonly gone: GonePart[];
  readonly certificates: { seq: number; details: Uint8Array }[];
}

function checkEntry(
  record: PartsJob['records'][number],
  parts: readonly Part[],
  seq: number,
  tags: Tags,
  mayCertify: boolean,
  { findings, gone, certificates }: Found,
): void {
  try {
    checkParts(record, parts);
    for (const part of parts) {
      // The commitment binds the bytes; that they are the one spelling of their value is a rule of its own.
      if (isOpen(part)) checkCanonical(part.value);
      else gone.push({ seq, name: part.name });
    }
    if (mayCertify && CERTIFICATE_ACTIONS.includes(record.action)) {
      const details = parts.find(({ name }) => name === 'details');
      if (details !== undefined && isOpen(details)) certificates.push({ seq, details: details.value });
    }
    tags.add(record, parts);
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    findings.push({ kind: 'part', detail: error.message, seq });
  }
}

/** Marks whose tags are kept from block to block: some megabytes. */
const MARKS_REMEMBERED = 20_000;

/** The tags of blocks, one after the other. Marks repeat a lot, within a block and from one to the next: each is hashed once. */
class Tags {
  #tagKey: Uint8Array = new Uint8Array(0);
  /** By kind, then value. */
  readonly #known: Record<TagKind, Map<string, KnownTag>> = {
    ...{ action: new Map(), service: new Map(), site: new Map(), actor: new Map(), ip: new Map(), target: new Map() },
  };
  #remembered = 0;
  #block = 0;
  #own: bigint[] = [];

  /** Begins the next block. */
  start(tagKey: Uint8Array): this {
    if (!equalBytes(tagKey, this.#tagKey) || this.#remembered > MARKS_REMEMBERED) {
      for (const known of Object.values(this.#known)) known.clear();
      this.#remembered = 0;
    }
    this.#tagKey = tagKey;
    this.#block += 1;
    this.#own = [];
    return this;
  }

  /** Of the block, each once: two marks could share a tag. */
  get all(): readonly bigint[] {
    return [...new Set(this.#own)];
  }

  /** The parts' values MUST be canonical. */
  add({ action, source }: Pick<Rec, 'action' | 'source'>, parts: readonly Part[]): void {
    for (const mark of marksOf({
      action,
      source,
      actor: valueOfPart(parts, 'actor'),
      target: valueOfPart(parts, 'target'),
    })) {
      const known = this.#known[mark.kind].get(mark.value);
      if (known === undefined) this.#remember(mark);
      else if (known.block !== this.#block) {
        known.block = this.#block;
        this.#own.push(known.tag);
      }
    }
  }

  #remember(mark: Mark): void {
    const tag = tagOf(mark, this.#tagKey);
    this.#known[mark.kind].set(mark.value, { tag, block: this.#block });
    this.#remembered += 1;
    this.#own.push(tag);
  }
}

/** A mark's tag, and the last block that it was found in. */
interface KnownTag {
  readonly tag: bigint;
  block: number;
}

function valueOfPart(parts: readonly Part[], name: PartName): JsonValue | undefined {
  for (const part of parts) if (part.name === name && isOpen(part)) return decodeCanonical(part.value);
  return undefined;
}
