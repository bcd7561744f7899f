/**
 * JSON as it is exported: what readers get (`GET /v1/events/{id}`), on one line, with `\uXXXX` for characters that could mislead
 * (unsafe-characters.ts). Within a maximum, parts are left out as wholes and `log.omitted` names them (docs/siem-formats.md).
 */
import { entryText } from '../chain/entry-view.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { writeWithin } from './room.ts';
import { safeJson } from './unsafe-characters.ts';

/** Returns the event with `log` as JSON of at most `maxBytes` of UTF-8. Throws `TooLongError`. */
export function jsonText(exported: ExportedEntry, maxBytes = Number.POSITIVE_INFINITY): string {
  return writeWithin(exported, maxBytes, ({ entry, stream }, omitted) =>
    safeJson(entryText(entry, stream.category, { omitted })),
  );
}
