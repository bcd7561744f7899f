/** From JSON that was read to an entry that waits for its place: one list of what is wrong with it, or the entry. */
import { ENTRY_BYTES_MAX } from '../chain/block.ts';
import type { JsonObject, JsonValue } from '../chain/canonical.ts';
import type { ClientCategory, Outcome } from '../chain/category.ts';
import { type CanonicalEvent, type PendingEntry, pendingCanonical, type StreamRef } from '../chain/entry.ts';
import { PART_NAMES } from '../chain/part.ts';
import { type FieldError, Problem } from '../errors.ts';
import { lacksOnlyEvidence, validateEvent } from '../http/api-schema.ts';
import type { Caller } from '../http/caller.ts';
import type { ReadItem, ReadValue } from './json-reader.ts';
import { OWN_SOURCE } from './own-events.ts';
import { uuidV7 } from './uuid-v7.ts';

/** What the log says of itself, such as `epoch.opened`, nobody else may say. */
const OWN_NAME = { field: 'source.service', message: 'must be another: sealog is the log itself' };

const TOO_LARGE = 'In canonical form the event is too large: 1e20 has 21 digits there';

/** Whose events are sent, and what they are held to. */
export type Sender = Pick<Caller, 'tenant' | 'sites' | 'categories'>;

/** Finds, or makes, the stream that a tenant's events of a category go to. */
export type OpenStream = (tenant: string, category: ClientCategory) => Promise<StreamRef>;

/** What becomes of a tenant's events of a category without its evidence: refused, or taken and marked. */
export type EvidenceRule = (tenant: string, category: ClientCategory) => Promise<'refuse' | 'flag'>;

/** How an event finds its stream, and by which rule it is taken. */
export interface Policies {
  readonly openStream: OpenStream;
  readonly evidenceRule: EvidenceRule;
}

/** An event that was read and is valid, but perhaps for the evidence of its category. */
export interface ReadEvent {
  readonly event: CanonicalEvent;
  readonly category: ClientCategory;
  /** Whether its sender gave it its id. */
  readonly mayRepeat: boolean;
  /** What says that it lacks evidence. */
  readonly lacks: readonly FieldError[];
}

/**
 * Returns the event. Throws a Problem: `invalid_event` with every field that is wrong, `forbidden` with every field that the sender may not
 * give this value.
 */
export function readEvent(item: ReadItem, sender: Sender, now: number): ReadEvent {
  const value = valueForSchema(item);
  const errors = validateEvent(value);
  const isIncomplete = errors.length > 0 && lacksOnlyEvidence(value);
  if (errors.length > 0 && !isIncomplete) throw new Problem('invalid_event', { errors });
  // The schema holds these types.
  const given = value as JsonObject & { readonly category: ClientCategory; readonly outcome: Outcome };
  const members = item.members!;
  if ((given['source'] as { readonly service?: unknown }).service === OWN_SOURCE.service)
    throw new Problem('invalid_event', { errors: [OWN_NAME] });
  const notAllowed = beyond(sender, given);
  if (notAllowed.length > 0) throw new Problem('forbidden', { errors: notAllowed });
  const id = given['id'] as string | undefined;
  const event: CanonicalEvent = {
    id: id ?? uuidV7(now),
    action: given['action'] as string,
    outcome: given.outcome,
    severity: given['severity'] as number | undefined,
    occurredAt: given['occurredAt'] as string,
    source: given['source'] as JsonObject,
    sourceText: members.get('source')!.text,
    evidence: isIncomplete ? 'incomplete' : undefined,
    parts: PART_NAMES.flatMap((name) => {
      const part = members.get(name);
      return part === undefined ? [] : [{ name, value: part.bytes }];
    }),
    actor: given['actor'],
    target: given['target'],
  };
  return { event, category: given.category, mayRepeat: id !== undefined, lacks: errors };
}

/** Makes entries of a call's events. What it needs to know is asked once for each category. */
export class Taker {
  readonly #sender: Sender;
  readonly #policies: Policies;
  readonly #streams = new Map<ClientCategory, StreamRef>();
  readonly #rules = new Map<ClientCategory, 'refuse' | 'flag'>();

  constructor(sender: Sender, policies: Policies) {
    this.#sender = sender;
    this.#policies = policies;
  }

  /**
   * Returns the entry to append, or the Problem with the event: `invalid_event` where the tenant's policy refuses what lacks evidence, or
   * `too_large`; a promise of it where something must be asked first. What a stream can not be had for is thrown.
   */
  take(read: ReadEvent): PendingEntry | Problem | Promise<PendingEntry | Problem> {
    const { event, category, mayRepeat, lacks } = read;
    if (lacks.length > 0) {
      const rule = this.#rules.get(category);
      if (rule === undefined) return this.#askRule(read);
      if (rule === 'refuse') return new Problem('invalid_event', { errors: lacks });
    }
    const stream = this.#streams.get(category);
    if (stream === undefined) return this.#askStream(read);
    const pending = pendingCanonical(stream, event, mayRepeat);
    return pending.bytes > ENTRY_BYTES_MAX ? new Problem('too_large', { detail: TOO_LARGE }) : pending;
  }

  async #askRule(read: ReadEvent): Promise<PendingEntry | Problem> {
    this.#rules.set(read.category, await this.#policies.evidenceRule(this.#sender.tenant, read.category));
    return this.take(read);
  }

  async #askStream(read: ReadEvent): Promise<PendingEntry | Problem> {
    this.#streams.set(read.category, await this.#policies.openStream(this.#sender.tenant, read.category));
    return this.take(read);
  }
}

/** Reads and takes one event. Throws a Problem. */
export async function takeEvent(
  item: ReadItem,
  sender: Sender,
  policies: Policies,
  now: number,
): Promise<PendingEntry> {
  const taken = await new Taker(sender, policies).take(readEvent(item, sender, now));
  if (taken instanceof Problem) throw taken;
  return taken;
}

/**
 * Returns an event's value as far as its schema looks into it, which is not at all into what most of its bytes are: `details` is an object,
 * `raw` may be a string, and what changed is anything.
 */
function valueForSchema(item: ReadItem): JsonValue {
  if (item.members === undefined) return item.value;
  const value: JsonObject = {};
  for (const [name, member] of item.members) value[name] = memberForSchema(name, member);
  return value;
}

function memberForSchema(name: string, member: ReadValue): JsonValue {
  if (name === 'details' && member.isObject) return {};
  if (name === 'raw' && member.isString) return '';
  if (name === 'changes') return member.valueWithout(['before', 'after']);
  return member.value;
}

/** Before anything is looked up: whether there is such an event already is nothing that its sender learns. */
function beyond({ sites, categories }: Sender, event: JsonObject): FieldError[] {
  const { site } = event['source'] as { readonly site?: string };
  const errors: FieldError[] = [];
  if (categories !== undefined && !categories.includes(event['category'] as string))
    errors.push({ field: 'category', message: 'is none that this credential may send' });
  if (sites !== undefined && (site === undefined || !sites.includes(site)))
    errors.push({ field: 'source.site', message: 'is none that this credential may send events of' });
  return errors;
}
