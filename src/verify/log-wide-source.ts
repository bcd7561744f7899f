/** Where verification of a log as a whole reads from: its streams, and what was signed and anchored of them. `store/log-wide-source.ts`. */
import type { LogSource } from './log-source.ts';

export interface LogStream {
  readonly id: number;
  readonly name: string;
}

/** The row of a key statement. */
export interface SourceStatement {
  readonly name: string;
  readonly generation: number;
  readonly vkey: string;
  readonly note: string;
}

/** The row of a stream's newest signed checkpoint. */
export interface SourceCheckpoint {
  readonly size: number;
  readonly root: Uint8Array;
  readonly generation: number;
  /** The signed note. */
  readonly note: string;
  /** How many rows the stream has: one, unless somebody took the key off the table. */
  readonly copies: number;
}

/** The leaf that a tick has of a stream, and where the tick's entry stands: undefined where it is not in the anchor stream. */
export interface SourceLeaf {
  readonly tick: Uint8Array;
  readonly size: number;
  readonly root: Uint8Array;
  readonly place: { readonly epoch: number; readonly seq: number } | undefined;
}

/** A leaf of a tick, in its place. */
export interface TickLeaf {
  readonly position: number;
  readonly hash: Uint8Array;
  readonly of:
    | {
        readonly streamId: number;
        /** Undefined when there is no such stream. */
        readonly stream: string | undefined;
        readonly size: number;
        readonly root: Uint8Array;
        readonly blind: Uint8Array;
      }
    /** Undefined when it is not there. */
    | { readonly evidence: Uint8Array | undefined };
}

/** What an authority or a witness said to a checkpoint of the anchor stream. */
export interface SourceEvidence {
  readonly id: number;
  /** The anchor's name. */
  readonly anchor: string;
  readonly kind: 'rfc3161' | 'witness' | 'folder';
  readonly size: number;
  readonly note: string;
  readonly evidence: Uint8Array;
  readonly certificates: readonly Uint8Array[];
  readonly crls: readonly Uint8Array[];
}

/** An epoch was closed: what its successor's first entry says of it. */
export interface Closing {
  readonly consistentSize: number;
  readonly lastSize: number;
  /** Hex. */
  readonly lastRoot: string;
  readonly successor: string;
  /** For a shorter policy, not by a recovery: all of it counts, and nothing follows its last size. */
  readonly isTurned: boolean;
}

/** An entry's record, and how it stands in the tree of a size. */
export interface EntryProof {
  readonly record: Uint8Array;
  readonly path: readonly Uint8Array[];
}

/** As of `LogSource`: no call holds a snapshot after it returned, and what is wrong with a row never ends a verification. */
export interface LogWideSource {
  /** The deployment's. */
  readonly origin: string;
  /** Whether it shows the whole log, or one tenant's part of it. */
  readonly isWhole: boolean;
  /** The streams in scope, by name. */
  streams(): Promise<readonly LogStream[]>;
  /** The epochs of the anchor stream, first to last, whether they are in scope or not. */
  anchorStreams(): Promise<readonly (LogStream & { readonly epoch: number })[]>;
  /** Streams in scope that have stored rows and no row of their own; those of them that have leaves of ticks. */
  orphans(): Promise<{ readonly stored: readonly number[]; readonly anchored: readonly number[] }>;
  /** The epochs of a tenant's `log_administration`, whether they are in scope or not. */
  administration(tenant: string): Promise<readonly LogStream[]>;
  open(stream: LogStream): LogSource;
  /** The statements of these keys, by generation. */
  keyStatements(names: readonly string[]): Promise<readonly SourceStatement[]>;
  checkpoint(stream: LogStream): Promise<SourceCheckpoint | undefined>;
  /** Leaves of a stream behind this one, by size, then tick. */
  leaves(
    stream: LogStream,
    after: { readonly size: number; readonly tick: Uint8Array } | undefined,
    limit: number,
  ): Promise<readonly SourceLeaf[]>;
  /** Leaves of a tick, by position. */
  tickLeaves(tick: Uint8Array, fromPosition: number, limit: number): Promise<readonly TickLeaf[]>;
  /** The names of all anchors that there is evidence of. */
  anchors(): Promise<readonly string[]>;
  /** Evidence of an anchor for checkpoints of an epoch of the anchor stream, newest first. */
  newestEvidence(anchor: string, epoch: LogStream, limit: number): Promise<readonly SourceEvidence[]>;
  /** Notes that evidence is of, by size, then id. */
  evidenceNotes(
    epoch: LogStream,
    after: { readonly size: number; readonly id: number },
    limit: number,
  ): Promise<readonly Pick<SourceEvidence, 'id' | 'size' | 'note' | 'anchor'>[]>;
  closing(stream: LogStream): Promise<Closing | undefined>;
  /** The entry at `seq` in the tree of `size`, from whatever rows: what comes of it is checked. Throws an EvidenceError. */
  entryProof(stream: LogStream, seq: number, size: number): Promise<EntryProof>;
  /** The consistency path, likewise. */
  consistency(stream: LogStream, from: number, to: number): Promise<readonly Uint8Array[]>;
}
