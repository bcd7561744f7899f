/**
 * CSV (RFC 4180), for spreadsheets: a line of names, then a line an entry, all cells quoted, CRLF at the end of each.
 *
 * A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@` (or their full-width forms), a tab or a line end for a formula or a
 * command, some also behind blanks and quotes; and where its language separates by `;`, what follows one inside of a cell is a cell to it.
 * There a `'` is put in front, and one more where there was one: who takes away one `'` at the beginning of a cell and one behind each
 * `;` has what there was. Line ends and other control characters are replaced by something visible, so that one line is one entry
 * whatever reads it. The exact form for machines is JSON.
 */
import type { JsonObject, JsonValue } from '../chain/canonical.ts';
import { erasedParts, partText, partValue, textOrValue } from '../chain/entry-view.ts';
import { asObject, type ExportedEntry } from './exported-entry.ts';
import { visibleLine } from './unsafe-characters.ts';

interface Row {
  readonly exported: ExportedEntry;
  readonly actor: JsonObject;
  readonly target: JsonObject;
}

type Cell = JsonValue | undefined;

/** The columns, in order. What is added comes at the end. */
const COLUMNS: Readonly<Record<string, (row: Row) => Cell>> = {
  stream: ({ exported }) => exported.stream.name,
  seq: ({ exported }) => exported.entry.record.seq,
  recordedAt: ({ exported }) => exported.entry.record.recordedAt,
  id: ({ exported }) => exported.entry.record.id,
  category: ({ exported }) => exported.stream.category,
  action: ({ exported }) => exported.entry.record.action,
  outcome: ({ exported }) => exported.entry.record.outcome,
  severity: ({ exported }) => exported.entry.record.severity,
  occurredAt: ({ exported }) => exported.entry.record.occurredAt,
  'source.service': ({ exported }) => exported.entry.record.source['service'],
  'source.host': ({ exported }) => exported.entry.record.source['host'],
  'source.site': ({ exported }) => exported.entry.record.source['site'],
  'source.zone': ({ exported }) => exported.entry.record.source['zone'],
  'actor.type': ({ actor }) => actor['type'],
  'actor.id': ({ actor }) => actor['id'],
  'actor.name': ({ actor }) => actor['name'],
  'actor.email': ({ actor }) => actor['email'],
  'actor.ip': ({ actor }) => actor['ip'],
  'actor.sessionId': ({ actor }) => actor['sessionId'],
  'actor.userAgent': ({ actor }) => actor['userAgent'],
  'actor.roles': ({ actor }) => actor['roles'],
  'target.type': ({ target }) => target['type'],
  'target.id': ({ target }) => target['id'],
  'target.name': ({ target }) => target['name'],
  reason: ({ exported }) => textOrValue(exported.entry, 'reason'),
  changes: ({ exported }) => partText(exported.entry, 'changes'),
  details: ({ exported }) => partText(exported.entry, 'details'),
  raw: ({ exported }) => textOrValue(exported.entry, 'raw'),
  'log.hash': ({ exported }) => exported.entry.hash,
  'log.previous': ({ exported }) => exported.entry.record.previous,
  'log.retainUntil': ({ exported }) => exported.entry.record.retainUntil,
  'log.evidence': ({ exported }) => exported.entry.record.evidence,
  'log.erased': ({ exported }) => erasedParts(exported.entry).join(' '),
};

export const CSV_COLUMNS: readonly string[] = Object.keys(COLUMNS);

/** Returns the first line, with its end. */
export function csvHeader(): string {
  return csvLine(CSV_COLUMNS);
}

/** Returns an entry as a line, with its end. What an entry does not have is an empty cell; lists and objects are JSON. */
export function csvText(exported: ExportedEntry): string {
  const row: Row = {
    exported,
    actor: asObject(partValue(exported.entry, 'actor')) ?? {},
    target: asObject(partValue(exported.entry, 'target')) ?? {},
  };
  return csvLine(Object.values(COLUMNS).map((cell) => textOfCell(cell(row))));
}

/** Returns the last line of a download: its first cell is one that no stream is called, its second what there is to say. */
export function csvClosing(statement: string): string {
  return csvLine(['#end', statement, ...CSV_COLUMNS.slice(2).map(() => '')]);
}

function textOfCell(cell: Cell): string {
  if (cell === undefined) return '';
  return typeof cell === 'string' ? cell : JSON.stringify(cell);
}

function csvLine(cells: readonly string[]): string {
  return `${cells.map(csvCell).join(',')}\r\n`;
}

/** Where a spreadsheet may read a formula or a command, and where it would look as if we had put the `'` there. */
const NEEDS_APOSTROPHE = /(^|;)(?='|["\s\u0000-\u001f]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])/g;

/** Most cells begin with nothing of all that and have no `;`: those are not looked through. */
const MAY_NEED_APOSTROPHE = /^['"\s\u0000-\u001f=+\-@\uff1d\uff0b\uff0d\uff20]/;

function csvCell(text: string): string {
  const mayNeed = MAY_NEED_APOSTROPHE.test(text) || text.includes(';');
  const safe = mayNeed ? text.replace(NEEDS_APOSTROPHE, "$1'") : text;
  return `"${visibleLine(safe).replaceAll('"', '""')}"`;
}
