/**
 * The scrubber: the service's own verification, all the time, of everything, at low priority.
 *
 * A pass is a run of the kind `scrub`, over all tenants. There is one at a time, which whatever replica is free works on, stream by stream; the
 * next begins an hour after the one before it began, or when it has ended. A pass goes as slowly as the period allows, never faster than
 * a share of one processor, and small logs are through in a moment.
 *
 * What is wrong with a stream is an alarm, which stands in the row of the pass, and goes over into the next: so it outlives restarts, and
 * every replica knows of it. While there is one the service is not ready. It ends when a pass finds the stream sound. Each distinct set of
 * findings is told once, as a `security_event` of the stream's tenant; the alarm stands also where that can not be stored.
 *
 * What could not be read (a key that is away) is no alarm: it is said in the log, and counted.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { toHex } from '../chain/bytes.ts';
import type { JsonObject } from '../chain/canonical.ts';
import { OWN_TENANT } from '../chain/category.ts';
import { sha256 } from '../chain/sha256.ts';
import type { ScrubState, TakenRun } from '../store/verifications.ts';
import type { Finding } from '../verify/findings.ts';
import { type LogStreamReport, worstVerdict } from '../verify/verify-log.ts';
import { type LaneLog, type LaneTiming, RunLane, type RunStore, type Work, type WorkResult } from './run-lane.ts';
import { type Alarm, FINDINGS_MAX, type ScrubProgress, worded } from './run-report.ts';
import type { ThreadMessage, ThreadTask, Trust } from './thread-task.ts';

export interface ScrubberOptions {
  readonly store: RunStore & {
    /** Begins the next pass, unless one is under way or began less than so long ago. */
    begin(everyMs: number): Promise<void>;
    state(): Promise<ScrubState>;
  };
  readonly reading: Pick<ThreadTask, 'connection' | 'keys' | 'origin'>;
  readonly trust: () => Promise<Trust>;
  /** Everything is read again within so many days. */
  readonly periodDays: number;
  /** Returns how many entries there are. */
  readonly entries: () => Promise<number>;
  /** Appends an entry to a tenant's security_event stream. */
  readonly raise: (tenant: string, action: string, severity: number, details: JsonObject) => Promise<void>;
  /** Appends an entry about the log itself. */
  readonly tell: (action: string, details: JsonObject) => Promise<void>;
  readonly onEntries: (entries: number) => void;
  readonly onEnd: (kind: 'scrub', verdict: string) => void;
  readonly log: LaneLog;
  readonly wallClock: () => number;
  readonly settings?: Partial<ScrubSettings> | undefined;
  readonly timing?: Partial<LaneTiming> | undefined;
}

export interface ScrubSettings {
  /** From the service's start to its first look at whether a pass is due: it has other things to do then. */
  readonly firstAfterMs: number;
  /** From the beginning of one pass to that of the next. */
  readonly everyMs: number;
  /** Also where the period would allow less. */
  readonly entriesPerSecondMin: number;
  /** Of one processor. */
  readonly share: number;
  /** After so long keys, mark and evidence are read anew. */
  readonly sliceMs: number;
  /** How often to look at what another replica found. */
  readonly lookMs: number;
}

/** For metrics. */
export interface ScrubStatus {
  /** Milliseconds since 1970 of the end of the last full pass; 0 = none yet. */
  readonly lastFullPassAt: number;
  /** Streams with an alarm, and findings in them. */
  readonly alarms: number;
  readonly findings: number;
  readonly oldestUnreadSeconds: number;
  /** Streams that could not be checked whole, in this pass so far or else the last. */
  readonly incomplete: number;
}

const SETTINGS: ScrubSettings = {
  firstAfterMs: 60_000,
  everyMs: 3_600_000,
  // An hour for 3.6 million entries, at a thirtieth of a processor.
  entriesPerSecondMin: 1000,
  // With the database's part and what runs beside the thread it comes to a quarter.
  share: 0.2,
  sliceMs: 60_000,
  lookMs: 5000,
};
const DAY_MS = 86_400_000;
/** The period is held with room for restarts, and for streams that are begun again. */
const OF_THE_PERIOD = 0.8;
/** Streams whose alarms are kept apart; whoever changed more has made his point. */
const ALARMS_MAX = 200;
const FINDINGS_TOLD = 20;
/** Places of findings that an alarm remembers one by one. */
const PLACES_MAX = 100;
const SEVERITY = 10;
const CLOSE_MAX_MS = 900;

export class Scrubber {
  readonly #options: ScrubberOptions;
  readonly #settings: ScrubSettings;
  readonly #lane: RunLane;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #state: ScrubState | undefined;
  #work: Pass | undefined;

  constructor(options: ScrubberOptions) {
    this.#options = options;
    this.#settings = { ...SETTINGS, ...options.settings };
    this.#lane = new RunLane({
      kind: 'scrub',
      store: options.store,
      begin: (run) => {
        this.#work = new Pass(run, options, this.#settings);
        return this.#work;
      },
      onEnd: (run, result) => {
        options.onEnd('scrub', 'verdict' in result ? result.verdict : 'failed');
        if ('error' in result)
          options.log.error({ run: run.id, reason: result.error }, 'a pass of the scrubber failed');
      },
      onLeave: async () => {
        await this.#look();
        this.#work = undefined;
      },
      log: options.log,
      timing: { lookMs: this.#settings.lookMs, ...options.timing },
    });
  }

  /** Learns what is known to be wrong already, then goes on in the background. */
  async start(): Promise<void> {
    await this.#look();
    this.#running ??= this.#run();
  }

  /** Takes less than a second. */
  async close(): Promise<void> {
    this.#stop.abort();
    const late = new AbortController();
    await Promise.race([
      Promise.all([this.#lane.close(), this.#running]),
      delay(CLOSE_MAX_MS, undefined, { signal: late.signal, ref: false }).catch(() => {}),
    ]);
    late.abort();
  }

  /** Why the service is not ready, without names: whoever asks needs no token. */
  get objection(): string | undefined {
    const { length } = this.#alarms();
    if (length === 0) return undefined;
    return `verification found something wrong with ${length === 1 ? 'a stream' : `${length} streams`} of the log`;
  }

  get status(): ScrubStatus {
    const alarms = this.#alarms();
    const { full, unreadSince } = this.#state ?? {};
    const since = unreadSince?.getTime() ?? this.#options.wallClock();
    return {
      lastFullPassAt: full?.finishedAt.getTime() ?? 0,
      alarms: alarms.length,
      findings: alarms.reduce((sum, { count }) => sum + count, 0),
      oldestUnreadSeconds: Math.max(0, (this.#options.wallClock() - since) / 1000),
      incomplete: (this.#work?.progress ?? (this.#state?.progress as Partial<ScrubProgress> | null))?.incomplete ?? 0,
    };
  }

  /** Of the pass that is worked on here, or of the newest row. */
  #alarms(): readonly Alarm[] {
    if (this.#work !== undefined) return this.#work.progress.alarms;
    return (this.#state?.progress as Partial<ScrubProgress> | null)?.alarms ?? [];
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    const { firstAfterMs, everyMs, lookMs } = this.#settings;
    const firstAt = performance.now() + firstAfterMs;
    const pause = (ms: number) => delay(ms, undefined, { signal, ref: false }).catch(() => {});
    await pause(Math.min(firstAfterMs, lookMs));
    while (!signal.aborted) {
      await this.#look();
      if (performance.now() >= firstAt) {
        this.#lane.start();
        await this.#options.store.begin(everyMs).catch(() => {});
        this.#lane.wake();
      }
      await pause(lookMs);
    }
  }

  async #look(): Promise<void> {
    try {
      this.#state = await this.#options.store.state();
    } catch {
      // What was known last still holds; whoever cannot reach the database is not ready for that reason.
    }
  }
}

/** One pass, or what is left of it. */
class Pass implements Work {
  readonly #run: TakenRun;
  readonly #options: ScrubberOptions;
  readonly #settings: ScrubSettings;
  #progress: ScrubProgress;

  constructor(run: TakenRun, options: ScrubberOptions, settings: ScrubSettings) {
    this.#run = run;
    this.#options = options;
    this.#settings = settings;
    this.#progress = {
      entries: 0,
      finishedEntries: 0,
      of: 0,
      streams: 0,
      after: null,
      verdict: 'intact',
      findings: [],
      truncated: false,
      incomplete: 0,
      alarms: [],
      ...(run.progress as Partial<ScrubProgress>),
      stream: null,
    };
  }

  get progress(): ScrubProgress {
    return this.#progress;
  }

  async task(): Promise<ThreadTask> {
    const { reading, trust, entries, periodDays } = this.#options;
    const { sliceMs, share, entriesPerSecondMin } = this.#settings;
    const perSecond = (await entries()) / ((periodDays * DAY_MS * OF_THE_PERIOD) / 1000);
    return {
      ...reading,
      ...(await trust()),
      scope: undefined,
      finished: { entries: this.#progress.finishedEntries, reports: [], after: this.#progress.after },
      readBefore: this.#progress.entries,
      anchorWait: undefined,
      sliceMs,
      share,
      entriesPerSecond: Math.max(perSecond, entriesPerSecondMin),
    };
  }

  async take(message: Exclude<ThreadMessage, { kind: 'failed' }>): Promise<WorkResult | undefined> {
    switch (message.kind) {
      case 'progress':
        this.#count(message.entries, message.of);
        this.#set({ stream: message.stream });
        return undefined;
      case 'stream':
        this.#count(message.entries, message.of);
        this.#set({ finishedEntries: message.entries });
        await this.#finish(message.report);
        return undefined;
      case 'slice':
        await this.#beside(message.findings);
        return message.isLast ? this.#end() : 'again';
      case 'done':
        throw new Error('a pass is done in slices');
      default: {
        const never: never = message;
        throw new Error(`unknown message ${JSON.stringify(never)}`);
      }
    }
  }

  #count(entries: number, of: number): void {
    this.#options.onEntries(Math.max(0, entries - this.#progress.entries));
    this.#set({ entries: Math.max(entries, this.#progress.entries), of });
  }

  async #finish(report: LogStreamReport): Promise<void> {
    const { stream, verdict } = report;
    if (verdict === 'incomplete') {
      const reasons = report.unchecked.slice(0, 3).map(({ detail }) => detail);
      this.#options.log.warn({ stream, reasons }, 'not all of a stream could be verified');
      this.#set({ incomplete: this.#progress.incomplete + 1 });
    }
    this.#set({
      stream: null,
      after: stream,
      streams: this.#progress.streams + 1,
      verdict: worstVerdict([this.#progress.verdict, verdict]),
    });
    if (verdict === 'tampered') await this.#alarm(stream, 'stream', report);
    // What can not be read is not known to be sound.
    else if (verdict === 'incomplete') this.#keep(stream);
    else this.#clear((alarm) => alarm.stream === stream && alarm.of === 'stream');
  }

  /** What is wrong beside streams that are there: by the stream that it names. */
  async #beside(findings: readonly Finding[]): Promise<void> {
    const of = new Map<string, Finding[]>();
    for (const finding of findings) of.set(finding.stream, [...(of.get(finding.stream) ?? []), finding]);
    for (const [stream, found] of of) {
      this.#set({ verdict: 'tampered' });
      await this.#alarm(stream, 'log', { findings: found, truncated: false });
    }
  }

  async #alarm(
    stream: string,
    of: Alarm['of'],
    report: Pick<LogStreamReport, 'findings' | 'truncated'>,
  ): Promise<void> {
    const { log } = this.#options;
    const findings = worded(report.findings);
    this.#list(findings, report.truncated);
    const known = this.#progress.alarms.find((one) => one.stream === stream && one.of === of);
    // What is beside the streams is found in one slice or in another.
    const before = of === 'log' && known?.run === this.#run.id ? known : undefined;
    const all = new Set([...(before?.places ?? []), ...findings.map(placeOf)]);
    const places = [...all].sort();
    const isOld =
      known?.isTold === true &&
      (known.digest === digestOf(places) || places.every((one) => known.places.includes(one)));
    const alarm: Alarm = {
      ...{ stream, of, run: this.#run.id, count: all.size, isTold: isOld },
      findings: [...findings, ...(before?.findings ?? [])].slice(0, FINDINGS_TOLD),
      places: places.slice(0, PLACES_MAX),
      digest: digestOf(places),
    };
    if (known === undefined && this.#progress.alarms.length >= ALARMS_MAX) {
      log.error({ stream }, 'something is wrong with a stream, and with too many others to keep them apart');
      return;
    }
    this.#put(alarm);
    if (isOld) return;
    log.error({ stream, findings: alarm.findings.slice(0, 3), count: alarm.count }, 'something is wrong with a stream');
    if (await this.#raise(alarm)) this.#put({ ...alarm, isTold: true });
  }

  /** For the report of the pass, each once. */
  #list(found: readonly Finding[], truncated: boolean): void {
    const { findings } = this.#progress;
    const known = new Set(findings.map((one) => JSON.stringify(one)));
    const fresh = found.filter((one) => !known.has(JSON.stringify(one)));
    const room = FINDINGS_MAX - findings.length;
    this.#set({
      findings: [...findings, ...fresh.slice(0, room)],
      truncated: this.#progress.truncated || truncated || fresh.length > room,
    });
  }

  /** Returns whether the event is stored. The stream that it goes to may be the one that something is wrong with. */
  async #raise({ stream, findings, count }: Alarm): Promise<boolean> {
    const tenant = /^([a-z0-9][a-z0-9-]{0,62})\//.exec(stream)?.[1] ?? OWN_TENANT;
    const told = findings.map(({ seq, kind, detail }) => ({ ...(seq === undefined ? {} : { seq }), kind, detail }));
    try {
      const details = { stream, count, findings: told, run: this.#run.id };
      await this.#options.raise(tenant, 'log.verification_failed', SEVERITY, details);
      return true;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#options.log.error(
        { stream, reason },
        'that something is wrong with a stream could not be recorded in the log',
      );
      return false;
    }
  }

  async #end(): Promise<WorkResult> {
    const { tell, log } = this.#options;
    // What was wrong beside the streams that are there, and is no more.
    this.#clear(({ run }) => run !== this.#run.id);
    this.#set({ stream: null });
    const { verdict, entries, streams, findings, truncated, incomplete } = this.#progress;
    const facts = { verdict, streams, entries, findings: findings.length, incomplete };
    log.info({ run: this.#run.id, ...facts }, 'the scrubber has read everything');
    await tell('log.scrubbed', { ...facts, run: this.#run.id }).catch((error: unknown) =>
      log.error(
        { reason: error instanceof Error ? error.message : String(error) },
        'a full pass could not be recorded',
      ),
    );
    return { verdict, report: { entries, streams, findings, truncated, incomplete } };
  }

  /** This pass did not find the stream sound. */
  #keep(stream: string): void {
    const known = this.#progress.alarms.find((one) => one.stream === stream && one.of === 'stream');
    if (known !== undefined) this.#put({ ...known, run: this.#run.id });
  }

  #put(alarm: Alarm): void {
    const others = this.#progress.alarms.filter((one) => one.stream !== alarm.stream || one.of !== alarm.of);
    this.#set({ alarms: [...others, alarm] });
  }

  #clear(which: (alarm: Alarm) => boolean): void {
    for (const { stream } of this.#progress.alarms.filter(which))
      this.#options.log.info({ stream }, 'nothing is wrong with the stream any more');
    this.#set({ alarms: this.#progress.alarms.filter((one) => !which(one)) });
  }

  #set(change: Partial<ScrubProgress>): void {
    this.#progress = { ...this.#progress, ...change };
  }
}

/** What is wrong where. Not the words: they count on while a stream grows. */
function placeOf({ kind, seq }: Finding): string {
  return seq === undefined ? kind : `${kind} ${seq}`;
}

function digestOf(places: readonly string[]): string {
  return toHex(sha256(places.join('\n')));
}
