/** An entry as readers get it: what the client sent, and what the log adds, which stands apart in `log`. */
import { fromUtf8 } from '../chain/bytes.ts';
import { decodeCanonical, type JsonValue } from '../chain/canonical.ts';
import type { Category } from '../chain/category.ts';
import type { Entry } from '../chain/open-block.ts';
import { isOpen, type PartName } from '../chain/part.ts';
import { jsonDiff } from './json-diff.ts';

/** Returns the value of an entry's part, or undefined when it has none or it was erased. */
export function partValue(entry: Entry, name: PartName): JsonValue | undefined {
  const part = entry.parts.find((one) => one.name === name);
  return part === undefined || !isOpen(part) ? undefined : decodeCanonical(part.value);
}

/** Returns the event with `log` as JSON text. Parts are put in as the canonical text that was committed to, never parsed and written again. */
export function entryText(entry: Entry, category: Category): string {
  const { record } = entry;
  const erased = entry.parts.filter((part) => !isOpen(part)).map((part) => part.name);
  const diff = category === 'configuration_change' ? computedDiff(entry) : undefined;
  const event = JSON.stringify({
    id: record.id,
    category,
    action: record.action,
    outcome: record.outcome,
    severity: record.severity,
    occurredAt: record.occurredAt,
    source: record.source,
  });
  const parts = entry.parts.map((part) => (isOpen(part) ? `,"${part.name}":${fromUtf8(part.value)}` : '')).join('');
  const log = JSON.stringify({
    stream: record.stream,
    seq: record.seq,
    previous: record.previous,
    hash: entry.hash,
    recordedAt: record.recordedAt,
    retainUntil: record.retainUntil,
    evidence: record.evidence,
    erased: erased.length === 0 ? undefined : erased,
    diff,
  });
  return `${event.slice(0, -1)}${parts},"log":${log}}`;
}

function computedDiff(entry: Entry): JsonValue | undefined {
  const changes = partValue(entry, 'changes');
  if (typeof changes !== 'object' || changes === null || Array.isArray(changes)) return undefined;
  const { before, after, diff } = changes as { before?: JsonValue; after?: JsonValue; diff?: JsonValue };
  if (diff !== undefined || before === undefined || after === undefined) return undefined;
  return jsonDiff(before, after) as unknown as JsonValue;
}
