/** `POST /v1/events` and `POST /v1/events/batch`: strict reading, validation, and what the sequencer said, as HTTP. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { Problem } from '../errors.ts';
import { validateQuery } from '../http/api-schema.ts';
import { bodyOf } from '../http/body.ts';
import { tenantOf } from '../http/caller.ts';
import { problemFields } from '../http/problem.ts';
import type { Appender, Settled } from './appender.ts';
import { type OpenStream, type TakenEvent, takeEvent } from './events.ts';
import { type ReadItem, readJson, readJsonArray, splitLines } from './json-reader.ts';

export interface IngestDeps {
  readonly appender: Appender;
  readonly openStream: OpenStream;
  readonly wallClock: () => number;
  readonly limits: IngestLimits;
}

export interface IngestLimits {
  /** Of one event's text. */
  readonly eventBytesMax: number;
  /** Of a batch's decoded body. */
  readonly batchBytesMax: number;
  readonly batchEventsMax: number;
}

/** Events that are prepared before others get their turn: about 10 ms. */
const EVENTS_A_TURN = 128;

export function ingestRoutes({ appender, openStream, wallClock, limits }: IngestDeps) {
  return async function ingest(app: FastifyInstance): Promise<void> {
    const single = {
      permission: 'events:write',
      body: { types: ['application/json'], limit: limits.eventBytesMax },
    } as const;
    app.post('/v1/events', { config: single }, async (request, reply) => {
      validateQuery('createEvent', request.query);
      const taken = await takeEvent(readJson(bodyOf(request)), tenantOf(request), openStream, wallClock());
      const [answer] = await appender.append([taken]);
      if (answer instanceof Problem) throw answer;
      return sendJson(reply, answer!.status, JSON.stringify(answer!.receipt));
    });

    const batch = {
      permission: 'events:write',
      body: { types: ['application/json', 'application/x-ndjson'], limit: limits.batchBytesMax },
    } as const;
    app.post('/v1/events/batch', { config: batch }, async (request, reply) => {
      const { atomic } = validateQuery('createEvents', request.query);
      const isLines = request.headers['content-type']?.startsWith('application/x-ndjson') === true;
      const items = isLines ? itemsOfLines(bodyOf(request), limits) : itemsOfArray(bodyOf(request), limits);
      if (items.length === 0) throw new Problem('invalid_batch', { errors: [{ field: '', message: 'has no event' }] });

      const taken: (TakenEvent | Problem)[] = [];
      for (const [index, item] of items.entries()) {
        if (index > 0 && index % EVENTS_A_TURN === 0) await nextTurn();
        taken.push(
          await attempt(async () => takeEvent(valueOf(item, limits), tenantOf(request), openStream, wallClock())),
        );
      }
      const valid = taken.filter((one): one is TakenEvent => !(one instanceof Problem));
      if (atomic) {
        if (valid.length < taken.length) throw invalidItems(taken);
        const answers = await appender.appendAll(valid);
        return sendJson(reply, 201, batchAnswer(answers));
      }
      const answers = await appender.append(valid);
      let next = 0;
      return sendJson(reply, 200, batchAnswer(taken.map((one) => (one instanceof Problem ? one : answers[next++]!))));
    });
  };
}

/** A line, or an item of an array, that is read already. */
type Item = ReadItem | Uint8Array;

function itemsOfLines(body: Buffer, { batchEventsMax }: IngestLimits): Item[] {
  return splitLines(body, { linesMax: batchEventsMax });
}

function itemsOfArray(body: Buffer, { batchEventsMax }: IngestLimits): readonly Item[] {
  return readJsonArray(body, { itemsMax: batchEventsMax });
}

function valueOf(item: Item, { eventBytesMax }: IngestLimits): ReadItem['value'] {
  const length = item instanceof Uint8Array ? item.length : item.bytes;
  if (length > eventBytesMax) throw new Problem('too_large', { detail: `An event has at most ${eventBytesMax} bytes` });
  return item instanceof Uint8Array ? readJson(item) : item.value;
}

async function attempt(take: () => Promise<TakenEvent>): Promise<TakenEvent | Problem> {
  try {
    return await take();
  } catch (error) {
    // What is wrong with this item is its own; everything else is the whole call's.
    if (error instanceof Problem && error.status < 500) return error;
    throw error;
  }
}

function invalidItems(taken: readonly (TakenEvent | Problem)[]): Problem {
  const errors = taken.flatMap((one, index) => {
    if (!(one instanceof Problem)) return [];
    const own = one.errors.length > 0 ? one.errors : [{ field: '', message: one.message }];
    return own.map((error) => ({ ...error, field: error.field === '' ? `[${index}]` : `[${index}].${error.field}` }));
  });
  return new Problem('invalid_batch', { errors: errors.slice(0, 20) });
}

function batchAnswer(answers: readonly (Settled | Problem)[]): string {
  const items = answers.map((answer) =>
    answer instanceof Problem ? problemFields(answer) : { status: answer.status, ...answer.receipt },
  );
  return JSON.stringify({ errors: answers.some((answer) => answer instanceof Problem), items });
}

function sendJson(reply: FastifyReply, status: number, text: string): FastifyReply {
  return reply.code(status).type('application/json; charset=utf-8').send(text);
}
