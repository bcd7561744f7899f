/** How long each category is kept, in calendar months, where a tenant's policy says nothing else (docs/retention.md). */
import type { Category, ClientCategory } from '../chain/category.ts';

/** `log_administration` is kept for ever. The database has the same numbers (migrations/0010_retention_policy.sql). */
export const RETENTION_MONTHS: Readonly<Record<ClientCategory, number>> = {
  user_authentication: 12,
  data_access: 12,
  configuration_change: 24,
  data_modification: 24,
  security_event: 36,
  system_operation: 12,
};

/** A tenant's policy is not shorter than this, unless the operator lowered it (`SEALOG_RETENTION_FLOORS`). */
export function floorOf(
  category: ClientCategory,
  floors: { readonly [category in ClientCategory]?: number | undefined },
): number {
  return floors[category] ?? RETENTION_MONTHS[category];
}

/** Returns the months that a category's entries are kept by default; undefined = for ever. */
export function retentionMonths(category: Category): number | undefined {
  return category === 'log_administration' || category === 'anchor' ? undefined : RETENTION_MONTHS[category];
}
