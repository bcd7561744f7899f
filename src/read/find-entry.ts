/** An event by the id that its sender gave it. */
import { entryIdHash } from '../chain/entry.ts';
import { isOfSites } from '../chain/entry-filter.ts';
import type { Entry } from '../chain/open-block.ts';
import { Problem } from '../errors.ts';
import type { AsTenant } from '../store/database.ts';
import { placesOfId } from '../store/log-reader.ts';
import { listStreams, type StreamRow } from '../store/streams.ts';
import { type Keys, readEntries } from './entries.ts';

export interface FoundEntry {
  readonly entry: Entry;
  readonly stream: StreamRow;
}

/** Which entry is meant, and of which sites it may be; absent: of all, or of none. */
export interface EntryId {
  readonly id: string;
  readonly category: string | undefined;
  readonly sites: readonly string[] | undefined;
}

/**
 * Returns the tenant's newest entry with this id, of the category where one is named. Throws a Problem: `not_found`, or
 * `category_required` where several categories have it. One of another site is not there, whatever is asked.
 */
export async function findEntry(ask: AsTenant, keys: Keys, wanted: EntryId): Promise<FoundEntry> {
  const found = await findById(ask, keys, wanted);
  const [first, second] = found;
  if (first === undefined) throw await notFound(ask, wanted.category);
  if (second !== undefined) {
    const categories = found.map(({ stream }) => stream.category).join(', ');
    throw new Problem('category_required', {
      errors: [{ field: 'category', message: `must be one of ${categories}` }],
    });
  }
  return first;
}

/** What expired has left no id behind: whether this one did is not known, and the answer says so. */
async function notFound(ask: AsTenant, category: string | undefined): Promise<Problem> {
  const streams = (await ask(listStreams)).filter((stream) => category === undefined || stream.category === category);
  const expired = streams
    .filter(({ pruned }) => pruned > 0)
    .map(({ name, pruned }) => `${name} before entry ${pruned}`);
  if (expired.length === 0) return new Problem('not_found');
  return new Problem('not_found', {
    detail: `no such event is stored; what has expired is gone: ${expired.join(', ')}`,
  });
}

/** Returns for each category the newest entry with this id. */
async function findById(ask: AsTenant, keys: Keys, { id, category, sites }: EntryId): Promise<FoundEntry[]> {
  const { streams, places } = await ask(async (database) => {
    const all = await listStreams(database);
    const streams = all.filter((stream) => category === undefined || stream.category === category);
    const ids = streams.map((stream) => stream.id);
    return { streams, places: await placesOfId(database, ids, entryIdHash(id)) };
  });
  const newest = new Map<string, FoundEntry>();
  for (const stream of streams.toSorted((a, b) => b.epoch - a.epoch)) {
    if (newest.has(stream.category)) continue;
    for (const place of places.filter((one) => one.streamId === stream.id)) {
      const entry = (await readEntries(ask, keys, stream, [place.seq], place.dropMonth)).get(place.seq);
      if (entry?.record.id !== id || !isOfSites(entry, sites)) continue;
      newest.set(stream.category, { entry, stream });
      break;
    }
  }
  return [...newest.values()];
}
