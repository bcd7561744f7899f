/** `POST /v1/events` and `POST /v1/events/batch`. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { PendingEntry } from '../chain/entry.ts';
import { Problem } from '../errors.ts';
import { validateQuery } from '../http/api-schema.ts';
import { bodyOf } from '../http/body.ts';
import { callerOf } from '../http/caller.ts';
import type { Appender } from './appender.ts';
import type { Batch, BatchAnswer, BatchLimits } from './batch.ts';
import { type Policies, type Sender, takeEvent } from './events.ts';
import { readItem } from './json-reader.ts';

export interface IngestDeps {
  readonly appender: Appender<PendingEntry>;
  readonly policies: Policies;
  /** Batches are worked out beside the main thread, see `batch-threads.ts`. */
  readonly batches: { answer(batch: Batch, onEvents: (events: number) => void): Promise<BatchAnswer> };
  /** Lets a request in by what it brought, where it did not say that before. Throws a Problem. */
  readonly weigh: (request: FastifyRequest) => void;
  /** Counts the events of a request, undefined where nobody can tell how many, and its bytes against its sender's quota. */
  readonly charge: (request: FastifyRequest, events: number | undefined) => void;
  /** Called with how many events of a batch, which is taken but for them, its sender may not send. */
  readonly onForbidden: (request: FastifyRequest, events: number) => void;
  readonly wallClock: () => number;
  readonly limits: IngestLimits;
  /** Waits for a signed checkpoint that covers so many entries of a tenant's stream; undefined when there was none in time. */
  readonly checkpointOf: (tenant: string, stream: string, size: number) => Promise<string | undefined>;
}

export interface IngestLimits extends BatchLimits {
  /** Of a batch's decoded body. */
  readonly batchBytesMax: number;
}

export function ingestRoutes(deps: IngestDeps) {
  const { appender, policies, batches, weigh, charge, onForbidden, wallClock, limits, checkpointOf } = deps;
  return async function ingest(app: FastifyInstance): Promise<void> {
    const single = {
      permission: 'events:write',
      body: { types: ['application/json'], limit: limits.eventBytesMax },
    } as const;
    app.post('/v1/events', { config: single }, async (request, reply) => {
      charge(request, 1);
      const { wait } = validateQuery('createEvent', request.query);
      const taken = await takeEvent(readItem(bodyOf(request)), senderOf(request), policies, wallClock());
      const [answer] = await appender.append([taken]);
      if (answer instanceof Problem) throw answer;
      const { status, receipt } = answer!;
      const checkpoint =
        wait === undefined ? undefined : await checkpointOf(callerOf(request).tenant, receipt.stream, receipt.seq + 1);
      return sendJson(reply, status, JSON.stringify({ ...receipt, checkpoint }));
    });

    const batch = {
      permission: 'events:write',
      body: { types: ['application/json', 'application/x-ndjson'], limit: limits.batchBytesMax },
    } as const;
    app.post('/v1/events/batch', { config: batch }, async (request, reply) => {
      weigh(request);
      const { atomic } = validateQuery('createEvents', request.query);
      const isLines = request.headers['content-type']?.startsWith('application/x-ndjson') === true;
      const sent = { body: bodyOf(request), isLines, atomic, sender: senderOf(request), now: wallClock() };
      let isCharged = false;
      const onEvents = (events: number | undefined): void => {
        if (!isCharged) charge(request, events);
        isCharged = true;
      };
      try {
        const { status, text, forbidden } = await batches.answer(sent, onEvents);
        if (forbidden > 0) onForbidden(request, forbidden);
        return sendJson(reply, status, text);
      } finally {
        // What is no batch has bytes all the same, which its headers need not have told.
        onEvents(undefined);
      }
    });
  };
}

/** No more of the caller than what goes over to a thread. */
function senderOf(request: FastifyRequest): Sender {
  const { tenant, sites, categories } = callerOf(request);
  return { tenant, ...(sites === undefined ? {} : { sites }), ...(categories === undefined ? {} : { categories }) };
}

function sendJson(reply: FastifyReply, status: number, text: string): FastifyReply {
  return reply.code(status).type('application/json; charset=utf-8').send(text);
}
