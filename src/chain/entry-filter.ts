/** What a search or a download asks for, as conditions on blocks (to pass over those that can not match) and on entries (to decide). */
import type { JsonObject, JsonValue } from './canonical.ts';
import { OUTCOMES, type Outcome } from './category.ts';
import { partValue } from './entry-view.ts';
import { compareInstants, type Instant, instantOf } from './instant.ts';
import type { Entry } from './open-block.ts';
import { type Mark, marksOf, normalizeEmail, normalizeIp, tagOf } from './tag.ts';

export interface EntryQuery {
  readonly action?: string | undefined;
  readonly outcome?: Outcome | undefined;
  readonly actor?: string | undefined;
  readonly target?: string | undefined;
  readonly site?: string | undefined;
  /** Sites that the caller is held to; absent: all, and entries without one. */
  readonly sites?: readonly string[] | undefined;
  readonly service?: string | undefined;
  readonly ip?: string | undefined;
  readonly severityMin?: number | undefined;
  /** recordedAt: from this on, and before that. The same for occurredAt. */
  readonly from?: Instant | undefined;
  readonly to?: Instant | undefined;
  readonly occurredFrom?: Instant | undefined;
  readonly occurredTo?: Instant | undefined;
}

/** Conditions on a block that can be told without opening it: those that do not meet them have nothing that is asked for. */
export interface BlockFilter {
  /** Milliseconds since 1970; a block passes when an entry of it may lie between. */
  readonly recordedFrom?: number | undefined;
  readonly recordedTo?: number | undefined;
  readonly occurredFrom?: number | undefined;
  readonly occurredTo?: number | undefined;
  readonly severityMin?: number | undefined;
  /** Bit of an outcome. */
  readonly outcome?: number | undefined;
  /** For each condition the tags of which one must be the block's; the condition that fewest blocks meet first. */
  readonly tags: readonly (readonly bigint[])[];
}

/**
 * For each condition the marks of which an entry must have one; the one that fewest blocks are likely to meet first. Sites that the caller
 * is held to come before all: only blocks that have an entry of them are candidates then, so that neither an empty page nor where it ends
 * tells of the others.
 */
function wantedMarks(query: EntryQuery): Mark[][] {
  const wanted: Mark[][] = [];
  if (query.sites !== undefined) wanted.push(query.sites.map((value) => ({ kind: 'site', value })));
  if (query.actor !== undefined) {
    const values = new Set([query.actor, normalizeEmail(query.actor)]);
    wanted.push([...values].map((value) => ({ kind: 'actor', value })));
  }
  if (query.target !== undefined) wanted.push([{ kind: 'target', value: query.target }]);
  if (query.ip !== undefined) wanted.push([{ kind: 'ip', value: normalizeIp(query.ip) }]);
  if (query.action !== undefined) wanted.push([{ kind: 'action', value: query.action }]);
  if (query.site !== undefined) wanted.push([{ kind: 'site', value: query.site }]);
  if (query.service !== undefined) wanted.push([{ kind: 'service', value: query.service }]);
  return wanted;
}

/**
 * Returns the conditions on the blocks of a stream and drop month, whose tags are made with its tag key. Blocks know whole milliseconds:
 * those of times let through a little more than was asked for.
 */
export function blockFilter(query: EntryQuery, tagKey: Uint8Array): BlockFilter {
  return {
    recordedFrom: query.from?.ms,
    recordedTo: query.to?.ms,
    occurredFrom: query.occurredFrom?.ms,
    occurredTo: query.occurredTo?.ms,
    severityMin: query.severityMin,
    outcome: query.outcome === undefined ? undefined : 1 << OUTCOMES.indexOf(query.outcome),
    tags: wantedMarks(query).map((marks) => marks.map((mark) => tagOf(mark, tagKey))),
  };
}

/** Says whether an entry is one that the query asks for. */
export function matches(query: EntryQuery, entry: Pick<Entry, 'record' | 'parts'>): boolean {
  const { record } = entry;
  if (!isOfSites(entry, query.sites)) return false;
  if (query.outcome !== undefined && record.outcome !== query.outcome) return false;
  if (query.severityMin !== undefined && (record.severity === undefined || record.severity < query.severityMin))
    return false;
  if (!between(record.recordedAt, query.from, query.to)) return false;
  if (!between(record.occurredAt, query.occurredFrom, query.occurredTo)) return false;
  if (query.action !== undefined && record.action !== query.action) return false;
  if (query.site !== undefined && record.source['site'] !== query.site) return false;
  if (query.service !== undefined && record.source['service'] !== query.service) return false;
  if (query.actor !== undefined && !isActor(partValue(entry, 'actor'), query.actor)) return false;
  const needsMarks = query.target !== undefined || query.ip !== undefined;
  if (!needsMarks) return true;
  const marks = marksOf({
    action: record.action,
    source: record.source,
    actor: partValue(entry, 'actor'),
    target: partValue(entry, 'target'),
  });
  const has = (kind: Mark['kind'], value: string) => marks.some((mark) => mark.kind === kind && mark.value === value);
  return (
    (query.target === undefined || has('target', query.target)) &&
    (query.ip === undefined || has('ip', normalizeIp(query.ip)))
  );
}

/** Says whether whoever is held to these sites may see an entry. */
export function isOfSites({ record }: Pick<Entry, 'record'>, sites: readonly string[] | undefined): boolean {
  if (sites === undefined) return true;
  const site = record.source['site'];
  return typeof site === 'string' && sites.includes(site);
}

/** Id and name match as they stand, an e-mail address in its normal form. */
function isActor(actor: JsonValue | undefined, wanted: string): boolean {
  if (typeof actor !== 'object' || actor === null || Array.isArray(actor)) return false;
  const { id, name, email } = actor as JsonObject;
  return (
    id === wanted || name === wanted || (typeof email === 'string' && normalizeEmail(email) === normalizeEmail(wanted))
  );
}

function between(text: string, from: Instant | undefined, to: Instant | undefined): boolean {
  if (from === undefined && to === undefined) return true;
  const instant = instantOf(text);
  return (
    (from === undefined || compareInstants(instant, from) >= 0) &&
    (to === undefined || compareInstants(instant, to) < 0)
  );
}
