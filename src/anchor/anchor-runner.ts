/**
 * The runner of the outside anchors: brings each new checkpoint of the anchor stream to each anchor, tries until it is
 * done, and records what the outside said.
 *
 * Every second it looks for the newest checkpoint, and starts with each anchor that is due: nothing of it runs, there
 * is a checkpoint newer than the last one recorded for it, and the time between two successes, or after a failure the
 * pause, is over. Anchors know nothing of each other: each attempt runs on its own, always with the newest checkpoint,
 * one at a time for an anchor. What was had but could not be recorded is recorded later, before anything else is asked for.
 *
 * A crash loses at most evidence that was had and not recorded: it is asked for again, which folders and witnesses
 * answer the same. Two runners (a lease that went over) look at the record before each attempt, and at worst anchor a
 * checkpoint twice.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { utf8 } from '../chain/bytes.ts';
import { sha256 } from '../chain/sha256.ts';
import { AnchorError } from './anchor-error.ts';
import type { Anchor, FolderAnchor, Rfc3161Anchor, WitnessAnchor } from './anchors-file.ts';
import type { TimeStamp, TimeStampAuthority } from './time-stamp-authority.ts';
import type { Witness } from './witness.ts';
import type { WriteOnceFolder } from './write-once-folder.ts';

export type AnchorKind = Anchor['type'];

/** A checkpoint of the anchor stream. */
export interface AnchorCheckpoint {
  /** The signed note, its text, and what the text says. */
  readonly note: string;
  readonly text: string;
  readonly size: number;
  /** The stream: `sealog/anchor`, or a later epoch of it. */
  readonly stream: string;
}

/** What the outside said to a checkpoint (docs/format.md section 20). */
export interface AnchorRecord {
  readonly name: string;
  readonly kind: AnchorKind;
  readonly stream: string;
  readonly size: number;
  readonly note: string;
  /** rfc3161: the token. witness: the signature line, without its newline. folder: the file. */
  readonly evidence: Uint8Array;
  /** DER, besides those in a token. */
  readonly certificates: readonly Uint8Array[];
  readonly crls: readonly Uint8Array[];
  /** Milliseconds since 1970, as the outside states it; for a folder, our own. */
  readonly evidenceTime: number;
  /** When the authority's certificate ends, milliseconds since 1970. */
  readonly ends: number | undefined;
}

/** What performs an anchor of each kind, made once for each anchor. */
export interface AnchorPerformers {
  readonly rfc3161: (anchor: Rfc3161Anchor) => TimeStampAuthority;
  readonly folder: (anchor: FolderAnchor) => WriteOnceFolder;
  readonly witness: (anchor: WitnessAnchor) => Witness;
}

export interface LastAnchored {
  readonly stream: string;
  readonly size: number;
  /** When it was recorded, milliseconds since 1970. */
  readonly at: number;
}

export interface AnchorRunnerOptions {
  readonly anchors: readonly Anchor[];
  readonly performers: AnchorPerformers;
  /** The newest signed checkpoint of the anchor stream; undefined = none yet. */
  readonly newestCheckpoint: () => Promise<AnchorCheckpoint | undefined>;
  readonly record: (record: AnchorRecord) => Promise<void>;
  /** What was recorded last under an anchor's name. */
  readonly last: (name: string) => Promise<LastAnchored | undefined>;
  readonly wallClock: () => number;
  readonly log: AnchorLog;
  /** How often to look; pauses after failures. For tests. */
  readonly lookEveryMs?: number;
  readonly pauseMinMs?: number;
  readonly pauseMaxMs?: number;
}

export interface AnchorLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

/** How an anchor does: for /readyz, metrics and people. Times are milliseconds since 1970. */
export interface AnchorState {
  readonly name: string;
  readonly kind: AnchorKind;
  readonly last: LastAnchored | undefined;
  /** Words; undefined once an attempt succeeded. */
  readonly error: { readonly message: string; readonly at: number; readonly alarm: boolean } | undefined;
  /** Attempts since the last success. */
  readonly failures: number;
  /** Entries of the anchor stream that the newest checkpoint covers and this anchor does not. */
  readonly lagSize: number;
  /** For how long this runner has known a checkpoint that this anchor does not have; 0 where it has the newest. */
  readonly lagSeconds: number;
  /** Of the last time stamp of this runner. */
  readonly certificateEnds: number | undefined;
}

export interface AnchorRunner {
  start(): void;
  state(): AnchorState[];
  /** Ends attempts and stops. Resolves within a second, also where an attempt does not end. */
  close(): Promise<void>;
}

const LOOK_EVERY_MS = 1000;
const PAUSE_MIN_MS = 1000;
const PAUSE_MAX_MS = 5 * 60_000;
/** Every call of a performer has its own, shorter limit: this is what a hanging mount is noticed by. */
const ATTEMPT_MAX_MS = 60_000;
const CLOSE_MAX_MS = 900;
const MESSAGE_LENGTH_MAX = 500;

/** Returns the runner, which does nothing before `start`. */
export function anchorRunner(options: AnchorRunnerOptions): AnchorRunner {
  const stop = new AbortController();
  const tasks = options.anchors.map((anchor) => new AnchorTask(anchor, options, stop.signal));
  let looking: Promise<void> | undefined;

  const look = async (): Promise<void> => {
    let failed = false;
    while (!stop.signal.aborted) {
      try {
        const newest = await options.newestCheckpoint();
        for (const task of tasks) task.look(newest);
        failed = false;
      } catch (error) {
        // Said once: the database says what is wrong with it, too.
        if (!failed)
          options.log.error({ reason: words(error) }, 'the newest checkpoint of the anchor stream can not be read');
        failed = true;
      }
      await delay(options.lookEveryMs ?? LOOK_EVERY_MS, undefined, { signal: stop.signal }).catch(() => {});
    }
  };
  return {
    start() {
      if (tasks.length > 0) looking ??= look();
    },
    state: () => tasks.map((task) => task.state()),
    async close() {
      stop.abort();
      const all = Promise.allSettled([looking, ...tasks.map((task) => task.running)]);
      const late = new AbortController();
      await Promise.race([all, delay(CLOSE_MAX_MS, undefined, { signal: late.signal }).catch(() => {})]);
      late.abort();
    },
  };
}

/** One anchor. */
class AnchorTask {
  running: Promise<void> | undefined;
  readonly #anchor: Anchor;
  readonly #options: AnchorRunnerOptions;
  readonly #stop: AbortSignal;
  readonly #ask: (checkpoint: AnchorCheckpoint, signal: AbortSignal) => Promise<AnchorRecord>;
  #newest: AnchorCheckpoint | undefined;
  #last: LastAnchored | undefined;
  /** What was had and is not recorded yet. */
  #had: AnchorRecord | undefined;
  /** On the clock that only goes forward. */
  #dueAt = 0;
  /** The record after which the anchor's time has been, or is being, waited out. */
  #waitedFor = '';
  #runningSince = 0;
  #behindSince: number | undefined;
  #failures = 0;
  #error: AnchorState['error'];
  #certificateEnds: number | undefined;

  constructor(anchor: Anchor, options: AnchorRunnerOptions, stop: AbortSignal) {
    this.#anchor = anchor;
    this.#options = options;
    this.#stop = stop;
    this.#ask = this.#performer();
  }

  /** Takes note of the newest checkpoint, and starts an attempt where one is due. Never waits, never throws. */
  look(newest: AnchorCheckpoint | undefined): void {
    this.#newest = newest;
    const behind = newest !== undefined && isNewer(newest, this.#last);
    this.#behindSince = behind ? (this.#behindSince ?? performance.now()) : undefined;
    if (this.running !== undefined || performance.now() < this.#dueAt || this.#stop.aborted) return;
    if (!behind && this.#had === undefined) return;
    this.#runningSince = performance.now();
    this.running = this.#attempt().finally(() => {
      this.running = undefined;
    });
  }

  state(): AnchorState {
    const { name, type } = this.#anchor;
    const newest = this.#newest;
    const last = this.#last;
    const behind = newest !== undefined && isNewer(newest, last);
    const base = last !== undefined && last.stream === newest?.stream ? last.size : 0;
    return {
      name,
      kind: type,
      last,
      error: this.#hanging() ?? this.#error,
      failures: this.#failures,
      lagSize: behind ? newest.size - base : 0,
      lagSeconds: behind ? Math.floor((performance.now() - (this.#behindSince ?? performance.now())) / 1000) : 0,
      certificateEnds: this.#certificateEnds,
    };
  }

  async #attempt(): Promise<void> {
    const { name, type: kind } = this.#anchor;
    const { log, wallClock } = this.#options;
    try {
      if (this.#had === undefined) {
        const checkpoint = await this.#next();
        if (checkpoint === undefined) return;
        const signal = AbortSignal.any([this.#stop, AbortSignal.timeout(ATTEMPT_MAX_MS)]);
        this.#had = await this.#ask(checkpoint, signal);
      }
      // Recorded also where we are being stopped: what was had is had.
      await this.#options.record(this.#had);
      const { stream, size } = this.#had;
      const ms = Math.round(performance.now() - this.#runningSince);
      log.info({ anchor: name, kind, stream, size, ms }, 'anchored a checkpoint');
      this.#had = undefined;
      this.#last = { stream, size, at: wallClock() };
      this.#failures = 0;
      this.#error = undefined;
      this.#behindSince = undefined;
      this.#waitedFor = `${stream} ${size}`;
      this.#dueAt = performance.now() + this.#anchor.everySeconds * 1000;
    } catch (error) {
      if (this.#stop.aborted) return;
      this.#failed(error);
    }
  }

  /** Returns the checkpoint to anchor, unless the record shows that none is due. */
  async #next(): Promise<AnchorCheckpoint | undefined> {
    this.#last = await this.#options.last(this.#anchor.name);
    const newest = this.#newest;
    if (newest === undefined || !isNewer(newest, this.#last)) {
      // Somebody else has done it.
      this.#failures = 0;
      this.#error = undefined;
      return undefined;
    }
    if (this.#last === undefined) return newest;
    // Each record is waited for once, and for no longer than usual, since its time is by another clock, which may have
    // been put back. What was recorded here has been waited for by the clock that only goes forward.
    const everyMs = this.#anchor.everySeconds * 1000;
    const waitMs = Math.min(everyMs, this.#last.at + everyMs - this.#options.wallClock());
    const record = `${this.#last.stream} ${this.#last.size}`;
    if (waitMs <= 0 || this.#waitedFor === record) return newest;
    this.#waitedFor = record;
    this.#dueAt = performance.now() + waitMs;
    return undefined;
  }

  #failed(error: unknown): void {
    const { pauseMinMs = PAUSE_MIN_MS, pauseMaxMs = PAUSE_MAX_MS, log, wallClock } = this.#options;
    const message = words(error);
    const alarm = error instanceof AnchorError && error.alarm;
    const facts = { anchor: this.#anchor.name, kind: this.#anchor.type, reason: message, failures: this.#failures + 1 };
    // The first of a row, a new reason, and every alarm: a long outage is no reason to fill a disk.
    if (alarm) log.error(facts, 'an anchor raises an alarm');
    else if (message !== this.#error?.message) log.warn(facts, 'an anchor could not be had; it is tried again');
    this.#error = { message, at: wallClock(), alarm };
    // Doubled each time, and half of it by lot, so that many services do not come back at once.
    const pause = Math.min(pauseMaxMs, pauseMinMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    this.#dueAt = performance.now() + pause * (0.5 + Math.random() / 2);
  }

  /** A mount can hang in a way that nothing ends: then no second attempt is begun, and this says so. */
  #hanging(): AnchorState['error'] {
    const ms = performance.now() - this.#runningSince;
    if (this.running === undefined || ms < ATTEMPT_MAX_MS + 1000) return undefined;
    const at = this.#options.wallClock();
    return { message: `an attempt has been hanging for ${Math.floor(ms / 1000)} s`, at, alarm: false };
  }

  /** Returns what asks the anchor, of whichever kind it is. */
  #performer(): (checkpoint: AnchorCheckpoint, signal: AbortSignal) => Promise<AnchorRecord> {
    const anchor = this.#anchor;
    const { performers, wallClock, log } = this.#options;
    const recordOf = (
      { note, size, stream }: AnchorCheckpoint,
      evidence: Uint8Array,
      evidenceTime: number,
      { certificates = [], crls = [], certificateEnds }: Partial<TimeStamp> = {},
    ): AnchorRecord => {
      const ends = certificateEnds;
      return {
        name: anchor.name,
        kind: anchor.type,
        stream,
        size,
        note,
        evidence,
        certificates,
        crls,
        evidenceTime,
        ends,
      };
    };
    switch (anchor.type) {
      case 'rfc3161': {
        const authority = performers.rfc3161(anchor);
        return async (checkpoint, signal) => {
          const stamp = await authority.stamp({ imprint: sha256(checkpoint.text), signal });
          for (const warning of stamp.warnings)
            log.warn({ anchor: anchor.name, reason: warning }, 'a time stamp lacks something');
          this.#certificateEnds = stamp.certificateEnds;
          return recordOf(checkpoint, stamp.token, stamp.time, stamp);
        };
      }
      case 'folder': {
        const folder = performers.folder(anchor);
        return async (checkpoint) => recordOf(checkpoint, await folder.publish(checkpoint.note), wallClock());
      }
      case 'witness': {
        const witness = performers.witness(anchor);
        return async (checkpoint, signal) => {
          const knownSize = this.#last?.stream === checkpoint.stream ? this.#last.size : 0;
          const { line, time } = await witness.cosign({ ...checkpoint, knownSize, signal });
          return recordOf(checkpoint, utf8(line), time * 1000);
        };
      }
      default: {
        const never: never = anchor;
        return never;
      }
    }
  }
}

/**
 * Says whether a checkpoint is one to anchor: of another epoch than the last one, or larger. Epochs only go forward, so
 * another one is a newer one.
 */
function isNewer(checkpoint: AnchorCheckpoint, last: LastAnchored | undefined): boolean {
  return last === undefined || last.stream !== checkpoint.stream || checkpoint.size > last.size;
}

/** What an error says, on one line: it goes to logs and status pages. */
function words(error: unknown): string {
  const message = error instanceof Error ? error.message : 'failed';
  return message
    .replace(/\p{Cc}+/gu, ' ')
    .slice(0, MESSAGE_LENGTH_MAX)
    .toWellFormed();
}
