/**
 * Bearer tokens: who calls.
 *
 * A token is a JSON Web Token, signed with HS256 under the deployment's secret, or by an OpenID provider with a key of its set (key-set.ts):
 * a deployment has one or the other. @fastify/jwt (fast-jwt) checks signature, issuer, audience and `nbf`; before it sees a token, and after it
 * has accepted one, this file and claims.ts check what it leaves open (RFC 8725, the JWT best current practices):
 *
 * - a token is exactly three base64url segments in their one canonical text (RFC 7515 section 2). Decoders pass over
 *   padding, blanks and unused bits, so several texts would be the same token; and the library answers some malformed ones
 *   with an internal error;
 * - the header holds `alg`, `kid`, `typ`, and what Entra ID adds (`x5t`, `x5t#S256`, looked at by nobody), and nothing else: no `crit`, `b64`,
 *   `zip`, and none of the members that bring or point to a key (`jwk`, `jku`, `x5u`, `x5c`);
 * - the algorithm is HS256, or the one that the provider's key is for. The key is chosen by `kid` alone, from the set;
 * - no JSON object names a member twice: readers differ in which one counts. What the library has parsed is not used.
 *
 * Every refusal is the same 401 `unauthenticated`: what was wrong with a token helps only who made it up. While there are no keys that could be
 * trusted, a token that may be good is 503 `not_ready`.
 *
 * A token that was accepted is remembered for a minute, by its whole text, as long as its `exp` allows and the keys stay the same; checking
 * a signature takes longer than everything else that is done for a request before its handler.
 */
import { randomBytes } from 'node:crypto';
import fastifyJwt, { type FastifyJWTOptions } from '@fastify/jwt';
import Fastify, { type FastifyInstance } from 'fastify';
import { Problem, SettingsError } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { type JsonMembers, parseJsonObject } from '../http/json-object.ts';
import {
  type ClaimRules,
  claimProblems,
  claimsOf,
  claimsReader,
  demand,
  SKEW_SECONDS,
  type TokenClaims,
} from './claims.ts';
import { isKeyId, type TokenAlgorithm, type TokenKey, type TokenKeys } from './json-web-keys.ts';
import type { KeySet } from './key-set.ts';

export type TokenOptions = OperatorTokens | ProviderTokens;

export interface OperatorTokens extends ClaimRules {
  /** At least 32 bytes: as many as the hash has (RFC 7518 section 3.2). */
  readonly secret: string;
}

export interface ProviderTokens extends ClaimRules {
  readonly secret?: undefined;
  /** Where the provider's keys are: see KeySetOptions. */
  readonly jwksUrl: string;
}

export type { TokenClaims } from './claims.ts';

/** How long an accepted token is remembered, and how many: the oldest go first. */
const ACCEPTED_SECONDS = 60;
const ACCEPTED_MAX = 1000;
const SECRET_BYTES_MIN = 32;
const TOKEN_LENGTH_MAX = 8192;
/** When callers shall come again while there are no keys. */
const NO_KEYS_RETRY_SECONDS = 10;
/** RFC 7519 section 5.1, RFC 9068 section 2.1. */
const TOKEN_TYPES = new Set(['jwt', 'at+jwt', 'application/at+jwt']);
const PROVIDER_ALGORITHMS: readonly TokenAlgorithm[] = ['RS256', 'PS256', 'ES256', 'EdDSA'];
const TOKEN = /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)$/;

/**
 * Returns what knows whose a token is: at once, but where a provider must be asked for a new key. @fastify/jwt is registered with the server.
 *
 * @param keySet required without a secret
 * @throws {SettingsError} when the settings are not safe
 */
export function tokenVerifier(app: FastifyInstance, options: TokenOptions, keySet?: KeySet): Verify {
  app.register(fastifyJwt, libraryOptions(options));
  if (options.secret !== undefined) return operatorVerifier(app, options);
  if (keySet === undefined) throw new SettingsError(['Tokens need a secret, or the keys of an identity provider']);
  return providerVerifier(app, options, keySet);
}

type Verify = (token: string) => Caller | Promise<Caller>;

function operatorVerifier(app: FastifyInstance, rules: ClaimRules): (token: string) => Caller {
  const read = claimsReader(rules, 'operator');
  const accepted = new AcceptedTokens();
  const accept = (token: string): Caller => {
    const { alg, claims } = checkForm(token);
    demand(alg === 'HS256');
    app.jwt.verify(token);
    return accepted.add(token, BY_SECRET, read(claims, Date.now() / 1000), claims);
  };
  return (token) => accepted.find(token, BY_SECRET) ?? refusing(() => accept(token));
}

function providerVerifier(app: FastifyInstance, rules: ClaimRules, keySet: KeySet): Verify {
  const read = claimsReader(rules, 'provider');
  const accepted = new AcceptedTokens();
  const accept = (token: string, { alg, claims }: Form, keys: TokenKeys, key: TokenKey): Caller => {
    demand(alg === key.algorithm);
    app.jwt.verify(token, { key: key.pem, algorithms: [key.algorithm] });
    return accepted.add(token, keys, read(claims, Date.now() / 1000), claims);
  };
  return (token) => {
    const keys = keySet.current();
    const known = keys && accepted.find(token, keys);
    if (known !== undefined) return known;

    const form = refusing(() => checkForm(token));
    const { alg, kid } = form;
    demand(PROVIDER_ALGORITHMS.some((one) => one === alg) && kid !== undefined);
    if (keys === undefined) throw noKeys();
    const key = keys.get(kid);
    if (key !== undefined) return refusing(() => accept(token, form, keys, key));

    const looking = keySet.lookFor(kid);
    demand(looking !== undefined);
    return looking.then(() => {
      const newKeys = keySet.current();
      const newKey = newKeys?.get(kid);
      demand(newKeys !== undefined && newKey !== undefined);
      return refusing(() => accept(token, form, newKeys, newKey));
    });
  };
}

/**
 * Signs a token through the library that checks it. For development and tests: `npm run token`.
 *
 * @throws {SettingsError} when the settings are not safe, or tokens are a provider's
 */
export async function signToken(options: TokenOptions, claims: TokenClaims): Promise<string> {
  if (options.secret === undefined) {
    throw new SettingsError([
      'SEALOG_JWT_JWKS_URL is set: tokens come from the identity provider, and can not be made here',
    ]);
  }
  const app = Fastify();
  try {
    await app.register(fastifyJwt, libraryOptions(options));
    return app.jwt.sign(claimsOf(options, claims), {
      algorithm: 'HS256',
      iss: options.issuer,
      aud: options.audience,
      sub: claims.subject,
      expiresIn: claims.ttlSeconds,
    });
  } finally {
    await app.close();
  }
}

/** Returns a new secret: 32 random bytes as text. */
export function generateSecret(): string {
  return randomBytes(SECRET_BYTES_MIN).toString('base64url');
}

function libraryOptions(options: TokenOptions): FastifyJWTOptions {
  const { secret, issuer, audience } = options;
  const problems = claimProblems(options);
  if (secret !== undefined && Buffer.byteLength(secret) < SECRET_BYTES_MIN)
    problems.push(`SEALOG_JWT_SECRET is too short: give it at least ${SECRET_BYTES_MIN} random bytes`);
  if (problems.length > 0) throw new SettingsError(problems);

  const verify = {
    // Texts are compared whole; a RegExp here would match a part.
    allowedIss: issuer,
    allowedAud: audience,
    requiredClaims: ['sub', 'iss', 'aud', 'exp', 'iat'],
    // For nbf. It would prolong exp as well, which claims.ts does not allow.
    clockTolerance: SKEW_SECONDS * 1000,
    cache: false,
  };
  if (secret !== undefined) {
    return {
      secret: Buffer.from(secret),
      sign: { algorithm: 'HS256' },
      verify: { ...verify, algorithms: ['HS256'] },
    };
  }
  return {
    // Each check names its key; one that did not would be refused.
    secret: () => Promise.reject(new Error('the check names no key')),
    verify: { ...verify, algorithms: [...PROVIDER_ALGORITHMS] },
  };
}

/** Stands for the secret, which never changes, where tokens are remembered by the keys that were good for them. */
const BY_SECRET = {};

/** The tokens that need no second look at their signature for a while, and whose they are. */
class AcceptedTokens {
  /** Token → its caller, and from when until when (seconds since 1970). */
  readonly #callers = new Map<string, { readonly caller: Caller; readonly from: number; readonly until: number }>();
  /** What they were accepted by. */
  #keys: object | undefined;

  find(token: string, keys: object): Caller | undefined {
    if (keys !== this.#keys) return undefined;
    const known = this.#callers.get(token);
    if (known === undefined) return undefined;
    const now = Date.now() / 1000;
    // Before it where the clock was set back.
    return now >= known.from && now < known.until ? known.caller : undefined;
  }

  /** A token that was accepted by other keys than the last one makes all others forgotten. */
  add(token: string, keys: object, caller: Caller, { exp }: JsonMembers): Caller {
    if (keys !== this.#keys) this.#callers.clear();
    this.#keys = keys;
    // Anew, and so the last to go.
    this.#callers.delete(token);
    const from = Date.now() / 1000;
    // claimsReader has seen that exp is a number.
    this.#callers.set(token, { caller, from, until: Math.min(from + ACCEPTED_SECONDS, exp as number) });
    if (this.#callers.size > ACCEPTED_MAX) this.#callers.delete(this.#callers.keys().next().value ?? '');
    return caller;
  }
}

/** A token whose form is right; its signature is not checked yet, and nobody knows who wrote it. */
interface Form {
  readonly alg: string;
  readonly kid: string | undefined;
  readonly claims: JsonMembers;
}

function checkForm(token: string): Form {
  demand(token.length <= TOKEN_LENGTH_MAX);
  const match = TOKEN.exec(token);
  demand(match !== null);
  const [, header, body, signature] = match as unknown as [string, string, string, string];
  decodeSegment(signature);

  const { alg, typ, kid, x5t: _, 'x5t#S256': __, ...others } = readObject(header);
  demand(typeof alg === 'string');
  demand(typ === undefined || (typeof typ === 'string' && TOKEN_TYPES.has(typ.toLowerCase())));
  demand(kid === undefined || isKeyId(kid));
  demand(Object.keys(others).length === 0);
  return { alg, kid, claims: readObject(body) };
}

/** RFC 4648 section 5 without padding, and only the text that encoding the bytes gives again. */
function decodeSegment(segment: string): Buffer {
  const bytes = Buffer.from(segment, 'base64url');
  demand(bytes.toString('base64url') === segment);
  return bytes;
}

function readObject(segment: string): JsonMembers {
  const object = parseJsonObject(decodeSegment(segment));
  demand(object !== undefined);
  return object;
}

/** Whatever went wrong, the token is refused; the cause is for whoever debugs. */
function refusing<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw cause instanceof Problem ? cause : new Problem('unauthenticated', { cause });
  }
}

function noKeys(): Problem {
  return new Problem('not_ready', {
    detail: 'The keys of the identity provider are not known now',
    retryAfter: NO_KEYS_RETRY_SECONDS,
  });
}
