/**
 * The categories of events (DESIGN sections 3 and 4): the six that clients send, and the log's own.
 *
 * Each (tenant, category) is one stream with one retention rule, so that what expires is always its oldest part.
 */

export const CLIENT_CATEGORIES = [
  'user_authentication',
  'data_access',
  'configuration_change',
  'data_modification',
  'security_event',
  'system_operation',
] as const;

export type ClientCategory = (typeof CLIENT_CATEGORIES)[number];

/**
 * `log_administration` belongs to the log itself: written by Sealog only, kept for ever. So is `anchor`, of which there is one stream:
 * `sealog/anchor`.
 */
export type Category = ClientCategory | 'log_administration' | 'anchor';

export const CATEGORIES: readonly Category[] = [...CLIENT_CATEGORIES, 'log_administration', 'anchor'];

export const OUTCOMES = ['success', 'failure', 'unknown'] as const;

export type Outcome = (typeof OUTCOMES)[number];

/** Tenant names, also the first part of a stream's name. `sealog` is reserved for the deployment's own streams. */
export const TENANT_PATTERN = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** The tenant of the deployment's own streams. */
export const OWN_TENANT = 'sealog';

/** Returns the stream's name: `<tenant>/<category>`, from its second epoch on `<tenant>/<category>/e2`. */
export function streamName(tenant: string, category: Category, epoch: number): string {
  return epoch === 1 ? `${tenant}/${category}` : `${tenant}/${category}/e${epoch}`;
}
