/**
 * Syslog over TCP and TLS, delivered: not only written.
 *
 * Nothing in syslog acknowledges a message, and a write that succeeded says only that the kernel has it: a receiver that was killed, or a
 * path that went dead, loses thousands of messages without an error. What does tell is the end of the connection: a receiver that ends its
 * side because we ended ours has read everything up to our end, since the end comes behind the data. So a batch is a connection: connect,
 * write all, end, and wait for the receiver's end. Whatever else happens (a reset, a silence, an end that comes too early) leaves the batch
 * undelivered, and all of it goes again: at least once, in order.
 *
 * A receiver may also end by itself: it is stopped, it can not read our frames, its limits are reached. Then its end says nothing, and has
 * to be told from an answer to ours, though both look the same:
 *
 * - We end only after a while in which all was written and nothing came. What a receiver does not like, it has refused by then, and what
 *   is still on its way has arrived.
 * - Its end must not be followed by a reset, which is what its system sends when there was something that it had not read. Over TLS, our
 *   close_notify is our end, and TCP stays open in our direction, so that a reset is seen: rsyslog with OpenSSL says close_notify when it
 *   is stopped, in the middle of a batch, and only the reset behind it tells.
 * - Over plain TCP our end is TCP's, and no reset can be seen behind it: syslog-ng ends that way when it is stopped (16,050 of 20,000
 *   messages had arrived). But whoever stops does not listen any more either: so it must still take a connection.
 *
 * It is not proof that the receiver wrote to its disk: docs/export.md says what each transport can promise.
 */
import assert from 'node:assert/strict';
import { connect as connectTcp, isIP, type LookupFunction, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { FAILURE_WORDS, OutgoingError } from '../http/outgoing.ts';
import { TransportError } from './transport.ts';

export interface SyslogTarget {
  readonly protocol: 'udp' | 'tcp' | 'tls';
  /** A name, or an address without brackets. */
  readonly host: string;
  readonly port: number;
}

export interface SyslogTls {
  /** The name that the receiver's certificate must be for, where it is not the host's. */
  readonly serverName?: string | undefined;
  /** The authorities to trust instead of the public ones, PEM. */
  readonly caPem?: string | undefined;
  /** Our own certificate and key, PEM, where the receiver wants one. */
  readonly certPem?: string | undefined;
  readonly keyPem?: string | undefined;
}

/**
 * What makes a batch delivered. `close`: the receiver's end, as above. `close-notify`: of TLS, an end that it has signed; without that, who
 * stands in the path can fake one, but rsyslog with GnuTLS never says close_notify. `write`: nothing but the while without a complaint;
 * for receivers that never end their side.
 */
export type Confirmation = 'close' | 'close-notify' | 'write';

export interface SyslogTiming {
  /** Name, connection, and TLS. */
  readonly connectMs: number;
  /** In which the receiver takes no more than a chunk. */
  readonly stallMs: number;
  /** From our end to the receiver's: it still has to read what waits in the buffers of both systems. */
  readonly confirmMs: number;
  /** The while in which a refusal would show; longer where the connection took longer. */
  readonly quietMs: number;
  /** From the beginning of a connection to that of the next, where batches are small: handshakes cost, and receivers log each. */
  readonly paceMs: number;
}

export const SYSLOG_TIMING: SyslogTiming = {
  connectMs: 5000,
  stallMs: 10_000,
  confirmMs: 20_000,
  quietMs: 50,
  paceMs: 400,
};

/** A connection may take long for reasons that are no distance, such as a lost packet. */
const QUIET_MAX_MS = 500;

export interface SyslogWay {
  readonly target: SyslogTarget;
  readonly tls?: SyslogTls | undefined;
  readonly confirm: Confirmation;
  /** Looks a name up and refuses addresses that the operator did not allow. */
  readonly lookup: LookupFunction;
  /** Says whether an address that was given as such may be connected to. */
  readonly allows: (address: string) => boolean;
  readonly timing: SyslogTiming;
}

/** How much is handed to the socket before it is waited for: a system call for each message would be most of the work. */
const CHUNK_BYTES = 64 * 1024;

/** What a delivery has found out about the receiver. */
export interface Delivery {
  /** The version of TLS. */
  readonly version: string | undefined;
  /** The receiver's end was signed by TLS. */
  readonly isEndSigned: boolean;
}

/** Takes frames to a receiver, and resolves when it has read all of them. Rejects with a TransportError. */
export async function deliverFrames(
  way: SyslogWay,
  frames: Iterable<Uint8Array>,
  signal: AbortSignal,
): Promise<Delivery> {
  const { target, timing, confirm } = way;
  checkBefore(way, signal);
  const line = new Line(way, signal);
  try {
    const began = performance.now();
    await line.connected(timing.connectMs);
    const quietMs = Math.min(Math.max(timing.quietMs, performance.now() - began), QUIET_MAX_MS);
    for (const chunk of chunksOf(frames)) await line.write(chunk, timing.stallMs);
    await line.quiet(quietMs);
    await line.end(timing.stallMs);
    if (confirm !== 'write') {
      await line.receiverEnds(timing.confirmMs);
      if (target.protocol === 'tls') await line.noReset(quietMs);
      else await stillListens(way, line.address, quietMs, signal);
      if (confirm === 'close-notify' && !line.isEndSigned) throw line.error('unauthorized', UNSIGNED_END);
    }
    line.leave();
    return { version: line.version, isEndSigned: line.isEndSigned };
  } finally {
    line.destroy();
  }
}

/** Returns how errors name a receiver. */
export function whereOf({ protocol, host, port }: SyslogTarget): string {
  return `${protocol}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Throws where nothing may be sent at all. An address that was given as such is never looked up, so it is checked here. */
export function checkBefore({ target, allows }: SyslogWay, signal: AbortSignal): void {
  const where = whereOf(target);
  if (signal.aborted) throw new TransportError('stopped', `${where}: the delivery was stopped`);
  if (isIP(target.host) === 0 || allows(target.host)) return;
  throw new TransportError(
    'address_not_allowed',
    `${where}: the address is not public, and SEALOG_ALLOW_ADDRESSES does not allow it`,
  );
}

const NEVER_ENDS =
  'did not end the connection after our last message (if it never does, set confirm to "write", which promises less)';
const UNSIGNED_END =
  'ended the connection without close_notify (rsyslog with GnuTLS never says it: use OpenSSL there, or set confirm to "close")';

/** A connection of one batch. */
class Line {
  readonly #where: string;
  readonly #raw: Socket;
  readonly #tls: TLSSocket | undefined;
  readonly #signal: AbortSignal;
  readonly #connected = Promise.withResolvers<void>();
  /** Its promise never resolves, and rejects at the first thing that goes wrong. */
  readonly #failed = Promise.withResolvers<never>();
  readonly #receiverEnded = Promise.withResolvers<void>();
  #areEnding = false;
  /** The system has our end, and all before it. */
  #haveEnded = false;
  #hasLeft = false;
  #hasSaidTls = false;
  isEndSigned = false;
  /** Of TLS; known when connected. */
  version: string | undefined;
  /** The one that the name led to; known when connected. */
  address = '';

  constructor(way: SyslogWay, signal: AbortSignal) {
    this.#where = whereOf(way.target);
    this.#signal = signal;
    for (const { promise } of [this.#failed, this.#connected, this.#receiverEnded]) promise.catch(() => {});
    signal.addEventListener('abort', this.#stop, { once: true });
    const { host, port } = way.target;
    // allowHalfOpen: neither end of the connection ends the other.
    this.#raw = connectTcp({ host, port, lookup: way.lookup, allowHalfOpen: true, noDelay: true });
    this.#raw.once('connect', () => {
      this.address = this.#raw.remoteAddress ?? '';
    });
    this.#raw.on('error', (error) => this.#fail(inWords(error, this.#where)));
    this.#raw.on('end', () => this.#ended());
    this.#raw.on('close', () => this.#fail(this.error('unreachable', 'the connection was cut')));
    if (way.target.protocol === 'tls') {
      this.#tls = this.#startTls(way);
    } else {
      this.#raw.once('connect', () => this.#connected.resolve());
      // A receiver has nothing to say, and its words are dropped. But for one: it may think that it is spoken to in TLS.
      this.#raw.on('data', (chunk) => {
        this.#hasSaidTls ||= chunk[0] === TLS_ALERT && chunk[1] === 3;
      });
    }
  }

  #stop = (): void => this.#fail(this.error('stopped', 'the delivery was stopped'));

  /**
   * Puts TLS over a stream of our own, which keeps our TCP open when TLS ends, and its errors and TCP's apart. A receiver's TCP that ends
   * is not told to TLS: so its `end` is a close_notify.
   */
  #startTls({ target, tls = {} }: SyslogWay): TLSSocket | undefined {
    const raw = this.#raw;
    const wire = new Duplex({
      allowHalfOpen: true,
      read: () => void raw.resume(),
      write: (chunk, _encoding, done) => {
        raw.write(chunk, (error) => {
          // What comes last is the close_notify.
          if (!error) this.#haveEnded ||= this.#areEnding;
          done(error);
        });
      },
      final: (done) => done(),
    });
    wire.on('error', () => {});
    raw.on('data', (chunk) => {
      if (!wire.destroyed && !wire.push(chunk)) raw.pause();
    });
    const name = tls.serverName ?? target.host;
    // allowHalfOpen is documented, but its types do not know it.
    const options: ConnectionOptions & { allowHalfOpen: true } = {
      socket: wire,
      allowHalfOpen: true,
      // The name that the certificate must be for; addresses stand in no server name indication.
      host: name,
      ...(isIP(name) === 0 ? { servername: name } : {}),
      minVersion: 'TLSv1.2',
      // Said, so that NODE_TLS_REJECT_UNAUTHORIZED can not say otherwise.
      rejectUnauthorized: true,
      ...credentials(tls),
    };
    try {
      const secured = connectTls(options);
      secured.on('error', (error) => this.#fail(inWords(error, this.#where)));
      secured.on('secureConnect', () => {
        this.version = secured.getProtocol() ?? undefined;
        this.#connected.resolve();
      });
      secured.on('end', () => {
        this.isEndSigned = true;
        if (!this.#haveEnded) this.#ended();
      });
      secured.resume();
      return secured;
    } catch (error) {
      this.#fail(inWords(error as Error, this.#where));
      return undefined;
    }
  }

  get #stream(): Socket | TLSSocket {
    return this.#tls ?? this.#raw;
  }

  error(reason: TransportError['reason'], what: string): TransportError {
    return new TransportError(reason, `${this.#where}: ${what}`);
  }

  connected(ms: number): Promise<void> {
    return this.#within(ms, this.#connected.promise, this.#tls ? 'no connection with TLS' : 'no connection');
  }

  async write(chunk: Uint8Array, ms: number): Promise<void> {
    const written = new Promise<void>((resolve) => {
      // Errors come as events too.
      this.#stream.write(chunk, (error) => (error ? undefined : resolve()));
    });
    await this.#within(ms, written, 'takes no more messages');
  }

  /** Resolves after a while in which nothing goes wrong. */
  async quiet(ms: number): Promise<void> {
    const over = new AbortController();
    try {
      await Promise.race([sleep(ms, undefined, { signal: over.signal }), this.#failed.promise]);
      // Where this process itself was late, what came meanwhile is still to be seen: timers come before sockets.
      await Promise.race([setImmediate(), this.#failed.promise]);
    } finally {
      over.abort();
    }
  }

  /** Ends our side. */
  async end(ms: number): Promise<void> {
    const finished = new Promise<void>((resolve) => this.#stream.once('finish', () => resolve()));
    this.#areEnding = true;
    this.#stream.end(() => {
      this.#haveEnded = true;
    });
    await this.#within(ms, finished, 'takes no more messages');
  }

  receiverEnds(ms: number): Promise<void> {
    return this.#within(ms, this.#receiverEnded.promise, NEVER_ENDS);
  }

  /** Resolves when no reset has followed the receiver's end, in the while that it takes. Then, and only then, one more byte can be sent. */
  async noReset(ms: number): Promise<void> {
    await this.quiet(ms);
    const sent = new Promise<void>((resolve) =>
      this.#raw.write(Buffer.of(0), (error) => (error ? undefined : resolve())),
    );
    await this.#within(ms + 1000, sent, 'did not read all of our messages');
  }

  /** Lets the systems finish what is written, instead of dropping it. */
  leave(): void {
    this.#hasLeft = true;
  }

  destroy(): void {
    this.#signal.removeEventListener('abort', this.#stop);
    this.#tls?.destroy();
    if (this.#raw.destroyed) return;
    // Nobody reads on what will come again; and what is still in the buffers must not come behind it.
    if (this.#hasLeft || this.#raw.connecting) this.#raw.destroy();
    else this.#raw.resetAndDestroy();
  }

  #ended(): void {
    if (this.#haveEnded) {
      this.#receiverEnded.resolve();
      return;
    }
    // Before we ended ours it is no answer: there may be messages that it did not read.
    const why = this.#hasSaidTls ? ' (it wants TLS)' : '';
    this.#fail(this.error('unreachable', `ended the connection before we did${why}`));
  }

  #fail(error: TransportError): void {
    this.#failed.reject(error);
  }

  async #within(ms: number, wanted: Promise<void>, late: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(this.error('timeout', `${late} within ${ms} ms`)), ms);
    });
    try {
      await Promise.race([this.#failed.promise, wanted, timeout]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The type of a record, RFC 8446 section 5.1; the version behind it begins with 3 in all that are. */
const TLS_ALERT = 21;

/** Connects once more, to where the batch went, and resolves when the receiver leaves that connection be for a while. */
async function stillListens(way: SyslogWay, address: string, quietMs: number, signal: AbortSignal): Promise<void> {
  // An empty one would be this machine.
  assert(isIP(address) !== 0, 'a connection had an address');
  const probe = new Line({ ...way, target: { ...way.target, host: address } }, signal);
  try {
    await probe.connected(way.timing.connectMs);
    await probe.quiet(quietMs);
  } catch (error) {
    if (error instanceof TransportError && error.reason === 'stopped') throw error;
    throw new TransportError(
      'unreachable',
      `${whereOf(way.target)}: stopped listening when it ended the connection, and may not have read all of our messages`,
    );
  } finally {
    probe.leave();
    probe.destroy();
  }
}

function credentials({ caPem, certPem, keyPem }: SyslogTls): { ca?: string; cert?: string; key?: string } {
  return {
    ...(caPem === undefined ? {} : { ca: caPem }),
    ...(certPem === undefined ? {} : { cert: certPem }),
    ...(keyPem === undefined ? {} : { key: keyPem }),
  };
}

function* chunksOf(frames: Iterable<Uint8Array>): Generator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let bytes = 0;
  for (const frame of frames) {
    waiting.push(frame);
    bytes += frame.length;
    if (bytes < CHUNK_BYTES) continue;
    yield Buffer.concat(waiting, bytes);
    waiting = [];
    bytes = 0;
  }
  if (bytes > 0) yield Buffer.concat(waiting, bytes);
}

/** Errors of sockets and TLS carry addresses, certificates and more: of them remain the code and the reason that helps. */
export function inWords(
  error: NodeJS.ErrnoException & { errors?: readonly NodeJS.ErrnoException[] },
  where: string,
): TransportError {
  if (error instanceof TransportError) return error;
  // Of the look-up.
  if (error instanceof OutgoingError)
    return new TransportError(
      error.reason === 'address_not_allowed' ? 'address_not_allowed' : 'unreachable',
      `${where}: ${error.message}`,
    );
  // Several addresses were tried: each failed in its way.
  const code = error.code ?? error.errors?.[0]?.code ?? error.name;
  const what = WORDS[code] ?? FAILURE_WORDS[code] ?? `failed (${code})`;
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER') return new TransportError('protocol', `${where}: ${what}`);
  // The system's and the name service's errors have such names; all others are those of TLS.
  const isSystems = /^(?:E[A-Z0-9]+|EAI_[A-Z]+)$/.test(code) && code !== 'EPROTO';
  return new TransportError(isSystems ? 'unreachable' : 'unauthorized', `${where}: ${what}`);
}

const WORDS: Readonly<Record<string, string>> = {
  ECONNRESET: 'reset the connection, and may not have read all of our messages (ECONNRESET)',
  EPIPE: 'reset the connection, and may not have read all of our messages (EPIPE)',
  ERR_SSL_WRONG_VERSION_NUMBER: 'does not speak TLS (ERR_SSL_WRONG_VERSION_NUMBER)',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'wants a certificate of ours (ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED)',
};
