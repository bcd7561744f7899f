/**
 * What the row of a run holds: its progress, from which another replica goes on, and at the end its report. Both are bounded: a log that is
 * all wrong must not become a row that nobody can read.
 */
import type { Finding, Unchecked } from '../verify/findings.ts';
import type { KeyTrust, LogReport, LogStreamReport, LogVerdict } from '../verify/verify-log.ts';

/** Findings that a run keeps, of all its streams together; the same of what was not checked. */
export const FINDINGS_MAX = 1000;
const DETAIL_LENGTH_MAX = 500;

export interface RunProgress {
  /** Entries that were checked, and how many there are to check. */
  readonly entries: number;
  readonly of: number;
  /** The stream that is being read. */
  readonly stream: string | null;
  /** Streams that are finished. */
  readonly streams: number;
}

/** Of a job: the reports of the streams that are finished. */
export interface JobProgress extends RunProgress {
  readonly finished: readonly LogStreamReport[];
}

/** Of a pass of the scrubber: up to which stream it is done, what it found, and what is known to be wrong. */
export interface ScrubProgress extends RunProgress {
  /** Entries of the streams that are finished. */
  readonly finishedEntries: number;
  readonly after: string | null;
  readonly verdict: LogVerdict;
  readonly findings: readonly Finding[];
  readonly truncated: boolean;
  readonly incomplete: number;
  readonly alarms: readonly Alarm[];
}

/** Something is wrong with a stream: until a pass finds it sound. */
export interface Alarm {
  readonly stream: string;
  /** `log`: what speaks of it is wrong, beside what was read of it; or it is gone. */
  readonly of: 'stream' | 'log';
  /** The pass that found it last. */
  readonly run: string;
  readonly count: number;
  /** The first of them. */
  readonly findings: readonly Finding[];
  /** What is wrong where: the first of them, and a hash of all. What is in them was told. */
  readonly places: readonly string[];
  readonly digest: string;
  /** The tenant's security_event was stored. */
  readonly isTold: boolean;
}

export interface StreamSummary
  extends Pick<
    LogStreamReport,
    'stream' | 'size' | 'verdict' | 'anchored' | 'unanchored' | 'pinned' | 'lost' | 'pruned'
  > {
  /** Entries with parts that are gone, as certificates say. */
  readonly erased: readonly { readonly from: number; readonly to: number; readonly by: string }[];
}

export interface RunReport {
  readonly entries: number;
  readonly key: { readonly vkey: string; readonly trusted: KeyTrust } | null;
  readonly findings: readonly Finding[];
  readonly unchecked: readonly StreamUnchecked[];
  readonly truncated: boolean;
  readonly streams: readonly StreamSummary[];
}

export interface StreamUnchecked extends Unchecked {
  readonly stream?: string;
}

/** Returns a report as a row can hold it, with at most so many findings, and so many things unchecked. */
export function bounded(report: LogStreamReport, max: number): LogStreamReport {
  const { findings, unchecked } = report;
  return {
    ...report,
    findings: worded(findings.slice(0, max)),
    unchecked: worded(unchecked.slice(0, max)),
    truncated: report.truncated || findings.length > max || unchecked.length > max,
  };
}

/** Returns how many more findings fit into a row beside these reports; one always does, or a verdict would have no reason. */
export function roomBeside(reports: readonly LogStreamReport[]): number {
  const used = reports.reduce((sum, { findings, unchecked }) => sum + Math.max(findings.length, unchecked.length), 0);
  return Math.max(1, FINDINGS_MAX - used);
}

export function runReport(report: LogReport): RunReport {
  const findings = [...report.findings, ...report.streams.flatMap((stream) => stream.findings)];
  const unchecked: StreamUnchecked[] = [
    ...report.unchecked,
    ...report.streams.flatMap((one) => one.unchecked.map((what) => ({ stream: one.stream, ...what }))),
  ];
  return {
    entries: report.entries,
    key: report.key,
    findings: worded(findings.slice(0, FINDINGS_MAX)),
    unchecked: worded(unchecked.slice(0, FINDINGS_MAX)),
    truncated: report.truncated || findings.length > FINDINGS_MAX || unchecked.length > FINDINGS_MAX,
    streams: report.streams.map(streamSummary),
  };
}

export function streamSummary(report: LogStreamReport): StreamSummary {
  // A report of before this was noted has none.
  const { stream, size, verdict, anchored, unanchored, pinned, lost, pruned = [] } = report;
  const erased = (report.erased ?? []).map(({ from, to, certificate }) => ({
    from,
    to,
    by: `${certificate.stream}#${certificate.seq}`,
  }));
  return { stream, size, verdict, anchored, unanchored, pinned, lost, pruned, erased };
}

/** In words that jsonb can hold: details repeat what is stored, and anything may be stored. */
export function worded<T extends { readonly detail: string }>(all: readonly T[]): T[] {
  return all.map((one) => {
    const detail = one.detail.toWellFormed().replaceAll('\0', '\uFFFD');
    const isLong = detail.length > DETAIL_LENGTH_MAX;
    return { ...one, detail: isLong ? `${detail.slice(0, DETAIL_LENGTH_MAX).toWellFormed()}…` : detail };
  });
}
