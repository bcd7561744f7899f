/** Entries out of the log for a sink: read under row-level security of their tenant, opened with their keys. */
import { setImmediate } from 'node:timers/promises';
import type { StoredBlock } from '../chain/block.ts';
import { canonicalBytes } from '../chain/canonical.ts';
import { openBlock } from '../chain/open-block.ts';
import { type Part, SALT_BYTES } from '../chain/part.ts';
import { EvidenceError, KeyUnavailableError } from '../errors.ts';
import { checkpointsOf } from '../store/checkpoints.ts';
import type { AsTenant } from '../store/database.ts';
import { blockOf, blocksFrom, prunedOf } from '../store/log-reader.ts';
import type { ExportedEntry } from './exported-entry.ts';

export interface SourceStream extends Pick<ExportedEntry, 'stream'> {
  readonly id: number;
  /** When it was last looked at. */
  readonly size: number;
  readonly ask: AsTenant;
}

interface Keys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array }>;
}

/** Of 256 KiB each at most. */
const BLOCKS_A_READ = 16;

/** A block with its key. */
export interface KeyedBlock {
  readonly block: StoredBlock;
  readonly dataKey: Uint8Array;
  /** How many were read with it. */
  readonly together: number;
}

/**
 * Gives the blocks that hold the entries from a seq on, in order, as far as the stream goes now. While blocks are opened the next ones are read
 * already, as long as `isAhead` says so; else each is read when it is asked for. Throws `EvidenceError` where one is not there.
 *
 * What was pruned leaves no hole: a stream's oldest part goes first, and its row says how far. What else is missing was taken by somebody else. Who asks for what comes behind the first that is missing has seen that, and gets what there is.
 */
export async function* blocksToOpen(
  keys: Keys,
  source: SourceStream,
  fromSeq: number,
  isAhead: () => boolean = () => true,
): AsyncGenerator<KeyedBlock, undefined> {
  const { id, size, stream, ask } = source;
  let asked = 0;
  const readFrom = (seq: number) => {
    asked = isAhead() ? BLOCKS_A_READ : 1;
    return ask((database) => blocksFrom(database, id, seq, asked));
  };
  let reading = readFrom(fromSeq);
  let nextSeq = fromSeq;
  /** Throws where what is between the last entry and this place is missing. */
  const mustJoin = async (seq: number): Promise<void> => {
    if (seq <= nextSeq) return;
    const missing = await ask(async (database) => {
      const pruned = await prunedOf(database, id);
      const from = Math.max(nextSeq, pruned);
      if (seq <= from || (from > pruned && (await blockOf(database, id, from - 1)) === undefined)) return undefined;
      return from;
    });
    if (missing !== undefined)
      throw new EvidenceError(`entries ${missing} to ${seq - 1} of ${stream.name} are not stored`);
  };
  const keysOf = async ({ keyId, firstSeq }: StoredBlock): Promise<{ readonly dataKey: Uint8Array } | undefined> => {
    try {
      return await keys.keysById(keyId);
    } catch (error) {
      const mayBePruned = error instanceof KeyUnavailableError && error.problem !== 'unreachable';
      if (mayBePruned && firstSeq < (await ask((database) => prunedOf(database, id)))) return undefined;
      throw error;
    }
  };
  for (;;) {
    const blocks = await reading;
    const last = blocks.at(-1);
    if (last === undefined) {
      await mustJoin(size);
      return;
    }
    const isMore = blocks.length === asked;
    const behind = last.firstSeq + last.entries;
    const isReading = isMore && isAhead();
    if (isReading) {
      reading = readFrom(behind);
      // It may be that nobody asks for them.
      reading.catch(() => {});
    }
    for (const block of blocks) {
      const opened = await keysOf(block);
      // Pruned since it was read.
      if (opened === undefined) continue;
      await mustJoin(block.firstSeq);
      nextSeq = block.firstSeq + block.entries;
      yield { block, dataKey: opened.dataKey, together: blocks.length };
    }
    if (!isMore) {
      await mustJoin(size);
      return;
    }
    if (!isReading) reading = readFrom(behind);
  }
}

/**
 * Gives the entries themselves. Between two blocks whoever shares the thread has his turn. Throws `EvidenceError` where a block is not what was stored,
 * or is not there.
 */
export async function* entriesFrom(keys: Keys, source: SourceStream, fromSeq: number): AsyncGenerator<ExportedEntry[]> {
  const { stream } = source;
  for await (const { block, dataKey } of blocksToOpen(keys, source, fromSeq)) {
    yield openBlock(block, stream.name, dataKey)
      .filter(({ record }) => record.seq >= fromSeq)
      .map((entry) => ({ entry, stream }));
    await setImmediate();
  }
}

/**
 * As `entriesFrom`, of the anchor stream: each tick as far as a checkpoint is signed that covers it, with the newest such checkpoint in
 * `details.checkpoint`. So the receiver holds what was signed, and can show it when the log says something else one day.
 */
export async function* ticksFrom(keys: Keys, source: SourceStream, fromSeq: number): AsyncGenerator<ExportedEntry[]> {
  const [checkpoint] = await source.ask((database) => checkpointsOf(database, [source.id]));
  if (checkpoint === undefined || checkpoint.size <= fromSeq) return;
  const value = canonicalBytes({ checkpoint: checkpoint.note });
  // It is no part of the entry: nobody checks it against the record, and its own signature is what it is worth.
  const details: Part = { name: 'details', salt: new Uint8Array(SALT_BYTES), value };
  for await (const ticks of entriesFrom(keys, source, fromSeq)) {
    yield ticks
      .filter(({ entry }) => entry.record.seq < checkpoint.size)
      .map(({ entry, stream }) => ({ entry: { ...entry, parts: [details] }, stream }));
  }
}
