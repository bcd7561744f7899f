/** What takes entries to a SIEM, and what it may say of them. */
import type { ExportedEntry } from './exported-entry.ts';

/** An entry as it goes out. */
export interface Message {
  /** Its stream, by name. */
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
  /** What `Transport.encode` made of it. */
  readonly payload: Uint8Array;
}

export function messageOf({ entry, stream }: ExportedEntry, payload: Uint8Array): Message {
  return { stream: stream.name, seq: entry.record.seq, hash: entry.hash, payload };
}

/** What became of a message. `refused`: the peer will never take it as it is. */
export type Fate =
  | { readonly kind: 'delivered' }
  | { readonly kind: 'again'; readonly reason: string; readonly afterMs?: number | undefined }
  | { readonly kind: 'refused'; readonly reason: string };

export interface Transport {
  /** Of one batch; a batch has one message at least, whatever its size. */
  readonly batchMessagesMax: number;
  readonly batchBytesMax: number;
  /** A batch may have messages of several streams, those of each in order: what is refused of one keeps no other waiting. */
  readonly mixesStreams?: boolean;
  /** How long to wait before the next batch is put together, so that what comes meanwhile goes with it. */
  readonly restMs?: number;
  /** Throws a TooLongError where the peer's limit is less than the least form of the entry. */
  encode(exported: ExportedEntry): Uint8Array;
  /**
   * Takes messages, in order, to the peer, and returns the fate of each, in the same order. Rejects with a TransportError where nothing is known of any of
   * them: then all go again. What `delivered` is worth depends on the transport: docs/export.md has a table.
   */
  deliver(batch: readonly Message[], signal: AbortSignal): Promise<readonly Fate[]>;
  /** Takes a message that says it is a test to the peer, and returns what the peer made of it, in words. Rejects with a TransportError. */
  test(signal: AbortSignal): Promise<string>;
  close(): void;
}

export type TransportReason =
  | 'address_not_allowed'
  | 'unreachable'
  | 'timeout'
  | 'unauthorized'
  | 'refused'
  | 'protocol'
  | 'stopped';

/** A delivery of which nothing is known. The message is for people: it names host and port, and holds no path, query, secret or payload. */
export class TransportError extends Error {
  override readonly name = 'TransportError';
  readonly reason: TransportReason;
  /** What the peer asked for. */
  readonly retryAfterMs: number | undefined;

  constructor(reason: TransportReason, message: string, retryAfterMs?: number) {
    super(message);
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}
