/** Where a sink begins, or goes back to: a word, a seq or an instant, turned into a place in each stream. */
import type { Category } from '../chain/category.ts';
import { openRecords } from '../chain/open-block.ts';
import { Problem } from '../errors.ts';
import type { AsTenant } from '../store/database.ts';
import { blockOf } from '../store/log-reader.ts';
import { firstSeqEndingFrom, type SinkPlace, type StreamOfSink, streamsIn } from '../store/sinks.ts';
import { categoriesOf, followedBy, type SinkBegin, termsOf } from './sink.ts';

/** A stream, and how its tenant is asked. */
export interface SourceOfPlaces {
  readonly stream: StreamOfSink;
  readonly ask: AsTenant;
  /** The sink reads it for what it tells of erasures alone. */
  readonly isForErasures: boolean;
}

/** Returns the streams that a sink follows, by category and epoch; the anchor stream is the deployment's. */
export async function sourcesOf(
  ask: AsTenant,
  ofDeployment: () => Promise<AsTenant | undefined>,
  config: unknown,
): Promise<SourceOfPlaces[]> {
  const terms = termsOf(config);
  const own = await ask((database) => streamsIn(database, followedBy(terms)));
  const isWanted = new Set<Category>(categoriesOf(terms));
  const askTicks = terms.anchor ? await ofDeployment() : undefined;
  const ticks = (await askTicks?.((database) => streamsIn(database, ['anchor']))) ?? [];
  return [
    ...own.map((stream) => ({ stream, ask, isForErasures: !isWanted.has(stream.category) })),
    ...ticks.map((stream) => ({ stream, ask: askTicks!, isForErasures: false })),
  ];
}

/**
 * Returns the place in each of these streams: in those of one category, epochs in order. A seq is one of the newest epoch, and the epochs before it are left
 * behind; it says nothing of streams that are read for erasures, which are then told from now on. Throws a Problem where the log has not come so far.
 */
export async function placesFrom(
  sources: readonly SourceOfPlaces[],
  from: SinkBegin,
  field: string,
): Promise<SinkPlace[]> {
  const places: SinkPlace[] = [];
  const newest = sources.findLast(({ isForErasures }) => !isForErasures)?.stream;
  for (const { stream, ask } of sources) {
    if (from === 'now') places.push({ streamId: stream.id, nextSeq: stream.size });
    else if (from === 'beginning') places.push({ streamId: stream.id, nextSeq: 0 });
    else if ('timeMs' in from)
      places.push({ streamId: stream.id, nextSeq: await firstSeqAt(ask, stream, from.timeMs) });
    else if (stream !== newest) places.push({ streamId: stream.id, nextSeq: stream.size });
    else places.push({ streamId: stream.id, nextSeq: from.seq });
  }
  const size = newest?.size ?? 0;
  if (typeof from === 'object' && 'seq' in from && from.seq > size) {
    const message = `must be at most ${size}: the stream has so many entries`;
    throw new Problem('invalid_request', { errors: [{ field: `${field}.seq`, message }] });
  }
  return places;
}

/** Returns the seq of the first entry that the log took at an instant or behind it; the size where there is none. */
async function firstSeqAt(ask: AsTenant, stream: StreamOfSink, timeMs: number): Promise<number> {
  return ask(async (database) => {
    const first = await firstSeqEndingFrom(database, stream.id, timeMs);
    const block = first === undefined ? undefined : await blockOf(database, stream.id, first);
    if (block === undefined) return stream.size;
    const found = openRecords(block).find(({ record }) => Date.parse(record.recordedAt) >= timeMs);
    return found?.record.seq ?? block.firstSeq + block.entries;
  });
}
