/**
 * Making room in forms that can not be cut, such as JSON: whole values are left out, the largest first, and the form says which. Where that is not
 * enough the texts in `source` are cut: names that no service has would else stop the sink for all, and anybody who sends events can write them.
 */
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
  write: (exported: ExportedEntry, omitted: readonly Omittable[]) => string,
): string {
  const whole = write(exported, []);
  // No text has more bytes than three times its UTF-16 units.
  if (whole.length * 3 <= maxBytes || Buffer.byteLength(whole) <= maxBytes) return whole;
  const omitted: Omittable[] = [];
  let bytes = Buffer.byteLength(whole);
  for (const name of inOrderOfLeaving(exported)) {
    omitted.push(name);
    const text = write(exported, omitted.toSorted());
    bytes = Buffer.byteLength(text);
    if (bytes <= maxBytes) return text;
  }
  const least = withShortSource(exported);
  if (least !== undefined) {
    const text = write(least, [...omitted, 'source' as const].toSorted());
    bytes = Buffer.byteLength(text);
    if (bytes <= maxBytes) return text;
  }
  throw new TooLongError(bytes, maxBytes);
}

/** Of each text, in characters; with escapes 96 bytes. Most names are shorter than twice that. */
const SOURCE_TEXT_MAX = 16;

/** Returns undefined where nothing is to be cut. */
function withShortSource({ entry, stream }: ExportedEntry): ExportedEntry | undefined {
  const { record } = entry;
  const source = Object.fromEntries(
    Object.entries(record.source).map(([name, value]) => [
      name,
      typeof value === 'string' && value.length > SOURCE_TEXT_MAX
        ? [...value].slice(0, SOURCE_TEXT_MAX).join('')
        : value,
    ]),
  );
  const isCut = Object.entries(source).some(([name, value]) => value !== record.source[name]);
  return isCut ? { entry: { ...entry, record: { ...record, source } }, stream } : undefined;
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
