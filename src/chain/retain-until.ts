/**
 * Calendar arithmetic of retention: until when an entry is kept, and in which month its partition may be dropped.
 * All times are UTC.
 */
import assert from 'node:assert/strict';

/** `drop_month` is `year * 100 + month` of the first month in which everything stored under it may be dropped, or this. */
export const KEPT_FOR_EVER = 0;

/** The largest instant that `YYYY-MM-DDThh:mm:ss.sssZ` can write: a clock beyond it is broken. */
const INSTANT_MAX_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** Returns an instant (milliseconds since 1970) as `YYYY-MM-DDThh:mm:ss.sssZ`, the only form in which Sealog writes times. */
export function formatInstant(ms: number): string {
  assert(Number.isSafeInteger(ms) && ms >= 0 && ms <= INSTANT_MAX_MS, 'instant out of range');
  return new Date(ms).toISOString();
}

/** Returns the milliseconds of an instant that `formatInstant` wrote, or undefined when the text is anything else. */
export function parseInstant(text: string): number | undefined {
  if (text.length !== 24 || !text.endsWith('Z')) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) || ms < 0 || new Date(ms).toISOString() !== text ? undefined : ms;
}

/** Returns the instant `months` calendar months later, clamped to the month's end (31 January + 1 = 28 or 29 February). */
export function addMonths(ms: number, months: number): number {
  const from = new Date(ms);
  const day = from.getUTCDate();
  const to = new Date(ms);
  to.setUTCDate(1);
  to.setUTCMonth(from.getUTCMonth() + months);
  const lastDay = new Date(Date.UTC(to.getUTCFullYear(), to.getUTCMonth() + 1, 0)).getUTCDate();
  to.setUTCDate(Math.min(day, lastDay));
  return to.getTime();
}

/** Returns the month in which a partition with this `retainUntil` may be dropped: the one after it ends. */
export function dropMonthOf(retainUntil: number | undefined): number {
  if (retainUntil === undefined) return KEPT_FOR_EVER;
  const date = new Date(retainUntil);
  return nextMonth(date.getUTCFullYear() * 100 + date.getUTCMonth() + 1);
}

/** Returns the month after a `year * 100 + month`. */
export function nextMonth(month: number): number {
  return month % 100 === 12 ? month + 89 : month + 1;
}
