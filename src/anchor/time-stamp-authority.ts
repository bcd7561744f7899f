/**
 * The client of a time-stamp authority (RFC 3161 over HTTP, its section 3.4): has the anchor stream's checkpoint stamped.
 *
 * What comes back is kept for years and used against doubts, so it is checked here as hard as a verifier will check it
 * then, while another attempt can still be made: that it answers this request (nonce, policy), is about this checkpoint,
 * and leads to a certificate that the operator trusts. What a verifier will need and can not get any more by then is
 * kept with it: the chain's certificates, and the revocation lists that they name.
 *
 * **Time.** A stamp is evidence that the checkpoint existed at its time. So a time more than 5 minutes away from our own
 * clock, either way, is refused: a past one would prove too much, a future one nothing, and both show that one of two
 * clocks is wrong.
 *
 * **Revocation lists** are an addition: one that can not be fetched, or is of no use, is left out and told, and the stamp
 * is kept. One that says that the authority's certificate is revoked ends the attempt.
 */
import { randomBytes } from 'node:crypto';
import { concatBytes, equalBytes, fromHex, toHex } from '../chain/bytes.ts';
import { EvidenceError } from '../errors.ts';
import type { Get, OutgoingAnswer, Post } from '../http/outgoing.ts';
import {
  checkTimeStamp,
  decodeTimeStampReply,
  type GoodTimeStamp,
  RevokedError,
  revocationListUrls,
  TIME_STAMP_BYTES_MAX,
  TimeStampRefusal,
  tokenNonce,
} from '../verify/time-stamp.ts';
import { AnchorError } from './anchor-error.ts';

export interface TimeStampAuthorityDeps {
  readonly url: string;
  /** The certificates (DER) that the authority's must lead to. */
  readonly trusted: readonly Uint8Array[];
  /** The policy that is asked for, an object identifier; undefined = the authority's own choice. */
  readonly policy: string | undefined;
  readonly tlsCaPem: string | undefined;
  readonly post: Post;
  /** Fetches revocation lists; undefined = none are fetched. */
  readonly get: Get | undefined;
  /** Milliseconds since 1970. */
  readonly wallClock: () => number;
}

export interface StampRequest {
  /** SHA-256 of what is to be stamped: the text of the anchor stream's checkpoint (docs/format.md section 20). */
  readonly imprint: Uint8Array;
  readonly signal: AbortSignal;
}

export interface TimeStamp {
  readonly token: Uint8Array;
  /** The certificates (DER) of the chain, up to the trusted one: what the token itself does not have must be somewhere. */
  readonly certificates: readonly Uint8Array[];
  /** Revocation lists (DER) that are about these. */
  readonly crls: readonly Uint8Array[];
  /** What the authority says, and when its chain ends; milliseconds since 1970. */
  readonly time: number;
  readonly certificateEnds: number;
  /** The authority's name, for people. */
  readonly authority: string;
  /** What could not be fetched, and why, for the log. */
  readonly warnings: readonly string[];
}

export interface TimeStampAuthority {
  /** Throws an AnchorError in words for the operator, or an OutgoingError. */
  stamp(request: StampRequest): Promise<TimeStamp>;
}

const TIMEOUT_MS = 10_000;
/** The authority's certificate and one or two above it name a list each. */
const LISTS_MAX = 4;
const LIST_TIMEOUT_MS = 5_000;
const NONCE_BYTES = 8;
const CLOCKS_APART_MAX_MS = 300_000;

/** Returns the client of a time-stamp authority. */
export function timeStampAuthority(deps: TimeStampAuthorityDeps): TimeStampAuthority {
  return {
    async stamp(request) {
      const nonce = newNonce();
      const answer = await deps.post(deps.url, {
        headers: { 'content-type': 'application/timestamp-query', accept: 'application/timestamp-reply' },
        body: encodeTimeStampRequest({ imprint: request.imprint, nonce, policy: deps.policy }),
        timeoutMs: TIMEOUT_MS,
        answerBytesMax: TIME_STAMP_BYTES_MAX,
        signal: request.signal,
        ...(deps.tlsCaPem === undefined ? {} : { caPem: deps.tlsCaPem }),
      });
      const token = tokenIn(answer);
      const stamp = await inWords(() => checkAnswer(token, nonce, request.imprint, deps));
      const { crls, warnings } = await fetchRevocationLists(stamp, token, request, deps);
      const { time, certificateEnds, authority } = stamp;
      return { token, certificates: stamp.chain, crls, time, certificateEnds, authority, warnings };
    },
  };
}

function tokenIn({ status, headers, body }: OutgoingAnswer): Uint8Array {
  if (status !== 200) throw new AnchorError(`the time-stamp authority answers with HTTP status ${status}`);
  const type = (headers['content-type'] ?? '').split(';')[0]!.trim().toLowerCase();
  if (type !== 'application/timestamp-reply') {
    throw new AnchorError('the answer is not application/timestamp-reply: is the URL that of a time-stamp authority?');
  }
  try {
    return decodeTimeStampReply(body);
  } catch (cause) {
    if (cause instanceof TimeStampRefusal) throw new AnchorError(cause.message, { cause });
    if (cause instanceof EvidenceError)
      throw new AnchorError(`the answer is no time stamp: ${cause.message}`, { cause });
    throw cause;
  }
}

/** What RFC 3161 section 2.2 wants a requester to verify, and what a verifier will. */
async function checkAnswer(
  token: Uint8Array,
  nonce: Uint8Array,
  imprint: Uint8Array,
  { trusted, policy, wallClock }: TimeStampAuthorityDeps,
): Promise<GoodTimeStamp> {
  if (tokenNonce(token) !== BigInt(`0x${toHex(nonce)}`)) {
    throw new EvidenceError('it has another nonce than the request: it answers another one, or is an old one again');
  }
  const verdict = await checkTimeStamp({ token, imprint, trusted, certificates: [], crls: [] });
  if (verdict.kind === 'untrusted') {
    throw new EvidenceError(`${verdict.detail}: the "trust" file of this anchor must have its authority's certificate`);
  }
  if (policy !== undefined && verdict.policy !== policy) {
    throw new EvidenceError(`it was made under the policy ${verdict.policy}, not the one that was asked for`);
  }
  const apart = verdict.time - wallClock();
  if (Math.abs(apart) > CLOCKS_APART_MAX_MS) {
    const how = `${Math.round(Math.abs(apart) / 1000)} s ${apart < 0 ? 'behind' : 'ahead of'}`;
    throw new EvidenceError(`the authority's clock is ${how} ours: one of the two is wrong`);
  }
  return verdict;
}

async function inWords<Value>(work: () => Promise<Value>): Promise<Value> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof EvidenceError)) throw cause;
    throw new AnchorError(`the time stamp can not be taken: ${cause.message}`, { cause });
  }
}

/** Fetches the lists that the certificates below the trusted one name, and keeps those that a verifier can use. */
async function fetchRevocationLists(
  { chain }: GoodTimeStamp,
  token: Uint8Array,
  { imprint, signal }: StampRequest,
  { get, trusted }: TimeStampAuthorityDeps,
): Promise<{ crls: Uint8Array[]; warnings: string[] }> {
  const crls: Uint8Array[] = [];
  const warnings: string[] = [];
  if (get === undefined) return { crls, warnings };
  // The first address of each certificate: the others name the same list elsewhere.
  const urls = new Set(chain.slice(0, -1).flatMap((one) => revocationListUrls(one).slice(0, 1)));
  for (const url of [...urls].slice(0, LISTS_MAX)) {
    try {
      const answer = await get(url, { timeoutMs: LIST_TIMEOUT_MS, answerBytesMax: TIME_STAMP_BYTES_MAX, signal });
      if (answer.status !== 200) throw new AnchorError(`it answers with HTTP status ${answer.status}`);
      const crl = new Uint8Array(answer.body);
      const verdict = await checkTimeStamp({ token, imprint, trusted, certificates: chain, crls: [crl] });
      if (verdict.kind !== 'good' || verdict.lists === 0) throw new AnchorError('what is there is none of its lists');
      if (!crls.some((one) => equalBytes(one, crl))) crls.push(crl);
    } catch (cause) {
      if (signal.aborted) throw cause;
      if (cause instanceof RevokedError) throw new AnchorError(cause.message, { cause });
      const why = cause instanceof Error ? cause.message : 'it fails';
      warnings.push(`a revocation list of the authority could not be had: ${why}`);
    }
  }
  return { crls, warnings };
}

/** A fresh random number of 64 bits, positive and with no zero byte at its beginning, so that it is DER as it is. */
function newNonce(): Uint8Array {
  const nonce = randomBytes(NONCE_BYTES);
  nonce[0] = (nonce[0]! & 0x7f) | 0x40;
  return nonce;
}

export interface TimeStampQuery {
  /** SHA-256. */
  readonly imprint: Uint8Array;
  /** A positive number in the shortest form that DER has for it. */
  readonly nonce: Uint8Array;
  readonly policy: string | undefined;
}

/** SEQUENCE { OBJECT IDENTIFIER 2.16.840.1.101.3.4.2.1 (SHA-256), NULL }. */
const SHA256_ALGORITHM = fromHex('300d06096086480165030402010500');

/**
 * Returns a TimeStampReq (RFC 3161 section 2.4.1): version 1, the imprint, the policy if one is wanted, the nonce, and
 * certReq true, so that the token brings its certificates with it.
 */
export function encodeTimeStampRequest({ imprint, nonce, policy }: TimeStampQuery): Uint8Array {
  return element(
    0x30,
    element(0x02, Uint8Array.of(1)),
    element(0x30, SHA256_ALGORITHM, element(0x04, imprint)),
    ...(policy === undefined ? [] : [element(0x06, objectIdentifierContent(policy))]),
    element(0x02, nonce),
    element(0x01, Uint8Array.of(0xff)),
  );
}

/** One element of DER. All that is in a request is short. */
function element(tag: number, ...contents: readonly Uint8Array[]): Uint8Array {
  const content = concatBytes(...contents);
  const length = content.length < 0x80 ? [content.length] : [0x81, content.length];
  return concatBytes(Uint8Array.of(tag, ...length), content);
}

/** Arcs in base 128, the first two as one (X.690 section 8.19). Throws an AnchorError where the text is no identifier. */
function objectIdentifierContent(text: string): Uint8Array {
  const arcs = /^[0-2](\.(0|[1-9]\d{0,9})){1,30}$/.test(text) ? text.split('.').map(Number) : [];
  const [first, second, ...rest] = arcs;
  if (first === undefined || second === undefined || (first < 2 && second > 39)) {
    throw new AnchorError(`the policy "${text}" is not an object identifier`);
  }
  const content = Uint8Array.from([first * 40 + second, ...rest].flatMap(base128));
  if (content.length > 64) throw new AnchorError('the policy is too long');
  return content;
}

function base128(arc: number): number[] {
  const bytes = [arc % 128];
  for (let rest = Math.floor(arc / 128); rest > 0; rest = Math.floor(rest / 128)) bytes.unshift((rest % 128) | 0x80);
  return bytes;
}
