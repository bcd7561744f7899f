/**
 * Refused calls, as the log tells them, so that strangers can not fill it.
 *
 * A call without a good credential (401) goes into the deployment's log, one that a good credential does not permit (403), or of which there
 * are too many (429), into its tenant's; so does a change of what is not there, or not as it would have to be (404, 409), and a batch with events
 * in it that its sender may not send. The first from a source is an entry at once; more of them are counted, and become one entry at the end of
 * the minute. A source is a network (networkOf), for callers that are known together with who it is and the code. In a minute a log takes at
 * most 60 such entries: what does not fit is counted in one more, `others`, with the number of its networks. So much of them is remembered,
 * too, and no more.
 *
 * Nobody waits for any of it: what a refusal costs is a look into a map. Entries that could not be stored go back to what is counted; where
 * nobody knows whether one was stored it is told again, since counted twice is better than not at all. A process that is killed takes with it
 * what it has counted since the last minute's end.
 *
 * Nothing of a credential is in an entry: only who it is, where that was found good.
 */
import type { FastifyRequest } from 'fastify';
import type { JsonObject } from '../chain/canonical.ts';
import type { Category, Outcome } from '../chain/category.ts';
import { isWithinShare } from '../chain/fair-share.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { PROBLEMS, type Problem, type ProblemCode } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { addressOf, networkOf } from '../http/client-address.ts';

/** A call that was refused. */
export interface Refusal {
  readonly code: string;
  /** Method and pattern, never the URL, which holds ids. */
  readonly route: string;
  /** As `normalAddress` gives it. */
  readonly address: string;
  /** Whose credential it was; undefined = a stranger. */
  readonly caller: Pick<Caller, 'tenant' | 'subject' | 'credential' | 'roles'> | undefined;
  /** How many events of a batch were refused, where others of it were not. */
  readonly events?: number;
}

/** An entry about refused calls. */
export interface RefusalEntry {
  /** Undefined = the deployment itself. */
  readonly tenant: string | undefined;
  readonly category: Category;
  readonly event: {
    readonly action: string;
    readonly outcome: Outcome;
    readonly severity: number | undefined;
    readonly actor: JsonObject;
    readonly target: JsonObject;
    readonly details: JsonObject;
  };
}

export interface RefusalsOptions {
  /** Stores an entry, or rejects. */
  readonly append: (entry: RefusalEntry) => Promise<void>;
  /** What an actor is called by what he brought. */
  readonly actorType: Readonly<Record<Caller['credential'], string>>;
  /** Counts every refused call. */
  readonly onRefused: (code: string) => void;
  readonly wallClock: () => number;
  readonly log: { warn(facts: object, message: string): void };
  /** For tests. */
  readonly windowMs?: number | undefined;
}

const WINDOW_MS = 60_000;
/** Of strangers, and of all callers together: about 300 bytes each. */
const SOURCES_MAX = 10_000;
/** In a minute and a log: sources that are told at once, and counted ones that have an entry of their own. With the one of the others: 60. */
const FIRSTS_MAX = 30;
const COUNTED_MAX = 29;
/** Networks that are told apart among what is not remembered by source. */
const OTHER_NETWORKS_MAX = 10_000;
/** Stopping has an end. */
const CLOSE_MAX_MS = 1000;
/** Of who may not; and of who asks too much, or for what is not there. */
const SEVERITY = 4;
const SEVERITY_OF_MISTAKES = 3;

/** What is counted and not told yet. */
interface Count {
  calls: number;
  /** Of batches that were taken but for these. */
  events: number;
  firstAt: number;
  lastAt: number;
  readonly routes: Map<string, number>;
}

interface Source {
  readonly network: string;
  /** The last that was seen of the network. */
  address: string;
  readonly code: string;
  readonly caller: Refusal['caller'];
  /** When it was last refused, on a clock that does not jump. */
  seen: number;
  count: Count | undefined;
  /** Entries under way. Where one fails, it is counted again here. */
  writing: number;
}

interface Others {
  count: Count | undefined;
  readonly codes: Map<string, number>;
  readonly networks: Set<string>;
  /** Of sources that did not fit and are remembered. */
  remembered: number;
}

/** What is known of one log's refusals. */
interface Book {
  /** Undefined = strangers. */
  readonly tenant: string | undefined;
  readonly sources: Map<string, Source>;
  /** How many new sources may still be told at once in this minute. */
  firsts: number;
  others: Others;
  writing: number;
}

export class Refusals {
  readonly #options: RefusalsOptions;
  readonly #windowMs: number;
  readonly #timer: NodeJS.Timeout;
  readonly #strangers: Book = book(undefined);
  /** Of tenants of which something was refused lately. */
  readonly #tenants = new Map<string, Book>();
  #known = 0;
  readonly #writing = new Set<Promise<void>>();
  #telling: Promise<void> | undefined;
  #isClosing = false;
  #isFailing = false;

  constructor(options: RefusalsOptions) {
    this.#options = options;
    this.#windowMs = options.windowMs ?? WINDOW_MS;
    this.#timer = setInterval(() => void this.#tell(), this.#windowMs);
    // The process need not stay for it: whoever stops closes.
    this.#timer.unref();
  }

  /** Notes a refusal; returns at once, and never throws. */
  note(refusal: Refusal): void {
    const { code, address, caller } = refusal;
    const now = this.#options.wallClock();
    this.#options.onRefused(code);
    const of = caller === undefined ? this.#strangers : this.#bookOf(caller.tenant);
    const network = networkOf(address);
    const key = caller === undefined ? network : `${code} ${caller.credential} ${network} ${caller.subject}`;
    const known = of.sources.get(key);
    if (known !== undefined) {
      known.seen = performance.now();
      known.address = address;
      known.count = counted(known.count, once(refusal, now));
    } else if (!this.#hasRoom(of)) {
      addOthers(of.others, code, once(refusal, now));
      if (of.others.networks.size < OTHER_NETWORKS_MAX) of.others.networks.add(network);
    } else {
      const seen = performance.now();
      const source: Source = { network, address, code, caller, seen, count: once(refusal, now), writing: 0 };
      of.sources.set(key, source);
      if (caller !== undefined) this.#known += 1;
      if (of.firsts === 0 || this.#isClosing) return;
      of.firsts -= 1;
      this.#writeSource(of, source);
    }
  }

  /** Writes what is counted. Takes a second at most: what can not be stored by then is lost. */
  async close(): Promise<void> {
    this.#isClosing = true;
    clearInterval(this.#timer);
    const last = (async () => {
      await this.#telling;
      // What fails meanwhile is counted again.
      await Promise.all(this.#writing);
      await this.#tell();
    })();
    const late = new AbortController();
    await Promise.race([last, pause(CLOSE_MAX_MS, late.signal)]);
    late.abort();
  }

  /** Callers of one tenant, from however many networks, leave some room for those of others, who would else be nobody in their own log. */
  #hasRoom({ tenant, sources }: Book): boolean {
    if (tenant === undefined) return sources.size < SOURCES_MAX;
    return isWithinShare(sources.size, this.#known, 1, SOURCES_MAX);
  }

  #bookOf(tenant: string): Book {
    let of = this.#tenants.get(tenant);
    if (of === undefined) {
      of = book(tenant);
      this.#tenants.set(tenant, of);
    }
    return of;
  }

  /** Writes what was counted in the minute, and forgets who was quiet for one. */
  async #tell(): Promise<void> {
    this.#telling ??= this.#tellAll().finally(() => {
      this.#telling = undefined;
    });
    return this.#telling;
  }

  async #tellAll(): Promise<void> {
    for (const of of [this.#strangers, ...this.#tenants.values()]) this.#tellBook(of);
    await Promise.all(this.#writing);
  }

  #tellBook(of: Book): void {
    of.firsts = FIRSTS_MAX;
    const waiting = [...of.sources.values()].filter((source) => source.count !== undefined);
    waiting.sort((a, b) => b.count!.calls - a.count!.calls);
    for (const source of waiting.slice(0, COUNTED_MAX)) this.#writeSource(of, source);
    for (const source of waiting.slice(COUNTED_MAX)) {
      addOthers(of.others, source.code, source.count!);
      of.others.remembered += 1;
      source.count = undefined;
    }
    const { others } = of;
    if (others.count !== undefined) {
      of.others = noOthers();
      this.#write(of, this.#entryOfOthers(of, others), () => mergeOthers(of.others, others));
    }
    this.#forgetQuiet(of);
  }

  #forgetQuiet(of: Book): void {
    const since = performance.now() - this.#windowMs;
    for (const [key, { count, writing, seen }] of of.sources) {
      if (count !== undefined || writing > 0 || seen > since) continue;
      of.sources.delete(key);
      if (of.tenant !== undefined) this.#known -= 1;
    }
    if (of.tenant !== undefined && of.sources.size === 0 && of.writing === 0) this.#tenants.delete(of.tenant);
  }

  #writeSource(of: Book, source: Source): void {
    const count = source.count!;
    source.count = undefined;
    source.writing += 1;
    this.#write(of, this.#entryOf(of, source, count), () => {
      source.count = counted(source.count, count);
    }).finally(() => {
      source.writing -= 1;
    });
  }

  /** Does not reject. */
  #write(of: Book, entry: RefusalEntry, onFailed: () => void): Promise<void> {
    const { append, log } = this.#options;
    of.writing += 1;
    const writing: Promise<void> = append(entry)
      .then(
        () => {
          this.#isFailing = false;
        },
        (error: unknown) => {
          onFailed();
          // Said once.
          if (!this.#isFailing)
            log.warn({ reason: error instanceof Error ? error.message : 'unknown' }, 'refused calls are not stored');
          this.#isFailing = true;
        },
      )
      .finally(() => {
        of.writing -= 1;
        this.#writing.delete(writing);
      });
    this.#writing.add(writing);
    return writing;
  }

  #entryOf(of: Book, { network, address, code, caller }: Source, count: Count): RefusalEntry {
    // A single call has an address; of several, the network is who it was.
    const from = count.calls === 1 ? address : network;
    const actor =
      caller === undefined
        ? { type: 'unknown', id: from, ip: address }
        : {
            type: this.#options.actorType[caller.credential],
            id: caller.subject,
            ip: address,
            roles: [...caller.roles],
          };
    const details = { code, ...factsOf(count), ...(from === address ? {} : { network }) };
    return entry(of, severityOf(code), actor, count, details);
  }

  #entryOfOthers(of: Book, { count, codes, networks, remembered }: Others): RefusalEntry {
    const addresses = networks.size + remembered;
    const details = {
      codes: Object.fromEntries(codes),
      ...factsOf(count!),
      addresses,
      ...(networks.size < OTHER_NETWORKS_MAX ? {} : { moreAddresses: true }),
    };
    return entry(of, SEVERITY, { type: 'unknown', id: 'others' }, count!, details);
  }
}

/** Returns what is noted of a request that was refused. */
export function refusalOf(request: FastifyRequest, problem: Problem, events?: number): Refusal {
  return {
    ...(events === undefined ? {} : { events }),
    code: problem.code,
    route: `${request.method} ${request.routeOptions.url ?? '*'}`,
    address: addressOf(request),
    // Whoever brings what is no good is a stranger, whatever it says.
    caller: problem.status === 401 ? undefined : (request.caller ?? undefined),
  };
}

function entry({ tenant }: Book, severity: number, actor: JsonObject, count: Count, details: JsonObject): RefusalEntry {
  const [route, ...more] = count.routes.keys();
  const target = { type: 'route', id: more.length === 0 ? route! : 'several' };
  const event = { outcome: 'failure', actor, target, details } as const;
  return tenant === undefined
    ? {
        tenant,
        category: 'user_authentication',
        event: { ...event, action: 'access.unauthenticated', severity: undefined },
      }
    : { tenant, category: 'security_event', event: { ...event, action: 'access.refused', severity } };
}

function severityOf(code: string): number {
  return PROBLEMS[code as ProblemCode]?.status === 403 ? SEVERITY : SEVERITY_OF_MISTAKES;
}

function factsOf({ calls, events, firstAt, lastAt, routes }: Count): JsonObject {
  return {
    count: calls,
    ...(events === 0 ? {} : { events }),
    firstAt: formatInstant(firstAt),
    lastAt: formatInstant(lastAt),
    ...(routes.size === 1 ? {} : { routes: Object.fromEntries(routes) }),
  };
}

function once({ route, events = 0 }: Refusal, now: number): Count {
  return { calls: 1, events, firstAt: now, lastAt: now, routes: new Map([[route, 1]]) };
}

/** Adds to what was counted; `count` may be undefined. */
function counted(count: Count | undefined, more: Count): Count {
  if (count === undefined) return { ...more, routes: new Map(more.routes) };
  count.calls += more.calls;
  count.events += more.events;
  count.firstAt = Math.min(count.firstAt, more.firstAt);
  count.lastAt = Math.max(count.lastAt, more.lastAt);
  for (const [route, calls] of more.routes) count.routes.set(route, (count.routes.get(route) ?? 0) + calls);
  return count;
}

function addOthers(others: Others, code: string, more: Count): void {
  others.count = counted(others.count, more);
  others.codes.set(code, (others.codes.get(code) ?? 0) + more.calls);
}

/** Puts back what could not be stored. */
function mergeOthers(others: Others, back: Others): void {
  others.count = counted(others.count, back.count!);
  for (const [code, calls] of back.codes) others.codes.set(code, (others.codes.get(code) ?? 0) + calls);
  for (const network of back.networks) if (others.networks.size < OTHER_NETWORKS_MAX) others.networks.add(network);
  others.remembered += back.remembered;
}

function noOthers(): Others {
  return { count: undefined, codes: new Map(), networks: new Set(), remembered: 0 };
}

function book(tenant: string | undefined): Book {
  return { tenant, sources: new Map(), firsts: FIRSTS_MAX, others: noOthers(), writing: 0 };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
