/**
 * The four kinds of failure and their ways out.
 *
 * - The caller's mistake, or something he may not have: a `Problem` with a 4xx status.
 * - Try later, nothing was stored: a `Problem` 503 with `retryAfter`.
 * - We no longer know whether it was stored (a COMMIT without a reply): a `Problem` 504 `outcome_unknown`.
 * - Evidence is wrong: an `EvidenceError`, which verification turns into a finding.
 *
 * Codes are public API and never change meaning; titles and details are for people and never carry a secret or a payload.
 */

/** Every `code` that an answer of the HTTP API can carry, with its status and title (RFC 9457 `title`). */
export const PROBLEMS = {
  invalid_json: { status: 400, title: 'The body is not JSON that Sealog can keep unchanged' },
  invalid_event: { status: 400, title: 'The event is not valid' },
  invalid_batch: { status: 400, title: 'The batch is not valid' },
  invalid_request: { status: 400, title: 'The request is not valid' },
  invalid_encoding: { status: 400, title: 'The body can not be decoded' },
  category_required: { status: 400, title: 'Several streams hold this id: name the category' },
  unauthenticated: { status: 401, title: 'A valid credential is required' },
  forbidden: { status: 403, title: 'The credential does not permit this' },
  second_person_required: { status: 403, title: 'Another person must decide on what you proposed' },
  tenant_closed: { status: 403, title: 'The tenant is closed: it takes no more events' },
  not_found: { status: 404, title: 'There is no such thing' },
  not_yet_checkpointed: { status: 404, title: 'No signed checkpoint covers this yet' },
  method_not_allowed: { status: 405, title: 'This address does not take this method' },
  request_timeout: { status: 408, title: 'The request did not arrive in time' },
  id_conflict: { status: 409, title: 'Another event has this id' },
  exists: { status: 409, title: 'There is one of this name already' },
  key_ended: { status: 409, title: 'The API key is revoked or expired' },
  already_decided: { status: 409, title: 'There is nothing to decide any more' },
  too_large: { status: 413, title: 'The body is larger than its limit' },
  unsupported_media_type: { status: 415, title: 'This media type or encoding is not taken here' },
  quota: { status: 429, title: 'More than the quota allows: nothing was stored' },
  headers_too_large: { status: 431, title: 'The headers are larger than their limit' },
  internal: { status: 500, title: 'Something is wrong on our side' },
  busy: { status: 503, title: 'Too much is waiting: nothing was stored' },
  not_ready: { status: 503, title: 'The service can not do this now: nothing was stored' },
  outcome_unknown: { status: 504, title: 'It is not known whether this was stored: repeat it with the same id' },
} as const satisfies Record<string, { status: number; title: string }>;

export type ProblemCode = keyof typeof PROBLEMS;

/** One thing that is wrong with the input: where (`field`, a path such as `changes.before` or `[3].actor.id`; empty = the whole) and what. */
export interface FieldError {
  readonly field: string;
  readonly message: string;
  /** Byte offset in the body (or NDJSON line), where the place in the text is known. */
  readonly position?: number;
}

export interface ProblemOptions {
  readonly detail?: string;
  readonly errors?: readonly FieldError[];
  /** Seconds after which a repeat makes sense. */
  readonly retryAfter?: number;
  readonly cause?: unknown;
}

/** What an HTTP answer says when something went wrong (RFC 9457). */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly code: ProblemCode;
  readonly status: number;
  readonly title: string;
  readonly detail: string | undefined;
  readonly errors: readonly FieldError[];
  readonly retryAfter: number | undefined;

  constructor(code: ProblemCode, options: ProblemOptions = {}) {
    const { status, title } = PROBLEMS[code];
    super(options.detail ?? title, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = status;
    this.title = title;
    this.detail = options.detail;
    this.errors = options.errors ?? [];
    this.retryAfter =
      options.retryAfter ?? (status === 503 || status === 429 || code === 'not_yet_checkpointed' ? 1 : undefined);
  }
}

/** Stored bytes that can not be what was written: a format that does not parse, a hash that does not match. */
export class EvidenceError extends Error {
  override readonly name = 'EvidenceError';
}

/** Why a key can not be had: it was destroyed at its end, is not there, is not the one, or the key service does not answer (and may later). */
export type KeyProblem = 'destroyed' | 'missing' | 'wrong' | 'unreachable';

/** A key that is needed can not be had now: the verdict is `incomplete`, never `tampered`. */
export class KeyUnavailableError extends Error {
  override readonly name = 'KeyUnavailableError';
  /** Undefined where only the words came over, from a thread. */
  readonly problem: KeyProblem | undefined;

  constructor(message: string, { problem, cause }: { readonly problem?: KeyProblem; readonly cause?: unknown } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.problem = problem;
  }
}

/** The operator's settings are wrong; each problem is one sentence that says what to do. Sealog refuses to start. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.problems = problems;
  }
}
