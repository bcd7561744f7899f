/**
 * The log's own trail: whoever reads the log, or changes what it is run by, leaves an entry in it, and there is no switch.
 *
 * A handler says what it is about to give or do (`leaveTrace`) as soon as it knows that the request is valid; the entry is appended while the
 * handler does its work, and the answer waits for whichever takes longer: nothing leaves before the entry is durable, and a read takes
 * hardly longer for it. Where the entry can not be stored, the answer is 503 and the data stays. A handler that changes something waits for
 * the trace before it does.
 *
 * A route that hands out something without a trace does not work: its answers are 500. Public routes have no caller, and events that are sent
 * are entries themselves.
 */
import assert from 'node:assert/strict';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { JsonObject } from '../chain/canonical.ts';
import type { ClientCategory, Outcome } from '../chain/category.ts';
import { Problem } from '../errors.ts';
import { type Caller, callerOf } from './caller.ts';
import { addressOf } from './client-address.ts';
import { toProblem, turnIntoProblem } from './problem.ts';

export interface Trace {
  readonly action: string;
  /** Of the entry, where whoever finds the change unfinished tells of it again: it is then one entry. Default: a fresh one. */
  readonly id?: string;
  /** Default: success, of a read also where nothing was found. */
  readonly outcome?: Outcome;
  /** What was read, or changed. */
  readonly target: { readonly type: string; readonly id: string };
  /** Default: data_access. */
  readonly category?: ClientCategory | 'log_administration';
  readonly severity?: number;
  readonly reason?: string | undefined;
  readonly changes?: JsonObject;
  readonly details?: JsonObject;
  /** Whose log tells it; default: the caller's tenant. */
  readonly tenant?: string;
}

/** Appends the entry of a trace; resolves when it is durable. Rejects with a Problem. */
export type AppendTrace = (caller: Caller, ip: string, trace: Trace) => Promise<void>;

declare module 'fastify' {
  interface FastifyRequest {
    /** The entries that the answer waits for. */
    trace: Promise<void> | null;
  }
  interface FastifyInstance {
    readonly appendTrace: AppendTrace;
    readonly traceLater: TrailOptions['tellLater'];
  }
}

export interface TrailOptions {
  readonly append: AppendTrace;
  /** Tries to append until it is done, or the service stops; for what has happened already. */
  readonly tellLater: (action: string, append: () => Promise<void>) => void;
  readonly log: { error(facts: object, message: string): void };
}

/** Must come before the routes. */
export function registerTrail(app: FastifyInstance, { append, tellLater, log }: TrailOptions): void {
  app.decorate('appendTrace', append);
  app.decorate('traceLater', tellLater);
  app.decorateRequest('trace', null);
  app.addHook('onRoute', (route) => {
    const { permission } = route.config ?? {};
    if (permission === 'public' || permission === 'events:write') return;
    const wait = async (request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> => {
      try {
        assert(request.trace !== null || reply.statusCode >= 400, `${route.url} leaves no trace`);
        await request.trace;
        return payload;
      } catch (error) {
        destroy(payload);
        const problem = toProblem(error);
        if (problem.code === 'internal')
          log.error({ err: error, method: request.method, route: route.url }, 'request failed');
        // What the answer would have been (its encoding, its name, for how long it may be kept) is not what the refusal is.
        for (const name of Object.keys(reply.getHeaders())) reply.removeHeader(name);
        // Not thrown: what fails behind an error that is being told has no handler of ours any more.
        return turnIntoProblem(reply, problem);
      }
    };
    route.onSend = [wait, ...[route.onSend ?? []].flat()];
  });
}

/**
 * Leaves an entry about this request in the caller's log. A handler that changes something MUST await it first; one that reads need not: its
 * answer does.
 */
export function leaveTrace(request: FastifyRequest, trace: Trace): Promise<void> {
  const appended = request.server.appendTrace(callerOf(request), addressOf(request), trace);
  awaitBeforeAnswer(request, appended);
  return appended;
}

/** Tells how a change ended that stands in the log. Where that can not be stored now it is tried again, and the answer stays what it is. */
function leaveOutcome(request: FastifyRequest, trace: Trace): void {
  const [caller, ip] = [callerOf(request), addressOf(request)];
  const append = (): Promise<void> => request.server.appendTrace(caller, ip, trace);
  awaitBeforeAnswer(
    request,
    append().catch(() => request.server.traceLater(trace.action, append)),
  );
}

function awaitBeforeAnswer(request: FastifyRequest, appended: Promise<void>): void {
  const before = request.trace;
  request.trace = before === null ? appended : Promise.all([before, appended]).then(() => {});
  // The answer's wait tells; a handler that fails before has its own error to tell.
  request.trace.catch(() => {});
}

/**
 * Makes a change behind its entry: nothing changes that was not told before, and where the change then fails, or nobody knows whether it was
 * made, another entry says so. Throws what the change throws, and the caller hears that: whoever made something of which nobody knows must not
 * be told that nothing was stored, as an entry that fails would.
 */
export async function changeWithTrace<T>(request: FastifyRequest, trace: Trace, change: () => Promise<T>): Promise<T> {
  await leaveTrace(request, trace);
  try {
    return await change();
  } catch (error) {
    const code = error instanceof Problem ? error.code : 'internal';
    const outcome = code === 'outcome_unknown' ? 'unknown' : 'failure';
    leaveOutcome(request, { ...trace, outcome, details: { ...trace.details, problem: code } });
    throw error;
  }
}

/** Of an answer that is a stream: nobody reads it any more. */
function destroy(payload: unknown): void {
  const stream = payload as { destroy?: unknown } | null | undefined;
  if (typeof stream?.destroy === 'function') stream.destroy();
}
