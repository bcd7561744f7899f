/**
 * Jobs: verification that a tenant asked for, of its own streams, one job at a time in each replica.
 *
 * A job that another replica left is gone on with behind the last stream that it finished; a stream that it was in the middle of is begun
 * again: what is known in the middle of one (hashes that wait for their tags, edges of the tree) is more than a row should hold.
 */
import assert from 'node:assert/strict';
import type { JsonObject } from '../chain/canonical.ts';
import type { Outcome } from '../chain/category.ts';
import type { RunVerdict, TakenRun } from '../store/verifications.ts';
import type { LogStreamReport } from '../verify/verify-log.ts';
import {
  type LaneLog,
  type LaneTiming,
  RunLane,
  type RunResult,
  type RunStore,
  type Work,
  type WorkResult,
} from './run-lane.ts';
import { bounded, type JobProgress, type RunReport, roomBeside, runReport } from './run-report.ts';
import type { ThreadMessage, ThreadTask, Trust } from './thread-task.ts';

export interface VerificationRunnerOptions {
  readonly store: RunStore;
  /** Where a thread reads, and with which keys. */
  readonly reading: Pick<ThreadTask, 'connection' | 'keys' | 'origin'>;
  /** Asked anew for each thread. */
  readonly trust: () => Promise<Trust>;
  /** How long entries may wait for an anchor; undefined = nothing anchors. */
  readonly anchorWait: ThreadTask['anchorWait'];
  readonly onEntries: (entries: number) => void;
  readonly onEnd: (kind: 'job', verdict: string) => void;
  /** Writes an entry about a verdict into the log of the tenant that it is about. */
  readonly tell: (tenant: string, target: JsonObject, outcome: Outcome, details: JsonObject) => Promise<unknown>;
  readonly log: LaneLog;
  /** Of one processor: the rest is for what the service is there for. */
  readonly share?: number;
  readonly timing?: Partial<LaneTiming> | undefined;
}

/** With the database's part and what runs beside the thread (collecting garbage, unpacking) it comes to half of one. */
const SHARE = 0.4;

/** Returns the lane of jobs, which does nothing before `start`. */
export function verificationRunner(options: VerificationRunnerOptions): RunLane {
  return new RunLane({
    kind: 'job',
    store: options.store,
    begin: (run) => new Job(run, options),
    tell: (run, result) => tellVerdict(run, result, options),
    onEnd: (_, result) => options.onEnd('job', 'verdict' in result ? result.verdict : 'failed'),
    log: options.log,
    ...(options.timing === undefined ? {} : { timing: options.timing }),
  });
}

const OUTCOMES: Readonly<Record<RunVerdict | 'failed', Outcome>> = {
  intact: 'success',
  tampered: 'failure',
  incomplete: 'unknown',
  not_provable: 'unknown',
  failed: 'failure',
};

/** What was found stands in the run; the entry says that it was, and how much. */
async function tellVerdict(run: TakenRun, result: RunResult, { tell }: VerificationRunnerOptions): Promise<void> {
  const { tenant, category, id } = run;
  assert(tenant !== null, 'a job is of a tenant');
  const verdict = 'verdict' in result ? result.verdict : 'failed';
  const target = { type: 'log', id: category === null ? tenant.name : `${tenant.name}/${category}` };
  const counts = 'report' in result ? countsOf(result.report as RunReport) : {};
  await tell(tenant.name, target, OUTCOMES[verdict], { run: id, verdict, ...counts });
}

function countsOf({ entries, streams, findings, unchecked, truncated }: RunReport): JsonObject {
  return {
    entries,
    streams: streams.length,
    findings: findings.length,
    unchecked: unchecked.length,
    // There are more than the run holds.
    ...(truncated ? { truncated } : {}),
  };
}

class Job implements Work {
  readonly #run: TakenRun;
  readonly #options: VerificationRunnerOptions;
  #finished: readonly LogStreamReport[];
  #streams: number;
  #entries: number;
  #of: number;
  #stream: string | null = null;

  constructor(run: TakenRun, options: VerificationRunnerOptions) {
    this.#run = run;
    this.#options = options;
    const progress = run.progress as Partial<JobProgress>;
    this.#finished = progress.finished ?? [];
    this.#streams = this.#finished.length;
    this.#entries = sizeOf(this.#finished);
    this.#of = progress.of ?? 0;
  }

  get progress(): JobProgress {
    return {
      entries: this.#entries,
      of: this.#of,
      stream: this.#stream,
      streams: this.#streams,
      finished: this.#finished,
    };
  }

  async task(): Promise<ThreadTask> {
    const { reading, trust, anchorWait, share = SHARE } = this.#options;
    const { tenant, category } = this.#run;
    const { mark, ...trusted } = await trust();
    return {
      ...reading,
      ...trusted,
      mark: mark === undefined ? undefined : markOf(mark, `${tenant!.name}/`, category),
      scope: { tenantId: tenant!.id, category: category ?? undefined },
      finished: { entries: sizeOf(this.#finished), reports: this.#finished, after: null },
      readBefore: 0,
      anchorWait,
      sliceMs: Number.POSITIVE_INFINITY,
      share,
      entriesPerSecond: Number.POSITIVE_INFINITY,
    };
  }

  async take(message: Exclude<ThreadMessage, { kind: 'failed' }>): Promise<WorkResult | undefined> {
    switch (message.kind) {
      case 'progress':
      case 'stream': {
        this.#options.onEntries(Math.max(0, message.entries - this.#entries));
        this.#entries = message.entries;
        this.#of = message.of;
        this.#stream = message.kind === 'progress' ? message.stream : null;
        if (message.kind === 'stream') {
          this.#finished = [...this.#finished, bounded(message.report, roomBeside(this.#finished))];
          this.#streams = this.#finished.length;
        }
        return undefined;
      }
      case 'done': {
        const { report } = message;
        this.#stream = null;
        // The row's report has them from now on.
        this.#finished = [];
        this.#streams = report.streams.length;
        this.#of = this.#entries;
        return { verdict: report.verdict, report: runReport(report) };
      }
      case 'slice':
        throw new Error('a job is not done in slices');
      default: {
        const never: never = message;
        throw new Error(`unknown message ${JSON.stringify(never)}`);
      }
    }
  }
}

function sizeOf(reports: readonly LogStreamReport[]): number {
  return reports.reduce((sum, { size }) => sum + size, 0);
}

/** What the mark says of the streams in question. */
function markOf(mark: NonNullable<Trust['mark']>, begin: string, category: string | null): NonNullable<Trust['mark']> {
  const isAsked = (name: string): boolean =>
    name.startsWith(begin) && (category === null || name.slice(begin.length).split('/')[0] === category);
  return new Map([...mark].filter(([name]) => isAsked(name)));
}
