/**
 * `GET /v1/export`: a range of the log as a file, in a format that other tools read (download.ts).
 *
 * What fails before the first line is an answer of its own. What fails later ends the connection without the closing line and without the end
 * of the body: nothing that was cut looks whole. Whoever goes away, or does not read (http/connection-watch.ts), ends the work.
 */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { utf8 } from '../chain/bytes.ts';
import type { JsonObject } from '../chain/canonical.ts';
import type { Category } from '../chain/category.ts';
import { compareInstants, instantOf } from '../chain/instant.ts';
import { EvidenceError, Problem } from '../errors.ts';
import { validateQuery } from '../http/api-schema.ts';
import { callerOf } from '../http/caller.ts';
import { leaveTrace, type Trace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import { type DownloadRequest, type DownloadSources, download } from './download.ts';
import { readCursor } from './download-cursor.ts';
import { closingLine, downloadWriter } from './download-format.ts';

export interface ExportDeps extends Omit<DownloadSources, 'ask'> {
  /** Returns how to ask for one tenant, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<AsTenant | undefined>;
  readonly log: { info(facts: object, message: string): void; error(facts: object, message: string): void };
}

interface Asked {
  readonly request: DownloadRequest;
  readonly trace: Trace;
}

/** Whoever reads his slowly has it for hours, and a few MB with it: so one tenant has no more than two. */
const OF_TENANT_MAX = 2;
const AT_ONCE_MAX = 8;
const RETRY_SECONDS = 10;

export function exportRoutes({ tenant, log, ...sources }: ExportDeps) {
  /** Tenants of the downloads under way. */
  const underWay = new Set<{ readonly tenant: string }>();
  return async function exports(app: FastifyInstance): Promise<void> {
    app.get('/v1/export', { config: { permission: 'events:export' } }, async (request, reply) => {
      const { request: asked, trace } = readRequest(request);
      // Before the trace: whoever is refused must not make us write.
      const place = takePlace(underWay, asked.tenant);
      const gone = new AbortController();
      const onGone = (): void => gone.abort();
      reply.raw.once('close', onGone);
      // Before he was let in; that is not said again.
      if (reply.raw.destroyed) gone.abort();
      const done = (): void => {
        underWay.delete(place);
        gone.abort();
      };
      try {
        leaveTrace(request, trace);
        const ask = await tenant(asked.tenant);
        const sites = asked.query.sites;
        const isEmpty = ask === undefined || sites?.length === 0;
        const lines = isEmpty ? nothing(asked) : download({ ...sources, ask }, asked, gone.signal);
        const first = await lines.next();
        const body = Readable.from(answer(asked, first, lines, gone.signal, log), { objectMode: false });
        body.once('close', done);
        const { contentType } = downloadWriter(asked.format);
        reply
          .type(contentType)
          .header('content-disposition', `attachment; filename="${fileName(asked)}"`)
          .send(body);
      } catch (error) {
        const isGone = gone.signal.aborted;
        done();
        throw isGone ? new Problem('request_timeout', { detail: 'the client went away', cause: error }) : error;
      }
      return reply;
    });
  };
}

/** Returns a place among the downloads under way. Throws a Problem: `quota` where the tenant has his, `busy` where there is none. */
function takePlace(underWay: Set<{ readonly tenant: string }>, tenant: string): { readonly tenant: string } {
  const own = [...underWay].filter((one) => one.tenant === tenant).length;
  if (own >= OF_TENANT_MAX)
    throw new Problem('quota', { detail: `${OF_TENANT_MAX} downloads are under way`, retryAfter: RETRY_SECONDS });
  if (underWay.size >= AT_ONCE_MAX)
    throw new Problem('busy', { detail: 'too many downloads are under way', retryAfter: RETRY_SECONDS });
  const place = { tenant };
  underWay.add(place);
  return place;
}

async function* nothing({ format }: DownloadRequest): AsyncGenerator<Uint8Array> {
  yield utf8(closingLine(format, { complete: true, entries: 0, streams: [], cursor: null }));
}

/** The whole body. Throws where it can not be made whole: then the connection is destroyed. */
async function* answer(
  { tenant, format, cursor }: DownloadRequest,
  first: IteratorResult<Uint8Array>,
  lines: AsyncGenerator<Uint8Array>,
  signal: AbortSignal,
  log: ExportDeps['log'],
): AsyncGenerator<Uint8Array> {
  try {
    const { opening } = downloadWriter(format);
    // What continues is put behind what the client has.
    if (cursor === undefined && opening !== '') yield utf8(opening);
    if (first.done !== true) yield first.value;
    yield* lines;
  } catch (error) {
    if (!signal.aborted) {
      const { message, cause } = error as Error;
      const isEvidence = error instanceof EvidenceError;
      // A month that expires while it is read is nobody's fault.
      if (error instanceof Problem && error.code === 'not_found')
        log.info({ tenant, format, reason: error.detail }, 'a download was cut: what comes next has expired');
      else
        log.error(
          { tenant, format, isEvidence, reason: message, cause },
          'a download was cut: its log can not be read',
        );
    }
    throw error;
  }
}

function readRequest(request: FastifyRequest): Asked {
  const { tenant, sites: heldTo } = callerOf(request);
  const { format, category, epoch, fromSeq, toSeq, limit, cursor, ...filter } = validateQuery(
    'exportEvents',
    request.query,
  );
  const categories = category === undefined ? undefined : ([...new Set(category.split(','))].sort() as Category[]);
  const errors = [];
  for (const [field, value] of Object.entries({ epoch, fromSeq, toSeq }))
    if (value !== undefined && categories?.length !== 1)
      errors.push({ field, message: 'needs exactly one category: seqs are numbers of a stream' });
  if (fromSeq !== undefined && toSeq !== undefined && fromSeq > toSeq)
    errors.push({ field: 'toSeq', message: 'must not be less than `fromSeq`' });
  const [from, to, occurredFrom, occurredTo] = [filter.from, filter.to, filter.occurredFrom, filter.occurredTo].map(
    (text) => (text === undefined ? undefined : instantOf(text)),
  );
  if (from !== undefined && to !== undefined && compareInstants(from, to) > 0)
    errors.push({ field: 'to', message: 'must not be before `from`' });
  if (errors.length > 0) throw new Problem('invalid_request', { errors });
  const sites =
    heldTo === undefined
      ? undefined
      : [...new Set(heldTo)].filter((one) => filter.site === undefined || one === filter.site).sort();
  const range = { epoch: epoch ?? null, fromSeq: fromSeq ?? null, toSeq: toSeq ?? null };
  const details: JsonObject = {
    ...{ format, categories: categories ?? null, ...range, query: filter as JsonObject },
    ...(sites === undefined ? {} : { sites }),
    ...{ limit: limit ?? null, cursor: cursor ?? null },
  };
  const target = { type: 'log', id: categories?.length === 1 ? `${tenant}/${categories[0]}` : tenant };
  return {
    request: {
      ...{ tenant, format, categories, epoch, fromSeq, toSeq, limit },
      query: { ...filter, sites, from, to, occurredFrom, occurredTo },
      cursor: cursor === undefined ? undefined : readCursor(cursor),
    },
    trace: { action: 'log.export', target, details },
  };
}

/** Such as `sealog_acme_data-access_2026-11-22_2026-11-23.csv`. */
function fileName({ tenant, format, categories, query }: DownloadRequest): string {
  const named = categories?.length === 1 ? [categories[0]!.replaceAll('_', '-')] : [];
  const days = [query.from, query.to].flatMap((at) => (at === undefined ? [] : [dayOf(at.ms)]));
  return `${['sealog', tenant, ...named, ...days].join('_')}.${downloadWriter(format).extension}`;
}

function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
