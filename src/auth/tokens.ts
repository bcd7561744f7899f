/**
 * Bearer tokens: who calls, and whether he may.
 *
 * A token is a JSON Web Token signed with HS256 under the deployment's secret. @fastify/jwt (fast-jwt) checks signature,
 * issuer, audience and times; before it sees a token, and after it has accepted one, this file checks what it leaves
 * open (RFC 8725, the JWT best current practices):
 *
 * - a token is exactly three base64url segments in their one canonical text (RFC 7515 section 2). Decoders pass over
 *   padding, blanks and unused bits, so several texts would be the same token; and the library answers some malformed ones
 *   with an internal error;
 * - the header holds `alg` HS256, and `typ` and `kid` where wanted, and nothing else: no `crit`, `b64`, `zip`, and none of
 *   the members that bring or point to a key (`jwk`, `jku`, `x5u`, `x5c`);
 * - no JSON object names a member twice: readers differ in which one counts;
 * - `sub`, `iss`, `aud`, `exp`, `iat`, tenant and roles are all there. The library would take a token without them;
 * - a token is not older than its `exp` (no leeway), and not issued, or valid, more than a minute in the future.
 *
 * Every refusal is the same 401 `unauthenticated`: what was wrong with a token helps only who made it up.
 *
 * A token that was accepted is remembered for a minute, by its whole text, and its times are looked at again each time; checking a
 * signature takes longer than everything else that is done for a request before its handler.
 */

import { isUtf8 } from 'node:buffer';
import { randomBytes } from 'node:crypto';
import fastifyJwt, { type FastifyJWTOptions } from '@fastify/jwt';
import Fastify, { type FastifyInstance } from 'fastify';
import { TENANT_PATTERN } from '../chain/category.ts';
import { Problem, SettingsError } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { permissionsOf } from './roles.ts';

export interface TokenOptions {
  /** At least 32 bytes: as many as the hash has (RFC 7518 section 3.2). */
  readonly secret: string;
  readonly issuer: string;
  readonly audience: string;
  /** The claim that holds the roles; `roles` unless said otherwise. */
  readonly rolesClaim?: string;
  /** The claim that holds the tenant; `tenant` unless said otherwise. */
  readonly tenantClaim?: string;
}

export interface TokenClaims {
  readonly tenant: string;
  readonly roles: readonly string[];
  readonly subject: string;
  readonly ttlSeconds: number;
}

/** How long an accepted token is remembered, and how many: the oldest go first. */
const ACCEPTED_SECONDS = 60;
const ACCEPTED_MAX = 1000;
const SECRET_BYTES_MIN = 32;
const TOKEN_LENGTH_MAX = 8192;
const SKEW_SECONDS = 60;
const TEXT_LENGTH_MAX = 256;
const KEY_ID_LENGTH_MAX = 64;
const TOKEN_TYPES = new Set(['jwt', 'at+jwt']);
const TOKEN = /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)$/;

type Json = Readonly<Record<string, unknown>>;

/**
 * Returns what knows whose a token is. @fastify/jwt is registered with the server.
 *
 * @throws {SettingsError} when the secret is too short
 */
export function tokenVerifier(app: FastifyInstance, options: TokenOptions): (token: string) => Caller {
  const accepted = new Map<string, Accepted>();
  app.register(fastifyJwt, libraryOptions(options));
  return (token) => authenticate(app, options, accepted, token);
}

/** Signs a token through the library that checks it. For development and tests: `npm run token`. */
export async function signToken(options: TokenOptions, claims: TokenClaims): Promise<string> {
  const app = Fastify();
  try {
    await app.register(fastifyJwt, libraryOptions(options));
    const payload = { [tenantClaim(options)]: claims.tenant, [rolesClaim(options)]: claims.roles };
    return app.jwt.sign(payload, {
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
  const problems: string[] = [];
  if (Buffer.byteLength(secret) < SECRET_BYTES_MIN) {
    problems.push(`The token secret is too short: give it at least ${SECRET_BYTES_MIN} random bytes.`);
  }
  if (issuer === '') problems.push('The token issuer is empty: name who issues the tokens.');
  if (audience === '') problems.push('The token audience is empty: name what the tokens are for.');
  if (problems.length > 0) throw new SettingsError(problems);

  return {
    secret: Buffer.from(secret),
    sign: { algorithm: 'HS256' },
    verify: {
      algorithms: ['HS256'],
      // Texts are compared whole; a RegExp here would match a part.
      allowedIss: issuer,
      allowedAud: audience,
      requiredClaims: ['sub', 'iss', 'aud', 'exp', 'iat', tenantClaim(options), rolesClaim(options)],
      // For nbf. It would prolong exp as well, which readClaims does not allow.
      clockTolerance: SKEW_SECONDS * 1000,
      cache: false,
    },
  };
}

/** A token's caller, and until when it is taken for good without another look at its signature (seconds since 1970). */
interface Accepted {
  readonly caller: Caller;
  readonly until: number;
}

/** @throws {Problem} unauthenticated, whatever is wrong */
function authenticate(
  app: FastifyInstance,
  options: TokenOptions,
  accepted: Map<string, Accepted>,
  token: string,
): Caller {
  const now = Date.now() / 1000;
  const known = accepted.get(token);
  if (known !== undefined && now < known.until && now > known.until - ACCEPTED_SECONDS) return known.caller;
  try {
    checkForm(token);
    const claims = app.jwt.verify<Json>(token);
    const caller = readClaims(claims, options, now);
    // readClaims has seen that exp is a number.
    accepted.set(token, { caller, until: Math.min(now + ACCEPTED_SECONDS, claims['exp'] as number) });
    if (accepted.size > ACCEPTED_MAX) accepted.delete(accepted.keys().next().value ?? '');
    return caller;
  } catch (cause) {
    throw cause instanceof Problem ? cause : new Problem('unauthenticated', { cause });
  }
}

function demand(condition: boolean): asserts condition {
  if (!condition) throw new Problem('unauthenticated');
}

/** Demands that a text is a token by its form; the signature is not checked yet. */
function checkForm(token: string): void {
  demand(token.length <= TOKEN_LENGTH_MAX);
  const match = TOKEN.exec(token);
  demand(match !== null);
  const [, header, claims, signature] = match as unknown as [string, string, string, string];
  decodeSegment(signature);

  const { alg, typ, kid, ...others } = parseObject(decodeSegment(header));
  demand(alg === 'HS256');
  demand(typ === undefined || (typeof typ === 'string' && TOKEN_TYPES.has(typ.toLowerCase())));
  demand(kid === undefined || (typeof kid === 'string' && kid.length <= KEY_ID_LENGTH_MAX));
  demand(Object.keys(others).length === 0);
  parseObject(decodeSegment(claims));
}

function readClaims(claims: Json, options: TokenOptions, nowSeconds: number): Caller {
  const { sub, exp, iat, nbf, sites } = claims;
  const tenant = claims[tenantClaim(options)];
  const roles = claims[rolesClaim(options)];

  demand(isText(sub));
  demand(isTime(exp) && nowSeconds < exp);
  demand(isTime(iat) && iat <= nowSeconds + SKEW_SECONDS);
  demand(nbf === undefined || (isTime(nbf) && nbf <= nowSeconds + SKEW_SECONDS));
  demand(typeof tenant === 'string' && TENANT_PATTERN.test(tenant));
  demand(Array.isArray(roles) && roles.every(isText));
  demand(sites === undefined || (Array.isArray(sites) && sites.every(isText)));

  const permissions = permissionsOf(roles, tenant, sites);
  const caller = { tenant, subject: sub, credential: 'token', roles, permissions } as const;
  return sites === undefined ? caller : { ...caller, sites };
}

/** RFC 4648 section 5 without padding, and only the text that encoding the bytes gives again. */
function decodeSegment(segment: string): Buffer {
  const bytes = Buffer.from(segment, 'base64url');
  demand(bytes.toString('base64url') === segment);
  return bytes;
}

function parseObject(bytes: Buffer): Json {
  demand(isUtf8(bytes));
  const text = bytes.toString();
  const value: unknown = JSON.parse(text);
  demand(typeof value === 'object' && value !== null && !Array.isArray(value));
  demand(!namesTwice(text, value));
  return value as Json;
}

/**
 * Says whether an object in a JSON text names a member twice: outside of strings each colon belongs to one member, and of
 * equal names (also by different escapes) the parsed value keeps one.
 */
function namesTwice(text: string, value: unknown): boolean {
  return text.replace(/"(?:[^"\\]|\\.)*"/g, '').split(':').length - 1 !== memberCount(value);
}

function memberCount(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const members = Object.values(value);
  return members.reduce((sum: number, member) => sum + memberCount(member), Array.isArray(value) ? 0 : members.length);
}

function isText(value: unknown): value is string {
  return (
    typeof value === 'string' &&
    value !== '' &&
    value.length <= TEXT_LENGTH_MAX &&
    !/\p{Cc}/u.test(value) &&
    value.isWellFormed()
  );
}

/** A NumericDate (RFC 7519 section 2): seconds. */
function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

function tenantClaim({ tenantClaim: name = 'tenant' }: TokenOptions): string {
  return name;
}

function rolesClaim({ rolesClaim: name = 'roles' }: TokenOptions): string {
  return name;
}
