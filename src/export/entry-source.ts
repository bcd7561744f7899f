/** Entries out of the log for a sink: read under row-level security of their tenant, opened with their keys. */
import { canonicalBytes } from '../chain/canonical.ts';
import { openBlock } from '../chain/open-block.ts';
import { type Part, SALT_BYTES } from '../chain/part.ts';
import { checkpointsOf } from '../store/checkpoints.ts';
import type { AsTenant } from '../store/database.ts';
import { blocksFrom } from '../store/log-reader.ts';
import type { ExportedEntry } from './exported-entry.ts';

export interface SourceStream extends Pick<ExportedEntry, 'stream'> {
  readonly id: number;
  readonly ask: AsTenant;
}

interface Keys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array }>;
}

/** Of 128 KiB each at most. */
const BLOCKS_A_READ = 8;

/** Returns entries from a seq on, in order; none where the stream ends before it. Throws `EvidenceError` where a block is not what was stored. */
export async function readEntriesFrom(keys: Keys, source: SourceStream, fromSeq: number): Promise<ExportedEntry[]> {
  const { id, stream, ask } = source;
  const blocks = await ask((database) => blocksFrom(database, id, fromSeq, BLOCKS_A_READ));
  const found: ExportedEntry[] = [];
  for (const block of blocks) {
    const { dataKey } = await keys.keysById(block.keyId);
    for (const entry of openBlock(block, stream.name, dataKey)) {
      // What a retention has taken away leaves no hole: a stream's oldest part goes first, and the cursor then stands behind it.
      if (entry.record.seq >= fromSeq) found.push({ entry, stream });
    }
  }
  return found;
}

/**
 * As `readEntriesFrom`, of the anchor stream: each tick as far as a checkpoint is signed that covers it, with the newest such checkpoint in
 * `details.checkpoint`. So the receiver holds what was signed, and can show it when the log says something else one day.
 */
export async function readTicksFrom(keys: Keys, source: SourceStream, fromSeq: number): Promise<ExportedEntry[]> {
  const [checkpoint] = await source.ask((database) => checkpointsOf(database, [source.id]));
  if (checkpoint === undefined || checkpoint.size <= fromSeq) return [];
  const value = canonicalBytes({ checkpoint: checkpoint.note });
  // It is no part of the entry: nobody checks it against the record, and its own signature is what it is worth.
  const details: Part = { name: 'details', salt: new Uint8Array(SALT_BYTES), value };
  const ticks = await readEntriesFrom(keys, source, fromSeq);
  return ticks
    .filter(({ entry }) => entry.record.seq < checkpoint.size)
    .map(({ entry, stream }) => ({ entry: { ...entry, parts: [details] }, stream }));
}
