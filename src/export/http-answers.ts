/**
 * What the answer to a delivery says of the entries in it, by its status. docs/export.md has the table for operators.
 *
 * A status blames either what was sent (400, 413, 422): then the entry that it is about is looked for. Or it blames the way there, the
 * credential, or the peer's own state: then nothing is said of any entry, all go again, and the sink is shown as failing until somebody
 * mends it. A wrong URL (404, 405, 410) is no entry's fault, and nobody but the operator ends an audit trail: so also 410 goes again.
 */
import type { OutgoingAnswer } from '../http/outgoing.ts';
import { type Fate, TransportError } from './transport.ts';

export type Verdict =
  /** All of it. With a receipt the peer only has it, and says later that it is safe. `words`: what the peer said, for a test. */
  | { readonly kind: 'taken'; readonly receipt?: number; readonly words?: string }
  /** The peer answers for each. */
  | { readonly kind: 'fates'; readonly fates: readonly Fate[]; readonly words?: string }
  /** Something in it is not taken, perhaps that at `named`, and nothing is known of the rest. */
  | { readonly kind: 'content'; readonly reason: string; readonly named?: number | undefined }
  /** So many at once are not taken. */
  | { readonly kind: 'too_large'; readonly reason: string };

/** Of what a peer asks us to wait. */
const RETRY_AFTER_MAX_MS = 3_600_000;

const HINTS: Readonly<Record<number, string>> = {
  404: 'there is nothing at the URL',
  405: 'the URL takes no POST',
  407: 'a proxy wants credentials',
  410: 'there is nothing at the URL any more',
  411: 'it wants a length, which was sent: something between changes requests',
  415: 'it does not take this body, or its compression',
  429: 'too many requests',
};

/** Returns the verdict that a status alone gives. Throws a TransportError where it says nothing of the entries. `where` is for people. */
export function judgeStatus(answer: OutgoingAnswer, where: string, nowMs: number): Verdict {
  const { status } = answer;
  if (status >= 200 && status < 300) return { kind: 'taken' };
  if (status === 400 || status === 422)
    return { kind: 'content', reason: `${where}: answered ${status} to this entry alone` };
  if (status === 413) return { kind: 'too_large', reason: `${where}: answered 413, this entry alone is too large` };
  throw statusError(answer, where, nowMs);
}

/**
 * As `judgeStatus`, of a peer that says yes with one status alone and never with a page: whatever else looks like a yes is of somebody in
 * between, such as a network that wants a login first.
 */
export function judgeOnly(yes: number, answer: OutgoingAnswer, where: string, nowMs: number): Verdict {
  const verdict = judgeStatus(answer, where, nowMs);
  const isPage = /^text\/html\b/i.test(answer.headers['content-type'] ?? '');
  if (verdict.kind === 'taken' && (answer.status !== yes || isPage))
    throw notUnderstood(where, `answered ${answer.status}${isPage ? ' with a page' : ''}, and its yes is ${yes}`);
  return verdict;
}

/** Returns the error that a status is, with what may be said of it. `words` are ours, never the peer's. */
export function statusError(answer: OutgoingAnswer, where: string, nowMs: number, words?: string): TransportError {
  const { status, headers } = answer;
  const hint =
    words ?? HINTS[status] ?? (status >= 300 && status < 400 ? 'a redirect, which is not followed' : undefined);
  const isUnauthorized = status === 401 || status === 403 || status === 407;
  return new TransportError(
    isUnauthorized ? 'unauthorized' : 'refused',
    `${where}: answered ${status}${hint === undefined ? '' : `, ${hint}`}`,
    retryAfterMs(headers['retry-after'], nowMs),
  );
}

/** Reads `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date. */
export function retryAfterMs(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined) return undefined;
  const asked = /^\d{1,10}$/.test(text)
    ? Number(text) * 1000
    : /^[A-Z][a-z]+, \d\d[ -][A-Z][a-z]{2}[ -](?:\d\d){1,2} \d\d:\d\d:\d\d GMT$/.test(text)
      ? Date.parse(text) - nowMs
      : Number.NaN;
  return Number.isNaN(asked) ? undefined : Math.min(Math.max(asked, 0), RETRY_AFTER_MAX_MS);
}

/** An answer that this peer never gives, so that it is probably not the peer, or not whole. */
export function notUnderstood(where: string, what: string): TransportError {
  return new TransportError(
    'protocol',
    `${where}: ${what}: is the URL right, and nothing between that answers instead?`,
  );
}
