/**
 * `sealog token`: prints a development token, and nothing else. Works while the service runs, and before it ever did; not where an identity
 * provider makes the tokens.
 */
import { parseArgs } from 'node:util';
import { isText } from '../auth/claims.ts';
import { isRole } from '../auth/roles.ts';
import { signToken } from '../auth/tokens.ts';
import { TENANT_PATTERN } from '../chain/category.ts';
import { configuration, tokenOptions } from './environment.ts';
import { orUsage, UsageError } from './usage.ts';

const TTL_SECONDS = 12 * 3600;

export async function tokenCommand(args: string[]): Promise<number> {
  const { values } = orUsage(() =>
    parseArgs({
      args,
      options: {
        role: { type: 'string', multiple: true },
        site: { type: 'string', multiple: true },
        tenant: { type: 'string' },
        subject: { type: 'string' },
      },
    }),
  );
  const roles = (values.role ?? []).flatMap((role) => role.split(','));
  if (roles.length === 0) throw new UsageError('--role is missing');
  for (const role of roles) if (!isRole(role)) throw new UsageError(`there is no role ${role}`);
  const { tenant, site: sites } = values;
  for (const site of sites ?? []) if (!isText(site)) throw new UsageError('a --site must be 1 to 256 characters');
  if (tenant === undefined) throw new UsageError('--tenant is missing');
  if (!TENANT_PATTERN.test(tenant)) throw new UsageError(`${tenant} can not be a tenant's name`);
  const token = await signToken(await tokenOptions(configuration()), {
    tenant,
    roles,
    sites,
    subject: values.subject ?? `dev-${roles[0]}`,
    ttlSeconds: TTL_SECONDS,
  });
  process.stdout.write(`${token}\n`);
  return 0;
}
