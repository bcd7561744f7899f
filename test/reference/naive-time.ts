/** Times and retention, written from docs/format.md sections 4 and 16 alone. An instant is milliseconds since 1970. */

/** `YYYY-MM-DDThh:mm:ss.sssZ` of an instant. */
export function timeText(instant: number): string {
  return new Date(instant).toISOString();
}

/** The instant of one of Sealog's own times. Throws for another form, or a date that does not exist. */
export function ownInstant(text: string): number {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(text)) throw new Error('not 24 characters in UTC');
  const instant = clientInstant(text);
  if (instant < 0) throw new Error('before 1970');
  return instant;
}

/** The instant of an `occurredAt`, rounded down to a millisecond. Throws for what section 4 does not take. */
export function clientInstant(text: string): number {
  const form = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))$/;
  const found = form.exec(text);
  if (found === null) throw new Error('not RFC 3339');
  const [year, month, day, hour, minute, second] = found.slice(1, 7).map(Number) as [...Six];
  if (year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month)) throw new Error('no such date');
  if (hour > 23 || minute > 59 || second > 59) throw new Error('no such time');
  const milliseconds = Number((found[7] ?? '').padEnd(3, '0').slice(0, 3));
  const [offsetHour, offsetMinute] = [Number(found[9] ?? 0), Number(found[10] ?? 0)];
  if (offsetHour > 23 || offsetMinute > 59) throw new Error('no such offset');
  const offset = (found[8] === '-' ? -1 : 1) * (offsetHour * 60 + offsetMinute);
  const minutes = (daysSince1970(year, month, day) * 24 + hour) * 60 + minute - offset;
  const instant = (minutes * 60 + second) * 1000 + milliseconds;
  if (instant < YEAR_1 || instant >= YEAR_10000) throw new Error('outside the years 0001 to 9999 in UTC');
  return instant;
}

/** The same day and time of day some months later; the last day of the month where that is too short. */
export function addMonths(instant: number, months: number): number {
  const text = timeText(instant);
  const count = Number(text.slice(0, 4)) * 12 + Number(text.slice(5, 7)) - 1 + months;
  const [year, month] = [Math.floor(count / 12), (count % 12) + 1];
  const day = Math.min(Number(text.slice(8, 10)), daysIn(year, month));
  return ownInstant(`${year}-${two(month)}-${two(day)}${text.slice(10)}`);
}

/** The month after the one of `retainUntil` as year · 100 + month; 0 for what is kept for ever. */
export function dropMonth(retainUntil: number | null): number {
  if (retainUntil === null) return 0;
  const [year, month] = [Number(timeText(retainUntil).slice(0, 4)), Number(timeText(retainUntil).slice(5, 7))];
  return month === 12 ? (year + 1) * 100 + 1 : year * 100 + month + 1;
}

type Six = [number, number, number, number, number, number];

function two(number: number): string {
  return String(number).padStart(2, '0');
}

function isLeapYear(year: number): boolean {
  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
}

function daysIn(year: number, month: number): number {
  if (month === 2) return isLeapYear(year) ? 29 : 28;
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31;
}

/** Counts year by year and month by month, as one would on paper. */
function daysSince1970(year: number, month: number, day: number): number {
  let days = day - 1;
  for (let m = 1; m < month; m += 1) days += daysIn(year, m);
  for (let y = 1970; y < year; y += 1) days += isLeapYear(y) ? 366 : 365;
  for (let y = year; y < 1970; y += 1) days -= isLeapYear(y) ? 366 : 365;
  return days;
}

const YEAR_1 = daysSince1970(1, 1, 1) * 86_400_000;
const YEAR_10000 = daysSince1970(10_000, 1, 1) * 86_400_000;
