/** The metrics of this service, from what its parts say of themselves. Each part is described here as far as it is measured. */
import type { LabelledCounter, Metric, MetricSample } from './metrics.ts';

export interface Measured {
  /** Events that wait to be stored. */
  readonly queued: () => { readonly entries: number; readonly bytes: number };
  /** Undefined where this replica does not sign. */
  readonly signer: () => MeasuredSigner | undefined;
  /** Why the database is kept from appending, or undefined. */
  readonly signerRefusal: () => Promise<string | undefined>;
  readonly anchors: () => readonly MeasuredAnchor[];
  /** Runs of verification that ended here, by verdict; entries that were checked here, by kind. */
  readonly runs: LabelledCounter;
  readonly entries: LabelledCounter;
  /** Undefined where there is no scrubber. */
  readonly scrub: () => MeasuredScrub | undefined;
}

export interface MeasuredSigner {
  readonly isLeading: boolean;
  readonly generation: number;
  readonly signed: number;
  readonly ticks: number;
  /** Milliseconds since 1970; 0 = never. */
  readonly lastRoundAt: number;
}

export interface MeasuredAnchor {
  /** As the operator named it. */
  readonly name: string;
  readonly error: { readonly alarm: boolean } | undefined;
  readonly failures: number;
  readonly lagSize: number;
  readonly lagSeconds: number;
}

export interface MeasuredScrub {
  /** Milliseconds since 1970; 0 = never. */
  readonly lastFullPassAt: number;
  readonly alarms: number;
  readonly findings: number;
  readonly incomplete: number;
  readonly oldestUnreadSeconds: number;
}

export function serviceMetrics(measured: Measured): Metric[] {
  const { queued, signer, signerRefusal, anchors, runs, entries, scrub } = measured;
  const byAnchor = (value: (anchor: MeasuredAnchor) => number) => (): MetricSample[] =>
    anchors().map((anchor) => ({ labels: { anchor: anchor.name }, value: value(anchor) }));
  return [
    gauge('sealog_queue_entries', 'Events that wait to be stored.', () => queued().entries),
    gauge('sealog_queue_bytes', 'Bytes of events that wait to be stored.', () => queued().bytes),

    gauge('sealog_signer_leading', '1 where this replica signs.', () => Number(signer()?.isLeading ?? false)),
    gauge(
      'sealog_signer_refused',
      '1 while the database is kept from appending, since it is not the one that was signed.',
      async () => Number((await signerRefusal()) !== undefined),
    ),
    gauge('sealog_signer_last_round_timestamp_seconds', 'When this replica last signed all that grew.', () =>
      seconds(signer()?.lastRoundAt),
    ),
    gauge('sealog_signer_generation', 'The generation of the signing key in use here.', () => signer()?.generation),
    counter('sealog_checkpoints_signed_total', 'Checkpoints signed here.', () => signer()?.signed),
    counter('sealog_anchor_ticks_total', 'Ticks of the anchor stream made here.', () => signer()?.ticks),

    gauge(
      'sealog_anchor_lag_entries',
      'Entries of the anchor stream that its newest checkpoint covers and this anchor does not.',
      byAnchor(({ lagSize }) => lagSize),
    ),
    gauge(
      'sealog_anchor_lag_seconds',
      'For how long there has been a checkpoint that this anchor does not have.',
      byAnchor(({ lagSeconds }) => lagSeconds),
    ),
    gauge(
      'sealog_anchor_failures',
      'Attempts of this anchor since it last succeeded.',
      byAnchor(({ failures }) => failures),
    ),
    gauge(
      'sealog_anchor_alarm',
      '1 while this anchor says what can not be, such as another history.',
      byAnchor(({ error }) => Number(error?.alarm ?? false)),
    ),

    counter('sealog_verification_runs_total', 'Verifications that ended here, passes of the scrubber among them.', () =>
      runs.samples(),
    ),
    counter('sealog_verification_entries_total', 'Entries that were verified here.', () => entries.samples()),
    gauge(
      'sealog_scrub_last_full_pass_timestamp_seconds',
      'When the scrubber last came to the end of everything.',
      () => seconds(scrub()?.lastFullPassAt),
    ),
    gauge(
      'sealog_scrub_oldest_unread_seconds',
      'No stored entry was read longer ago than this.',
      () => scrub()?.oldestUnreadSeconds,
    ),
    gauge('sealog_scrub_streams_tampered', 'Streams that something is wrong with.', () => scrub()?.alarms),
    gauge('sealog_scrub_findings', 'What is wrong with them, counted.', () => scrub()?.findings),
    gauge(
      'sealog_scrub_streams_incomplete',
      'Streams of the pass that could not be read whole.',
      () => scrub()?.incomplete,
    ),
  ];
}

function gauge(name: string, help: string, read: Metric['read']): Metric {
  return { name, type: 'gauge', help, read };
}

function counter(name: string, help: string, read: Metric['read']): Metric {
  return { name, type: 'counter', help, read };
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms / 1000;
}
