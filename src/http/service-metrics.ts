/** The metrics of this service, from what its parts say of themselves. Each part is described here as far as it is measured. */
import type { LabelledCounter, Metric, MetricSample } from './metrics.ts';
import { shared } from './shared-answer.ts';

export interface Measured {
  /** Events that wait to be stored. */
  readonly queued: () => { readonly entries: number; readonly bytes: number };
  /** Of each pool of connections to the database: those that are open, those of them that nobody uses, and who waits for one. */
  readonly pools: () => readonly {
    readonly role: string;
    readonly open: number;
    readonly idle: number;
    readonly waiting: number;
  }[];
  /** Undefined where this replica does not sign. */
  readonly signer: () => MeasuredSigner | undefined;
  /** Why the database is kept from appending, or undefined. */
  readonly signerRefusal: () => Promise<string | undefined>;
  readonly anchors: () => readonly MeasuredAnchor[];
  /** Runs of verification that ended here, by verdict; entries that were checked here, by kind. */
  readonly runs: LabelledCounter;
  readonly entries: LabelledCounter;
  /** Calls that were refused here, by code. */
  readonly refused: LabelledCounter;
  /** Connections that were closed as they came, since their network had too many. */
  readonly connectionsRefused: () => number;
  /** Undefined where there is no scrubber. */
  readonly scrub: () => MeasuredScrub | undefined;
  readonly sinks: () => Promise<MeasuredSinks>;
  /** What this replica did for the sinks that it follows. */
  readonly deliveries: () => MeasuredDeliveries;
  /** Undefined where there is no TLS; `expiresAt` in milliseconds since 1970. */
  readonly tls?: () => { readonly expiresAt: number; readonly refused: boolean } | undefined;
  /** The operator's list of services with certificates; undefined where there is none. */
  readonly tlsClients?: () => { readonly refused: boolean } | undefined;
  /** Undefined where no identity provider makes the tokens. */
  readonly keySet?: () => MeasuredKeySet | undefined;
  /** Disks that the service writes to. */
  readonly disks?: () => readonly MeasuredDisk[];
  readonly isClockWrong?: () => boolean;
}

export interface MeasuredDisk {
  readonly disk: string;
  /** 0 to 1. */
  readonly used: number;
  readonly freeBytes: number;
  /** Percent from which on it is an alarm; 0 = none. */
  readonly level: number;
}

export interface MeasuredSinks {
  readonly byState: Readonly<Record<string, number>>;
  readonly parkedStreams: number;
  readonly lagEntries: number;
  readonly lagSeconds: number;
}

export interface MeasuredDeliveries {
  /** Sinks that this replica follows now. */
  readonly following: number;
  readonly delivered: number;
  readonly failures: number;
}

export interface MeasuredKeySet {
  /** Since the provider last confirmed its keys; undefined = never. */
  readonly ageSeconds: number | undefined;
  readonly keys: number;
  readonly passedOver: number;
  readonly failures: number;
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
  const { queued, signer, signerRefusal, anchors, runs, entries, refused, scrub, keySet, tls, tlsClients } = measured;
  const { connectionsRefused, deliveries, pools } = measured;
  const sinks = shared(measured.sinks);
  const byAnchor = (value: (anchor: MeasuredAnchor) => number) => (): MetricSample[] =>
    anchors().map((anchor) => ({ labels: { anchor: anchor.name }, value: value(anchor) }));
  const byDisk = (value: (disk: MeasuredDisk) => number) => (): MetricSample[] =>
    (measured.disks?.() ?? []).map((one) => ({ labels: { disk: one.disk }, value: value(one) }));
  return [
    gauge('sealog_queue_entries', 'Events that wait to be stored.', () => queued().entries),
    gauge('sealog_queue_bytes', 'Bytes of events that wait to be stored.', () => queued().bytes),

    gauge('sealog_database_connections', 'Connections to the database, by what they are for.', () =>
      pools().flatMap(({ role, open, idle }) => [
        { labels: { role, state: 'idle' }, value: idle },
        { labels: { role, state: 'used' }, value: open - idle },
      ]),
    ),
    gauge('sealog_database_waiting', 'Pieces of work that wait for a connection to the database.', () =>
      pools().map(({ role, waiting }) => ({ labels: { role }, value: waiting })),
    ),

    counter(
      'sealog_refused_calls_total',
      'Calls that were refused here: 401, 403, 429; changes with 404 and 409, and batches with items of 403.',
      () => refused.samples(),
    ),
    counter(
      'sealog_refused_connections_total',
      'Connections that were closed as they came, since their network had too many.',
      connectionsRefused,
    ),

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

    gauge('sealog_sinks', 'Sinks of all tenants, by state.', async () =>
      Object.entries((await sinks()).byState).map(([state, value]) => ({ labels: { state }, value })),
    ),
    gauge(
      'sealog_sink_streams_parked',
      'Streams that wait at an entry that a receiver refuses for good, or that the log has not as it was.',
      async () => (await sinks()).parkedStreams,
    ),
    gauge(
      'sealog_sink_lag_entries',
      'Entries that are still to be read for sinks that are not paused, in all.',
      async () => (await sinks()).lagEntries,
    ),
    gauge(
      'sealog_sink_lag_seconds',
      'How long ago the log took the oldest of them.',
      async () => (await sinks()).lagSeconds,
    ),
    gauge('sealog_sinks_followed', 'Sinks that this replica follows.', () => deliveries().following),
    counter('sealog_sink_entries_delivered_total', 'Entries delivered from here.', () => deliveries().delivered),
    counter(
      'sealog_sink_failures_total',
      'Deliveries from here that failed and go again.',
      () => deliveries().failures,
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

    gauge('sealog_tls_certificate_expires_timestamp_seconds', 'When the TLS certificate in use expires.', () =>
      seconds(tls?.()?.expiresAt),
    ),
    gauge('sealog_tls_files_refused', '1 while files of TLS hold what can not be used, so that older ones are.', () =>
      [
        { labels: { files: 'certificate' }, refused: tls?.()?.refused },
        { labels: { files: 'clients' }, refused: tlsClients?.()?.refused },
      ].flatMap(({ labels, refused: isRefused }) =>
        isRefused === undefined ? [] : [{ labels, value: Number(isRefused) }],
      ),
    ),

    gauge(
      'sealog_disk_used_ratio',
      'How full a disk is that this replica writes to.',
      byDisk(({ used }) => used),
    ),
    gauge(
      'sealog_disk_free_bytes',
      'What is free on it.',
      byDisk(({ freeBytes }) => freeBytes),
    ),
    gauge(
      'sealog_disk_alarm_percent',
      '75 or 90 where a disk is fuller than that, else 0.',
      byDisk(({ level }) => level),
    ),

    gauge('sealog_clock_wrong', '1 while nothing is stored because of a clock.', () =>
      measured.isClockWrong === undefined ? undefined : Number(measured.isClockWrong()),
    ),

    gauge(
      'sealog_key_set_age_seconds',
      'Since the identity provider last gave its keys.',
      () => keySet?.()?.ageSeconds,
    ),
    gauge('sealog_key_set_keys', 'Keys of the identity provider that tokens are checked with.', () => keySet?.()?.keys),
    gauge(
      'sealog_key_set_keys_passed_over',
      'Keys of the identity provider that are not used.',
      () => keySet?.()?.passedOver,
    ),
    counter('sealog_key_set_failures_total', 'Fetches of its keys that failed.', () => keySet?.()?.failures),
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
