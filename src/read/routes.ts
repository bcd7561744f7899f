/** `GET /v1/events`, `GET /v1/events/{id}` and `GET /v1/streams`. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Kysely } from 'kysely';
import { toHex } from '../chain/bytes.ts';
import type { JsonObject } from '../chain/canonical.ts';
import { entryText, erasedParts } from '../chain/entry-view.ts';
import { type Instant, instantOf } from '../chain/instant.ts';
import { decodeFrontier, frontierRoot } from '../chain/merkle.ts';
import type { Entry } from '../chain/open-block.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import { callerOf, tenantOf } from '../http/caller.ts';
import { leaveTrace } from '../http/trail.ts';
import { checkpointsOf, type DatedCheckpoint } from '../store/checkpoints.ts';
import type { AsTenant } from '../store/database.ts';
import { erasedOf } from '../store/erasures.ts';
import { listStreams, type StreamRow } from '../store/streams.ts';
import type { Tables } from '../store/tables.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import type { Keys } from './entries.ts';
import { findEntry } from './find-entry.ts';
import { search } from './search.ts';

export interface ReadDeps {
  /** Returns how to ask for one tenant, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<AsTenant | undefined>;
  readonly keys: Keys;
}

export function readRoutes({ tenant, keys }: ReadDeps) {
  return async function read(app: FastifyInstance): Promise<void> {
    app.get('/v1/events', { config: { permission: 'events:read' } }, async (request, reply) => {
      const { cursor, limit, order, category, ...asked } = validateQuery('searchEvents', request.query);
      const { tenant: owner, sites: heldTo } = callerOf(request);
      const sites = heldTo === undefined ? undefined : sitesAsked(heldTo, asked.site);
      const question = JSON.stringify([owner, order, category ?? null, Object.entries(asked).sort(), sites ?? null]);
      const positions = cursor === undefined ? undefined : decodeCursor(question, cursor);
      const target = { type: 'log', id: category === undefined ? owner : `${owner}/${category}` };
      const held = sites === undefined ? {} : { sites };
      const details = { query: asked as JsonObject, ...held, order, limit, continued: cursor !== undefined };
      leaveTrace(request, { action: 'log.search', target, details });
      const ask = await tenant(owner);
      if (ask === undefined || sites?.length === 0) return sendJson(reply, '{"items":[],"next":null}');
      const { items, next } = await search(ask, keys, {
        streams: (await ask(listStreams)).filter((stream) => category === undefined || stream.category === category),
        query: {
          ...asked,
          sites,
          from: instant(asked.from),
          to: instant(asked.to),
          occurredFrom: instant(asked.occurredFrom),
          occurredTo: instant(asked.occurredTo),
        },
        order,
        limit,
        positions,
        view: (entry, stream) => viewOf(ask, entry, stream),
      });
      const following = next === undefined ? null : encodeCursor(question, next);
      return sendJson(reply, `{"items":[${items.join(',')}],"next":${JSON.stringify(following)}}`);
    });

    app.get('/v1/events/:id', { config: { permission: 'events:read' } }, async (request, reply) => {
      const { id } = validatePath('readEvent', request.params);
      const { category } = validateQuery('readEvent', request.query);
      leaveTrace(request, {
        action: 'log.read',
        target: { type: 'event', id },
        details: { category: category ?? null },
      });
      const { tenant: owner, sites } = callerOf(request);
      const ask = await tenant(owner);
      if (ask === undefined) throw new Problem('not_found');
      const { entry, stream } = await findEntry(ask, keys, { id, category, sites });
      return sendJson(reply, await viewOf(ask, entry, stream));
    });

    app.get('/v1/streams', { config: { permission: 'streams:read' } }, async (request, reply) => {
      validateQuery('listStreams', request.query);
      leaveTrace(request, { action: 'log.list', target: { type: 'streams', id: tenantOf(request) } });
      const ask = await tenant(tenantOf(request));
      const items = ask === undefined ? [] : await ask(streamViews);
      return sendJson(reply, JSON.stringify({ items, next: null }));
    });
  };
}

/** What of an entry is gone is rare, and looked up only then. */
async function viewOf(ask: AsTenant, entry: Entry, { id, category }: StreamRow): Promise<string> {
  if (erasedParts(entry).length === 0) return entryText(entry, category);
  return entryText(entry, category, { erasures: await ask((database) => erasedOf(database, id, [entry.record.seq])) });
}

/** Returns which of the sites that a caller is held to a search is about, in an order of their own: a cursor outlives a token. */
function sitesAsked(heldTo: readonly string[], site: string | undefined): string[] {
  return [...new Set(heldTo)].filter((one) => site === undefined || one === site).sort();
}

async function streamViews(database: Kysely<Tables>) {
  // One whose first entry was never committed is no stream yet.
  const streams = (await listStreams(database)).filter((stream) => stream.size > 0);
  const checkpoints = await checkpointsOf(
    database,
    streams.map((stream) => stream.id),
  );
  const newest = new Map(checkpoints.map((checkpoint) => [checkpoint.streamId, checkpoint]));
  return streams.map((stream) => streamView(stream, newest.get(stream.id)));
}

function streamView(stream: StreamRow, checkpoint: DatedCheckpoint | undefined) {
  return {
    stream: stream.name,
    category: stream.category,
    epoch: stream.epoch,
    size: stream.size,
    hash: toHex(stream.head),
    root: toHex(frontierRoot(stream.size, decodeFrontier(stream.size, stream.frontier))),
    recordedAt: formatInstant(stream.recordedAt),
    checkpoint:
      checkpoint === undefined
        ? null
        : {
            size: checkpoint.size,
            root: toHex(checkpoint.root),
            signedAt: formatInstant(checkpoint.signedAt.getTime()),
          },
  };
}

function instant(text: string | undefined): Instant | undefined {
  return text === undefined ? undefined : instantOf(text);
}

function sendJson(reply: FastifyReply, text: string): FastifyReply {
  return reply.type('application/json; charset=utf-8').send(text);
}
