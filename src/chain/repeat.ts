/** Repeats: the same id and the same content again is the same event; other content is a conflict. */
import { equalBytes } from './bytes.ts';
import { canonicalText } from './canonical.ts';
import type { CanonicalEvent } from './entry.ts';
import type { Entry } from './open-block.ts';
import { isOpen } from './part.ts';
import type { Receipt } from './sequencer.ts';

/**
 * Says whether an event is what an entry with its id was made of. Nothing derived from parts is kept for this: the opened entry is
 * compared. Where a part was erased, id and site alone decide: who may send events of one site is not told of another's.
 */
export function isRepeat(event: CanonicalEvent, entry: Entry): boolean {
  const { record } = entry;
  if (record.id !== event.id || record.source['site'] !== event.source['site']) return false;
  if (!entry.parts.every(isOpen)) return true;
  return isSame(event, { ...record, sourceText: canonicalText(record.source), parts: entry.parts });
}

type Compared = Pick<CanonicalEvent, 'action' | 'outcome' | 'severity' | 'occurredAt' | 'sourceText' | 'parts'>;

/** Says whether two events say the same, but for their ids. */
export function isSame(one: Compared, other: Compared): boolean {
  return (
    one.action === other.action &&
    one.outcome === other.outcome &&
    one.severity === other.severity &&
    one.occurredAt === other.occurredAt &&
    one.sourceText === other.sourceText &&
    one.parts.length === other.parts.length &&
    one.parts.every(({ name, value }, i) => name === other.parts[i]!.name && equalBytes(value, other.parts[i]!.value))
  );
}

/** Returns the receipt that an entry's event got when it was appended. */
export function receiptOf(entry: Entry): Receipt {
  const { id, stream, seq, recordedAt, retainUntil } = entry.record;
  return { id, stream, seq, hash: entry.hash, recordedAt, ...(retainUntil === undefined ? {} : { retainUntil }) };
}
