/** From a parsed JSON value to an entry that waits for its place: one list of what is wrong with it, or the entry. */
import { ENTRY_BYTES_MAX } from '../chain/block.ts';
import type { JsonObject, JsonValue } from '../chain/canonical.ts';
import type { ClientCategory, Outcome } from '../chain/category.ts';
import { type EventFields, type PendingEntry, pendingEntry, type StreamRef } from '../chain/entry.ts';
import { type FieldError, Problem } from '../errors.ts';
import { lacksOnlyEvidence, validateEvent } from '../http/api-schema.ts';
import type { Caller } from '../http/caller.ts';
import { OWN_SOURCE } from './own-events.ts';
import { uuidV7 } from './uuid-v7.ts';

/** What the log says of itself, such as `epoch.opened`, nobody else may say. */
const OWN_NAME = { field: 'source.service', message: 'must be another: sealog is the log itself' };

/** A valid event, its id decided, with the entry made of it. */
export interface TakenEvent {
  readonly event: EventFields;
  readonly pending: PendingEntry;
}

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

/**
 * Returns the entry to append. Throws a Problem: `invalid_event` with every field that is wrong, `forbidden` with every field that the
 * sender may not give this value.
 */
export async function takeEvent(
  value: JsonValue,
  sender: Sender,
  { openStream, evidenceRule }: Policies,
  now: number,
): Promise<TakenEvent> {
  const errors = validateEvent(value);
  const isIncomplete = errors.length > 0 && lacksOnlyEvidence(value);
  if (errors.length > 0 && !isIncomplete) throw new Problem('invalid_event', { errors });
  // The schema holds these types.
  const given = value as JsonObject & { readonly category: ClientCategory; readonly outcome: Outcome };
  if ((given['source'] as { readonly service?: unknown }).service === OWN_SOURCE.service)
    throw new Problem('invalid_event', { errors: [OWN_NAME] });
  const notAllowed = beyond(sender, given);
  if (notAllowed.length > 0) throw new Problem('forbidden', { errors: notAllowed });
  if (isIncomplete && (await evidenceRule(sender.tenant, given.category)) === 'refuse')
    throw new Problem('invalid_event', { errors });
  const id = given['id'] as string | undefined;
  const event: EventFields = {
    id: id ?? uuidV7(now),
    action: given['action'] as string,
    outcome: given.outcome,
    severity: given['severity'] as number | undefined,
    occurredAt: given['occurredAt'] as string,
    source: given['source'] as JsonObject,
    ...(isIncomplete ? { evidence: 'incomplete' } : {}),
    parts: {
      actor: given['actor'],
      changes: given['changes'],
      details: given['details'],
      raw: given['raw'],
      reason: given['reason'],
      target: given['target'],
    },
  };
  const pending = pendingEntry(await openStream(sender.tenant, given.category), event, id !== undefined);
  if (pending.bytes > ENTRY_BYTES_MAX)
    throw new Problem('too_large', { detail: 'In canonical form the event is too large: 1e20 has 21 digits there' });
  return { event, pending };
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
