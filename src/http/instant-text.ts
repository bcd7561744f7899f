/** Instants of rows, as answers have them. */
import { formatInstant } from '../chain/retain-until.ts';

export function instantText(date: Date): string;
export function instantText(date: Date | null): string | null;
export function instantText(date: Date | null): string | null {
  return date === null ? null : formatInstant(date.getTime());
}
