/**
 * Prunes what has expired, one drop month after the other, the oldest first.
 *
 *     planned → certificates written → their entries appended → signed and anchored → what is held moved → archived → dropped → month keys
 *     destroyed → told
 *
 * Each arrow is one transaction, or something that can be done twice; the run's row says where it stands, and whoever looks next goes on from
 * there. What is certified is fixed before it is appended, so that an entry that was appended twice is one. Nothing is dropped but by
 * `drop_month`, which checks what it can by itself; the clocks are looked at here, again before each drop. A hold that is placed meanwhile ends
 * the run: the log says that it is abandoned, and what it certified counts no more, before another begins.
 *
 * One replica prunes at a time, for one pass, which does what can be done now and never waits for others for long.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import type pg from 'pg';
import { concatBytes, fromUtf8 } from '../chain/bytes.ts';
import { canonicalText, type JsonObject, parseSafely } from '../chain/canonical.ts';
import { isAbout } from '../chain/hold.ts';
import {
  appendLeaf,
  checkConsistency,
  consistencyNodes,
  consistencyPath,
  frontierRoot,
  inclusionNodes,
  inclusionPath,
  leafHash,
} from '../chain/merkle.ts';
import {
  ABANDONED_ACTION,
  abandonedId,
  certificateId,
  decodePruningCertificate,
  encodePruningCertificate,
  PRUNED_ACTION,
} from '../chain/pruning-certificate.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { TILE_WIDTH } from '../chain/tile.ts';
import { EvidenceError, Problem } from '../errors.ts';
import { checkpointsOf } from '../store/checkpoints.ts';
import { countingHolds, hasNewerHolds, lookAtHolds, type StoredHold } from '../store/holds.ts';
import {
  anchorsOfCertificates,
  asPruner,
  beginRun,
  certificatesOf,
  dropMonth,
  type ExpiredRange,
  lastOutsideTime,
  lookAtClock,
  moveRun,
  type NewCertificate,
  notePlace,
  noteWaiting,
  type Pruning,
  rangesIn,
  requiredSinksBehind,
  storedMonths,
  trustClock,
  unfinishedRun,
  writeCertificates,
} from '../store/prunings.ts';
import type { Tables } from '../store/tables.ts';
import { knownLeaves, recordsOf, treeNodes } from '../store/tree-hashes.ts';
import type { ArchivedRange } from './archive.ts';
import { CONFIRMED_WITHIN_MS, clockObjection, GAP_MS, hasOutsideTime } from './clocks.ts';
import { type HeldDeps, heldOf, moveHeldOf } from './held.ts';
import { NotYet } from './not-yet.ts';

export interface PrunerOptions {
  readonly writer: pg.Pool;
  /** Sees all tenants. */
  readonly database: Kysely<Tables>;
  /** Milliseconds since 1970; undefined where the database does not answer. */
  readonly databaseClock: () => Promise<number | undefined>;
  /** What the guard of stamps says of the clocks. */
  readonly guard: (now: number) => string | undefined;
  /** What else keeps anything from being deleted: what the scrubber found must be looked at first. */
  readonly objection: () => string | undefined;
  /** Whether an authority or a witness is configured here. */
  readonly hasOutside: boolean;
  readonly append: (
    tenant: string,
    category: 'log_administration',
    event: {
      readonly id: string;
      readonly once: true;
      readonly action: string;
      readonly outcome: 'success';
      readonly target: JsonObject;
      readonly details: JsonObject;
    },
  ) => Promise<unknown>;
  readonly keys: HeldDeps['keys'];
  /** Returns what the first entry of a stream says of the epoch before it; undefined where it opens none. */
  readonly openingOf: (stream: Pick<ExpiredRange, 'streamId' | 'tenantId' | 'name'>) => Promise<JsonObject | undefined>;
  /** Puts what goes into an archive, verified; undefined = there is none. */
  readonly archive: ((dropMonth: number, range: ArchivedRange) => Promise<void>) | undefined;
  /** Destroys the keys of a drop month, in all their generations. May be called again. */
  readonly destroyKeys: (dropMonth: number) => Promise<void>;
  readonly log: {
    info(facts: object, message: string): void;
    warn(facts: object, message: string): void;
    error(facts: object, message: string): void;
  };
  /** For tests that end the process between two steps. */
  readonly onStep?: ((step: PruneStep) => void) | undefined;
  readonly timing?: Partial<PrunerTiming> | undefined;
}

export interface PrunerTiming {
  /** How often to look for what has expired. */
  readonly lookMs: number;
  /** And for the anchor of a certificate. */
  readonly soonMs: number;
  /** Between two tries to drop a month, at least, and at most twice that. */
  readonly dropPauseMs: number;
}

export type PruneStep = 'begun' | 'written' | 'appended' | 'placed' | 'cut' | Pruning['state'] | 'key' | 'told';

/** What would go, and what stops it. */
export interface PruningPlan {
  readonly now: number | undefined;
  /** What stops all of it. */
  readonly stops: readonly string[];
  readonly months: readonly {
    readonly dropMonth: number;
    /** From when on it goes, milliseconds since 1970. */
    readonly from: number;
    /** With the holds that may keep some of it. */
    readonly streams: readonly (ExpiredRange & { readonly holds: readonly string[] })[];
    readonly stops: readonly string[];
    /** Required sinks that are behind. */
    readonly sinks: readonly { readonly tenant: string; readonly detail: string }[];
  }[];
  /** What the run that is under way waits for. */
  readonly waiting: string | undefined;
}

const TIMING: PrunerTiming = { lookMs: 3_600_000, soonMs: 2000, dropPauseMs: 200 };
/** A drop that finds somebody in its way is tried so often in a pass. */
const DROPS_A_PASS = 20;
const CLOSE_MAX_MS = 1000;
/** After what is nobody's decision: the database was away. */
const RETRY_MS = 60_000;
/** Months that a plan shows. */
const PLANNED_MONTHS_MAX = 60;

/** States in which something is certified, and nothing is gone. */
const MAY_BE_ABANDONED: ReadonlySet<Pruning['state']> = new Set([
  'written',
  'certified',
  'anchored',
  'moved',
  'archived',
]);

/** The run goes on at once, soon, or when something else has changed. */
type Progress = 'on' | 'soon' | 'later';

export class Pruner {
  readonly #options: PrunerOptions;
  readonly #timing: PrunerTiming;
  readonly #stop = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  #said = '';
  #requestedBy = 'schedule';

  constructor(options: PrunerOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
  }

  /** Looks now, and from time to time. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Looks at once, for somebody who asked. */
  request(by: string): void {
    this.#requestedBy = by;
    this.#woken.resolve();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#woken.resolve();
    const late = new AbortController();
    await Promise.race([this.#running, delay(CLOSE_MAX_MS, undefined, { signal: late.signal }).catch(() => {})]);
    late.abort();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      this.#woken = Promise.withResolvers<void>();
      const by = this.#requestedBy;
      this.#requestedBy = 'schedule';
      const progress = await this.pass(by).catch((error: unknown): Progress | 'failed' => {
        if (!signal.aborted) this.#say('warn', { reason: words(error) }, 'pruning could not go on');
        return 'failed';
      });
      const over = new AbortController();
      const { lookMs, soonMs } = this.#timing;
      const ms = { on: soonMs, soon: soonMs, later: lookMs, failed: Math.min(lookMs, RETRY_MS) }[progress];
      const rest = AbortSignal.any([signal, over.signal]);
      await Promise.race([this.#woken.promise, delay(ms, undefined, { signal: rest, ref: false }).catch(() => {})]);
      over.abort();
    }
  }

  /** Does what can be done now. Returns when to look again; `soon` also where another replica prunes. */
  async pass(requestedBy: string): Promise<Progress> {
    return (await asPruner(this.#options.writer, () => this.#pass(requestedBy))) ?? 'soon';
  }

  async #pass(requestedBy: string): Promise<Progress> {
    const { writer } = this.#options;
    for (;;) {
      if (this.#stop.signal.aborted) return 'later';
      // Also where nothing is to be done: each look vouches for the clock until the next.
      const clocks = await this.#clocks();
      const run = (await unfinishedRun(writer)) ?? (await this.#begin(requestedBy, clocks));
      if (run === undefined) return 'later';
      const progress = await this.#goOn(run, clocks.objection);
      if (progress !== 'on') return progress;
    }
  }

  /** Says why the clocks can not be relied on for destroying anything, or undefined. A look at them, too. */
  async clockObjection(): Promise<string | undefined> {
    return (await this.#clocks()).objection;
  }

  /** Says what would go now, and what stops it. */
  async plan(): Promise<PruningPlan> {
    const { database, writer, objection } = this.#options;
    const clocks = await this.#clocks();
    const { now } = clocks;
    const stops = [clocks.objection, objection()].filter((one) => one !== undefined);
    const months: PruningPlan['months'][number][] = [];
    const holds = await countingHolds(writer);
    for (const dropMonth of (await storedMonths(database)).slice(0, PLANNED_MONTHS_MAX)) {
      const from = this.#dueFrom(dropMonth, clocks.hasOutside);
      if (now === undefined || monthBegin(dropMonth) > now) break;
      const streams = (await rangesIn(database, dropMonth)).map((range) => ({
        ...range,
        holds: holdsOn(range, holds).map(({ id }) => id),
      }));
      const waits = from > now ? [`it goes from ${formatInstant(from)} on: no authority states times here`] : [];
      months.push({ dropMonth, from, streams, stops: waits, sinks: await this.#sinkStops(streams) });
    }
    const run = await unfinishedRun(writer);
    const waiting = run?.waiting == null ? undefined : `the pruning of ${run.dropMonth}: ${run.waiting}`;
    return { now, stops, months, waiting };
  }

  /** Somebody says what time it is. Throws a Problem where the database's clock says another. */
  async confirmClock(instant: number): Promise<void> {
    const now = await this.#options.databaseClock();
    if (now === undefined) throw new Problem('not_ready', { detail: 'the database does not answer' });
    if (Math.abs(now - instant) > CONFIRMED_WITHIN_MS)
      throw new Problem('invalid_request', {
        errors: [{ field: 'clock', message: `must be what the database's clock says: it says ${formatInstant(now)}` }],
      });
    await trustClock(this.#options.writer, now);
  }

  // ---- Steps ----

  async #begin(requestedBy: string, clocks: Clocks): Promise<Pruning | undefined> {
    const { database, writer, objection, log } = this.#options;
    const { now, hasOutside } = clocks;
    const [dropMonth] = await storedMonths(database);
    if (dropMonth === undefined || now === undefined || this.#dueFrom(dropMonth, hasOutside) > now) return undefined;
    const stop = clocks.objection ?? objection();
    if (stop !== undefined) {
      this.#say('error', { dropMonth, reason: stop }, 'what has expired is not pruned');
      return undefined;
    }
    const run = await beginRun(writer, { dropMonth, requestedBy, outside: hasOutside });
    log.info({ run: run.id, dropMonth }, 'pruning begins');
    this.#step('begun');
    return run;
  }

  async #goOn(run: Pruning, clocks: string | undefined): Promise<Progress> {
    try {
      // Before the log says anything of it there is nothing to take back: holds are looked at anew.
      if (MAY_BE_ABANDONED.has(run.state) && (await hasNewerHolds(this.#options.writer, run.id)))
        return await this.#abandon(run, 'a hold was placed since', 'on');
      switch (run.state) {
        case 'planned':
          return await this.#write(run, clocks);
        case 'written':
          return await this.#certify(run);
        case 'certified':
          return await this.#awaitAnchors(run);
        case 'anchored':
          return await this.#moveHeld(run);
        case 'moved':
          return await this.#archive(run);
        case 'archived':
          return await this.#drop(run, clocks);
        case 'dropped':
          return await this.#destroyKeys(run);
        case 'destroyed':
          return await this.#tell(run);
        case 'done':
        case 'abandoned':
          return 'later';
        default: {
          const never: never = run.state;
          throw new TypeError(`no such state: ${String(never)}`);
        }
      }
    } catch (error) {
      const isEvidence = error instanceof EvidenceError;
      if (!(isEvidence || error instanceof NotYet)) throw error;
      await noteWaiting(this.#options.writer, run.id, error.message);
      const facts = { run: run.id, dropMonth: run.dropMonth, reason: error.message };
      this.#say(isEvidence ? 'error' : 'info', facts, 'pruning waits');
      return isEvidence ? 'later' : (error as NotYet).progress;
    }
  }

  /** Works out what is certified of each stream, and fixes it. */
  async #write(run: Pruning, clocks: string | undefined): Promise<Progress> {
    const { database, writer } = this.#options;
    this.#mustNotBeStopped(clocks);
    const ranges = await rangesIn(database, run.dropMonth);
    const [stop] = await this.#sinkStops(ranges);
    if (stop !== undefined) throw new NotYet(stop.detail, 'later');
    await lookAtHolds(writer, run.id);
    const holds = await countingHolds(writer);
    const certificates: NewCertificate[] = [];
    for (const range of ranges) {
      this.#stop.signal.throwIfAborted();
      certificates.push(await this.#certificateOf(run, range, holds));
    }
    await writeCertificates(writer, run.id, certificates);
    this.#step('written');
    return 'on';
  }

  async #certificateOf(run: Pruning, range: ExpiredRange, holds: readonly StoredHold[]): Promise<NewCertificate> {
    const { database } = this.#options;
    const { streamId, tenantId, name, first, end, size, pruned, fresh, months } = range;
    const stream = { id: streamId, name };
    if (fresh !== null && fresh !== pruned)
      throw new EvidenceError(
        `the drop month ${run.dropMonth} begins with entry ${fresh} of ${name}, not with ${pruned}`,
      );
    const [checkpoint] = await checkpointsOf(database, [streamId]);
    if (checkpoint === undefined || checkpoint.size < end)
      throw new NotYet(`the entries of ${name} before ${end} are not all signed`, 'soon');
    const [record] = await recordsOf(database, stream, end - 1, end);
    const getNode = await treeNodes(database, stream, checkpoint.size, [
      ...inclusionNodes(end - 1, end),
      ...consistencyNodes(end, checkpoint.size),
    ]);
    const path = inclusionPath(end - 1, end, getNode);
    const root = frontierRoot(end, appendLeaf(end - 1, path.toReversed(), leafHash(record!)));
    const details = encodePruningCertificate({
      ...{ run: run.id, stream: name, dropMonth: run.dropMonth, first, end, path, root },
      held: await heldOf(this.#heldDeps, run, range, holds),
      ...{ lastRecord: fromUtf8(record!), months: months ?? undefined },
      opening: first === 0 ? await this.#options.openingOf(range) : undefined,
    });
    // What goes is what was signed, and it goes no earlier than its own record says.
    const { retainUntil } = decodePruningCertificate(details);
    checkConsistency(
      ...([end, checkpoint.size, root, checkpoint.root] as const),
      consistencyPath(end, checkpoint.size, getNode),
    );
    const index = Math.floor(end / TILE_WIDTH);
    // Of what was held before, and goes now, they were kept then.
    const isOpen = end > pruned && end % TILE_WIDTH > 0 && Math.floor(size / TILE_WIDTH) === index;
    const leaves = isOpen ? await knownLeaves(database, stream, index * TILE_WIDTH, end) : [];
    return {
      ...{ streamId, tenantId, first, end, retainUntil, certificate: canonicalText(details) },
      edge: isOpen ? { index, hashes: concatBytes(...leaves) } : undefined,
    };
  }

  /** Appends the entry of each certificate, once. */
  async #certify(run: Pruning): Promise<Progress> {
    const { writer, append } = this.#options;
    for (const { tenant, stream, streamId, certificate, place } of await certificatesOf(writer, run.id)) {
      if (place !== undefined) continue;
      this.#stop.signal.throwIfAborted();
      const details = parseSafely(certificate) as JsonObject;
      const id = certificateId(details);
      const event = { id, once: true, action: PRUNED_ACTION, outcome: 'success' } as const;
      await append(tenant, 'log_administration', { ...event, target: { type: 'stream', id: stream }, details });
      this.#step('appended');
      if (!(await notePlace(writer, run.id, streamId, id)))
        throw new EvidenceError(`the certificate of ${stream} was appended, and is not there`);
      this.#step('placed');
    }
    return this.#move(run, 'certified');
  }

  async #awaitAnchors(run: Pruning): Promise<Progress> {
    for (const one of await anchorsOfCertificates(this.#options.writer, run.id)) {
      const { stream, isSigned, isTicked, outside, retainUntil } = one;
      if (!isSigned) throw new NotYet(`the certificate of ${stream} is not signed yet`, 'soon');
      if (!isTicked) throw new NotYet(`the certificate of ${stream} is not anchored yet`, 'soon');
      if (!run.outside) continue;
      if (outside === undefined)
        throw new NotYet(`nobody outside has stated a time over the certificate of ${stream} yet`, 'soon');
      if (outside < retainUntil)
        throw new NotYet(
          `it is ${formatInstant(outside)} outside, and ${stream} is kept until ${formatInstant(retainUntil)}`,
          'later',
        );
    }
    return this.#move(run, 'anchored');
  }

  async #moveHeld(run: Pruning): Promise<Progress> {
    for (const certificate of await certificatesOf(this.#options.writer, run.id))
      await moveHeldOf(this.#heldDeps, run, certificate);
    return this.#move(run, 'moved');
  }

  async #archive(run: Pruning): Promise<Progress> {
    const { writer, archive } = this.#options;
    if (archive !== undefined)
      for (const range of await certificatesOf(writer, run.id)) {
        // What was held before was archived when its own month went.
        const first = Math.max(range.first, range.pruned);
        if (first < range.end) await archive(run.dropMonth, { ...range, first });
      }
    return this.#move(run, 'archived');
  }

  async #drop(run: Pruning, clocks: string | undefined): Promise<Progress> {
    const { writer, log } = this.#options;
    this.#mustNotBeStopped(clocks);
    const begun = performance.now();
    for (let attempt = 1; attempt <= DROPS_A_PASS; attempt++) {
      try {
        if ((await dropMonth(writer, run.id)) === 'dropped') {
          const ms = Math.round(performance.now() - begun);
          log.info({ run: run.id, dropMonth: run.dropMonth, attempts: attempt, ms }, 'dropped a month');
          this.#step('dropped');
          return 'on';
        }
      } catch (error) {
        // Prerequisites: something came into the month, or the certificates do not hold. It is looked at afresh.
        if ((error as { code?: string }).code !== '55000') throw error;
        if (await hasNewerHolds(writer, run.id)) return this.#abandon(run, 'a hold was placed since', 'on');
        log.error({ run: run.id, dropMonth: run.dropMonth, reason: words(error) }, 'a pruning is given up');
        return this.#abandon(run, words(error), 'later');
      }
      // Whoever waits behind us has his turn.
      await delay(this.#timing.dropPauseMs * (1 + Math.random()), undefined, { signal: this.#stop.signal });
    }
    throw new NotYet('somebody reads or writes all the time: a drop waits for nobody for more than 100 ms', 'soon');
  }

  /** The log says so first: from then on nothing is dropped by this run, whoever finds it. */
  async #abandon(run: Pruning, reason: string, progress: Progress): Promise<Progress> {
    const { writer, append, log } = this.#options;
    const tenants = new Set((await certificatesOf(writer, run.id)).map(({ tenant }) => tenant));
    for (const tenant of tenants) {
      const event = { id: abandonedId(run.id), once: true, action: ABANDONED_ACTION, outcome: 'success' } as const;
      const details = { run: run.id, dropMonth: run.dropMonth };
      await append(tenant, 'log_administration', { ...event, target: { type: 'pruning', id: run.id }, details });
      this.#step('told');
    }
    log.info({ run: run.id, dropMonth: run.dropMonth, reason }, 'a pruning is abandoned');
    await moveRun(writer, run.id, run.state, 'abandoned', reason);
    this.#step('abandoned');
    return progress;
  }

  async #destroyKeys(run: Pruning): Promise<Progress> {
    if (run.monthKeys.length > 0) await this.#options.destroyKeys(run.dropMonth);
    this.#step('key');
    return this.#move(run, 'destroyed');
  }

  /** Tells each tenant what is gone, and which sinks never had it. */
  async #tell(run: Pruning): Promise<Progress> {
    const { writer, append, log } = this.#options;
    const missed = run.undelivered;
    const certificates = await certificatesOf(writer, run.id);
    for (const [tenant, own] of Map.groupBy(certificates, (one) => one.tenant)) {
      const streams = own.map(({ stream, first, end, place }) => ({
        ...{ stream, first, end },
        certificate: { stream: place!.stream, seq: place!.seq },
      }));
      const details = {
        ...{ run: run.id, dropMonth: run.dropMonth, streams },
        undelivered: missed.filter((one) => one.tenant === tenant).map(({ tenant: _, ...one }) => one),
      };
      const id = `retention.completed:${run.id}`;
      const event = { id, once: true, action: 'retention.completed', outcome: 'success' } as const;
      await append(tenant, 'log_administration', { ...event, target: { type: 'pruning', id: run.id }, details });
      this.#step('told');
    }
    for (const { sink, stream, from, to } of missed)
      log.warn({ sink, stream, from, to }, 'entries expired before a sink had them');
    log.info({ run: run.id, dropMonth: run.dropMonth }, 'pruning is done');
    return this.#move(run, 'done');
  }

  // ---- Conditions ----

  async #clocks(): Promise<Clocks> {
    const { writer, databaseClock, guard, hasOutside } = this.#options;
    const now = await databaseClock();
    const lastOutside = await lastOutsideTime(writer);
    const has = hasOutsideTime(hasOutside, lastOutside, now);
    const doubtedSince = now === undefined ? undefined : await lookAtClock(writer, now, GAP_MS);
    return {
      now,
      hasOutside: has,
      objection: clockObjection({ now, guard, hasOutside: has, lastOutside, doubtedSince }),
    };
  }

  #dueFrom(dropMonth: number, hasOutside: boolean): number {
    return monthBegin(dropMonth) + (hasOutside ? 0 : GAP_MS);
  }

  #mustNotBeStopped(clocks: string | undefined): void {
    const stop = clocks ?? this.#options.objection();
    if (stop !== undefined) throw new NotYet(stop, 'later');
  }

  /** What must not be lost stays until it is delivered: the month waits whole. */
  async #sinkStops(ranges: readonly ExpiredRange[]): Promise<{ tenant: string; detail: string }[]> {
    const behind = await requiredSinksBehind(this.#options.writer, ranges);
    return behind.map(({ sink, stream, nextSeq }) => ({
      tenant: stream.split('/', 1)[0]!,
      detail: `the sink ${sink} is required, and has nothing of ${stream} from entry ${nextSeq} on`,
    }));
  }

  get #heldDeps(): HeldDeps {
    const { writer, database, keys } = this.#options;
    return { writer, database, keys, signal: this.#stop.signal, onMoved: () => this.#step('cut') };
  }

  async #move(run: Pruning, to: Pruning['state']): Promise<Progress> {
    if (!(await moveRun(this.#options.writer, run.id, run.state, to))) return 'soon';
    this.#step(to);
    return 'on';
  }

  #step(step: PruneStep): void {
    this.#options.onStep?.(step);
  }

  /** The same thing once: what waits may wait for months. */
  #say(
    level: 'info' | 'warn' | 'error',
    facts: { readonly reason: string; readonly [name: string]: unknown },
    message: string,
  ): void {
    if (this.#said !== facts.reason) this.#options.log[level](facts, message);
    this.#said = facts.reason;
  }
}

interface Clocks {
  readonly now: number | undefined;
  readonly hasOutside: boolean;
  readonly objection: string | undefined;
}

/** The holds that may keep entries of a range, as far as can be told without looking at them. */
function holdsOn(range: ExpiredRange, holds: readonly StoredHold[]): StoredHold[] {
  return holds.filter((hold) => hold.tenantId === range.tenantId && isAbout(hold, range));
}

/** The first instant of a `year * 100 + month`, UTC. */
function monthBegin(month: number): number {
  return Date.UTC(Math.floor(month / 100), (month % 100) - 1, 1);
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
