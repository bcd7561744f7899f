/**
 * Calls to a key service over HTTPS: JSON there and back, through the guard of addresses, each with a time limit.
 *
 * Whatever keeps an answer away is a `KeyUnavailableError` (`unreachable`) that names the service's origin, and holds no path, header or word of
 * an answer but the service's own name for what is wrong. A service that did not answer is not asked again for a second: whoever waits for it
 * is told at once.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { KeyUnavailableError } from '../errors.ts';
import { type JsonMembers, parseJsonObject } from '../http/json-object.ts';
import { type Calls, type Outgoing, type OutgoingAnswer, OutgoingError } from '../http/outgoing.ts';

export interface ServiceCallsOptions {
  readonly outgoing: Pick<Outgoing, 'keep'>;
  /** Certificates (PEM) that the service's must lead to, in place of the public authorities. */
  readonly caPem?: string | undefined;
  readonly timing?: Partial<ServiceTiming> | undefined;
}

export interface ServiceTiming {
  /** Of one call, with everything. */
  readonly callMs: number;
  /** Before a call that was answered "later" is made again, once. */
  readonly againMs: number;
  /** In which a service that did not answer is not asked. */
  readonly restMs: number;
}

export interface ServiceRequest {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** It would do something a second time: it is made once, whatever the answer. */
  readonly once?: true;
}

export interface ServiceAnswer {
  readonly status: number;
  /** Of the JSON object that the answer is; empty where it is none. */
  readonly members: JsonMembers;
  readonly headers: Readonly<Record<string, string>>;
}

/** A call of a second from a nearby service is slow; an operation makes four at most, and requests wait 15 s. */
const TIMING: ServiceTiming = { callMs: 3000, againMs: 300, restMs: 1000 };
/** Rotation wraps so many at once. */
const CONNECTIONS_MAX = 8;
const ANSWER_BYTES_MAX = 1024 * 1024;
const LATER: ReadonlySet<number> = new Set([429, 500, 502, 503, 504]);

export class ServiceCalls {
  readonly #calls: Calls;
  readonly #caPem: string | undefined;
  readonly #timing: ServiceTiming;
  #restUntil = 0;
  #restFor = '';

  constructor({ outgoing, caPem, timing }: ServiceCallsOptions) {
    this.#calls = outgoing.keep({ connectionsMax: CONNECTIONS_MAX });
    this.#caPem = caPem;
    this.#timing = { ...TIMING, ...timing };
  }

  /** Any status but "later" is an answer. */
  async call(method: 'GET' | 'POST' | 'DELETE', url: string, request: ServiceRequest = {}): Promise<ServiceAnswer> {
    if (performance.now() < this.#restUntil) throw unreachable(this.#restFor);
    let answer = await this.#send(method, url, request);
    if (LATER.has(answer.status) && request.once === undefined) {
      await delay(this.#timing.againMs);
      answer = await this.#send(method, url, request);
    }
    if (LATER.has(answer.status)) throw this.#rest(`${new URL(url).origin} answers ${answer.status}`);
    return { status: answer.status, members: parseJsonObject(answer.body) ?? {}, headers: answer.headers };
  }

  close(): void {
    this.#calls.close();
  }

  async #send(
    method: 'GET' | 'POST' | 'DELETE',
    url: string,
    { headers, body }: ServiceRequest,
  ): Promise<OutgoingAnswer> {
    const given = {
      headers: { accept: 'application/json', ...headers },
      timeoutMs: this.#timing.callMs,
      answerBytesMax: ANSWER_BYTES_MAX,
      ...(this.#caPem === undefined ? {} : { caPem: this.#caPem }),
    };
    try {
      if (method === 'POST') return await this.#calls.post(url, { ...given, body: body ?? new Uint8Array(0) });
      return await (method === 'GET' ? this.#calls.get(url, given) : this.#calls.delete(url, given));
    } catch (error) {
      if (error instanceof OutgoingError) throw this.#rest(error.message);
      throw error;
    }
  }

  #rest(why: string): KeyUnavailableError {
    this.#restUntil = performance.now() + this.#timing.restMs;
    this.#restFor = why;
    return unreachable(why);
  }
}

/** What the service says, or does not, that may be otherwise later. */
export function unreachable(why: string): KeyUnavailableError {
  return new KeyUnavailableError(`the key service can not be used: ${why}`, { problem: 'unreachable' });
}

export function jsonBody(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** Returns the bytes that a text in base64 spells, or undefined where it is none: nothing is skipped or guessed. */
export function fromBase64(text: unknown, encoding: 'base64' | 'base64url'): Uint8Array | undefined {
  if (typeof text !== 'string') return undefined;
  const bytes = Buffer.from(text, encoding);
  return bytes.toString(encoding) === text ? bytes : undefined;
}
