/**
 * A sink: where it sends, in which form, and what of the log it wants (docs/export.md).
 *
 * It is read strictly: a member that is not known, or would do nothing, is refused, since somebody believes that it does something. What is secret in it
 * is kept apart from the first moment on, stored sealed (sink-secret.ts) and never given back; errors tell rules, never values.
 */
import type { JsonObject } from '../chain/canonical.ts';
import { type Category, CLIENT_CATEGORIES } from '../chain/category.ts';
import type { FieldError } from '../errors.ts';
import { isJsonObject, type JsonMembers } from '../http/json-object.ts';
import {
  flag,
  integer,
  listOf,
  type Member,
  oneOf,
  optional,
  type ReadMembers,
  readMembers,
  type Shape,
  text,
} from './config-members.ts';
import { isErasure } from './erasure-notice.ts';
import { type ExportedEntry, severityOf } from './exported-entry.ts';
import { type HttpSink, httpSinkMembers, PRESET_NAMES, type PresetName, readHttpSink } from './http-sinks.ts';
import { readSyslogSink, SYSLOG_SINK_MEMBERS, type SyslogSink } from './syslog-sink.ts';

export interface SinkFilter {
  /** Absent: all that a tenant's log has. */
  readonly categories?: readonly SinkCategory[] | undefined;
  /** Of the severity that a SIEM is shown: what the sender said, else the category's own. */
  readonly severityMin?: number | undefined;
  /** An action, or the beginning of several: `user.*`. */
  readonly actions?: readonly string[] | undefined;
  /** Entries of the log itself have no site: they are for a sink without this. */
  readonly sites?: readonly string[] | undefined;
}

/** What is common to all sinks. */
export interface SinkTerms {
  readonly filter: SinkFilter;
  /** The anchor stream's checkpoints go to it too, whatever the filter says. */
  readonly anchor: boolean;
  /** Nothing that it wants is pruned before it was delivered. */
  readonly required: boolean;
}

/** A sink as it can be used: its terms, and what opens its transport. */
export type Sink = SinkTerms & Peer;

type Peer =
  | { readonly type: 'syslog'; readonly peer: SyslogSink }
  | { readonly type: 'webhook'; readonly peer: HttpSink };

/** Where a sink begins in each of its streams. */
export type SinkBegin = 'now' | 'beginning' | { readonly seq: number } | { readonly timeMs: number };

/** A configuration that was read: what is stored, its secrets apart. */
export interface SinkSettings {
  readonly name: string;
  /** With the names of its secrets as `secrets`. */
  readonly config: JsonObject;
  /** Undefined where there is none. */
  readonly secret: JsonObject | undefined;
}

export interface NewSink extends SinkSettings {
  readonly from: SinkBegin;
}

/** Whoever is held to sites makes only sinks that are. */
export interface SinkLimits {
  readonly sites?: readonly string[] | undefined;
}

export const SINK_CATEGORIES = [...CLIENT_CATEGORIES, 'log_administration'] as const;

export type SinkCategory = (typeof SINK_CATEGORIES)[number];

const OF_THE_LOG = 'log_administration' satisfies SinkCategory;
const LIST_MAX = 100;

const FILTER_MEMBERS = {
  categories: optional(different(listOf(oneOf(...SINK_CATEGORIES), SINK_CATEGORIES.length))),
  severityMin: optional(integer(0, 10)),
  actions: optional(
    different(
      listOf(
        text(/^[a-z0-9_]+(?:\.[a-z0-9_]+)*(?:\.\*)?$/i, 'an action, or the beginning of some: user.login, user.*'),
        LIST_MAX,
      ),
    ),
  ),
  sites: optional(
    different(listOf(text(/^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]{1,256}$/u, 'a site: 1 to 256 characters'), LIST_MAX)),
  ),
} as const satisfies Shape;

const TERMS = {
  name: text(/^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]{1,100}$/u, '1 to 100 characters, none of them a control character'),
  type: oneOf('syslog', 'webhook'),
  preset: optional(oneOf(...PRESET_NAMES)),
  filter: anything(),
  anchor: optional(flag()),
  required: optional(flag()),
} as const satisfies Shape;

const OWN_NAMES: readonly string[] = [...Object.keys(TERMS), 'from'];

/** Reads a new sink, secrets and all. Tells all mistakes at once. */
export function readNewSink(given: unknown, limits: SinkLimits): ReadMembers<NewSink> {
  const { from, ...members } = isJsonObject(given) ? given : { from: undefined };
  const settings = readSettings(isJsonObject(given) ? members : given, limits);
  const begin = readBegin(from, 'from');
  const errors = [...('errors' in settings ? settings.errors : []), ...('errors' in begin ? begin.errors : [])];
  if ('errors' in settings || 'errors' in begin) return { errors };
  const { categories } = termsOf(settings.config.config).filter;
  if (typeof begin.config === 'object' && 'seq' in begin.config && categories?.length !== 1)
    return { errors: [{ field: 'from', message: 'can be a seq only with exactly one category in filter.categories' }] };
  return { config: { ...settings.config, from: begin.config } };
}

/**
 * Reads what a sink is to be from now on. Secrets that are not given stay as they are, and null takes one away; but only while it goes where it went:
 * who may change a sink could otherwise have its secrets sent to himself.
 */
export function readChangedSink(
  given: unknown,
  limits: SinkLimits,
  now: { readonly config: JsonMembers; readonly secret: JsonMembers | undefined },
): ReadMembers<SinkSettings> {
  if (!isJsonObject(given)) return { errors: [NO_OBJECT] };
  if (Object.hasOwn(given, 'from'))
    return { errors: [{ field: 'from', message: 'is only for a new sink: replay moves one that there is' }] };
  const kept = Object.entries(now.secret ?? {}).filter(([name]) => !Object.hasOwn(given, name));
  const removed = Object.keys(now.secret ?? {}).filter((name) => given[name] === null);
  const wanted = Object.fromEntries(Object.entries(given).filter(([name]) => !removed.includes(name)));
  // Where the URL is a secret itself, it is not among what is stored openly: one that is given is another.
  const moved = DESTINATION.filter((name) => given[name] !== now.config[name]);
  if (kept.length > 0 && moved.length > 0) {
    const message = `must be given again, or null to be removed: ${moved.join(', ')} changes`;
    return { errors: kept.map(([field]) => ({ field, message })) };
  }
  return readSettings({ ...wanted, ...Object.fromEntries(kept) }, limits);
}

/** Says where a sink goes, and by whom its peer is known. */
const DESTINATION = ['type', 'preset', 'url', 'authority', 'tenantId', 'scope', 'tlsCa', 'tlsServerName'] as const;

/** Returns a stored sink, ready to use. Throws where it is not one that this version can use. */
export function storedSink(config: unknown, secret: unknown): Sink {
  const { secrets: _, ...open } = config as JsonMembers;
  const members = { name: 'stored', ...open, ...(secret as JsonMembers | undefined) };
  const read = readSink(members, {});
  if ('config' in read) return read.config.sink;
  const words = read.errors.map(({ field, message }) => `${field} ${message}`).join('; ');
  throw new Error(`the configuration of the sink can not be used: ${words}`);
}

/** Returns what may be shown of a stored configuration: what was given for it, but for the secrets, of which the names are apart. */
export function shownOf(config: JsonMembers): { readonly open: JsonObject; readonly secrets: readonly string[] } {
  const { secrets, ...open } = config;
  return { open: open as JsonObject, secrets: secrets as readonly string[] };
}

/** Returns the terms of a stored configuration, without its secrets. */
export function termsOf(config: unknown): SinkTerms {
  // It was read when it was stored.
  const { filter = {}, anchor = false, required = false } = config as Partial<SinkTerms>;
  return { filter, anchor, required };
}

/** Returns the categories whose streams the sink follows. Its creator may read all that there are: nobody else makes sinks. */
export function categoriesOf({ filter }: Pick<SinkTerms, 'filter'>): readonly SinkCategory[] {
  return filter.categories ?? SINK_CATEGORIES;
}

/** Returns the categories whose streams are read for it: erasures stand in the log's own, and are for every sink. */
export function followedBy(terms: Pick<SinkTerms, 'filter'>): readonly SinkCategory[] {
  const categories = categoriesOf(terms);
  return categories.includes(OF_THE_LOG) ? categories : [...categories, OF_THE_LOG];
}

/** Returns what says whether a sink wants an entry. */
export function wantsOf({
  filter,
  anchor,
}: Pick<SinkTerms, 'filter' | 'anchor'>): (exported: ExportedEntry) => boolean {
  const categories: ReadonlySet<Category> = new Set(categoriesOf({ filter }));
  const sites = filter.sites === undefined ? undefined : new Set(filter.sites);
  const severityMin = filter.severityMin ?? 0;
  const actions = new Set(filter.actions?.filter((action) => !action.endsWith('.*')));
  const beginnings = (filter.actions ?? [])
    .filter((action) => action.endsWith('.*'))
    .map((action) => action.slice(0, -1));
  return (exported) => {
    const { record } = exported.entry;
    if (exported.stream.category === 'anchor') return anchor;
    if (isErasure(exported)) return true;
    if (!categories.has(exported.stream.category)) return false;
    const { site } = record.source;
    if (sites !== undefined && !(typeof site === 'string' && sites.has(site))) return false;
    if (severityMin > 0 && severityOf(exported) < severityMin) return false;
    return (
      filter.actions === undefined ||
      actions.has(record.action) ||
      beginnings.some((beginning) => record.action.startsWith(beginning))
    );
  };
}

/** Reads a place to begin at: `now` where it is not said. */
export function readBegin(given: unknown, field: string): ReadMembers<SinkBegin> {
  if (given === undefined) return { config: 'now' };
  if (given === 'now' || given === 'beginning') return { config: given };
  const [name, value] = (isJsonObject(given) && Object.keys(given).length === 1 && Object.entries(given)[0]) || [];
  if (name === 'seq' && Number.isSafeInteger(value) && (value as number) >= 0)
    return { config: { seq: value as number } };
  const timeMs = name === 'time' && typeof value === 'string' && RFC_3339.test(value) ? Date.parse(value) : Number.NaN;
  if (Number.isSafeInteger(timeMs)) return { config: { timeMs } };
  return { errors: [{ field, message: 'must be now, beginning, {"seq": …} or {"time": an RFC 3339 timestamp}' }] };
}

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$/;
const NO_OBJECT: FieldError = { field: '', message: 'must be an object' };

function readSettings(given: unknown, limits: SinkLimits): ReadMembers<SinkSettings> {
  const read = readSink(given, limits);
  return 'errors' in read ? read : { config: read.config.settings };
}

function readSink(given: unknown, limits: SinkLimits): ReadMembers<{ settings: SinkSettings; sink: Sink }> {
  if (!isJsonObject(given)) return { errors: [NO_OBJECT] };
  const members = Object.entries(given);
  const own = Object.fromEntries(members.filter(([name]) => OWN_NAMES.includes(name)));
  const rest = Object.fromEntries(members.filter(([name]) => !OWN_NAMES.includes(name)));
  const terms = readMembers(TERMS, own);
  const filter = readFilter(given['filter'], limits);
  const peer = readPeer(given['type'], given['preset'], rest);
  const parts = [terms, filter, ...(peer === undefined ? [] : [peer])];
  const errors = parts.flatMap((part) => ('errors' in part ? part.errors : []));
  if ('errors' in terms || 'errors' in filter || peer === undefined || 'errors' in peer) return { errors };
  const secrets = secretsOf(terms.config.type, terms.config.preset);
  const { name: _, ...stored } = own;
  const secret = Object.fromEntries(Object.entries(rest).filter(([one]) => secrets.includes(one)));
  const open = Object.fromEntries(Object.entries(rest).filter(([one]) => !secrets.includes(one)));
  const { anchor = false, required = false } = terms.config;
  return {
    config: {
      settings: {
        name: terms.config.name,
        config: { ...stored, ...open, secrets: Object.keys(secret).sort() } as JsonObject,
        secret: Object.keys(secret).length === 0 ? undefined : (secret as JsonObject),
      },
      sink: { ...{ anchor, required, filter: filter.config }, ...peer.config },
    },
  };
}

/** Undefined where nobody can say which members there are. */
function readPeer(type: unknown, preset: unknown, members: JsonMembers): ReadMembers<Peer> | undefined {
  if (type === 'syslog') {
    const read = readSyslogSink(members);
    const errors = [
      ...(preset === undefined ? [] : [{ field: 'preset', message: 'is for webhooks' }]),
      ...('errors' in read ? read.errors : []),
    ];
    return 'errors' in read || errors.length > 0 ? { errors } : { config: { type, peer: read.config } };
  }
  if (type !== 'webhook' || (preset !== undefined && !isPreset(preset))) return undefined;
  const read = readHttpSink(preset, members);
  return 'errors' in read ? read : { config: { type, peer: read.config } };
}

function readFilter(given: unknown, limits: SinkLimits): ReadMembers<SinkFilter> {
  const read = readMembers(FILTER_MEMBERS, given === undefined ? {} : given);
  if ('errors' in read)
    return {
      errors: read.errors.map(({ field, message }) => ({
        field: field === '' ? 'filter' : `filter.${field}`,
        message,
      })),
    };
  const own = limits.sites;
  if (own === undefined) return read;
  const { sites } = read.config;
  if (sites === undefined)
    return { errors: [{ field: 'filter.sites', message: 'must be named: your own credential is held to sites' }] };
  const foreign = sites.filter((site) => !own.includes(site));
  return foreign.length === 0
    ? read
    : { errors: [{ field: 'filter.sites', message: `has ${foreign.length} that are not your own` }] };
}

/** Returns the names of the members that are stored sealed. */
function secretsOf(type: 'syslog' | 'webhook', preset: PresetName | undefined): readonly string[] {
  return type === 'syslog' ? SYSLOG_SINK_MEMBERS.secrets : httpSinkMembers(preset).secrets;
}

/** Returns the names of the members of a sink that stand in its file as secrets, or undefined where it is of no known kind. */
export function secretMembersOf(given: JsonMembers): readonly string[] | undefined {
  const { type, preset } = given;
  if (type === 'syslog') return secretsOf(type, undefined);
  if (type !== 'webhook' || (preset !== undefined && !isPreset(preset))) return undefined;
  return secretsOf(type, preset);
}

function isPreset(value: unknown): value is PresetName {
  return PRESET_NAMES.some((name) => name === value);
}

function different<T>(member: Member<readonly T[]>): Member<readonly T[]> {
  return {
    ...member,
    read: (value) => {
      const read = member.read(value);
      return 'value' in read && new Set(read.value).size < read.value.length ? { problem: 'names one twice' } : read;
    },
  };
}

function anything(): Member<unknown> {
  return { isSecret: false, read: (value) => ({ value }) };
}
