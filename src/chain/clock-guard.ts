/**
 * The clock guard: a jumped clock would poison every later stamp, because recordedAt never decreases (DESIGN section 4).
 *
 * Refused is: service and database more than 5 minutes apart; a step of the wall clock against the monotonic one by more than
 * that (both on one machine step together, so comparing them with each other shows nothing); a database that is more than
 * that behind what a stream already holds. A step stays refused until the clock is back or the operator, having looked,
 * restarts the service. Slow correction (NTP slewing) passes, since only the last minute is compared.
 *
 * A restart forgets what the clocks were, and both may have been set wrong together. What the log holds was stamped before: a clock that is
 * further ahead of it than a service stands still is refused until somebody says what day it is.
 */

export const CLOCK_TOLERANCE_MS = 5 * 60_000;
/** A plant stands still for weeks, a machine in a cupboard for months; what jumps, jumps by years. What is let through ends by itself once the clock is right and so much time has gone by. */
export const STOOD_STILL_MAX_MS = 183 * 86_400_000;
/** How often the anchor that steps are measured from moves along. Slewing by 5 minutes in one of these does not happen. */
const ANCHOR_AGE_MS = 60_000;

export interface Clocks {
  /** Wall clock of the service, milliseconds since 1970. */
  readonly wall: () => number;
  /** Monotonic clock of the service, milliseconds. */
  readonly monotonic: () => number;
  /** The newest stamp that the log holds; undefined where it is empty, or somebody said what day it is. */
  readonly newest?: number | undefined;
}

export class ClockGuard {
  readonly #clocks: Clocks;
  #anchor: { wall: number; monotonic: number };
  /** When the database's clock was last found right, or was before this process was there. */
  #seen: number | undefined;

  constructor(clocks: Clocks) {
    this.#clocks = clocks;
    this.#seen = clocks.newest;
    this.#anchor = { wall: clocks.wall(), monotonic: clocks.monotonic() };
  }

  /** Returns why nothing may be stamped now, or undefined. `database` is its clock, `newest` the newest stamp of the streams at hand. */
  objection(database: number, newest: number): string | undefined {
    const wall = this.#clocks.wall();
    const monotonic = this.#clocks.monotonic();
    const step = wall - this.#anchor.wall - (monotonic - this.#anchor.monotonic);
    if (Math.abs(step) > CLOCK_TOLERANCE_MS) {
      return `the service's clock stepped by ${seconds(step)}: set it right, or restart the service if it is right now`;
    }
    if (monotonic - this.#anchor.monotonic > ANCHOR_AGE_MS) this.#anchor = { wall, monotonic };
    if (Math.abs(database - wall) > CLOCK_TOLERANCE_MS)
      return `the clocks of service and database are ${seconds(database - wall)} apart`;
    if (newest - database > CLOCK_TOLERANCE_MS)
      return `the database's clock is ${seconds(newest - database)} behind what the log already holds`;
    if (this.#seen !== undefined && database - this.#seen > STOOD_STILL_MAX_MS)
      return `the clock is ${Math.round((database - this.#seen) / 86_400_000)} days ahead of the newest entry: where it is right, start once with SEALOG_CLOCK_CONFIRMED, the date of today`;
    if (this.#seen !== undefined) this.#seen = Math.max(this.#seen, database);
    return undefined;
  }
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1000)} s`;
}
