/** An entry as readers and sinks get it: what the client sent, and what the log adds, which stands apart in `log`. */
import { fromUtf8 } from './bytes.ts';
import { decodeCanonical, type JsonValue } from './canonical.ts';
import type { Category } from './category.ts';
import { jsonDiff } from './json-diff.ts';
import type { Entry } from './open-block.ts';
import { isOpen, type PartName } from './part.ts';

/** What of an entry can be left out of its text: a part, the computed difference, or the rest of texts in `source` that were cut. */
export type Omittable = PartName | 'diff' | 'source';

export interface EntryTextOptions {
  /** Left out for want of room; `log.omitted` says so. */
  readonly omitted?: readonly Omittable[];
  /** Left out because they stand beside the text; nothing is said of them. */
  readonly elsewhere?: readonly Omittable[];
  /** What certifies that parts were erased, where it is known. */
  readonly erasures?: readonly CertifiedErasure[];
}

/** Parts of an entry, and the id of the event in `log_administration` that certifies that they were erased. */
export interface CertifiedErasure {
  readonly parts: readonly PartName[];
  readonly certificate: string;
}

/** Returns the value of an entry's part, or undefined when it has none or it was erased. */
export function partValue(entry: Pick<Entry, 'parts'>, name: PartName): JsonValue | undefined {
  const part = entry.parts.find((one) => one.name === name);
  return part === undefined || !isOpen(part) ? undefined : decodeCanonical(part.value);
}

/** Returns the value of a part that is mostly a text, likewise. */
export function textOrValue(entry: Entry, name: 'raw' | 'reason'): JsonValue | undefined {
  const text = partText(entry, name);
  if (text === undefined) return undefined;
  // Between its quotes a text without escapes is what it says. `raw` is long: reading all of it as JSON takes four times as long.
  return text.startsWith('"') && !text.includes('\\') ? text.slice(1, -1) : partValue(entry, name);
}

/** Returns the canonical JSON of an entry's part, likewise. */
export function partText(entry: Entry, name: PartName): string | undefined {
  const value = partBytes(entry, name);
  return value === undefined ? undefined : fromUtf8(value);
}

/** Returns it as the bytes that were committed to, likewise. */
export function partBytes(entry: Entry, name: PartName): Uint8Array | undefined {
  const part = entry.parts.find((one) => one.name === name);
  return part === undefined || !isOpen(part) ? undefined : part.value;
}

/** Returns the names of the parts that were erased. */
export function erasedParts(entry: Entry): PartName[] {
  return entry.parts.filter((part) => !isOpen(part)).map((part) => part.name);
}

/** Returns the event with `log` as JSON text. Parts are put in as the canonical text that was committed to, never parsed and written again. */
export function entryText(
  entry: Entry,
  category: Category,
  { omitted = [], elsewhere = [], erasures = [] }: EntryTextOptions = {},
): string {
  const { record } = entry;
  const isLeftOut = (name: Omittable): boolean => omitted.includes(name) || elsewhere.includes(name);
  const erased = erasedParts(entry);
  const diff = isLeftOut('diff') ? undefined : computedDiff(entry, category);
  const event = JSON.stringify({
    id: record.id,
    category,
    action: record.action,
    outcome: record.outcome,
    severity: record.severity,
    occurredAt: record.occurredAt,
    source: record.source,
  });
  const parts = entry.parts
    .map((part) => (isOpen(part) && !isLeftOut(part.name) ? `,"${part.name}":${fromUtf8(part.value)}` : ''))
    .join('');
  const log = JSON.stringify({
    stream: record.stream,
    seq: record.seq,
    previous: record.previous,
    hash: entry.hash,
    recordedAt: record.recordedAt,
    retainUntil: record.retainUntil,
    evidence: record.evidence,
    erased: erased.length === 0 ? undefined : erased,
    erasures: erasures.length === 0 ? undefined : erasures.map(({ parts, certificate }) => ({ parts, certificate })),
    omitted: omitted.length === 0 ? undefined : omitted,
    diff,
  });
  return `${event.slice(0, -1)}${parts},"log":${log}}`;
}

/** Returns the difference that readers are shown: of a configuration change that was sent without one; else undefined. */
export function computedDiff(entry: Entry, category: Category): JsonValue | undefined {
  return category === 'configuration_change' ? changesDiff(entry) : undefined;
}

/** Returns what makes `changes.before` into `changes.after`, where both were sent and no difference; else undefined. */
export function changesDiff(entry: Entry): JsonValue | undefined {
  const changes = partValue(entry, 'changes');
  if (typeof changes !== 'object' || changes === null || Array.isArray(changes)) return undefined;
  const { before, after, diff } = changes as { before?: JsonValue; after?: JsonValue; diff?: JsonValue };
  if (diff !== undefined || before === undefined || after === undefined) return undefined;
  return jsonDiff(before, after) as unknown as JsonValue;
}
