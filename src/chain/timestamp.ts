/**
 * RFC 3339 timestamps as Sealog takes them (DESIGN section 3: "`occurredAt` is RFC 3339 with an offset, hashed and given
 * back as sent").
 *
 * The grammar of RFC 3339 section 5.6, narrowed where two readers could understand two things:
 * - `T` and `Z` in upper case, no space instead of `T`;
 * - one to nine digits of a second, since nobody downstream keeps more;
 * - a real date and time: days of the month, leap years, no hour 24;
 * - no second 60. A leap second has no instant of its own in UTC clocks, PostgreSQL moves it into the next minute, and
 *   what sorts before what would depend on the reader. Senders write 59 with a fraction;
 * - `-00:00` ("offset unknown", RFC 3339 section 4.3) is taken;
 * - the year is one of 0001 to 9999, as written and in UTC, so that every part of the system can hold it.
 *
 * Written by hand over character codes because it runs for each event: half the time of a regular expression and `Date`,
 * which would take 30 February for 2 March besides.
 */

const ZERO = 48;
const DAYS = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/** Says whether `text` is a timestamp that Sealog takes. */
export function isTimestamp(text: string): boolean {
  const length = text.length;
  if (length < 20 || length > 35) return false;
  if (text[4] !== '-' || text[7] !== '-' || text[10] !== 'T' || text[13] !== ':' || text[16] !== ':') return false;

  const year = two(text, 0) * 100 + two(text, 2);
  const month = two(text, 5);
  const day = two(text, 8);
  const hour = two(text, 11);
  const minute = two(text, 14);
  const second = two(text, 17);
  // A pair that is no two digits is NaN, and NaN passes none of these.
  if (!(year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= daysIn(year, month))) return false;
  if (!(hour <= 23 && minute <= 59 && second <= 59)) return false;

  let at = 19;
  if (text[at] === '.') {
    do at += 1;
    while (digit(text, at) >= 0);
    if (at === 20 || at > 29) return false;
  }

  if (text[at] === 'Z') return at + 1 === length;
  if (at + 6 !== length || text[at + 3] !== ':') return false;
  const sign = text[at] === '+' ? 1 : text[at] === '-' ? -1 : 0;
  const offsetHour = two(text, at + 1);
  const offsetMinute = two(text, at + 4);
  if (sign === 0 || !(offsetHour <= 23 && offsetMinute <= 59)) return false;

  // Only the first and the last day of the range can leave it when moved to UTC.
  const utcMinute = hour * 60 + minute - sign * (offsetHour * 60 + offsetMinute);
  if (year === 1 && month === 1 && day === 1) return utcMinute >= 0;
  if (year === 9999 && month === 12 && day === 31) return utcMinute < 24 * 60;
  return true;
}

/** The two digits at `at` as a number, NaN where they are not two digits. */
function two(text: string, at: number): number {
  const tens = digit(text, at);
  const ones = digit(text, at + 1);
  return tens < 0 || ones < 0 ? Number.NaN : tens * 10 + ones;
}

/** The digit at `at`, or -1 (also past the end). */
function digit(text: string, at: number): number {
  const value = text.charCodeAt(at) - ZERO;
  return value >= 0 && value <= 9 ? value : -1;
}

function daysIn(year: number, month: number): number {
  if (month === 2 && year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)) return 29;
  return DAYS[month] as number;
}
