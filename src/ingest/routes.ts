/** `POST /v1/events` and `POST /v1/events/batch`. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { Problem } from '../errors.ts';
import { validateQuery } from '../http/api-schema.ts';
import { bodyOf } from '../http/body.ts';
import { tenantOf } from '../http/caller.ts';
import type { Appender } from './appender.ts';
import type { Batch, BatchAnswer, BatchLimits } from './batch.ts';
import { type OpenStream, takeEvent } from './events.ts';
import { readJson } from './json-reader.ts';

export interface IngestDeps {
  readonly appender: Appender;
  readonly openStream: OpenStream;
  /** Batches are worked out beside the main thread, see `batch-threads.ts`. */
  readonly batches: { answer(batch: Batch): Promise<BatchAnswer> };
  readonly wallClock: () => number;
  readonly limits: IngestLimits;
  /** Waits for a signed checkpoint that covers so many entries of a stream; undefined when there was none in time. */
  readonly checkpointOf: (stream: string, size: number) => Promise<string | undefined>;
}

export interface IngestLimits extends BatchLimits {
  /** Of a batch's decoded body. */
  readonly batchBytesMax: number;
}

export function ingestRoutes({ appender, openStream, batches, wallClock, limits, checkpointOf }: IngestDeps) {
  return async function ingest(app: FastifyInstance): Promise<void> {
    const single = {
      permission: 'events:write',
      body: { types: ['application/json'], limit: limits.eventBytesMax },
    } as const;
    app.post('/v1/events', { config: single }, async (request, reply) => {
      const { wait } = validateQuery('createEvent', request.query);
      const taken = await takeEvent(readJson(bodyOf(request)), tenantOf(request), openStream, wallClock());
      const [answer] = await appender.append([taken]);
      if (answer instanceof Problem) throw answer;
      const { status, receipt } = answer!;
      const checkpoint = wait === undefined ? undefined : await checkpointOf(receipt.stream, receipt.seq + 1);
      return sendJson(reply, status, JSON.stringify({ ...receipt, checkpoint }));
    });

    const batch = {
      permission: 'events:write',
      body: { types: ['application/json', 'application/x-ndjson'], limit: limits.batchBytesMax },
    } as const;
    app.post('/v1/events/batch', { config: batch }, async (request, reply) => {
      const { atomic } = validateQuery('createEvents', request.query);
      const isLines = request.headers['content-type']?.startsWith('application/x-ndjson') === true;
      const tenant = tenantOf(request);
      const { status, text } = await batches.answer({
        body: bodyOf(request),
        isLines,
        atomic,
        tenant,
        now: wallClock(),
      });
      return sendJson(reply, status, text);
    });
  };
}

function sendJson(reply: FastifyReply, status: number, text: string): FastifyReply {
  return reply.code(status).type('application/json; charset=utf-8').send(text);
}
