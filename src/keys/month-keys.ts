/**
 * Month keys wrap data keys and live in the key service alone, never in PostgreSQL or its backups: destroying one at expiry
 * makes everything sealed under it unreadable, wherever a copy of it lies (DESIGN section 5).
 */

/** What a wrapped key is bound to: it opens for this stream and drop month only. */
export interface KeyContext {
  readonly stream: string;
  readonly dropMonth: number;
}

export interface MonthKeys {
  /** Wraps a data key under the month key of its drop month, which is made when there is none. */
  wrap(dataKey: Uint8Array, context: KeyContext): Promise<{ monthKey: string; wrapped: Uint8Array }>;
  /** Opens what `wrap` returned. Throws `KeyUnavailableError` when the month key can not be had or is not the one that wrapped it. */
  unwrap(monthKey: string, wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array>;
}
