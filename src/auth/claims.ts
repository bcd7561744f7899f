/**
 * What the claims of a token say (RFC 7519 section 4.1): that it is for us and for now, whose it is, and what he may.
 *
 * Nothing is taken for granted: `iss`, `aud`, `exp`, `iat`, `sub`, a tenant and roles are all there, each of its type, or the token is refused;
 * so are sites, where the operator says where they are.
 * A token is not older than its `exp` (no leeway), and not issued, or valid, more than a minute in the future.
 *
 * Providers name tenant, roles and sites in their own ways, so the operator says where they are, and may translate their values. With a
 * translation only what it names counts.
 */
import { OWN_TENANT, TENANT_PATTERN } from '../chain/category.ts';
import { Problem, SettingsError } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { isJsonObject, type JsonMembers } from '../http/json-object.ts';
import { isRole, permissionsOf } from './roles.ts';

export interface ClaimRules {
  readonly issuer: string;
  readonly audience: string;
  /** A claim's name, or where it begins with `/` the way to it through objects (a JSON pointer, RFC 6901). `tenant` unless said otherwise. */
  readonly tenantClaim?: string;
  /** Likewise; `roles` unless said otherwise. */
  readonly rolesClaim?: string;
  /** Likewise; `sites` unless said otherwise. */
  readonly sitesClaim?: string;
  /**
   * How a token says that its holder is held to no sites: by one value of the sites claim, or `absent`, by not having the claim. Unless said
   * otherwise, `absent` where no sites claim is named; where one is, a token without it is refused, since its name may be misspelled.
   */
  readonly allSites?: string | undefined;
  /** Claim's value → tenant. Undefined: the value is the tenant's name. */
  readonly tenantMap?: ReadonlyMap<string, string> | undefined;
  /** Claim's value → role. Undefined: the values are the roles' names. */
  readonly rolesMap?: ReadonlyMap<string, string> | undefined;
}

/** What tokens of the operator's own are made of. */
export interface TokenClaims {
  readonly tenant: string;
  readonly roles: readonly string[];
  readonly sites?: readonly string[] | undefined;
  readonly subject: string;
  readonly ttlSeconds: number;
}

/** Says that no sites claim means all sites. */
export const ABSENT = 'absent';
/** For clocks that are not quite alike. */
export const SKEW_SECONDS = 60;
const TEXT_LENGTH_MAX = 256;
/** As many as an entry's actor may have; more than a provider puts into a token. */
const ROLES_MAX = 256;

type Path = readonly string[];

/** Refuses a token. What was wrong with it helps only who made it up. */
export function demand(condition: boolean): asserts condition {
  if (!condition) throw new Problem('unauthenticated');
}

/**
 * Returns what reads claims whose signature is good. With tokens of a provider the tenant `sealog`, the deployment itself, is only whom the
 * operator's own map names so: an organisation that may choose its name would else become the deployment.
 *
 * @throws {Problem} unauthenticated, by what is returned
 */
export function claimsReader(
  rules: ClaimRules,
  signedBy: 'operator' | 'provider',
): (claims: JsonMembers, nowSeconds: number) => Caller {
  const { issuer, audience, tenantMap, rolesMap } = rules;
  const paths = pathsOf(rules);
  const allSites = allSitesOf(rules);
  return (claims, nowSeconds) => {
    const { iss, aud, sub, exp, iat, nbf } = claims;
    demand(iss === issuer);
    demand(Array.isArray(aud) ? aud.every(isText) && aud.includes(audience) : aud === audience);
    demand(isText(sub));
    demand(isTime(exp) && nowSeconds < exp);
    demand(isTime(iat) && iat <= nowSeconds + SKEW_SECONDS);
    demand(nbf === undefined || (isTime(nbf) && nbf <= nowSeconds + SKEW_SECONDS));

    const given = at(claims, paths.tenant);
    demand(isText(given));
    const tenant = tenantMap === undefined ? given : tenantMap.get(given);
    demand(tenant !== undefined && TENANT_PATTERN.test(tenant));
    demand(tenant !== OWN_TENANT || signedBy === 'operator' || tenantMap !== undefined);

    const named = [at(claims, paths.roles)].flat();
    demand(named.length <= ROLES_MAX && named.every(isText));
    const roles = [...new Set(rolesMap === undefined ? named : named.flatMap((name) => rolesMap.get(name) ?? []))];

    // Sites narrow: that they are not told must never look as if there were none to tell.
    demand(!isToldElsewhere(claims, paths.sites));
    const listed = at(claims, paths.sites);
    demand(listed === undefined ? allSites === ABSENT : isTexts(listed));
    // Beside others it is one of them: it never widens.
    const isAll = allSites !== ABSENT && isTexts(listed) && listed.length === 1 && listed[0] === allSites;
    const sites = isAll || !isTexts(listed) ? undefined : listed;

    const permissions = permissionsOf(roles, tenant, sites);
    const caller = { tenant, subject: sub, credential: 'token', roles, permissions } as const;
    return sites === undefined ? caller : { ...caller, sites };
  };
}

/** Returns the claims that `claimsReader` reads so: the reverse of it, but for iss, aud, sub and times. */
export function claimsOf(rules: ClaimRules, { tenant, roles, sites }: TokenClaims): Record<string, unknown> {
  const paths = pathsOf(rules);
  const claims: Record<string, unknown> = {};
  put(claims, paths.tenant, untranslated('SEALOG_JWT_TENANT_MAP', rules.tenantMap, tenant));
  put(
    claims,
    paths.roles,
    roles.map((role) => untranslated('SEALOG_JWT_ROLES_MAP', rules.rolesMap, role)),
  );
  const allSites = allSitesOf(rules);
  if (sites === undefined && allSites === undefined)
    throw new SettingsError([
      'a token must name sites: SEALOG_JWT_SITES_CLAIM is set, and SEALOG_JWT_ALL_SITES is not',
    ]);
  if (sites !== undefined) put(claims, paths.sites, sites);
  else if (allSites !== ABSENT) put(claims, paths.sites, [allSites]);
  return claims;
}

/** Says everything that is wrong with the settings, each with its name. */
export function claimProblems(rules: ClaimRules): string[] {
  const { tenantMap, rolesMap, allSites } = rules;
  const problems: string[] = [];
  if (allSites !== undefined && !isText(allSites))
    problems.push('SEALOG_JWT_ALL_SITES must be a value of the sites claim, such as *, or absent');
  if (rules.issuer === '') problems.push('SEALOG_JWT_ISSUER is empty: name who issues the tokens');
  if (rules.audience === '') problems.push('SEALOG_JWT_AUDIENCE is empty: name what the tokens are for');
  const names = Object.entries(claimNames(rules)).map(([claim, name]) => [SETTINGS[claim as Claim], name] as const);
  for (const [setting, name] of names) {
    if (name === '' || name.length > TEXT_LENGTH_MAX || /~(?![01])/.test(name.startsWith('/') ? name : '')) {
      problems.push(`${setting} must be a claim's name, or a JSON pointer such as /realm_access/roles`);
    }
  }
  for (const [index, [setting, name]] of names.entries()) {
    const [other] = names.slice(0, index).find(([, one]) => overlap(pathOf(one), pathOf(name))) ?? [];
    if (other !== undefined) problems.push(`${other} and ${setting} must be two claims, neither inside the other`);
  }
  for (const tenant of new Set(tenantMap?.values())) {
    if (!TENANT_PATTERN.test(tenant))
      problems.push(`SEALOG_JWT_TENANT_MAP: ${shown(tenant)} can not be a tenant's name`);
  }
  for (const role of new Set(rolesMap?.values())) {
    if (!isRole(role)) problems.push(`SEALOG_JWT_ROLES_MAP: there is no role ${shown(role)}`);
  }
  return problems;
}

// ---- Where claims are ----

type Claim = 'tenant' | 'roles' | 'sites';

const SETTINGS = {
  tenant: 'SEALOG_JWT_TENANT_CLAIM',
  roles: 'SEALOG_JWT_ROLES_CLAIM',
  sites: 'SEALOG_JWT_SITES_CLAIM',
} as const satisfies Record<Claim, string>;

function allSitesOf({ allSites, sitesClaim }: ClaimRules): string | undefined {
  return allSites ?? (sitesClaim === undefined ? ABSENT : undefined);
}

function claimNames({ tenantClaim, rolesClaim, sitesClaim }: ClaimRules): Record<Claim, string> {
  return { tenant: tenantClaim ?? 'tenant', roles: rolesClaim ?? 'roles', sites: sitesClaim ?? 'sites' };
}

function pathsOf(rules: ClaimRules): Record<Claim, Path> {
  const { tenant, roles, sites } = claimNames(rules);
  return { tenant: pathOf(tenant), roles: pathOf(roles), sites: pathOf(sites) };
}

/** RFC 6901 sections 3 and 4. */
function pathOf(name: string): Path {
  if (!name.startsWith('/')) return [name];
  const unescaped = (part: string): string => part.replaceAll('~1', '/').replaceAll('~0', '~');
  return name.slice(1).split('/').map(unescaped);
}

function overlap(a: Path, b: Path): boolean {
  return a.slice(0, b.length).every((name, index) => name === b[index]);
}

/** Undefined where it, or an object on the way to it, is not there. What stands on the way and is no object refuses the token. */
function at(claims: JsonMembers, path: Path): unknown {
  let value: unknown = claims;
  for (const name of path) {
    if (value === undefined) return undefined;
    demand(isJsonObject(value));
    value = Object.hasOwn(value, name) ? value[name] : undefined;
  }
  return value;
}

/**
 * Says whether a claim has a value that stands elsewhere: a distributed claim (OpenID Connect Core section 5.6.2), or groups of Entra ID that
 * were too many for the token (`hasgroups`).
 */
function isToldElsewhere(claims: JsonMembers, [name]: Path): boolean {
  const elsewhere = claims['_claim_names'];
  if (elsewhere !== undefined && (!isJsonObject(elsewhere) || Object.hasOwn(elsewhere, name ?? ''))) return true;
  return name === 'groups' && claims['hasgroups'] !== undefined;
}

function put(claims: Record<string, unknown>, path: Path, value: unknown): void {
  const last = path.at(-1) as string;
  let place = claims;
  for (const name of path.slice(0, -1)) {
    place[name] ??= {};
    place = place[name] as Record<string, unknown>;
  }
  place[last] = value;
}

function untranslated(setting: string, map: ReadonlyMap<string, string> | undefined, value: string): string {
  if (map === undefined) return value;
  const [name] = [...map].find(([, one]) => one === value) ?? [];
  if (name === undefined) throw new SettingsError([`${setting} translates nothing to ${shown(value)}`]);
  return name;
}

// ---- What claims are ----

export function isText(value: unknown): value is string {
  return (
    typeof value === 'string' &&
    value !== '' &&
    value.length <= TEXT_LENGTH_MAX &&
    !/\p{Cc}/u.test(value) &&
    value.isWellFormed()
  );
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every(isText);
}

/** A NumericDate (RFC 7519 section 2): seconds. */
function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 50));
}
