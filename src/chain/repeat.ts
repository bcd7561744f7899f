/** Repeats: the same id and the same content again is the same event; other content is a conflict. */
import { equalBytes, utf8 } from './bytes.ts';
import { canonicalText } from './canonical.ts';
import type { EventFields } from './entry.ts';
import type { Entry } from './open-block.ts';
import { isOpen, PART_NAMES } from './part.ts';
import type { Receipt } from './sequencer.ts';

/**
 * Says whether an event is what an entry with its id was made of. Nothing derived from parts is kept for this: the opened entry is
 * compared. Where a part was erased, id and site alone decide: who may send events of one site is not told of another's.
 */
export function isRepeat(event: EventFields, entry: Entry): boolean {
  const { record } = entry;
  if (record.id !== event.id || record.source['site'] !== event.source['site']) return false;
  if (!entry.parts.every(isOpen)) return true;
  if (
    record.action !== event.action ||
    record.outcome !== event.outcome ||
    record.severity !== event.severity ||
    record.occurredAt !== event.occurredAt ||
    canonicalText(record.source) !== canonicalText(event.source)
  ) {
    return false;
  }
  return PART_NAMES.every((name) => {
    const value = event.parts[name];
    const part = entry.parts.find((one) => one.name === name);
    if (value === undefined || part === undefined || !isOpen(part)) return value === undefined && part === undefined;
    return equalBytes(part.value, utf8(canonicalText(value)));
  });
}

/** Returns the receipt that an entry's event got when it was appended. */
export function receiptOf(entry: Entry): Receipt {
  const { id, stream, seq, recordedAt, retainUntil } = entry.record;
  return { id, stream, seq, hash: entry.hash, recordedAt, ...(retainUntil === undefined ? {} : { retainUntil }) };
}
