/**
 * CEF (`CEF:0`, the dictionary of revision 25), as docs/cef.md explains it:
 *
 *     CEF:0|Sealog|Sealog|1|<action>|<title>|<severity>|<key>=<value> <key>=<value> …
 *
 * All keys are of the dictionary: receivers join what they do not know into one text, in which a value could pose as another key. Seq,
 * hash and the hash before stand in each line, so that a gap or a change shows in the SIEM.
 *
 * What a receiver can not give back is not written. In the header `\` and `|` are escaped, in values `\`, `=`, LF and CR; other control
 * characters, marks of direction, and blanks at a value's edge, which receivers trim, are replaced by something visible, and `notes` says
 * in which values. In values that are JSON they are `\uXXXX`, so those come back unchanged. Maxima are in bytes of UTF-8 after escaping;
 * what is longer is cut between characters, never inside of an escape, and `notes` says so too.
 */
import assert from 'node:assert/strict';
import { isIPv4, isIPv6 } from 'node:net';
import type { JsonObject, JsonValue } from '../chain/canonical.ts';
import { changesDiff, partBytes, partText, partValue, textOrValue } from '../chain/entry-view.ts';
import { sha256Hex } from '../chain/sha256.ts';
import { cefOfJsonText } from './cef-json-text.ts';
import { asObject, type ExportedEntry, isAccountType, notesOf, severityOf, textOf, titleOf } from './exported-entry.ts';
import { remembered } from './remembered.ts';
import { TooLongError } from './too-long-error.ts';
import { safeJson, UNSAFE_ABOVE_C0, visibleBlank, visibleLine, visibleText } from './unsafe-characters.ts';

/** The version of this mapping. It stands where CEF has the device's, since rules in a SIEM depend on it and not on our releases. */
const FORMAT_VERSION = '1';

/** What `externalId` takes. */
const EXTERNAL_ID_MAX = 40;

/** Bytes of `rawEvent`. */
const RAW_MAX = 4000;

/** `changes` that are longer are shown as their difference, where that is shorter: JSON that was cut says less. */
const CHANGES_MAX = 4000;

/** Bytes of a value that are left at least where a line is shortened to a maximum; what would have less is left out. */
const SHORTEST_VALUE = 32;

/** A key of the extension. */
export interface CefField {
  readonly key: string;
  /** Its name in the dictionary, which some receivers show instead. */
  readonly name: string;
  /** Bytes of UTF-8 after escaping. */
  readonly maxBytes: number;
  /** What of the event it holds, as `notes` names it. */
  readonly from: string;
  /** `plain`: its grammar has nothing to escape. */
  readonly form: 'plain' | 'text' | 'json';
  readonly value: (source: Source) => string | undefined;
  /** The value as it is written, where it is ASCII and that takes less than escaping it. */
  readonly ascii?: (source: Source) => string | undefined;
  /** Of a custom field: what it holds. */
  readonly label?: string;
  /** Stays in the shortest form of a line. */
  readonly kept?: true;
}

/** What the fields take their values from. */
interface Source {
  readonly exported: ExportedEntry;
  readonly occurredMs: number;
  readonly actor: JsonObject | undefined;
  /** Empty where there is none. */
  readonly ip: string;
  readonly target: JsonObject | undefined;
  /** The target, where it is somebody's account. */
  readonly account: JsonObject | undefined;
  readonly reason: string | undefined;
  readonly changes: string | undefined;
  readonly diff: string | undefined;
  readonly raw: string | undefined;
  /** As it is written, where it is ASCII; then there is no `raw`. */
  readonly asciiRaw: string | undefined;
  readonly more: string;
}

type FieldOptions = Pick<CefField, 'label' | 'kept' | 'ascii'>;

function field(
  key: string,
  name: string,
  maxBytes: number,
  from: string,
  form: CefField['form'],
  value: CefField['value'],
  options: FieldOptions = {},
): CefField {
  return { key, name, maxBytes, from, form, value, ...options };
}

/**
 * The fields in their order: what identifies an event first and is kept, what may be long last, since some receivers cut lines.
 * Only `notes` is not here, which stands between the two.
 */
export const CEF_FIELDS: readonly CefField[] = [
  // Receivers read digits only: a time before 1970 stands in `more` alone.
  field('rt', 'deviceReceiptTime', 15, 'occurredAt', 'plain', occurredOf, { kept: true }),
  field('externalId', 'externalId', EXTERNAL_ID_MAX, 'id', 'plain', externalIdOf, { kept: true }),
  field('deviceExternalId', 'deviceExternalId', 255, 'log.stream', 'text', ({ exported }) => exported.stream.name, {
    kept: true,
  }),
  field('cn1', 'deviceCustomNumber1', 16, 'log.seq', 'plain', ({ exported }) => String(exported.entry.record.seq), {
    label: 'seq',
    kept: true,
  }),
  field('cs1', 'deviceCustomString1', 4000, 'log.hash', 'plain', ({ exported }) => exported.entry.hash, {
    label: 'hash',
    kept: true,
  }),
  field('flexString1', 'flexString1', 1023, 'log.previous', 'plain', ({ exported }) => exported.entry.record.previous, {
    label: 'previous',
    kept: true,
  }),
  field('deviceCustomDate1', 'deviceCustomDate1', 15, 'log.recordedAt', 'plain', recordedOf, {
    label: 'recordedAt',
    kept: true,
  }),
  field('cat', 'deviceEventCategory', 1023, 'category', 'plain', ({ exported }) => exported.stream.category, {
    kept: true,
  }),
  field('act', 'deviceAction', 63, 'action', 'text', ({ exported }) => exported.entry.record.action, { kept: true }),
  field('outcome', 'eventOutcome', 63, 'outcome', 'plain', ({ exported }) => exported.entry.record.outcome, {
    kept: true,
  }),
  field('cs6', 'deviceCustomString6', 4000, 'id', 'text', longIdOf, { label: 'eventId', kept: true }),
  field('suid', 'sourceUserId', 1023, 'actor.id', 'text', ({ actor }) => textOf(actor, 'id')),
  field('suser', 'sourceUserName', 1023, 'actor.name', 'text', ({ actor }) => textOf(actor, 'name')),
  field('cs2', 'deviceCustomString2', 4000, 'actor.email', 'text', ({ actor }) => textOf(actor, 'email'), {
    label: 'actorEmail',
  }),
  field('spriv', 'sourceUserPrivileges', 1023, 'actor.roles', 'text', ({ actor }) => rolesOf(actor)),
  field('src', 'sourceAddress', 15, 'actor.ip', 'plain', ({ ip }) => (isIPv4(ip) ? ip : undefined)),
  field('c6a2', 'deviceCustomIPv6Address2', 45, 'actor.ip', 'plain', ({ ip }) => (isPlainIPv6(ip) ? ip : undefined), {
    label: 'Source IPv6 Address',
  }),
  field('requestClientApplication', 'requestClientApplication', 1023, 'actor.userAgent', 'text', ({ actor }) =>
    textOf(actor, 'userAgent'),
  ),
  field('fileType', 'fileType', 1023, 'target.type', 'text', ({ target }) => textOf(target, 'type')),
  field('fileId', 'fileId', 1023, 'target.id', 'text', ({ target }) => textOf(target, 'id')),
  field('fname', 'fileName', 1023, 'target.name', 'text', ({ target }) => textOf(target, 'name')),
  field('duid', 'destinationUserId', 1023, 'target.id', 'text', ({ account }) => textOf(account, 'id')),
  field('duser', 'destinationUserName', 1023, 'target.name', 'text', ({ account }) => textOf(account, 'name')),
  field('sourceServiceName', 'sourceServiceName', 1023, 'source.service', 'text', ({ exported }) =>
    textOf(exported.entry.record.source, 'service'),
  ),
  field('dvchost', 'deviceHostName', 100, 'source.host', 'text', ({ exported }) =>
    textOf(exported.entry.record.source, 'host'),
  ),
  field('deviceFacility', 'deviceFacility', 1023, 'source.site', 'text', ({ exported }) =>
    textOf(exported.entry.record.source, 'site'),
  ),
  field('reason', 'reason', 1023, 'reason', 'text', ({ reason }) => reason),
  field('cs3', 'deviceCustomString3', 4000, 'more', 'json', ({ more }) => more, { label: 'more' }),
  field('cs4', 'deviceCustomString4', 4000, 'changes', 'json', ({ changes }) => changes, { label: 'changes' }),
  field('cs4', 'deviceCustomString4', 4000, 'diff', 'json', ({ diff }) => diff, { label: 'diff' }),
  field('cs5', 'deviceCustomString5', 4000, 'details', 'json', ({ exported }) => partText(exported.entry, 'details'), {
    label: 'details',
  }),
  field('rawEvent', 'rawEvent', RAW_MAX, 'raw', 'text', ({ raw }) => raw, { ascii: ({ asciiRaw }) => asciiRaw }),
];

/** What precedes each value. The label comes first, so that a line that a receiver cuts has no value without its label. */
const STARTS = CEF_FIELDS.map(({ key, label }) => (label === undefined ? ` ${key}=` : ` ${key}Label=${label} ${key}=`));
const NOTES_START = ' flexString2Label=notes flexString2=';

/** A field that is there, its value escaped and no longer than its maximum. */
interface Piece {
  readonly field: CefField;
  readonly start: string;
  readonly value: string;
}

/** A line in the making. */
interface Draft {
  readonly header: string;
  readonly pieces: readonly Piece[];
  readonly notes: readonly string[];
  /** What of the event is not there, or not as a whole. */
  readonly shortened: ReadonlySet<string>;
}

/**
 * Returns an entry as a line of CEF, without a line end, in at most `maxBytes` of UTF-8. Where that is less than the fields take, the
 * longest values are cut to one length, then left out, the last first. Throws `TooLongError` where not even the kept fields fit.
 */
export function cefText(exported: ExportedEntry, maxBytes = Number.POSITIVE_INFINITY): string {
  const draft = draftOf(exported);
  const line = write(draft);
  // No text has more bytes than three times its UTF-16 units.
  if (line.length * 3 <= maxBytes || Buffer.byteLength(line) <= maxBytes) return line;
  const shorter = write(shrink(draft, maxBytes));
  assert(Buffer.byteLength(shorter) <= maxBytes);
  return shorter;
}

function draftOf(exported: ExportedEntry): Draft {
  const notes = notesOf(exported);
  const source = sourceOf(exported, notes);
  const pieces: Piece[] = [];
  const replaced = new Set<string>();
  const shortened = new Set<string>();
  // The difference stands for what it was made of.
  if (source.diff !== undefined) shortened.add('changes');
  for (let index = 0; index < CEF_FIELDS.length; index++) {
    const field = CEF_FIELDS[index]!;
    const ascii = field.ascii?.(source);
    const value = ascii ?? field.value(source);
    if (value === undefined || value === '') continue;
    let escaped = value;
    if (ascii === undefined && field.form !== 'plain' && needsCare(value)) {
      const visible = field.form === 'text' ? visibleValue(value) : value;
      if (visible !== value) replaced.add(field.from);
      escaped = escapeValue(field.form, visible, field.maxBytes);
    }
    const isShort = ascii !== undefined && ascii.length <= field.maxBytes;
    const cut = isShort ? escaped : cutEscaped(escaped, field.maxBytes);
    if (cut !== escaped) shortened.add(field.from);
    pieces.push({ field, start: STARTS[index]!, value: cut });
  }
  if (replaced.size > 0) notes.push(`replaced:${[...replaced].join()}`);
  return { header: headerOf(exported), pieces, notes, shortened };
}

function headerOf(exported: ExportedEntry): string {
  return `CEF:0|Sealog|Sealog|${FORMAT_VERSION}|${namesOf(exported.entry.record.action)}|${severityOf(exported)}|`;
}

/** Of an action, which stand in the header. They repeat: a few hundred are nearly all that there is. */
const namesOf = remembered((action) => `${headerText(action)}|${headerText(titleOf(action))}`);

/** A header has no escape for line ends. The grammar of actions lets none of all this through; a header is nothing to rely on that for. */
function headerText(text: string): string {
  return visibleLine(text).replaceAll('\\', '\\\\').replaceAll('|', '\\|');
}

function write({ header, pieces, notes, shortened }: Draft): string {
  const said = shortened.size === 0 ? notes : [...notes, `shortened:${[...shortened].join()}`];
  let kept = '';
  let others = '';
  for (const { field, start, value } of pieces) {
    if (field.kept) kept += start + value;
    else others += start + value;
  }
  if (said.length > 0) kept += NOTES_START + said.join(' ');
  return header + kept.slice(1) + others;
}

/** Returns the draft with what must go cut or left out. */
function shrink(draft: Draft, maxBytes: number): Draft {
  const kept = draft.pieces.filter(({ field }) => field.kept);
  const others = draft.pieces.filter(({ field }) => !field.kept);
  const names = others.map(({ field }) => field.from);
  // As if all others were shortened: which will be is not known yet, and the note of it takes room.
  const least = { ...draft, pieces: kept, shortened: new Set([...draft.shortened, ...names]) };
  const leastBytes = Buffer.byteLength(write(least));
  if (leastBytes > maxBytes) throw new TooLongError(leastBytes, maxBytes);

  const shortened = new Set(draft.shortened);
  for (;;) {
    const starts = others.reduce((sum, { start }) => sum + start.length, 0);
    const longest = commonMaximum(
      others.map(({ value }) => Buffer.byteLength(value)),
      maxBytes - leastBytes - starts,
    );
    if (longest < SHORTEST_VALUE) {
      shortened.add(others.pop()!.field.from);
      continue;
    }
    const cut = others.map((piece) => {
      const value = cutEscaped(piece.value, longest);
      if (value !== piece.value) shortened.add(piece.field.from);
      return { ...piece, value };
    });
    return { ...draft, pieces: [...kept, ...cut], shortened };
  }
}

/** Returns the largest length such that values of these lengths, none longer than it, fit together; no limit where they do as they are. */
function commonMaximum(lengths: readonly number[], room: number): number {
  let left = room;
  const ascending = lengths.toSorted((a, b) => a - b);
  for (const [index, length] of ascending.entries()) {
    const share = Math.floor(left / (ascending.length - index));
    if (length > share) return share;
    left -= length;
  }
  return Number.POSITIVE_INFINITY;
}

const CARE = new RegExp(`[\\\\=\u0000-\u001f${UNSAFE_ABOVE_C0}]`);

/** Says whether a value has anything to replace or escape; most have not. */
function needsCare(value: string): boolean {
  return CARE.test(value) || isBlank(value, 0) || isBlank(value, value.length - 1);
}

/** Returns a text as receivers will give it back: without what they would change or be misled by. */
function visibleValue(text: string): string {
  const visible = visibleText(text);
  let start = 0;
  while (isBlank(visible, start)) start += 1;
  if (start === 0 && !isBlank(visible, visible.length - 1)) return visible;
  let end = visible.length;
  while (end > start && isBlank(visible, end - 1)) end -= 1;
  return (
    [...visible.slice(0, start)].map(visibleBlank).join('') +
    visible.slice(start, end) +
    [...visible.slice(end)].map(visibleBlank).join('')
  );
}

/** Line ends are none: they will be escaped. */
function isBlank(text: string, at: number): boolean {
  const char = text[at];
  return char !== undefined && char !== '\n' && char !== '\r' && /\s/.test(char);
}

/** Of what is much longer than the maximum only a beginning is escaped: escaping never makes anything shorter. */
function escapeValue(form: 'text' | 'json', value: string, maxBytes: number): string {
  const beginning = value.length > maxBytes ? value.slice(0, maxBytes + 1) : value;
  const safe = form === 'json' ? safeJson(beginning) : beginning;
  const escaped = safe.replaceAll('\\', '\\\\').replaceAll('=', '\\=');
  // In JSON they are escaped already.
  return form === 'json' ? escaped : escaped.replaceAll('\n', '\\n').replaceAll('\r', '\\r');
}

const encoder = new TextEncoder();
/** No value is longer. */
const scratch = new Uint8Array(4000);

/** Returns as much of an escaped value as `maxBytes` take, cut between characters and not inside of an escape. */
function cutEscaped(escaped: string, maxBytes: number): string {
  if (escaped.length * 3 <= maxBytes || Buffer.byteLength(escaped) <= maxBytes) return escaped;
  let end = encoder.encodeInto(escaped, scratch.subarray(0, maxBytes)).read;
  let backslashes = 0;
  while (escaped[end - 1 - backslashes] === '\\') backslashes += 1;
  // An odd one begins an escape whose second half was cut off.
  if (backslashes % 2 === 1) end -= 1;
  // What was a blank inside is one at the edge now.
  while (isBlank(escaped, end - 1)) end -= 1;
  return escaped.slice(0, end);
}

function sourceOf(exported: ExportedEntry, notes: string[]): Source {
  const { entry } = exported;
  const { record } = entry;
  const actorPart = partValue(entry, 'actor');
  const targetPart = partValue(entry, 'target');
  const reason = textOrValue(entry, 'reason');
  const actor = asObject(actorPart);
  const target = asObject(targetPart);
  const ip = textOf(actor, 'ip') ?? '';
  const changes = partText(entry, 'changes');
  const diff = changes === undefined ? undefined : shorterDiff(exported, changes);
  const rawJson = partBytes(entry, 'raw');
  const asciiRaw = rawJson === undefined ? undefined : cefOfJsonText(rawJson, RAW_MAX);
  return {
    exported,
    occurredMs: Date.parse(record.occurredAt),
    actor,
    ip,
    target,
    account: isAccountType(textOf(target, 'type')) ? target : undefined,
    reason: typeof reason === 'string' ? reason : undefined,
    changes: diff === undefined ? changes : undefined,
    diff,
    raw: asciiRaw === undefined ? rawOf(exported, notes) : undefined,
    asciiRaw,
    more: JSON.stringify({
      actor: restOf(actorPart, (name) => {
        if (name === 'roles') return rolesOf(actor) !== undefined;
        if (name === 'ip') return isIPv4(ip) || isPlainIPv6(ip);
        return ACTOR_TEXTS.has(name) && textOf(actor, name) !== undefined;
      }),
      occurredAt: record.occurredAt,
      reason: typeof reason === 'string' ? undefined : reason,
      retainUntil: record.retainUntil,
      source: restOf(record.source, (name) => SOURCE_TEXTS.has(name) && textOf(record.source, name) !== undefined),
      target: restOf(targetPart, (name) => TARGET_TEXTS.has(name) && textOf(target, name) !== undefined),
    }),
  };
}

function shorterDiff({ entry }: ExportedEntry, changes: string): string | undefined {
  if (changes.length <= CHANGES_MAX) return undefined;
  const diff = changesDiff(entry);
  if (diff === undefined) return undefined;
  const text = JSON.stringify(diff);
  return text.length < changes.length ? text : undefined;
}

const ACTOR_TEXTS = new Set(['id', 'name', 'email', 'userAgent']);
const SOURCE_TEXTS = new Set(['service', 'host', 'site']);
const TARGET_TEXTS = new Set(['type', 'id', 'name']);

/** Returns what of a value has no field of its own; undefined when nothing. */
function restOf(value: JsonValue | undefined, hasField: (name: string) => boolean): JsonValue | undefined {
  const object = asObject(value);
  if (object === undefined) return value;
  const rest = Object.entries(object).filter(([name]) => !hasField(name));
  return rest.length === 0 ? undefined : Object.fromEntries(rest);
}

function occurredOf({ occurredMs }: Source): string | undefined {
  return occurredMs < 0 ? undefined : String(occurredMs);
}

function recordedOf({ exported }: Source): string {
  return String(Date.parse(exported.entry.record.recordedAt));
}

/** An id that is too long is represented by `#`, which no id has, and 39 digits of its SHA-256; it stands whole in `cs6`. */
function externalIdOf({ exported }: Source): string {
  const { id } = exported.entry.record;
  return id.length <= EXTERNAL_ID_MAX ? id : `#${sha256Hex(id).slice(0, EXTERNAL_ID_MAX - 1)}`;
}

function longIdOf({ exported }: Source): string | undefined {
  const { id } = exported.entry.record;
  return id.length <= EXTERNAL_ID_MAX ? undefined : id;
}

/** Returns the roles with commas between them, or as JSON where a role has one itself. */
function rolesOf(actor: JsonObject | undefined): string | undefined {
  const roles = actor?.['roles'];
  if (!Array.isArray(roles) || roles.length === 0) return undefined;
  const names = roles.filter((role) => typeof role === 'string' && role !== '') as string[];
  if (names.length < roles.length) return undefined;
  const isPlain = !names.some((name) => name.includes(',')) && !names[0]!.startsWith('[');
  return isPlain ? names.join() : JSON.stringify(names);
}

/** With a zone (`fe80::1%eth0`) it is no address to most receivers. */
function isPlainIPv6(ip: string): boolean {
  return isIPv6(ip) && !ip.includes('%');
}

/** Returns `raw`: a text as it is, bytes in base64. */
function rawOf({ entry }: ExportedEntry, notes: string[]): string | undefined {
  const raw = textOrValue(entry, 'raw');
  if (raw === '') notes.push('empty:raw');
  if (raw === undefined || typeof raw === 'string') return raw;
  const base64 = textOf(asObject(raw), 'base64');
  notes.push(base64 === undefined ? 'json:raw' : 'base64:raw');
  return base64 ?? JSON.stringify(raw);
}
