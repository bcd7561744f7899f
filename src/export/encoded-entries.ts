/**
 * Entries of a stream as a sink gets them. Opening and encoding them is nearly all of the work of a replay, so whole blocks go to threads
 * (encode-threads.ts), some ahead of their turn, and what comes back is given in the log's order. Who only keeps up with the log has a block or
 * two at a time, which are encoded here and at once.
 */
import { setImmediate } from 'node:timers/promises';
import { type OpenableBlock, openBlock } from '../chain/open-block.ts';
import { EvidenceError } from '../errors.ts';
import type { KeyedBlock } from './entry-source.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { TooLongError } from './too-long-error.ts';
import { type Message, messageOf, type Transport } from './transport.ts';

/** What a sink makes of an entry. */
export type EncodedEntry = { readonly seq: number } & (
  | { readonly kind: 'message'; readonly message: Message }
  /** The sink does not want it. */
  | { readonly kind: 'passed' }
  /** It can not be encoded: nothing stands behind it. */
  | { readonly kind: 'poison'; readonly reason: string }
);

/** What of a sink says how entries are encoded. */
export interface EntryEncoder {
  readonly transport: Pick<Transport, 'encode'>;
  /** Says whether the sink wants an entry, by its record. */
  readonly wants: (exported: ExportedEntry) => boolean;
}

/** A block to be opened, from a seq on. */
export interface SealedEntries {
  readonly block: OpenableBlock;
  readonly stream: ExportedEntry['stream'];
  readonly dataKey: Uint8Array;
  readonly fromSeq: number;
}

/** Throws `EvidenceError` where the block is not what was stored. */
export function encodeBlock(encoder: EntryEncoder, { block, stream, dataKey, fromSeq }: SealedEntries): EncodedEntry[] {
  const entries = openBlock(block, stream.name, dataKey).filter(({ record }) => record.seq >= fromSeq);
  return encodeEntries(
    encoder,
    entries.map((entry) => ({ entry, stream })),
  );
}

export function encodeEntries({ transport, wants }: EntryEncoder, entries: readonly ExportedEntry[]): EncodedEntry[] {
  const encoded: EncodedEntry[] = [];
  for (const exported of entries) {
    const { seq } = exported.entry.record;
    if (!wants(exported)) {
      encoded.push({ seq, kind: 'passed' });
      continue;
    }
    try {
      encoded.push({ seq, kind: 'message', message: messageOf(exported, transport.encode(exported)) });
    } catch (error) {
      if (!(error instanceof TooLongError || error instanceof EvidenceError)) throw error;
      encoded.push({ seq, kind: 'poison', reason: error.message });
      break;
    }
  }
  return encoded;
}

/** Blocks that were read together, from which on threads pay: fewer are encoded before a thread has begun. */
const TOGETHER_MIN = 8;

export interface Encoding {
  readonly encoder: EntryEncoder;
  /** Encodes in another thread. */
  readonly elsewhere: (sealed: SealedEntries) => Promise<EncodedEntry[]>;
  /** How many blocks may be there now beside the one whose turn it is; 0 where there is no other thread. */
  readonly ahead: () => number;
}

/** Gives the entries of blocks, in their order. What fails, fails when its turn comes. */
export async function* encodedFrom(
  { encoder, elsewhere, ahead }: Encoding,
  blocks: AsyncIterable<KeyedBlock>,
  stream: ExportedEntry['stream'],
  fromSeq: number,
): AsyncGenerator<EncodedEntry[]> {
  const source = blocks[Symbol.asyncIterator]();
  const waiting: Promise<EncodedEntry[]>[] = [];
  const wait = (encoded: Promise<EncodedEntry[]>): void => {
    // It may be that nobody asks for it.
    encoded.catch(() => {});
    waiting.push(encoded);
  };
  try {
    for (;;) {
      const next = await source.next().catch((error: unknown) => ({ error }));
      if ('error' in next) {
        wait(Promise.reject(next.error));
        break;
      }
      if (next.done === true) break;
      const { block, dataKey, together } = next.value;
      const sealed = { block, stream, dataKey, fromSeq };
      if (ahead() > 0 && together >= TOGETHER_MIN) {
        wait(elsewhere(sealed));
        if (waiting.length > ahead()) yield await waiting.shift()!;
      } else {
        while (waiting.length > 0) yield await waiting.shift()!;
        yield encodeBlock(encoder, sealed);
        // Between two blocks whoever shares the thread has his turn.
        await setImmediate();
      }
    }
    while (waiting.length > 0) yield await waiting.shift()!;
  } finally {
    await source.return?.();
  }
}
