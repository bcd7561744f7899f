/**
 * Who may what: the platform's roles (DESIGN section 7) and the permissions that routes ask for (`config.permission`).
 *
 * The table has every role, also those that may nothing yet: a role that is not in it is unknown and gives nothing.
 * Permissions come with the routes that ask for them.
 */

/** `<thing>:<verb>`, each asked for by at least one route. */
export const PERMISSIONS = [
  'events:write',
  'events:read',
  'streams:read',
  'proofs:read',
  'bundles:read',
  'verifications:run',
  'verifications:read',
] as const;

export type Permission = (typeof PERMISSIONS)[number];

const NOTHING: readonly Permission[] = [];

/**
 * Role → what it may do here. The platform's matrix has the columns *Audit Logs* and *Data Export*; the first four roles
 * hold one of them at most, and reading needs both.
 */
export const ROLES = {
  plant_operator: NOTHING,
  shift_supervisor: NOTHING,
  process_engineer: NOTHING,
  executive_viewer: NOTHING,
  // Reads the sites in the token: nothing as long as search can not hold him to them.
  plant_manager: NOTHING,
  // Reads and administers: comes with the administration.
  it_security_admin: NOTHING,
  auditor: ['events:read', 'streams:read', 'proofs:read', 'bundles:read', 'verifications:run', 'verifications:read'],
  // Finds and proposes erasures: comes with them.
  privacy_officer: NOTHING,
  service: ['events:write'],
  // Tenants, health, recovery; reads no parts.
  operator: NOTHING,
} as const satisfies Record<string, readonly Permission[]>;

export type Role = keyof typeof ROLES;

export function isRole(name: string): name is Role {
  return Object.hasOwn(ROLES, name);
}

/** Returns what the roles may together. Unknown roles are passed over: a token can name roles of other products. */
export function permissionsOf(roles: readonly string[]): ReadonlySet<Permission> {
  const [only] = roles;
  if (roles.length === 1 && only !== undefined) return PERMISSIONS_OF_ONE.get(only) ?? NO_PERMISSIONS;
  return new Set(roles.flatMap((role): readonly Permission[] => (isRole(role) ? ROLES[role] : NOTHING)));
}

const NO_PERMISSIONS: ReadonlySet<Permission> = new Set();
/** Nearly every token has one role. */
const PERMISSIONS_OF_ONE = new Map(Object.entries(ROLES).map(([role, may]) => [role, new Set<Permission>(may)]));
