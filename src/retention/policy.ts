/** How long each category is kept, in calendar months, and what repeats and partitions follow from it (DESIGN section 3). */
import type { Category, ClientCategory } from '../chain/category.ts';

/** The promise to every tenant. `log_administration` is kept for ever. */
export const RETENTION_MONTHS: Readonly<Record<ClientCategory, number>> = {
  user_authentication: 12,
  data_access: 12,
  configuration_change: 24,
  data_modification: 24,
  security_event: 36,
  system_operation: 12,
};

/** Returns the months that a category's new entries are kept; undefined = for ever. */
export function retentionMonths(category: Category): number | undefined {
  return category === 'log_administration' || category === 'anchor' ? undefined : RETENTION_MONTHS[category];
}
