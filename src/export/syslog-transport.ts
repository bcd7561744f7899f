/**
 * Entries to a syslog receiver, as messages of RFC 5424 over UDP, TCP or TLS. What `delivered` is worth: over TCP and TLS that the receiver
 * has read the batch (syslog-connection.ts), over UDP that it was sent and nobody complained (syslog-datagrams.ts).
 */
import assert from 'node:assert/strict';
import type { LookupFunction } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type EntryFormat, writerOf } from './entry-format.ts';
import type { ExportedEntry, WriteEntry } from './exported-entry.ts';
import {
  type Confirmation,
  type Delivery,
  deliverFrames,
  SYSLOG_TIMING,
  type SyslogTarget,
  type SyslogTiming,
  type SyslogTls,
  type SyslogWay,
  whereOf,
} from './syslog-connection.ts';
import { sendDatagrams } from './syslog-datagrams.ts';
import { FrameWriter, type Framing, type SyslogOptions, syslogMessage, UDP_MESSAGE_MAX } from './syslog-message.ts';
import { testEntry } from './test-entry.ts';
import { type Fate, type Message, type Transport, TransportError } from './transport.ts';

export interface SyslogTransportOptions {
  readonly target: SyslogTarget;
  /** Over TCP and TLS; octet counting unless given. */
  readonly framing?: 'octet-counting' | 'lf' | undefined;
  readonly format: EntryFormat;
  /** Whose log it is: HOSTNAME of each message. */
  readonly hostname: string;
  readonly procId?: string | undefined;
  /** 13, "log audit", unless given. */
  readonly facility?: number | undefined;
  readonly enterprise?: number | undefined;
  /** Of a message without its frame: `SYSLOG_MAX_BYTES` unless given. */
  readonly maxBytes?: number | undefined;
  /** `close` unless given. */
  readonly confirm?: Confirmation | undefined;
  readonly tls?: SyslogTls | undefined;
  /** `guardedLookup` of http/outgoing.ts, and the guard's `allows`. */
  readonly lookup: LookupFunction;
  readonly allows: (address: string) => boolean;
  readonly timing?: Partial<SyslogTiming> | undefined;
}

/**
 * What is sent at most unless a sink says otherwise: over UDP what receivers should take (RFC 5424 section 6.1), over TCP and TLS what
 * rsyslog takes unless it is told more, which its documents call 8k. Of a longer one it makes two messages.
 */
export const SYSLOG_MAX_BYTES: Readonly<Record<SyslogTarget['protocol'], number>> = { udp: 2048, tcp: 8096, tls: 8096 };

/** Less would leave out most of an entry; more is in nobody's interest. */
export const SYSLOG_MAX_BYTES_RANGE = { least: 480, most: 1024 * 1024 };

/** 20,000 take a receiver a quarter of a second. */
const BATCH_MESSAGES_MAX = 20_000;
/**
 * A batch that a slow path does not carry in the time that there is would never arrive: so batches begin small, grow while they arrive, and
 * shrink when they do not. The least takes 20 s at 26 kbit/s. The most takes longer to be made ready than to be delivered, which takes a tenth of a
 * second besides the writing.
 */
const BATCH_BYTES = { least: 64 * 1024, first: 1024 * 1024, most: 16 * 1024 * 1024 };
const BATCH_GROWTH = 4;

/** Somebody waits for a test's verdict: it takes longer for what a receiver does not like, and less for one that does not answer. */
const TEST_TIMING = { quietMs: 500, confirmMs: 10_000 };

export function syslogTransport(options: SyslogTransportOptions): Transport {
  return new SyslogTransport(options);
}

class SyslogTransport implements Transport {
  readonly batchMessagesMax = BATCH_MESSAGES_MAX;
  readonly #way: SyslogWay;
  readonly #write: WriteEntry;
  readonly #header: SyslogOptions & { readonly maxBytes: number };
  readonly #framing: Framing;
  readonly #frames: FrameWriter;
  readonly #closed = new AbortController();
  #batchBytes = BATCH_BYTES.first;
  /** By `performance.now()`. */
  #lastBegan = Number.NEGATIVE_INFINITY;
  #wasSmall = false;

  constructor(options: SyslogTransportOptions) {
    const { target, framing = 'octet-counting', maxBytes = SYSLOG_MAX_BYTES[target.protocol] } = options;
    const { hostname, procId, facility, enterprise } = options;
    const { least, most } = SYSLOG_MAX_BYTES_RANGE;
    assert(maxBytes >= least && maxBytes <= most, 'the maximum is checked when a sink is read');
    const isUdp = target.protocol === 'udp';
    this.#write = writerOf(options.format);
    this.#header = {
      hostname,
      procId,
      facility,
      enterprise,
      maxBytes: isUdp ? Math.min(maxBytes, UDP_MESSAGE_MAX) : maxBytes,
    };
    this.#framing = isUdp ? 'datagram' : framing;
    this.#frames = new FrameWriter(this.#framing);
    this.#way = {
      target,
      tls: options.tls,
      confirm: options.confirm ?? 'close',
      lookup: options.lookup,
      allows: options.allows,
      timing: { ...SYSLOG_TIMING, ...options.timing },
    };
  }

  /** Changes from batch to batch. */
  get batchBytesMax(): number {
    return this.#batchBytes;
  }

  /** A connection takes all streams, and is read as a whole or not at all. A datagram can be refused alone. */
  get mixesStreams(): boolean {
    return this.#framing !== 'datagram';
  }

  get restMs(): number {
    return this.#wasSmall ? this.#lastBegan + this.#way.timing.paceMs - performance.now() : 0;
  }

  encode(exported: ExportedEntry): Uint8Array {
    return this.#encode(exported, this.#write);
  }

  #encode(exported: ExportedEntry, write: WriteEntry): Uint8Array {
    return this.#frames.frame(syslogMessage(exported, write, this.#header));
  }

  async deliver(batch: readonly Message[], signal: AbortSignal): Promise<readonly Fate[]> {
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    const payloads = batch.values().map(({ payload }) => payload);
    if (this.#way.target.protocol === 'udp') {
      const sent = await sendDatagrams(this.#way, payloads, stop);
      return sent.map((isSent, index) => (isSent ? DELIVERED : tooLong(batch[index]!.payload)));
    }
    await this.#pace(batch, stop);
    try {
      await deliverFrames(this.#way, payloads, stop);
    } catch (error) {
      this.#batchBytes = Math.max(BATCH_BYTES.least, Math.floor(this.#batchBytes / BATCH_GROWTH));
      throw error;
    }
    this.#batchBytes = Math.min(BATCH_BYTES.most, this.#batchBytes * BATCH_GROWTH);
    return batch.map(() => DELIVERED);
  }

  /** Waits where connections would follow each other too fast, and what comes meanwhile had better be one batch. The first goes at once. */
  async #pace(batch: readonly Message[], stop: AbortSignal): Promise<void> {
    const bytes = batch.reduce((sum, { payload }) => sum + payload.length, 0);
    const isSmall = bytes < BATCH_BYTES.least && batch.length < BATCH_MESSAGES_MAX / 2;
    const waitMs = this.#lastBegan + this.#way.timing.paceMs - performance.now();
    // What ends the wait ends the delivery, which says so.
    if (isSmall && waitMs > 0) await sleep(waitMs, undefined, { signal: stop }).catch(() => {});
    this.#lastBegan = performance.now();
    this.#wasSmall = isSmall;
  }

  /** Two messages: a short one, and one as long as any may be, since there are receivers that end the connection over it. */
  async test(signal: AbortSignal): Promise<string> {
    const entry = testEntry(Date.now());
    const { maxBytes } = this.#header;
    const frames = [
      this.encode(entry),
      this.#encode(entry, (exported, max) => padded(this.#write(exported, max), max!)),
    ];
    const { timing } = this.#way;
    const confirmMs = Math.min(timing.confirmMs, TEST_TIMING.confirmMs);
    const way: SyslogWay = { ...this.#way, timing: { ...timing, ...TEST_TIMING, confirmMs } };
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    const where = whereOf(way.target);
    const what = `a message that says it is a test, and the same filled up to ${maxBytes} bytes`;
    if (way.target.protocol === 'udp') {
      const sent = await sendDatagrams(way, frames, stop);
      if (!sent.every((isSent) => isSent))
        throw new TransportError('refused', `${where}: the way there does not take a datagram of ${maxBytes} bytes`);
      return `${where}: sent ${what}; nobody refused them, and UDP tells no more: look for them there`;
    }
    return `${where}: ${verdict(what, await deliverFrames(way, frames, stop), way)}`;
  }

  close(): void {
    this.#closed.abort();
  }
}

/** Blanks behind an entry change nothing in any format. */
function padded(text: string, bytes: number): string {
  return text + ' '.repeat(bytes - Buffer.byteLength(text));
}

const DELIVERED: Fate = { kind: 'delivered' };

function tooLong(datagram: Uint8Array): Fate {
  return { kind: 'refused', reason: `the way there does not take a datagram of ${datagram.length} bytes` };
}

function verdict(what: string, { version, isEndSigned }: Delivery, { confirm, target }: SyslogWay): string {
  const over = version === undefined ? '' : ` over ${version}`;
  if (confirm === 'write')
    return `took ${what}${over}, and did not complain; confirm is "write", so that is all it tells`;
  const end = target.protocol === 'tcp' ? 'ended the connection' : isEndSigned ? SIGNED : UNSIGNED;
  return `read ${what}${over}, and ${end}`;
}

const SIGNED = 'ended the connection with close_notify';
const UNSIGNED = 'ended the connection, but without close_notify: somebody in between could have done that';
