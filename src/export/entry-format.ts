/** The formats by their names in a sink's configuration, and what all destinations take from an entry alike. */
import { cefText } from './cef.ts';
import type { ExportedEntry, WriteEntry } from './exported-entry.ts';
import { jsonText } from './json.ts';
import { ocsfText } from './ocsf.ts';
import { TooLongError } from './too-long-error.ts';

export const ENTRY_FORMATS = ['json', 'cef', 'ocsf'] as const;

export type EntryFormat = (typeof ENTRY_FORMATS)[number];

const WRITERS: Readonly<Record<EntryFormat, WriteEntry>> = { json: jsonText, cef: cefText, ocsf: ocsfText };

export function writerOf(format: EntryFormat): WriteEntry {
  return WRITERS[format];
}

/**
 * Returns an entry with something around it, in at most `maxBytes` of UTF-8; `around` is JSON or plain text that stands in front of it and
 * behind it. Throws a TooLongError.
 */
export function writeAround(
  exported: ExportedEntry,
  write: WriteEntry,
  maxBytes: number,
  before: string,
  after: string,
): Uint8Array {
  const around = Buffer.byteLength(before) + Buffer.byteLength(after);
  try {
    return Buffer.from(before + write(exported, maxBytes - around) + after);
  } catch (error) {
    if (error instanceof TooLongError) throw new TooLongError(around + error.neededBytes, maxBytes);
    throw error;
  }
}

/** A sender's clock may be a little ahead of ours. */
const AHEAD_MAX_MS = 86_400_000;
/** Before this no sender of events was. */
const EARLIEST_MS = Date.UTC(2000, 0, 1);

/**
 * Returns when an event happened, in milliseconds since 1970, for a destination that sorts by it: what the sender said, unless that can not be
 * (before 2000, or more than a day after the log took it). Then it is when the log took it: a destination that has no place for the year 1
 * or 9999 would refuse the entry, and one sender could stop the sink for all. What the sender said stands in the event.
 */
export function eventTimeMs({ entry }: ExportedEntry): number {
  const recordedMs = Date.parse(entry.record.recordedAt);
  const occurredMs = Date.parse(entry.record.occurredAt);
  return occurredMs >= EARLIEST_MS && occurredMs <= recordedMs + AHEAD_MAX_MS ? occurredMs : recordedMs;
}
