/** Events that Sealog writes itself: ticks of the anchor stream, and what the log has to say of itself. */
import type { JsonObject } from '../chain/canonical.ts';
import type { Category, Outcome } from '../chain/category.ts';
import { type PendingEntry, pendingEntry, type StreamRef } from '../chain/entry.ts';
import { formatInstant } from '../chain/retain-until.ts';
import type { Outcome as AppendOutcome, Receipt, Submission } from '../chain/sequencer.ts';
import { sha256Hex } from '../chain/sha256.ts';
import { uuidV7 } from './uuid-v7.ts';

export interface OwnEvent {
  readonly action: string;
  readonly outcome: Outcome;
  readonly severity?: number | undefined;
  /** Else a fresh one. */
  readonly id?: string;
  /** Appended once, however often it is tried: where an entry of the stream has its id, nothing happens. */
  readonly once?: true;
  readonly actor?: JsonObject | undefined;
  readonly target?: JsonObject | undefined;
  readonly reason?: string | undefined;
  readonly changes?: JsonObject | undefined;
  readonly details?: JsonObject | undefined;
}

/** Resolves to undefined where it was there already (`once`). */
export type AppendOwn = (tenant: string, category: Category, event: OwnEvent) => Promise<Receipt | undefined>;

/** The source of everything that Sealog writes itself. */
export const OWN_SOURCE = { service: 'sealog' };

/** Part `details` of an entry that opens an epoch (docs/format.md section 23). */
export interface Opening extends JsonObject {
  readonly closed: {
    readonly consistentSize: number;
    readonly lastRoot: string;
    readonly lastSize: number;
    readonly stream: string;
  };
}

/** Returns the entry that opens an epoch. Its id follows from what it goes on for: whoever appends it again finds it there. */
export function openingEntry(stream: StreamRef, details: Opening, now: number): PendingEntry {
  const { closed } = details;
  const id = `epoch.opened:${sha256Hex(`${closed.stream} ${closed.lastSize} ${closed.lastRoot}`).slice(0, 32)}`;
  const fields = { id, action: 'epoch.opened', outcome: 'success', occurredAt: formatInstant(now) } as const;
  return pendingEntry(stream, { ...fields, source: OWN_SOURCE, parts: { details } }, true);
}

/** Returns what appends an event of our own; it throws a Problem as `Sequencer.append` does. */
export function ownEvents(deps: {
  readonly openStream: (tenant: string, category: Category) => Promise<StreamRef>;
  readonly append: (submission: Submission) => Promise<readonly (AppendOutcome | undefined)[]>;
  readonly wallClock: () => number;
}): AppendOwn {
  return async (tenant, category, { id, once, action, outcome, severity, ...parts }) => {
    const now = deps.wallClock();
    const stream = await deps.openStream(tenant, category);
    const fields = {
      id: id ?? uuidV7(now),
      action,
      outcome,
      severity,
      occurredAt: formatInstant(now),
      source: OWN_SOURCE,
      parts,
    };
    // The ids are ours: no event of another repeats them.
    const entries = [pendingEntry(stream, fields, once === true)];
    const [answer] = await deps.append({ kind: 'open', atomic: false, entries });
    if (once === true && answer?.kind === 'seen') return undefined;
    if (answer?.kind !== 'appended') throw new Error('an event of our own was not appended');
    return answer.receipt;
  };
}
