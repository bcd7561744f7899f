/**
 * A verification thread: reads and checks streams beside the main thread, over database connections and with keys of its own, and tells the
 * main thread what it found. It writes nothing. Ending it at any moment loses what it knows of the stream that it is reading, and no more.
 */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { anchorEpoch } from '../chain/key-statement.ts';
import { Keyring } from '../keys/keyring.ts';
import { openThreadKeys } from '../keys/thread-keys.ts';
import { keyById } from '../store/data-keys.ts';
import { openDatabase } from '../store/database.ts';
import { logWideSource } from '../store/log-wide-source.ts';
import { entriesInScope } from '../store/verifications.ts';
import type { Finding } from '../verify/findings.ts';
import type { LogStream } from '../verify/log-wide-source.ts';
import { anyOf, type EvidenceChecker, timeStampChecker, witnessChecker } from '../verify/outside-evidence.ts';
import { LogCheck, type LogReport, type LogStreamReport } from '../verify/verify-log.ts';
import { Pace } from './pace.ts';
import type { ThreadMessage, ThreadTask } from './thread-task.ts';

assert(parentPort !== null, 'runs as a worker thread');
const main = parentPort;
const task = workerData as ThreadTask;

/** Progress is told so often at most; what is finished at once. */
const TELL_EVERY_MS = 200;
/** A pause is cut into pieces, so that the main thread hears of us in between. */
const PAUSE_PIECE_MS = 1000;

async function run(): Promise<ThreadMessage> {
  const database = openDatabase({
    connection: task.connection,
    readersMax: 1,
    log: { warn: () => {} },
  });
  const monthKeys = await openThreadKeys(task.keys, { debug: () => {}, warn: () => {} });
  try {
    const store = {
      findOrStore: () => Promise.reject(new Error('verification makes no keys')),
      byId: (id: string) => keyById(database.verifier, id),
    };
    const keyring = new Keyring(monthKeys, store, { cacheMs: task.keys.cacheMs });
    const { scope } = task;
    const of = await entriesInScope(database.verifier, scope);
    const source = logWideSource(database.verifier, keyring, task.origin, scope);
    const progress = new Progress(task.finished.entries, of);
    const anchors = task.anchorWait;
    let waitUntil: number | undefined;
    const check = await LogCheck.begin(source, {
      key: task.key,
      mark: task.mark,
      evidence: evidenceOf(task),
      onProgress: ({ name }, entries) => progress.at(name, entries),
      ...(anchors === undefined
        ? {}
        : {
            awaitAnchors: async () => {
              waitUntil ??= performance.now() + anchors.maxMs;
              if (performance.now() >= waitUntil) return false;
              await delay(anchors.everyMs);
              progress.tell();
              return true;
            },
          }),
    });
    const begun = performance.now();
    const streams = inOrder(await check.streams());
    const reports = new Map(task.finished.reports.map((report) => [report.stream, report]));
    for (const stream of streams) {
      const known = reports.get(stream.name);
      if (known !== undefined) await check.restoreStream(stream, known);
      if (known !== undefined || !isBehind(stream, task.finished.after)) continue;
      const report = await check.checkStream(stream);
      progress.finish(report);
      tell({ kind: 'stream', report, entries: progress.entries, of: progress.of });
      if (performance.now() - begun > task.sliceMs) return slice(check, false);
    }
    await check.checkVanished();
    if (task.sliceMs < Number.POSITIVE_INFINITY) return slice(check, true);
    const report = await check.end();
    return { kind: 'done', report: withVanished(report, streams) };
  } finally {
    monthKeys.close();
    await database.close();
  }
}

/** What is wrong beside the streams, which were told one by one. */
function slice(check: LogCheck, isLast: boolean): ThreadMessage {
  return { kind: 'slice', isLast, findings: check.findings };
}

/** A part of the log of which no stream is left: the check goes by the names of those that are. */
function withVanished(report: LogReport, streams: readonly LogStream[]): LogReport {
  if (task.scope === undefined || streams.length > 0 || task.mark === undefined) return report;
  const findings: Finding[] = [...task.mark].map(([stream, { size }]) => ({
    stream,
    kind: 'truncated',
    detail: `the signer signed ${size} entries of the stream, and it is not there any more`,
  }));
  return findings.length === 0
    ? report
    : { ...report, verdict: 'tampered', findings: [...report.findings, ...findings] };
}

function evidenceOf({ authorities, witnesses }: ThreadTask): EvidenceChecker | undefined {
  const checkers = [
    ...(authorities.length === 0 ? [] : [timeStampChecker(authorities)]),
    ...(witnesses.length === 0 ? [] : [witnessChecker(witnesses)]),
  ];
  return checkers.length === 0 ? undefined : anyOf(checkers);
}

/** The epochs of the anchor stream first, then by name; the same order each time, whatever the database sorts by. */
function inOrder(streams: readonly LogStream[]): LogStream[] {
  return [...streams].sort((a, b) => compareStreams(a.name, b.name));
}

function isBehind({ name }: LogStream, after: string | null): boolean {
  return after === null || compareStreams(name, after) > 0;
}

function compareStreams(a: string, b: string): number {
  const isOther = (name: string): number => (anchorEpoch(name) === undefined ? 1 : 0);
  return isOther(a) - isOther(b) || (a < b ? -1 : Number(a > b));
}

/** Counts, tells, and rests. */
class Progress {
  entries: number;
  #of: number;
  #ofFinished: number;
  #stream: string | null = null;
  #toldAt = 0;
  readonly #pace = new Pace(task, () => performance.now());

  constructor(finished: number, of: number) {
    this.#ofFinished = finished;
    this.entries = finished;
    this.#of = of;
  }

  /** It may grow meanwhile. */
  get of(): number {
    return Math.max(this.#of, this.entries);
  }

  async at(stream: string, entries: number): Promise<void> {
    const before = this.entries;
    this.#stream = stream;
    this.entries = this.#ofFinished + entries;
    if (performance.now() - this.#toldAt > TELL_EVERY_MS) this.tell();
    const counted = Math.max(0, this.entries - Math.max(before, task.readBefore));
    for (let ms = this.#pace.restAfter(counted); ms > 0; ms -= PAUSE_PIECE_MS) {
      await delay(Math.min(ms, PAUSE_PIECE_MS));
      if (ms > PAUSE_PIECE_MS) this.tell();
    }
    this.#pace.goOn();
  }

  finish(report: LogStreamReport): void {
    this.#ofFinished += report.size;
    this.entries = this.#ofFinished;
    this.#stream = null;
  }

  tell(): void {
    this.#toldAt = performance.now();
    tell({ kind: 'progress', stream: this.#stream, entries: this.entries, of: this.of });
  }
}

function tell(message: ThreadMessage): void {
  main.postMessage(message);
}

// Last, when all above is there.
await run().then(
  (message) => tell(message),
  (error: unknown) => tell({ kind: 'failed', reason: error instanceof Error ? error.message : String(error) }),
);
