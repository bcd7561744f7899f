/**
 * What a restored log lacks, by what others hold of it: checkpoints that were signed, the signer's own record, receipts. A backup is older than
 * what came after it; how much that is can only be said by somebody who was there.
 */

/** That a stream had so many entries. */
export interface Statement {
  readonly stream: string;
  readonly size: number;
  /** Who says so, in words. */
  readonly by: string;
}

/** Entries from `from` up to, not including, `to`. */
export interface MissingEntries {
  readonly stream: string;
  readonly from: number;
  readonly to: number;
  /** Who knows of the last of them. */
  readonly by: string;
}

/** Returns what is missing, by stream: as far as the statement that goes furthest says. */
export function missingEntries(sizes: ReadonlyMap<string, number>, statements: Iterable<Statement>): MissingEntries[] {
  const missing = new Map<string, MissingEntries>();
  for (const { stream, size, by } of statements) {
    const from = sizes.get(stream) ?? 0;
    if (size > Math.max(from, missing.get(stream)?.to ?? 0)) missing.set(stream, { stream, from, to: size, by });
  }
  return [...missing.values()].sort((a, b) => (a.stream < b.stream ? -1 : 1));
}
