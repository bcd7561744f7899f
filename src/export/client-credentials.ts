/**
 * Access tokens by OAuth 2.0 client credentials (RFC 6749 section 4.4).
 *
 * A token is fetched when one is needed and kept until shortly before its end; who needs one meanwhile waits for the same call. One that was not taken is
 * forgotten, so that the next is new. No token, no client secret and no word of the answer but its error codes gets into an error.
 */
import { parseJsonObject } from '../http/json-object.ts';
import type { OutgoingAnswer } from '../http/outgoing.ts';
import { notUnderstood, retryAfterMs } from './http-answers.ts';
import type { HttpCalls } from './http-calls.ts';
import type { Authorization } from './http-transport.ts';
import { TransportError } from './transport.ts';

export interface ClientCredentialsOptions {
  readonly tokenUrl: string;
  readonly clientId: string;
  readonly clientSecret: string;
  readonly scope: string;
  readonly calls: HttpCalls;
}

interface Token {
  readonly value: string;
  /** By `performance.now()`: a clock that is set does not make a token older. */
  readonly until: number;
}

/** Before its end a token is not used any more: requests take time, and clocks differ. */
const MARGIN_MS = 300_000;
/** Whatever the answer says. */
const LIFE_MAX_MS = 86_400_000;
const ANSWER_BYTES_MAX = 64 * 1024;
/** What may stand in a header, RFC 6750 section 2.1. */
const TOKEN = /^[A-Za-z0-9._~+/-]{1,16384}=*$/;

export class ClientCredentials implements Authorization {
  readonly #options: ClientCredentialsOptions;
  readonly #where: string;
  #token: Token | undefined;
  #fetching: Promise<Token> | undefined;

  constructor(options: ClientCredentialsOptions) {
    this.#options = options;
    this.#where = new URL(options.tokenUrl).origin;
  }

  async get(signal: AbortSignal): Promise<string> {
    if (this.#token === undefined || performance.now() > this.#token.until) this.#token = await this.#fetchOnce(signal);
    return this.#token.value;
  }

  forget(value: string): void {
    if (this.#token?.value === value) this.#token = undefined;
  }

  #fetchOnce(signal: AbortSignal): Promise<Token> {
    this.#fetching ??= this.#fetch(signal).finally(() => {
      this.#fetching = undefined;
    });
    return this.#fetching;
  }

  async #fetch(signal: AbortSignal): Promise<Token> {
    const { tokenUrl, clientId, clientSecret, scope, calls } = this.#options;
    const begin = performance.now();
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: clientId,
      client_secret: clientSecret,
      scope,
    });
    const answer = await calls.post(
      tokenUrl,
      {
        headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
        body: Buffer.from(form.toString()),
        answerBytesMax: ANSWER_BYTES_MAX,
      },
      signal,
    );
    if (answer.status !== 200) throw this.#refusal(answer);
    const { token_type, access_token, expires_in } = parseJsonObject(answer.body) ?? {};
    const seconds = typeof expires_in === 'string' && /^\d{1,9}$/.test(expires_in) ? Number(expires_in) : expires_in;
    if (
      typeof token_type !== 'string' ||
      token_type.toLowerCase() !== 'bearer' ||
      typeof access_token !== 'string' ||
      !TOKEN.test(access_token) ||
      typeof seconds !== 'number' ||
      !(seconds > 0)
    )
      throw notUnderstood(this.#where, 'answered 200 without a bearer token and its life');
    // Of a short life a half, so that a token is good for something at all.
    const life = Math.min(seconds * 1000, LIFE_MAX_MS);
    return { value: `Bearer ${access_token}`, until: begin + Math.max(life - MARGIN_MS, life / 2) };
  }

  /** RFC 6749 section 5.2: 400 or 401, and a code. Entra ID adds numbers of its own. */
  #refusal({ status, headers, body }: OutgoingAnswer): TransportError {
    const { error, error_codes } = parseJsonObject(body) ?? {};
    const code = typeof error === 'string' && /^[a-z_]{1,60}$/.test(error) ? error : undefined;
    const numbers = Array.isArray(error_codes)
      ? error_codes.filter((one) => Number.isSafeInteger(one)).slice(0, 3)
      : [];
    const words = [code, ...numbers.map((one) => `AADSTS${one}`)].filter((word) => word !== undefined).join(', ');
    const isOurs = status === 400 || status === 401 || status === 403;
    return new TransportError(
      isOurs ? 'unauthorized' : 'refused',
      `${this.#where}: gave no token, answered ${status}${words === '' ? '' : ` (${words})`}`,
      retryAfterMs(headers['retry-after'], this.#options.calls.wallClock()),
    );
  }
}
