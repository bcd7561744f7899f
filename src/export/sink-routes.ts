/**
 * `/v1/sinks`: where the log goes, how it fares there, and what an administrator does about it.
 *
 * Nothing secret comes back: what is shown is the configuration without its secrets, and their names. Each change stands in the tenant's log before it is made.
 * An entry is passed over by name alone, and that too is an entry. Whoever is held to sites sees and makes only sinks that are held to some of them.
 */

import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { toHex, utf8 } from '../chain/bytes.ts';
import type { JsonObject } from '../chain/canonical.ts';
import { OWN_TENANT } from '../chain/category.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { sha256 } from '../chain/sha256.ts';
import { EvidenceError, KeyUnavailableError, Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type { SinkAct, SinkReplay, SinkRetry, SinkSkip, Sink as SinkView } from '../http/api-types.ts';
import { bodyOf } from '../http/body.ts';
import { callerOf, subjectOf, tenantOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, readPageCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace, type Trace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import {
  type changeSink,
  cursorsOf,
  lagsOf,
  listSinks,
  type NewSinkRow,
  type ParkedStream,
  parkedOf,
  type SeenSink,
  type SinkLag,
  type SinkPlace,
  type SinkRow,
  type SinkSecret,
  type SinkState,
  sinkById,
  type unparkSink,
} from '../store/sinks.ts';
import type { ReadMembers } from './config-members.ts';
import {
  categoriesOf,
  followedBy,
  readBegin,
  readChangedSink,
  readNewSink,
  type SinkSettings,
  shownOf,
  termsOf,
} from './sink.ts';
import { placesFrom, type SourceOfPlaces, sourcesOf } from './sink-places.ts';
import { openSinkSecret, type SealedSecret } from './sink-secret.ts';
import type { StoredSink } from './transport-of-sink.ts';

export interface SinkDeps {
  /** Returns a tenant's id and how to ask for it, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<Owner | undefined>;
  readonly readJson: ReadJson;
  readonly keys: { keysById(id: string): Promise<{ readonly dataKey: Uint8Array }> };
  /** Seals what is secret in a tenant's sink. */
  readonly seal: (tenant: string, sinkId: string, secret: JsonObject) => Promise<SealedSecret>;
  /** A round trip with the peer, in words without a secret. */
  readonly test: (sink: StoredSink) => Promise<{ readonly ok: boolean; readonly detail: string }>;
  readonly store: {
    /** Undefined where the tenant has `max` already. */
    readonly create: (sink: NewSinkRow, max: number) => Promise<SinkRow | undefined>;
    readonly change: (...given: Tail<Parameters<typeof changeSink>>) => ReturnType<typeof changeSink>;
    readonly setState: (sink: Pick<SeenSink, 'id' | 'tenantId'>, state: SinkState) => Promise<SinkRow | undefined>;
    readonly remove: (sink: Pick<SeenSink, 'id' | 'tenantId'>) => Promise<boolean>;
    readonly replay: (sink: SeenSink, places: readonly SinkPlace[]) => Promise<SinkRow | undefined>;
    readonly unpark: (...given: Tail<Parameters<typeof unparkSink>>) => ReturnType<typeof unparkSink>;
    /** What is secret in it. Throws a Problem where the sink was changed since it was seen. */
    readonly secretOf: (sink: SeenSink) => Promise<SinkSecret>;
  };
  readonly wallClock: () => number;
}

type Tail<T extends readonly unknown[]> = T extends readonly [unknown, ...infer Rest] ? Rest : never;

interface Owner {
  readonly id: number;
  readonly ask: AsTenant;
}

/** More than a plant has SIEMs; each costs a follower. */
export const SINKS_MAX = 20;
/** Waiting does not help: somebody has to delete one. */
const QUOTA_RETRY_SECONDS = 3600;
/** Certificates and a key of 64 KiB each. */
const BODY_BYTES_MAX = 256 * 1024;
/** A URL is no longer. */
const TOLD_LENGTH_MAX = 2048;
const PATH = '/v1/sinks';

export function sinkRoutes(deps: SinkDeps) {
  const { store } = deps;
  const body = { types: ['application/json'], limit: BODY_BYTES_MAX } as const;
  const writing = { config: { permission: 'sinks:write', body } } as const;
  const deleting = { config: { permission: 'sinks:write' } } as const;
  const reading = { config: { permission: 'sinks:read' } } as const;

  /** Another tenant's sink, and one that is not within the caller's sites, is none. */
  async function find(request: FastifyRequest, id: string): Promise<{ owner: Owner; sink: SinkRow; seen: SeenSink }> {
    const owner = await deps.tenant(tenantOf(request));
    const sink = await owner?.ask((database) => sinkById(database, id, callerOf(request).sites));
    if (owner === undefined || sink === undefined) throw new Problem('not_found');
    return { owner, sink, seen: { id, tenantId: owner.id, revision: sink.revision } };
  }

  async function viewsOf({ ask }: Owner, sinks: readonly SinkRow[]): Promise<SinkView[]> {
    const [lags, parked] = await Promise.all([
      ask((database) =>
        lagsOf(
          database,
          sinks.map(({ id, config }) => ({ id, categories: categoriesOf(termsOf(config)) })),
        ),
      ),
      ask((database) =>
        parkedOf(
          database,
          sinks.map(({ id }) => id),
        ),
      ),
    ]);
    return sinks.map((sink) =>
      viewOf(
        sink,
        lags.find((one) => one.sink === sink.id)!,
        parked.filter((one) => one.sink === sink.id),
        deps.wallClock(),
      ),
    );
  }

  async function viewNow(owner: Owner, sink: SinkRow): Promise<SinkView> {
    return (await viewsOf(owner, [sink]))[0]!;
  }

  function sourcesFor(owner: Owner, config: SinkRow['config']): Promise<SourceOfPlaces[]> {
    return sourcesOf(owner.ask, async () => (await deps.tenant(OWN_TENANT))?.ask, config);
  }

  async function sealed(request: FastifyRequest, id: string, { secret }: SinkSettings) {
    return secret === undefined ? undefined : deps.seal(tenantOf(request), id, secret);
  }

  async function setState(request: FastifyRequest, id: string, state: SinkState, what: string): Promise<SinkView> {
    const { reason } = readAsked<SinkAct>(deps.readJson, request, 'SinkAct');
    const { owner, sink } = await find(request, id);
    const changes = { before: { state: sink.state }, after: { state } };
    const set = await changeWithTrace(request, traceOf(what, sink, { reason, changes }), () =>
      store.setState({ id, tenantId: owner.id }, state),
    );
    if (set === undefined) throw new Problem('not_found');
    return viewNow(owner, set);
  }

  return async function sinks(app: FastifyInstance): Promise<void> {
    app.get(PATH, reading, async (request) => {
      const { limit, cursor } = validateQuery('listSinks', request.query);
      const behind = cursor === undefined ? undefined : nameOf(cursor);
      leaveTrace(request, { action: 'log.list', target: { type: 'sinks', id: tenantOf(request) } });
      const owner = await deps.tenant(tenantOf(request));
      if (owner === undefined) return { items: [], next: null };
      const rows = await owner.ask((database) => listSinks(database, behind, callerOf(request).sites, limit + 1));
      const page = rows.slice(0, limit);
      const next = rows.length > limit ? cursorOf(page.at(-1)!.name) : null;
      return { items: await viewsOf(owner, page), next };
    });

    app.get(`${PATH}/:id`, reading, async (request) => {
      const { id } = validatePath('readSink', request.params);
      validateQuery('readSink', request.query);
      leaveTrace(request, { action: 'log.read', target: { type: 'sink', id } });
      const { owner, sink } = await find(request, id);
      return viewNow(owner, sink);
    });

    app.post(PATH, writing, async (request, reply) => {
      validateQuery('createSink', request.query);
      const asking = valid(readNewSink(deps.readJson(bodyOf(request)), callerOf(request)));
      const { name, config, from } = asking;
      const before = await deps.tenant(tenantOf(request));
      // A log that is not there yet has nothing behind any place.
      const begin = async (owner: Owner): Promise<'now' | SinkPlace[]> =>
        from === 'now' || from === 'beginning'
          ? from === 'now'
            ? from
            : []
          : placesFrom(await sourcesFor(owner, config), from, 'from');
      // What can not be is told before anything is done.
      if (before !== undefined) await begin(before);
      const id = randomUUID();
      const details = {
        from: typeof from === 'object' && 'timeMs' in from ? { time: formatInstant(from.timeMs) } : from,
      };
      const trace = traceOf('created', { id, name }, { details, changes: { before: null, after: toldOf(asking) } });
      const made = await changeWithTrace(request, trace, async () => {
        const owner = await deps.tenant(tenantOf(request));
        // Its log has just taken an entry.
        if (owner === undefined) throw new Problem('not_ready');
        const secret = await sealed(request, id, asking);
        const row = {
          ...{ id, tenantId: owner.id, name, config, secret, fromFile: false },
          ...{ createdBy: subjectOf(request), begin: await begin(owner) },
        };
        const stored = await store.create(row, SINKS_MAX);
        if (stored !== undefined) return { owner, stored };
        const detail = `the tenant has ${SINKS_MAX} sinks`;
        throw new Problem('quota', { detail, retryAfter: QUOTA_RETRY_SECONDS });
      });
      return reply
        .code(201)
        .header('location', `${PATH}/${id}`)
        .send(await viewNow(made.owner, made.stored));
    });

    app.put(`${PATH}/:id`, writing, async (request) => {
      const { id } = validatePath('changeSink', request.params);
      validateQuery('changeSink', request.query);
      const given = deps.readJson(bodyOf(request));
      const { owner, sink, seen } = await find(request, id);
      mustNotBeOfFile(sink);
      const secretNow = await opened(openSinkSecret(deps.keys, id, await store.secretOf(seen)));
      const asking = valid(readChangedSink(given, callerOf(request), { config: sink.config, secret: secretNow }));
      const { name, config } = asking;
      const changes = { before: toldOf(sink), after: toldOf(asking) };
      // Which secrets have other values now: their names are the same before and after.
      const replaced = Object.keys(asking.secret ?? {}).filter(
        (one) => JSON.stringify(asking.secret![one]) !== JSON.stringify(secretNow?.[one]),
      );
      const details = replaced.length === 0 ? {} : { details: { secretsReplaced: replaced } };
      const changed = await changeWithTrace(request, traceOf('changed', sink, { changes, ...details }), async () => {
        const content = { name, config, secret: await sealed(request, id, asking) };
        const row = await store.change(seen, content, addedBy(sink.config, config));
        if (row !== undefined) return row;
        throw new Problem('busy', { detail: 'somebody else changed this sink at the same time' });
      });
      return viewNow(owner, changed);
    });

    app.delete(`${PATH}/:id`, deleting, async (request, reply) => {
      const { id } = validatePath('deleteSink', request.params);
      validateQuery('deleteSink', request.query);
      const { owner, sink } = await find(request, id);
      mustNotBeOfFile(sink);
      const trace = traceOf('deleted', sink, { changes: { before: toldOf(sink), after: null } });
      await changeWithTrace(request, trace, () => store.remove({ id, tenantId: owner.id }));
      return reply.code(204).send();
    });

    app.post(`${PATH}/:id/pause`, writing, async (request) => {
      const { id } = validatePath('pauseSink', request.params);
      validateQuery('pauseSink', request.query);
      return setState(request, id, 'paused', 'paused');
    });

    app.post(`${PATH}/:id/resume`, writing, async (request) => {
      const { id } = validatePath('resumeSink', request.params);
      validateQuery('resumeSink', request.query);
      return setState(request, id, 'active', 'resumed');
    });

    app.post(`${PATH}/:id/disable`, writing, async (request) => {
      const { id } = validatePath('disableSink', request.params);
      validateQuery('disableSink', request.query);
      return setState(request, id, 'disabled', 'disabled');
    });

    app.post(`${PATH}/:id/test`, writing, async (request) => {
      const { id } = validatePath('testSink', request.params);
      validateQuery('testSink', request.query);
      const { reason } = readAsked<SinkAct>(deps.readJson, request, 'SinkAct');
      const { sink, seen } = await find(request, id);
      const trace = traceOf('tested', sink, { reason });
      await leaveTrace(request, trace);
      const result = await opened(deps.test({ ...sink, secret: await store.secretOf(seen) }));
      if (!result.ok)
        leaveTrace(request, { ...trace, outcome: 'failure', details: { ...trace.details, detail: result.detail } });
      return result;
    });

    app.post(`${PATH}/:id/replay`, writing, async (request) => {
      const { id } = validatePath('replaySink', request.params);
      validateQuery('replaySink', request.query);
      const { stream, from, reason } = readAsked<SinkReplay>(deps.readJson, request, 'SinkReplay');
      const begin = valid(readBegin(from, 'from'));
      if (begin === 'now') throw wrong('from', 'must be a place behind it: a replay passes over nothing');
      const { owner, sink, seen } = await find(request, id);
      const all = await sourcesFor(owner, sink.config);
      const isSeq = typeof begin === 'object' && 'seq' in begin;
      const sources = all.filter((one) =>
        stream === undefined ? !(isSeq && one.isForErasures) : one.stream.name === stream,
      );
      if (stream !== undefined && sources.length === 0) throw wrong('stream', 'is none that the sink follows');
      if (isSeq) {
        if (sources.length !== 1) throw wrong('stream', `must be named for a seq: the sink follows ${sources.length}`);
        const { id: streamId } = sources[0]!.stream;
        const next = (await owner.ask((database) => cursorsOf(database, id))).get(streamId) ?? 0;
        if (begin.seq > next) throw wrong('from.seq', `must be at most ${next}: a replay passes over nothing`);
      }
      const places = await placesFrom(sources, begin, 'from');
      const trace = traceOf('replayed', sink, {
        reason,
        details: { stream: stream ?? null, from: from as JsonObject },
      });
      const moved = await changeWithTrace(request, trace, () => store.replay(seen, places));
      return viewNow(owner, mustBeThere(moved));
    });

    app.post(`${PATH}/:id/retry`, writing, async (request) => {
      const { id } = validatePath('retrySink', request.params);
      validateQuery('retrySink', request.query);
      const { stream, reason } = readAsked<SinkRetry>(deps.readJson, request, 'SinkRetry');
      const { owner, sink, seen } = await find(request, id);
      const streamId = stream === undefined ? undefined : await streamIdOf(owner, sink, stream);
      const trace = traceOf('retried', sink, { reason, details: { stream: stream ?? null } });
      const tried = await changeWithTrace(request, trace, () => store.unpark(seen, { way: 'retry', streamId }));
      return viewNow(owner, mustBeThere(tried));
    });

    app.post(`${PATH}/:id/skip`, writing, async (request) => {
      const { id } = validatePath('skipEntryOfSink', request.params);
      validateQuery('skipEntryOfSink', request.query);
      const { stream, seq, reason } = readAsked<SinkSkip>(deps.readJson, request, 'SinkSkip');
      const { owner, sink, seen } = await find(request, id);
      const streamId = await streamIdOf(owner, sink, stream);
      const parked = (await owner.ask((database) => parkedOf(database, [id]))).find(
        (one) => nameOfParked(one) === stream && one.seq === seq,
      );
      if (parked === undefined) throw notParked();
      const details = { stream, seq, refusal: parked.reason };
      const skipped = await changeWithTrace(request, traceOf('entry_skipped', sink, { reason, details }), async () => {
        const row = await store.unpark(seen, { way: 'skip', streamId, seq });
        if (row === undefined) throw notParked();
        return row;
      });
      return viewNow(owner, skipped);
    });
  };

  async function streamIdOf(owner: Owner, sink: SinkRow, name: string): Promise<number> {
    const found = (await sourcesFor(owner, sink.config)).find(({ stream }) => stream.name === name);
    if (found === undefined) throw wrong('stream', 'is none that the sink follows');
    return found.stream.id;
  }
}

/** What a change of the configuration makes a sink follow that it did not. */
export function addedBy(before: SinkRow['config'], after: JsonObject) {
  const [old, now] = [termsOf(before), termsOf(after)];
  const known = followedBy(old);
  const categories = categoriesOf(now).filter((category) => !known.includes(category));
  return { categories, anchor: now.anchor && !old.anchor };
}

/** What the log tells of a sink: all but its secrets, and their names. Certificates, which are long, by the hash of their text. */
export function toldOf({ name, config }: Pick<SinkRow, 'name' | 'config'>): JsonObject {
  const { open, secrets } = shownOf(config);
  const told = Object.entries(open).map(([member, value]) =>
    typeof value === 'string' && value.length > TOLD_LENGTH_MAX
      ? [member, `sha256:${toHex(sha256(utf8(value)))}`]
      : [member, value],
  );
  return { name, ...Object.fromEntries(told), secrets: [...secrets] };
}

function valid<T>(read: ReadMembers<T>): T {
  if ('errors' in read) throw new Problem('invalid_request', { errors: read.errors });
  return read.config;
}

function wrong(field: string, message: string): Problem {
  return new Problem('invalid_request', { errors: [{ field, message }] });
}

function mustBeThere(sink: SinkRow | undefined): SinkRow {
  if (sink === undefined) throw new Problem('busy', { detail: 'somebody else changed this sink at the same time' });
  return sink;
}

function mustNotBeOfFile({ fromFile }: SinkRow): void {
  if (fromFile)
    throw new Problem('forbidden', { detail: "this sink is in the operator's file, which alone changes it" });
}

function notParked(): Problem {
  return new Problem('already_decided', { detail: 'the sink is not parked there' });
}

/** A key that can not be had now, or bytes that do not open, are no mistake of the caller's. */
async function opened<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    if (cause instanceof KeyUnavailableError || cause instanceof EvidenceError)
      throw new Problem('not_ready', { detail: 'the secret of this sink can not be opened now', cause });
    throw cause;
  }
}

function traceOf(
  what: string,
  { id, name }: Pick<SinkRow, 'id' | 'name'>,
  more: Pick<Trace, 'reason' | 'changes' | 'details'>,
): Trace {
  const target = { type: 'sink', id };
  return {
    ...more,
    category: 'configuration_change',
    action: `sink.${what}`,
    target,
    details: { name, ...more.details },
  };
}

function viewOf(sink: SinkRow, lag: SinkLag, parked: readonly ParkedStream[], now: number): SinkView {
  const { open, secrets } = shownOf(sink.config);
  return {
    id: sink.id,
    config: { name: sink.name, ...open },
    secrets,
    state: stateOf(sink, parked),
    failures: sink.failures,
    lastError: sink.error,
    lastErrorAt: instantText(sink.errorAt),
    retryAt: instantText(sink.retryAt),
    lastDeliveryAt: instantText(sink.deliveredAt),
    lag: {
      entries: lag.entries,
      seconds: lag.oldestMs === undefined ? 0 : Math.max(0, Math.floor((now - lag.oldestMs) / 1000)),
    },
    parked: parked.map((one) => ({
      stream: nameOfParked(one),
      seq: one.seq,
      reason: one.reason,
      at: instantText(one.at),
    })),
    fromFile: sink.fromFile,
    createdAt: instantText(sink.createdAt),
    createdBy: sink.createdBy,
  };
}

function stateOf({ state, failures }: SinkRow, parked: readonly ParkedStream[]): SinkView['state'] {
  if (state !== 'active') return state;
  if (failures > 0) return 'retrying';
  return parked.length > 0 ? 'parked' : 'running';
}

function nameOfParked({ stream }: ParkedStream): string {
  return stream ?? `${OWN_TENANT}/anchor`;
}

/** Opaque to clients; it holds nothing but what the page's last item says, and carries no authority. */
function cursorOf(name: string): string {
  return pageCursor(`v1 ${name}`);
}

function nameOf(cursor: string): string {
  return readPageCursor(cursor, /^v1 (\P{Cc}{1,100})$/u)[1]!;
}
