/**
 * Opens the epoch in which a stream goes on under a shorter policy (docs/format.md section 23): its first entry says which epoch it goes on for, and
 * the tenant's log of administration tells of it. The signer calls it behind closing the old one, and again where it did not end.
 */
import assert from 'node:assert/strict';
import { CATEGORIES, type Category } from '../chain/category.ts';
import type { StreamRef } from '../chain/entry.ts';
import type { Submission } from '../chain/sequencer.ts';
import { Problem } from '../errors.ts';
import { type AppendOwn, openingEntry } from './own-events.ts';

export interface EpochOpenerDeps {
  /** Finds a stream as it is now, not as it is remembered. */
  readonly openStream: (tenant: string, category: Category) => Promise<StreamRef>;
  readonly append: (submission: Submission) => Promise<unknown>;
  readonly appendOwn: AppendOwn;
  readonly wallClock: () => number;
}

/** An epoch that was closed at its last entry, and what is known of the next. */
export interface ClosedEpoch {
  readonly stream: string;
  readonly size: number;
  /** Hex. */
  readonly root: string;
  readonly next: string;
  /** Months that the two keep their entries. */
  readonly before: number;
  readonly after: number;
  /** The next one has its opening entry. */
  readonly isOpened: boolean;
}

/** Returns what opens an epoch: once, however often it is called. It throws a Problem as `Sequencer.append` does. */
export function epochOpener({ openStream, append, appendOwn, wallClock }: EpochOpenerDeps) {
  return async ({ stream, size, root, next, before, after, isOpened }: ClosedEpoch): Promise<void> => {
    const [tenant, of] = stream.split('/');
    const category = CATEGORIES.find((one) => one === of);
    assert(tenant !== undefined && category !== undefined, 'a stream has a tenant and a category');
    if (!isOpened) {
      const ref = await openStream(tenant, category);
      if (ref.name !== next) throw new Problem('not_ready', { detail: `${next} is not the last epoch` });
      const closed = { consistentSize: size, lastRoot: root, lastSize: size, stream };
      const details = { closed, lost: null, policy: { after, before }, reappended: 0 };
      await append({ kind: 'open', atomic: false, opens: true, entries: [openingEntry(ref, details, wallClock())] });
    }
    await appendOwn(tenant, 'log_administration', {
      ...{ id: `retention.shortened:${next.replaceAll('/', ':')}`, once: true },
      ...{ action: 'retention.shortened', outcome: 'success' },
      target: { type: 'retention', id: category },
      changes: { before: { months: before }, after: { months: after } },
      details: { closed: stream, next, size },
    });
  };
}
