/** Entries for the formats of export, made of events without a database; the same event gives the same entry, hash included. */
import { toHex, utf8 } from '../../src/chain/bytes.ts';
import { canonicalText, type JsonObject, type JsonValue } from '../../src/chain/canonical.ts';
import type { Category, Outcome } from '../../src/chain/category.ts';
import { leafHash } from '../../src/chain/merkle.ts';
import { commitmentOf, PART_NAMES, type Part, type PartName, partsHashHex, SALT_BYTES } from '../../src/chain/part.ts';
import { encodeRecord, NO_PREVIOUS, type Rec } from '../../src/chain/record.ts';
import { sha256 } from '../../src/chain/sha256.ts';
import type { ExportedEntry } from '../../src/export/exported-entry.ts';
import { type Message, messageOf } from '../../src/export/transport.ts';

export interface EntryOptions {
  readonly tenant?: string;
  readonly seq?: number;
  readonly previous?: string;
  readonly recordedAt?: string;
  readonly retainUntil?: string;
  readonly evidence?: 'incomplete';
  /** Parts that are there only as their commitments. */
  readonly erased?: readonly PartName[];
}

/** Returns the entry of an event in the shape of `POST /v1/events`. Nothing is checked: the formats must bear whatever was ever stored. */
export function exportedEntry(event: JsonObject, options: EntryOptions = {}): ExportedEntry {
  const { tenant = 'acme', seq = 0, previous = NO_PREVIOUS, recordedAt = '2026-11-22T20:04:05.310Z' } = options;
  const category = event['category'] as Category;
  const name = `${tenant}/${category}`;
  const parts: Part[] = [];
  for (const part of PART_NAMES) {
    const value = event[part] as JsonValue | undefined;
    if (value === undefined) continue;
    const open = {
      name: part,
      salt: sha256(`salt of ${part}`).subarray(0, SALT_BYTES),
      value: utf8(canonicalText(value)),
    };
    parts.push(options.erased?.includes(part) ? { name: part, commitment: commitmentOf(open) } : open);
  }
  const record: Rec = {
    stream: name,
    id: event['id'] as string,
    action: event['action'] as string,
    outcome: event['outcome'] as Outcome,
    ...(event['severity'] === undefined ? {} : { severity: event['severity'] as number }),
    occurredAt: event['occurredAt'] as string,
    source: event['source'] as JsonObject,
    ...(options.evidence === undefined ? {} : { evidence: options.evidence }),
    parts: partsHashHex(parts),
    seq,
    previous,
    recordedAt,
    ...(options.retainUntil === undefined ? {} : { retainUntil: options.retainUntil }),
  };
  const bytes = utf8(encodeRecord(record));
  return {
    entry: { record, bytes, hash: toHex(leafHash(bytes)), parts },
    stream: { name, category, tenant },
  };
}

/** Returns the entries of a stream, each with the hash of the one before. */
export function* exportedStream(events: Iterable<JsonObject>, options: EntryOptions = {}): Generator<ExportedEntry> {
  const heads = new Map<string, { seq: number; previous: string }>();
  for (const event of events) {
    const category = event['category'] as string;
    const { seq, previous } = heads.get(category) ?? { seq: 0, previous: NO_PREVIOUS };
    const exported = exportedEntry(event, { ...options, seq, previous });
    heads.set(category, { seq: seq + 1, previous: exported.entry.hash });
    yield exported;
  }
}

/** A message, with the entry that it was made of. */
export type EntryMessage = Message & { readonly exported: ExportedEntry };

export function entryMessage(exported: ExportedEntry, payload: Uint8Array): EntryMessage {
  return { ...messageOf(exported, payload), exported };
}
