/**
 * Who may what: the platform's roles (DESIGN section 7) and the permissions that routes ask for (`config.permission`). docs/access.md
 * shows these tables; a test holds it to them.
 */
import { OWN_TENANT } from '../chain/category.ts';

/**
 * `<thing>:<verb>`, each asked for by at least one route, and where it holds: in a `tenant`, in the `deployment` (the tenant `sealog`, whose
 * log is the deployment's own), or in `both`. So no administrator of a tenant makes himself one of the deployment, and nobody writes
 * into the deployment's own log.
 */
export const PERMISSIONS = {
  'events:write': 'tenant',
  'events:read': 'both',
  'events:export': 'both',
  'streams:read': 'both',
  'proofs:read': 'both',
  'bundles:read': 'both',
  'verifications:run': 'both',
  'verifications:read': 'both',
  'api-keys:read': 'tenant',
  'api-keys:write': 'tenant',
  'tenants:read': 'deployment',
  'tenants:write': 'deployment',
  'rotations:read': 'deployment',
  'rotations:write': 'deployment',
  'sinks:read': 'both',
  'sinks:write': 'both',
  'retention:read': 'both',
  'retention:write': 'both',
  'holds:read': 'both',
  'holds:write': 'both',
  'erasures:read': 'tenant',
  'erasures:write': 'tenant',
} as const satisfies Record<string, 'tenant' | 'deployment' | 'both'>;

export type Permission = keyof typeof PERMISSIONS;

interface RoleRules {
  readonly may: readonly Permission[];
  /** The role gives nothing without sites in the token, to which everything is then held. */
  readonly onlyOfSites?: true;
}

const NOTHING: RoleRules = { may: [] };

/**
 * Role → what it may do here. The platform's matrix has the columns *Audit Logs* and *Data Export*; the first four roles hold one of them
 * at most, and reading needs both.
 */
export const ROLES = {
  plant_operator: NOTHING,
  shift_supervisor: NOTHING,
  process_engineer: NOTHING,
  executive_viewer: NOTHING,
  plant_manager: {
    may: ['events:read', 'events:export', 'streams:read', 'proofs:read', 'verifications:run', 'verifications:read'],
    onlyOfSites: true,
  },
  it_security_admin: {
    may: [
      'events:read',
      'events:export',
      'streams:read',
      'proofs:read',
      'verifications:run',
      'verifications:read',
      'api-keys:read',
      'api-keys:write',
      'rotations:read',
      'rotations:write',
      'sinks:read',
      'sinks:write',
      'retention:read',
      'retention:write',
      'holds:read',
      'holds:write',
    ],
  },
  auditor: {
    may: [
      'events:read',
      'events:export',
      'streams:read',
      'proofs:read',
      'bundles:read',
      'verifications:run',
      'verifications:read',
      'api-keys:read',
      'rotations:read',
      'sinks:read',
      'retention:read',
      'holds:read',
      'erasures:read',
    ],
  },
  // Finds what an erasure is asked for, proposes it, and as another person approves it.
  privacy_officer: { may: ['events:read', 'streams:read', 'erasures:read', 'erasures:write'] },
  service: { may: ['events:write'] },
  // Without events:read a proof shows that an event stands in the log, and not what is in its parts.
  operator: {
    may: [
      'streams:read',
      'proofs:read',
      'verifications:run',
      'verifications:read',
      'tenants:read',
      'tenants:write',
      'rotations:read',
    ],
  },
} as const satisfies Record<string, RoleRules>;

export type Role = keyof typeof ROLES;

export function isRole(name: string): name is Role {
  return Object.hasOwn(ROLES, name);
}

/** Returns what the roles may together in a tenant. Unknown roles are passed over: a token can name roles of other products. */
export function permissionsOf(
  roles: readonly string[],
  tenant: string,
  sites: readonly string[] | undefined,
): ReadonlySet<Permission> {
  const place = tenant === OWN_TENANT ? 'deployment' : 'tenant';
  const may = roles.filter(isRole).flatMap((role): readonly Permission[] => {
    const rules: RoleRules = ROLES[role];
    return rules.onlyOfSites === true && sites === undefined ? [] : rules.may;
  });
  return new Set(may.filter((permission) => PERMISSIONS[permission] === place || PERMISSIONS[permission] === 'both'));
}
