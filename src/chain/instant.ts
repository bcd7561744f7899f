/** Instants to the nanosecond: an event's `occurredAt` may have nine digits of a second, and a search must not round them away. */

export interface Instant {
  /** Whole milliseconds since 1970. */
  readonly ms: number;
  /** Nanoseconds on top, 0 to 999,999. */
  readonly nanos: number;
}

/** Returns the instant that an RFC 3339 time with an offset names. The text MUST be one that `isTimestamp` takes. */
export function instantOf(text: string): Instant {
  // Date.parse reads the first three digits of a second's fraction and passes over the rest.
  const rest = /\.\d{3}(\d{1,6})/.exec(text)?.[1] ?? '';
  return { ms: Date.parse(text), nanos: Number(rest.padEnd(6, '0')) };
}

/** Negative where `a` is before `b`, 0 where they are the same instant. */
export function compareInstants(a: Instant, b: Instant): number {
  return a.ms - b.ms || a.nanos - b.nanos;
}
