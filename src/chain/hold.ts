/**
 * Which entries a legal hold keeps (docs/retention.md, Holds): those that a search for its criteria finds, and those of which nobody can tell,
 * because the part that would say so was erased. To keep one too many can be mended; to let one go can not.
 */
import type { Category } from './category.ts';
import { type EntryQuery, matches } from './entry-filter.ts';
import { instantOf } from './instant.ts';
import type { Entry } from './open-block.ts';
import { isOpen, type PartName } from './part.ts';

/** What an entry must be besides, all of it; as a search takes it. */
export interface HoldCriteria {
  /** recordedAt: from this instant on, and before that. The same for occurredAt. */
  readonly from?: string;
  readonly to?: string;
  readonly occurredFrom?: string;
  readonly occurredTo?: string;
  readonly actor?: string;
  readonly target?: string;
  readonly site?: string;
}

export interface HoldScope {
  /** Null: every one. */
  readonly category: Category | null;
  readonly epoch: number | null;
  readonly criteria: HoldCriteria;
}

/** Says whether a hold may keep entries of a stream. */
export function isAbout(
  { category, epoch }: Pick<HoldScope, 'category' | 'epoch'>,
  stream: { readonly category: Category; readonly epoch: number },
): boolean {
  return (category === null || category === stream.category) && (epoch === null || epoch === stream.epoch);
}

/** Returns what says whether a hold that is about its stream keeps an entry. */
export function keeperOf({
  criteria,
}: Pick<HoldScope, 'criteria'>): (entry: Pick<Entry, 'record' | 'parts'>) => boolean {
  const { from, to, occurredFrom, occurredTo, actor, target, site } = criteria;
  const ofRecord: EntryQuery = {
    site,
    from: from === undefined ? undefined : instantOf(from),
    to: to === undefined ? undefined : instantOf(to),
    occurredFrom: occurredFrom === undefined ? undefined : instantOf(occurredFrom),
    occurredTo: occurredTo === undefined ? undefined : instantOf(occurredTo),
  };
  return (entry) => {
    if (!matches(ofRecord, entry)) return false;
    return matches(
      {
        actor: isErased(entry, 'actor') ? undefined : actor,
        target: isErased(entry, 'target') ? undefined : target,
      },
      entry,
    );
  };
}

function isErased({ parts }: Pick<Entry, 'parts'>, name: PartName): boolean {
  return parts.some((part) => part.name === name && !isOpen(part));
}
