/** `GET /v1/events`, `GET /v1/events/{id}` and `GET /v1/streams`. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { toHex } from '../chain/bytes.ts';
import { entryIdHash } from '../chain/entry.ts';
import { decodeFrontier, frontierRoot } from '../chain/merkle.ts';
import type { Entry } from '../chain/open-block.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import { tenantOf } from '../http/caller.ts';
import { placesOfId } from '../store/log-reader.ts';
import { listStreams, type StreamRow } from '../store/streams.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import { type Keys, readEntries } from './entries.ts';
import { entryText } from './entry-view.ts';
import { type Instant, instantOf } from './instant.ts';
import { type AsTenant, search } from './search.ts';

export interface ReadDeps {
  /** Returns how to ask for one tenant, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<AsTenant | undefined>;
  readonly keys: Keys;
}

export function readRoutes({ tenant, keys }: ReadDeps) {
  return async function read(app: FastifyInstance): Promise<void> {
    app.get('/v1/events', { config: { permission: 'events:read' } }, async (request, reply) => {
      const { cursor, limit, order, category, ...asked } = validateQuery('searchEvents', request.query);
      const owner = tenantOf(request);
      const question = JSON.stringify([owner, order, category ?? null, Object.entries(asked).sort()]);
      const positions = cursor === undefined ? undefined : decodeCursor(question, cursor);
      const ask = await tenant(owner);
      if (ask === undefined) return sendJson(reply, '{"items":[],"next":null}');
      const { items, next } = await search(ask, keys, {
        streams: (await ask(listStreams)).filter((stream) => category === undefined || stream.category === category),
        query: {
          ...asked,
          from: instant(asked.from),
          to: instant(asked.to),
          occurredFrom: instant(asked.occurredFrom),
          occurredTo: instant(asked.occurredTo),
        },
        order,
        limit,
        positions,
        view: (entry, stream) => entryText(entry, stream.category),
      });
      const following = next === undefined ? null : encodeCursor(question, next);
      return sendJson(reply, `{"items":[${items.join(',')}],"next":${JSON.stringify(following)}}`);
    });

    app.get('/v1/events/:id', { config: { permission: 'events:read' } }, async (request, reply) => {
      const { id } = validatePath('readEvent', request.params);
      const { category } = validateQuery('readEvent', request.query);
      const ask = await tenant(tenantOf(request));
      const found = ask === undefined ? [] : await findById(ask, keys, id, category);
      const [first, second] = found;
      if (first === undefined) throw new Problem('not_found');
      if (second !== undefined) {
        const categories = found.map(({ stream }) => stream.category).join(', ');
        throw new Problem('category_required', {
          errors: [{ field: 'category', message: `must be one of ${categories}` }],
        });
      }
      return sendJson(reply, entryText(first.entry, first.stream.category));
    });

    app.get('/v1/streams', { config: { permission: 'streams:read' } }, async (request, reply) => {
      validateQuery('listStreams', request.query);
      const ask = await tenant(tenantOf(request));
      const streams = ask === undefined ? [] : await ask(listStreams);
      // One whose first entry was never committed is no stream yet.
      const items = streams.filter((stream) => stream.size > 0).map(streamView);
      return sendJson(reply, JSON.stringify({ items, next: null }));
    });
  };
}

/** Returns for each category the newest entry with this id. */
async function findById(
  ask: AsTenant,
  keys: Keys,
  id: string,
  category: string | undefined,
): Promise<{ entry: Entry; stream: StreamRow }[]> {
  const streams = (await ask(listStreams)).filter((stream) => category === undefined || stream.category === category);
  const places = await ask((database) =>
    placesOfId(
      database,
      streams.map((stream) => stream.id),
      entryIdHash(id),
    ),
  );
  const newest = new Map<string, { entry: Entry; stream: StreamRow }>();
  for (const stream of streams.toSorted((a, b) => b.epoch - a.epoch)) {
    if (newest.has(stream.category)) continue;
    for (const place of places.filter((one) => one.streamId === stream.id)) {
      const entry = (await readEntries(ask, keys, stream, [place.seq], place.dropMonth)).get(place.seq);
      if (entry?.record.id !== id) continue;
      newest.set(stream.category, { entry, stream });
      break;
    }
  }
  return [...newest.values()];
}

function streamView(stream: StreamRow) {
  return {
    stream: stream.name,
    category: stream.category,
    epoch: stream.epoch,
    size: stream.size,
    hash: toHex(stream.head),
    root: toHex(frontierRoot(stream.size, decodeFrontier(stream.size, stream.frontier))),
    recordedAt: formatInstant(stream.recordedAt),
  };
}

function instant(text: string | undefined): Instant | undefined {
  return text === undefined ? undefined : instantOf(text);
}

function sendJson(reply: FastifyReply, text: string): FastifyReply {
  return reply.type('application/json; charset=utf-8').send(text);
}
