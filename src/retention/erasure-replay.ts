/**
 * Erases again in a database that was restored, before the signer lets it in: until then nobody appends, and so nobody reads, since every read
 * leaves an entry. What the ledger lists and the database says is erased costs a look; the rest is sealed anew, block by block.
 */
import type { Kysely } from 'kysely';
import type { StoredBlock } from '../chain/block.ts';
import type { ErasedEntry } from '../chain/certificate.ts';
import type { PartName } from '../chain/part.ts';
import { blockHolding, erasedOf, type ResealedParts, streamIds } from '../store/erasures.ts';
import type { Tables } from '../store/tables.ts';
import { keysUnlessDestroyed } from './erasure-search.ts';
import { resealWithout } from './reseal.ts';

export interface ReplayDeps {
  /** The ledger's. */
  readonly lines: readonly { readonly certificate: string; readonly entries: readonly ErasedEntry[] }[];
  readonly database: Kysely<Tables>;
  readonly keys: { keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }> };
  readonly log: { info(facts: object, message: string): void };
}

/** In the signer's name; false where the block is another by now. */
export type EraseAgain = (
  certificate: string,
  entries: readonly { readonly seq: number; readonly parts: readonly PartName[] }[],
  block: Pick<StoredBlock, 'firstSeq' | 'dropMonth'> & { readonly streamId: number },
  parts: ResealedParts,
) => Promise<boolean>;

/** Throws where anything could not be erased: the database must not be let in. */
export async function replayErasures(deps: ReplayDeps, erase: EraseAgain): Promise<void> {
  const { lines, database, keys, log } = deps;
  let blocks = 0;
  for (const { certificate, entries } of lines) {
    const ids = await streamIds(database, [...new Set(entries.map(({ stream }) => stream))]);
    for (const [name, own] of Map.groupBy(entries, ({ stream }) => stream)) {
      // A stream, or an entry, that the database does not have is none that it could serve.
      const streamId = ids.get(name)?.id;
      if (streamId === undefined) continue;
      const seqs = own.map(({ seq }) => seq);
      const rows = await erasedOf(database, streamId, seqs);
      const done = new Set(rows.filter((row) => row.certificate === certificate).map(({ seq }) => seq));
      const chosen = new Map(own.filter(({ seq }) => !done.has(seq)).map(({ seq, parts }) => [seq, parts]));
      while (chosen.size > 0) {
        const [seq] = chosen.keys();
        const block = await blockHolding(database, streamId, seq!);
        const inBlock = block === undefined ? [seq!] : [...chosen.keys()].filter((one) => isIn(block, one));
        const opened = block === undefined ? undefined : await keysUnlessDestroyed(keys, block.keyId);
        const resealed = block && opened && resealWithout(block, name, opened, chosen);
        if (block !== undefined && resealed !== undefined) {
          const named = inBlock.map((one) => ({ seq: one, parts: chosen.get(one)! }));
          if (!(await erase(certificate, named, { ...block, streamId }, resealed)))
            throw new Error('a block changed while it was erased again');
          blocks += 1;
        }
        for (const one of inBlock) chosen.delete(one);
      }
    }
  }
  if (blocks > 0) log.info({ blocks }, 'erased again, in a database that is older than the erasure');
}

function isIn({ firstSeq, entries }: StoredBlock, seq: number): boolean {
  return seq >= firstSeq && seq < firstSeq + entries;
}
