/**
 * What becomes of events without their category's evidence, remembered. It is asked only when such an event comes, so what tenants whose
 * events are complete pay for it is nothing. A change holds at once on the replica that made it, and within 5 s on every other.
 */
import type { ClientCategory } from '../chain/category.ts';

export type EvidenceRule = 'refuse' | 'flag';

const FRESH_MS = 5000;
/** The one that was asked for first goes first. */
const REMEMBERED_MAX = 10_000;

export class EvidenceRules {
  readonly #find: (tenant: string, category: ClientCategory) => Promise<EvidenceRule>;
  readonly #known = new Map<string, { readonly rule: Promise<EvidenceRule>; readonly until: number }>();

  /** `find` rejects with a Problem where the database does not answer. */
  constructor({ find }: { readonly find: (tenant: string, category: ClientCategory) => Promise<EvidenceRule> }) {
    this.#find = find;
  }

  of(tenant: string, category: ClientCategory): Promise<EvidenceRule> {
    const key = `${tenant}/${category}`;
    const known = this.#known.get(key);
    if (known !== undefined && performance.now() < known.until) return known.rule;
    const rule = this.#find(tenant, category);
    this.#remember(key, rule);
    rule.catch(() => {
      if (this.#known.get(key)?.rule === rule) this.#known.delete(key);
    });
    return rule;
  }

  /** Notes a rule that was set here. */
  put(tenant: string, category: ClientCategory, rule: EvidenceRule): void {
    this.#remember(`${tenant}/${category}`, Promise.resolve(rule));
  }

  #remember(key: string, rule: Promise<EvidenceRule>): void {
    this.#known.delete(key);
    this.#known.set(key, { rule, until: performance.now() + FRESH_MS });
    if (this.#known.size > REMEMBERED_MAX) this.#known.delete(this.#known.keys().next().value ?? key);
  }
}
