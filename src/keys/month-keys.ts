/**
 * Month keys wrap data keys and live in the key service alone, never in PostgreSQL or its backups: destroying one at expiry
 * makes everything sealed under it unreadable, wherever a copy of it lies (DESIGN section 5, docs/keys.md).
 *
 * A month is the drop month in decimal, or `for-ever`. Its key has generations: the first is named like the month,
 * `202703`, later ones `202703.2`, `202703.3`…; the name is stored with whatever it wrapped.
 */
import assert from 'node:assert/strict';
import { KEPT_FOR_EVER } from '../chain/retain-until.ts';

/** What a wrapped key is bound to: it opens for this stream and drop month only. */
export interface KeyContext {
  readonly stream: string;
  readonly dropMonth: number;
}

/** A wrapped data key, and the name of the month key that opens it. */
export interface WrappedForm {
  readonly monthKey: string;
  readonly wrapped: Uint8Array;
}

export interface WrapOptions {
  /** Of the month key; by default the first. */
  readonly generation?: number;
  /** Something was wrapped under this month key before: where it is not there, it was lost, and MUST NOT be made anew. */
  readonly isKnown?: boolean;
}

/** What became of a key that was destroyed. */
export interface Removal {
  /** Until when an administrator of the key service could bring it back, as the service says it; undefined = nobody can. */
  readonly recoverableUntil?: string;
}

export interface MonthKeys {
  /** Wraps a data key under the month key of its drop month, which is made when there is none and never was. */
  wrap(dataKey: Uint8Array, context: KeyContext, options?: WrapOptions): Promise<WrappedForm>;
  /** Opens what `wrap` returned. Throws `KeyUnavailableError` when the month key can not be had or is not the one that wrapped it. */
  unwrap(monthKey: string, wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array>;
  /**
   * Destroys the key of a month for good, in all its generations: once this has resolved, `unwrap` says that it is destroyed, and `wrap`
   * refuses the month for ever. May be called again. What is kept for ever has no key that ends: it is refused.
   */
  destroy(monthKey: string): Promise<Removal>;
  /** Destroys one generation of a month key, when nothing needs it any more; the others stay. May be called again. */
  retire(monthKey: string): Promise<Removal>;
  close(): void;
}

export interface MonthKeyName {
  /** `202703`, or `for-ever`. */
  readonly month: string;
  readonly generation: number;
}

/** Reads the name of a month key; undefined where it is none. Names come from the database, which is not trusted with a path or an address. */
export function parseMonthKey(name: string): MonthKeyName | undefined {
  const [, month, generation] = /^(\d{4,5}(?:0[1-9]|1[0-2])|for-ever)(?:\.([2-9]|[1-9]\d{1,5}))?$/.exec(name) ?? [];
  return month === undefined ? undefined : { month, generation: Number(generation ?? 1) };
}

export function monthKeyName(month: string, generation: number): string {
  assert(Number.isSafeInteger(generation) && generation >= 1, 'generations count from 1');
  return generation === 1 ? month : `${month}.${generation}`;
}

/** Returns the month of a drop month, as names of keys have it. */
export function monthOf(dropMonth: number): string {
  return dropMonth === KEPT_FOR_EVER ? 'for-ever' : String(dropMonth);
}
