/**
 * Proofs: of an event, `GET /v1/events/{id}/proof`; of a whole stream, as C2SP tlog-tiles under `/v1/logs/<stream>`; and the keys.
 *
 * A stream's logs are for its own tenant. The anchor stream's are for everybody who may read proofs: its records hold no tenant's data, and
 * no proof of a time goes without them. Where the operator makes logs public, they need no token: records hold no personal data.
 *
 * Under `/v1/logs` each thing has one address, which is taken as it was sent: encoded characters, dots or doubled slashes lead nowhere.
 */
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { CATEGORIES, type Category, OWN_TENANT, streamName } from '../chain/category.ts';
import { anchorEpoch } from '../chain/key-statement.ts';
import type { Entry } from '../chain/open-block.ts';
import { encodeEntryBundle, parseTilePath, TILE_WIDTH, type TileResource } from '../chain/tile.ts';
import { EvidenceError, Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import { callerOf, mayReadEvents, tenantOf } from '../http/caller.ts';
import { leaveTrace } from '../http/trail.ts';
import type { StoredKeyStatement } from '../store/checkpoints.ts';
import type { AsTenant } from '../store/database.ts';
import { listStreams, prunedUpTo } from '../store/streams.ts';
import { recordsOf, treeTile } from '../store/tree-hashes.ts';
import { proveConsistency } from './consistency.ts';
import { proofJson, proofText, proveEntry } from './entry-proof.ts';
import { keyViews } from './keys.ts';
import { type SignedStream, signedStream } from './signed-stream.ts';

export interface ProofDeps {
  /** The deployment's. */
  readonly origin: string;
  /** Returns how to ask for one tenant, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<AsTenant | undefined>;
  /** Returns a tenant's entry by its id, of these sites where they are given; throws a Problem where there is none or several categories have it. */
  readonly findEntry: (
    ask: AsTenant,
    wanted: {
      readonly id: string;
      readonly category: string | undefined;
      readonly sites: readonly string[] | undefined;
    },
  ) => Promise<{ readonly entry: Entry }>;
  /** The statements of keys of these names, by name and generation. */
  readonly keyStatements: (names: readonly string[]) => Promise<readonly StoredKeyStatement[]>;
  /** Whether `/v1/logs` needs no token. */
  readonly publicLogs: boolean;
}

/** A stream that a request names and may see. */
interface NamedLog {
  readonly name: string;
  readonly ask: AsTenant;
  /** What of it: `checkpoint`, `consistency`, `tile/…`. */
  readonly resource: string;
}

/** Tenant, category, epoch from the second on, and what of it. */
const LOG_PATH =
  /^\/v1\/logs\/([a-z0-9][a-z0-9-]{0,62})\/([a-z_]{1,40})(?:\/e([2-9]|[1-9][0-9]{1,8}))?\/(checkpoint|consistency|tile\/[a-z0-9/.]{1,100})$/;
const compress = promisify(gzip);

export function proofRoutes({ origin, tenant, findEntry, keyStatements, publicLogs }: ProofDeps) {
  const permission = publicLogs ? 'public' : 'proofs:read';
  const logs = { config: { permission, isOfLog: true } } as const;
  const tiles = { config: { permission, isOfLog: true, ofAllSites: isEntryBundle } } as const;
  // No cache that others share may keep what needed a token, and no browser may give it to the next one.
  const forGood = `${publicLogs ? 'public' : 'private'}, max-age=31536000, immutable`;
  const variesBy = publicLogs ? [] : ['authorization'];

  /** Returns the stream of a request. Throws a Problem `not_found` also where it is another tenant's. */
  async function namedLog(request: FastifyRequest): Promise<NamedLog> {
    const match = LOG_PATH.exec(request.url.split('?', 1)[0]!);
    if (match === null || !isCategory(match[2]!)) throw new Problem('not_found');
    const [, owner, category, epoch, resource] = match as unknown as [string, string, Category, string?, string?];
    const name = streamName(owner, category, epoch === undefined ? 1 : Number(epoch));
    // Also who asks for another tenant's leaves an entry, in his own log.
    if (!publicLogs)
      leaveTrace(request, {
        action: 'log.prove',
        target: { type: 'stream', id: name },
        details: { resource: resource! },
      });
    const isAnchor = anchorEpoch(name) !== undefined;
    const maySee = isAnchor || (publicLogs ? owner !== OWN_TENANT : tenantOf(request) === owner);
    const ask = maySee ? await tenant(owner) : undefined;
    if (ask === undefined) throw new Problem('not_found');
    return { name, ask, resource: resource! };
  }

  async function checkpoint(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { name, ask } = await namedLog(request);
    const { note } = await ask((database) => signedStream(database, origin, name));
    return reply.type('text/plain; charset=utf-8').send(note);
  }

  async function tile(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { name, ask, resource } = await namedLog(request);
    const wanted = tileResource(resource);
    const bytes = await ask(async (database) => {
      const stream = await signedStream(database, origin, name);
      if (!covers(stream, wanted)) throw new Problem('not_found');
      if (wanted.kind === 'tile') return treeTile(database, stream, stream.size, wanted);
      const first = wanted.index * TILE_WIDTH;
      const pruned = await prunedUpTo(database, stream.id);
      if (first < pruned)
        throw new Problem('not_found', { detail: `the entries before ${pruned} have expired and are gone` });
      return encodeEntryBundle(await recordsOf(database, stream, first, first + wanted.width));
    });
    // Hashes do not compress.
    const zipped = wanted.kind === 'entries' && acceptsGzip(request.headers['accept-encoding']);
    if (zipped) reply.header('content-encoding', 'gzip');
    const varies = wanted.kind === 'entries' ? [...variesBy, 'accept-encoding'] : variesBy;
    if (varies.length > 0) reply.header('vary', varies.join(', '));
    return reply
      .header('cache-control', forGood)
      .type('application/octet-stream')
      .send(zipped ? await compress(bytes) : Buffer.from(bytes));
  }

  async function consistency(
    operation: 'proveConsistency' | 'proveConsistencyOfEpoch',
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const { name, ask } = await namedLog(request);
    const { from, to } = validateQuery(operation, request.query);
    if (from > to) throw wrong('from', 'must not be more than to');
    const proof = await ask(async (database) => {
      const stream = await signedStream(database, origin, name);
      if (to > stream.size)
        throw wrong('to', `must not be more than ${stream.size}, the size of the newest checkpoint`);
      return proveConsistency(database, stream, from, to);
    });
    return reply.send(proof);
  }

  return async function proofs(app: FastifyInstance): Promise<void> {
    app.get('/v1/events/:id/proof', { config: { permission: 'proofs:read' } }, async (request, reply) => {
      const { id } = validatePath('proveEvent', request.params);
      const { category } = validateQuery('proveEvent', request.query);
      leaveTrace(request, {
        action: 'log.prove',
        target: { type: 'event', id },
        details: { category: category ?? null },
      });
      const { tenant: owner, sites } = callerOf(request);
      const ask = await tenant(owner);
      if (ask === undefined) throw new Problem('not_found');
      const { entry } = await findEntry(ask, { id, category, sites });
      const proof = await ask((database) => proveEntry(database, origin, entry));
      reply.header('vary', 'accept');
      if (prefersText(request.headers.accept)) return reply.type('text/plain; charset=utf-8').send(proofText(proof));
      return reply.type('application/json; charset=utf-8').send(proofJson(proof, mayReadEvents(request)));
    });

    app.get('/v1/logs/:tenant/:category/checkpoint', logs, async (request, reply) => {
      validateQuery('readCheckpoint', request.query);
      return checkpoint(request, reply);
    });
    app.get('/v1/logs/:tenant/:category/:epoch/checkpoint', logs, async (request, reply) => {
      validateQuery('readCheckpointOfEpoch', request.query);
      return checkpoint(request, reply);
    });
    app.get('/v1/logs/:tenant/:category/tile/*', tiles, async (request, reply) => {
      validateQuery('readTile', request.query);
      return tile(request, reply);
    });
    app.get('/v1/logs/:tenant/:category/:epoch/tile/*', tiles, async (request, reply) => {
      validateQuery('readTileOfEpoch', request.query);
      return tile(request, reply);
    });
    app.get('/v1/logs/:tenant/:category/consistency', logs, (request, reply) =>
      consistency('proveConsistency', request, reply),
    );
    app.get('/v1/logs/:tenant/:category/:epoch/consistency', logs, (request, reply) =>
      consistency('proveConsistencyOfEpoch', request, reply),
    );

    app.get('/v1/keys', { config: { permission: 'proofs:read' } }, async (request, reply) => {
      validateQuery('listKeys', request.query);
      leaveTrace(request, { action: 'log.list', target: { type: 'keys', id: origin } });
      const [own, deployment] = await Promise.all([tenant(tenantOf(request)), tenant(OWN_TENANT)]);
      const streams = [
        ...(deployment === undefined ? [] : await deployment(listStreams)).filter(
          ({ name }) => anchorEpoch(name) !== undefined,
        ),
        ...(own === undefined ? [] : await own(listStreams)),
      ];
      const statements = await keyStatements([origin, ...streams.map(({ name }) => `${origin}/${name}`)]);
      const items = keyViews(
        origin,
        statements.map(({ note }) => note),
      );
      return reply.send({ items, next: null });
    });
  };
}

/** Says whether a request is for records; those of the anchor stream are of no site. */
function isEntryBundle(request: FastifyRequest): boolean {
  const { tenant, category, '*': tile } = request.params as Readonly<Record<'tenant' | 'category' | '*', string>>;
  return tile.startsWith('entries') && !(tenant === OWN_TENANT && category === 'anchor');
}

function isCategory(text: string): text is Category {
  return (CATEGORIES as readonly string[]).includes(text);
}

function tileResource(path: string): TileResource {
  try {
    return parseTilePath(path);
  } catch (error) {
    if (error instanceof EvidenceError) throw new Problem('not_found');
    throw error;
  }
}

/** Says whether the tree of the checkpoint has all of this tile or bundle. */
function covers({ size }: SignedStream, wanted: TileResource): boolean {
  const { index, width } = wanted;
  const level = wanted.kind === 'tile' ? wanted.level : 0;
  // Beyond 2^53 this is not exact any more, but then it is more than any size.
  return (index * TILE_WIDTH + width) * TILE_WIDTH ** level <= size;
}

/** RFC 9110 section 12.5.3, as far as it concerns gzip. */
function acceptsGzip(header: string | undefined): boolean {
  return weightOf(header ?? '', (coding) => coding === 'gzip' || coding === 'x-gzip') > 0;
}

/** RFC 9110 section 12.5.1: JSON, unless text/plain is named and wanted more. */
function prefersText(header: string | undefined): boolean {
  if (header === undefined) return false;
  const text = weightOf(header, (type) => type === 'text/plain' || type === 'text/*');
  const json = weightOf(header, (type) => type === 'application/json' || type === 'application/*');
  return text > 0 && text > json;
}

/** The largest weight of the items that are meant; 0 where there is none. */
function weightOf(header: string, isMeant: (name: string) => boolean): number {
  const weights = header.split(',').map((item) => {
    const [name, ...parameters] = item.split(';').map((part) => part.trim().toLowerCase());
    if (!isMeant(name!)) return 0;
    const weight = parameters.find((parameter) => parameter.startsWith('q='));
    return weight === undefined ? 1 : Number(weight.slice('q='.length)) || 0;
  });
  return Math.max(0, ...weights);
}

function wrong(field: string, message: string): Problem {
  return new Problem('invalid_request', { errors: [{ field, message }] });
}
