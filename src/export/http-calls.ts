/** The calls of a sink over HTTP: connections of its own, one way of telling failures, and one time limit each. */
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import {
  type Calls,
  type Outgoing,
  type OutgoingAnswer,
  OutgoingError,
  type OutgoingReason,
} from '../http/outgoing.ts';
import { TransportError, type TransportReason } from './transport.ts';

export interface HttpSinkDeps {
  readonly outgoing: Pick<Outgoing, 'keep'>;
  readonly log: { warn(facts: object, message: string): void };
  /** Milliseconds since 1970. */
  readonly wallClock?: (() => number) | undefined;
  readonly timing?: Partial<HttpTiming> | undefined;
}

export interface HttpTiming {
  /** Of a call, with everything. */
  readonly callMs: number;
  /** Of one delivery, after which what is left waits for the next. */
  readonly deliveryMs: number;
  /** In which a peer that confirms later must have done so. */
  readonly confirmMs: number;
  /** Between two questions for that. */
  readonly confirmEveryMs: number;
}

/** Standard Webhooks: 15 to 30 s for a call. Splunk takes up to some ten seconds from an event to its acknowledgement. */
const HTTP_TIMING: HttpTiming = { callMs: 30_000, deliveryMs: 60_000, confirmMs: 120_000, confirmEveryMs: 1000 };

export interface HttpTls {
  readonly tlsCa: string | undefined;
  readonly tlsCert: string | undefined;
  readonly tlsKey: string | undefined;
}

export interface Call {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  readonly gzip?: boolean;
  readonly answerBytesMax: number;
}

/** Deliveries go one after another: one connection, and one more for a token or an acknowledgement. */
const CONNECTIONS_MAX = 2;
/** Of 2 MB of audit events the quickest level leaves a quarter, in half of the time of the default, which leaves a fifth. */
const GZIP_LEVEL = 1;

const compress = promisify(gzip);

export class HttpCalls {
  readonly timing: HttpTiming;
  readonly wallClock: () => number;
  readonly warn: (facts: object, message: string) => void;
  readonly #calls: Calls;
  readonly #tls: HttpTls;

  constructor({ outgoing, log, wallClock = Date.now, timing }: HttpSinkDeps, { tlsCa, tlsCert, tlsKey }: HttpTls) {
    this.timing = { ...HTTP_TIMING, ...timing };
    this.wallClock = wallClock;
    this.warn = (facts, message) => log.warn(facts, message);
    this.#calls = outgoing.keep({ connectionsMax: CONNECTIONS_MAX });
    this.#tls = { tlsCa, tlsCert, tlsKey };
  }

  /** Any status is an answer. Rejects with a TransportError where there is none. */
  async post(
    url: string,
    { headers, body, gzip: isZipped = false, answerBytesMax }: Call,
    signal: AbortSignal,
  ): Promise<OutgoingAnswer> {
    const { tlsCa, tlsCert, tlsKey } = this.#tls;
    try {
      return await this.#calls.post(url, {
        headers: { ...headers, ...(isZipped ? { 'content-encoding': 'gzip' } : {}) },
        body: isZipped ? await compress(body, { level: GZIP_LEVEL }) : body,
        timeoutMs: this.timing.callMs,
        answerBytesMax,
        // There are receivers that send back all that they do not take: what they say of it is in the status.
        cutsAnswer: true,
        signal,
        ...(tlsCa === undefined ? {} : { caPem: tlsCa }),
        ...(tlsCert === undefined ? {} : { certPem: tlsCert }),
        ...(tlsKey === undefined ? {} : { keyPem: tlsKey }),
      });
    } catch (error) {
      if (error instanceof OutgoingError) throw new TransportError(REASONS[error.reason], error.message);
      throw error;
    }
  }

  close(): void {
    this.#calls.close();
  }
}

const REASONS: Readonly<Record<OutgoingReason, TransportReason>> = {
  invalid_url: 'protocol',
  address_not_allowed: 'address_not_allowed',
  unreachable: 'unreachable',
  timeout: 'timeout',
  answer_too_large: 'protocol',
  stopped: 'stopped',
};
