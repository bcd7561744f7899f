/** Making room in forms that can not be cut, such as JSON: whole values are left out, the largest first, and the form says which. */
import { computedDiff, type Omittable } from '../chain/entry-view.ts';
import { isOpen } from '../chain/part.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { TooLongError } from './too-long-error.ts';

/**
 * Returns what `write` makes in at most `maxBytes` of UTF-8. Who did it and to what goes last, after everything else was left out.
 * Throws `TooLongError`.
 */
export function writeWithin(
  exported: ExportedEntry,
  maxBytes: number,
  write: (omitted: readonly Omittable[]) => string,
): string {
  const whole = write([]);
  // No text has more bytes than three times its UTF-16 units.
  if (whole.length * 3 <= maxBytes || Buffer.byteLength(whole) <= maxBytes) return whole;
  const omitted: Omittable[] = [];
  let bytes = Buffer.byteLength(whole);
  for (const name of inOrderOfLeaving(exported)) {
    omitted.push(name);
    const text = write(omitted.toSorted());
    bytes = Buffer.byteLength(text);
    if (bytes <= maxBytes) return text;
  }
  throw new TooLongError(bytes, maxBytes);
}

function inOrderOfLeaving({ entry, stream }: ExportedEntry): Omittable[] {
  const sizes: { name: Omittable; isLast: boolean; bytes: number }[] = entry.parts
    .filter(isOpen)
    .map(({ name, value }) => ({ name, isLast: name === 'actor' || name === 'target', bytes: value.length }));
  const diff = computedDiff(entry, stream.category);
  if (diff !== undefined) sizes.push({ name: 'diff', isLast: false, bytes: Buffer.byteLength(JSON.stringify(diff)) });
  sizes.sort((a, b) => Number(a.isLast) - Number(b.isLast) || b.bytes - a.bytes);
  return sizes.map(({ name }) => name);
}
