/**
 * Threads that open blocks and encode their entries for sinks: of a replay nearly all of the work, beside the thread that reads blocks and sends
 * what comes back. They begin with the first blocks that are given to them and end when there are no more.
 *
 * A thread has neither database nor connections, only what it is given: the block and its key, and what the sink is. One that dies fails what
 * waits for it, which goes again, and is started anew by what comes next.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { JsonObject } from '../chain/canonical.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import { EvidenceError } from '../errors.ts';
import type { EncodedEntry, SealedEntries } from './encoded-entries.ts';

/** A sink as a thread is told of it. */
export interface EncodedSink {
  /** Another for another revision. */
  readonly key: string;
  readonly config: unknown;
  readonly secret: JsonObject | undefined;
  /** Of the machine: who sends, in syslog. */
  readonly hostname: string;
}

export interface EncodeAsked extends SealedEntries {
  readonly id: number;
  readonly sink: EncodedSink;
}

export type EncodeAnswer =
  | (PackedEntries & { readonly id: number })
  | { readonly id: number; readonly failure: string; readonly isEvidence: boolean };

/** Encoded entries, one after the other, as they go over: a few buffers move faster than many objects. */
interface PackedEntries {
  readonly firstSeq: number;
  readonly payloads: Uint8Array<ArrayBuffer>;
  /** Where each payload ends; that of an entry that the sink does not want has no bytes. */
  readonly ends: Uint32Array<ArrayBuffer>;
  /** The hashes of the entries that it wants, in hex. */
  readonly hashes: string;
  /** Why the entry behind them can not be encoded, where that is so. */
  readonly poison: string | undefined;
}

interface Waiting {
  readonly stream: string;
  readonly resolve: (entries: EncodedEntry[]) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly waiting: Map<number, Waiting>;
}

/** With more, the one that sends is waited for, and a replay has no claim to all of a machine. One processor alone gains nothing. */
const THREADS_MAX = 2;
/** Each works on one, has one before it, and another is taken. */
const AHEAD_OF_EACH = 3;
/** Longer than a replay waits for its database. A thread that waits holds tens of megabytes; one that begins anew is slow until its code is compiled. */
const IDLE_MS = 5000;

export class EncodeThreads {
  readonly #threads: Thread[] = [];
  readonly #max = availableParallelism() < 2 ? 0 : THREADS_MAX;
  #asked = 0;
  #idle: NodeJS.Timeout | undefined;

  /** How many blocks one who waits for their entries should have given. */
  get ahead(): number {
    return this.#max * AHEAD_OF_EACH;
  }

  /** Throws `EvidenceError` where a block is not what was stored. */
  encode(sink: EncodedSink, sealed: SealedEntries): Promise<EncodedEntry[]> {
    clearTimeout(this.#idle);
    const idle = this.#threads.find(({ waiting }) => waiting.size === 0);
    if (idle === undefined && this.#threads.length < this.#max) this.#threads.push(this.#start());
    const { worker, waiting } = this.#threads.reduce((least, other) =>
      other.waiting.size < least.waiting.size ? other : least,
    );
    const id = this.#asked++;
    const { firstSeq, entries } = sealed.block;
    // In memory of their own, which moves there.
    const records = new Uint8Array(sealed.block.records);
    const parts = new Uint8Array(sealed.block.parts);
    const dataKey = new Uint8Array(sealed.dataKey);
    const asked: EncodeAsked = { ...sealed, block: { firstSeq, entries, records, parts }, dataKey, sink, id };
    return new Promise((resolve, reject) => {
      waiting.set(id, { stream: sealed.stream.name, resolve, reject });
      worker.postMessage(asked, [records.buffer, parts.buffer]);
    });
  }

  async close(): Promise<void> {
    clearTimeout(this.#idle);
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  #start(): Thread {
    const worker = new Worker(new URL('./encode-thread.ts', import.meta.url));
    const waiting = new Map<number, Waiting>();
    const fail = (error: Error): void => {
      const at = this.#threads.findIndex((thread) => thread.worker === worker);
      if (at !== -1) this.#threads.splice(at, 1);
      for (const { reject } of waiting.values()) reject(error);
      waiting.clear();
    };
    worker.on('message', (answer: EncodeAnswer) => {
      const { stream, resolve, reject } = waiting.get(answer.id)!;
      waiting.delete(answer.id);
      if (!('failure' in answer)) resolve(unpackEntries(stream, answer));
      else reject(answer.isEvidence ? new EvidenceError(answer.failure) : new Error(answer.failure));
      if (this.#threads.every((thread) => thread.waiting.size === 0)) this.#endWhenIdle();
    });
    worker.on('error', (error) => fail(error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', () => fail(new Error('a thread that encodes entries ended')));
    // The process need not stay for a thread that waits.
    worker.unref();
    return { worker, waiting };
  }

  #endWhenIdle(): void {
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => {
      for (const { worker } of this.#threads.splice(0)) void worker.terminate();
    }, IDLE_MS).unref();
  }
}

/** Packs what stands in a block from a seq on. */
export function packEntries(firstSeq: number, encoded: readonly EncodedEntry[]): PackedEntries {
  const bytes = encoded.reduce((sum, entry) => sum + (entry.kind === 'message' ? entry.message.payload.length : 0), 0);
  const last = encoded.at(-1);
  const poison = last?.kind === 'poison' ? last.reason : undefined;
  const ends = new Uint32Array(poison === undefined ? encoded.length : encoded.length - 1);
  const payloads = new Uint8Array(bytes);
  let end = 0;
  let hashes = '';
  for (const [index, entry] of encoded.entries()) {
    if (entry.kind === 'poison') break;
    if (entry.kind === 'message') {
      payloads.set(entry.message.payload, end);
      end += entry.message.payload.length;
      hashes += entry.message.hash;
    }
    ends[index] = end;
  }
  return { firstSeq, payloads, ends, hashes, poison };
}

function unpackEntries(stream: string, { firstSeq, payloads, ends, hashes, poison }: PackedEntries): EncodedEntry[] {
  const encoded: EncodedEntry[] = [];
  let [start, hashAt] = [0, 0];
  for (const [index, end] of ends.entries()) {
    const seq = firstSeq + index;
    if (end === start) {
      encoded.push({ seq, kind: 'passed' });
      continue;
    }
    const hash = hashes.slice(hashAt, hashAt + HASH_DIGITS);
    encoded.push({ seq, kind: 'message', message: { stream, seq, hash, payload: payloads.subarray(start, end) } });
    start = end;
    hashAt += HASH_DIGITS;
  }
  if (poison !== undefined) encoded.push({ seq: firstSeq + ends.length, kind: 'poison', reason: poison });
  return encoded;
}

const HASH_DIGITS = 2 * HASH_SIZE;
