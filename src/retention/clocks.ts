/**
 * Whether the clocks can be relied on for deleting (docs/retention.md, Clocks). A clock that jumps forward must never delete anything, and a
 * single clock can not say of itself that it jumped: so each one is held to another.
 *
 * - Service and database, and each against its own steps: as for stamping (`chain/clock-guard.ts`).
 * - Where an authority or a witness states times: the database's clock against the last of them, which must not be old either.
 * - Else: the database's clock against itself, look by look. A gap between two looks is a stop of the service or a jump of the clock, and
 *   nobody here can tell which; so pruning waits for a person who says what day it is.
 */
import { CLOCK_TOLERANCE_MS } from '../chain/clock-guard.ts';
import { formatInstant } from '../chain/retain-until.ts';

const DAY_MS = 86_400_000;
/** Without an outside time: the longest gap between two looks that says nothing, and so much later than it might a month goes. */
export const GAP_MS = 3 * DAY_MS;
/** Anchors are had every few minutes or hours; after so long without, an outside time says nothing about today. */
const OUTSIDE_AGE_MAX_MS = 2 * DAY_MS;
/** What a person reads elsewhere has no seconds. */
export const CONFIRMED_WITHIN_MS = DAY_MS;

export interface ClockFacts {
  /** The database's clock, milliseconds since 1970; undefined where it does not answer. */
  readonly now: number | undefined;
  /** What the guard of stamps says. */
  readonly guard: (now: number) => string | undefined;
  /** Whether outside times are had here, and the last: what was stated, and the database's clock when it was recorded. */
  readonly hasOutside: boolean;
  readonly lastOutside: { readonly statedMs: number; readonly recordedMs: number } | undefined;
  /** Since when nobody vouches for the database's clock. */
  readonly doubtedSince: number | undefined;
}

/** Returns why nothing may be deleted now, or undefined. */
export function clockObjection({ now, guard, hasOutside, lastOutside, doubtedSince }: ClockFacts): string | undefined {
  if (now === undefined) return 'the database does not answer';
  const objection = guard(now);
  if (objection !== undefined) return objection;
  if (!hasOutside) {
    if (doubtedSince === undefined) return undefined;
    return `the clock went on by more than ${GAP_MS / DAY_MS} days since ${formatInstant(doubtedSince)}, or back, and nobody saw it: confirm the date`;
  }
  if (lastOutside === undefined) return 'no authority and no witness has stated a time yet';
  const { statedMs, recordedMs } = lastOutside;
  if (Math.abs(statedMs - recordedMs) > CLOCK_TOLERANCE_MS)
    return `the database's clock was ${formatInstant(recordedMs)} when ${formatInstant(statedMs)} was stated outside`;
  const age = now - recordedMs;
  if (age > OUTSIDE_AGE_MAX_MS || age < -CLOCK_TOLERANCE_MS)
    return `the last time that was stated outside is of ${formatInstant(recordedMs)}, and it is ${formatInstant(now)} here`;
  return undefined;
}

/** Says whether outside times are to be had: they are configured here, or were had lately by whoever anchors. */
export function hasOutsideTime(
  isConfigured: boolean,
  last: ClockFacts['lastOutside'],
  now: number | undefined,
): boolean {
  return isConfigured || (last !== undefined && now !== undefined && Math.abs(now - last.statedMs) < 7 * DAY_MS);
}
