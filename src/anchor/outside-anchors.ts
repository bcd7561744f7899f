/** Puts the outside anchors of the operator's file together, over the stored checkpoints of the anchor stream. */
import type { Kysely } from 'kysely';
import type pg from 'pg';
import { decodeCheckpoint } from '../chain/checkpoint.ts';
import { consistencyNodes, consistencyPath } from '../chain/merkle.ts';
import { claimedText } from '../chain/note.ts';
import { outgoing } from '../http/outgoing.ts';
import { lastEvidence, newestAnchorCheckpoint, recordEvidence } from '../store/anchors.ts';
import type { Tables } from '../store/tables.ts';
import { treeNodes } from '../store/tree-hashes.ts';
import { type AnchorState, anchorRunner } from './anchor-runner.ts';
import { readAnchorsFile } from './anchors-file.ts';
import { timeStampAuthority } from './time-stamp-authority.ts';
import { witness } from './witness.ts';
import { writeOnceFolder } from './write-once-folder.ts';

export interface OutsideAnchorsOptions {
  readonly file: string;
  readonly allowAddresses: readonly string[];
  readonly database: Kysely<Tables>;
  readonly writer: pg.Pool;
  /** Only who signs anchors: others would do everything twice. */
  readonly isLeading: () => boolean;
  readonly wallClock: () => number;
  readonly log: {
    debug(facts: object, message: string): void;
    info(facts: object, message: string): void;
    warn(facts: object, message: string): void;
    error(facts: object, message: string): void;
  };
}

export interface OutsideAnchors {
  state(): AnchorState[];
  close(): Promise<void>;
}

/** Reads the file and starts. Throws a SettingsError. */
export async function startOutsideAnchors(options: OutsideAnchorsOptions): Promise<OutsideAnchors> {
  const { database, writer, wallClock, log } = options;
  const anchors = await readAnchorsFile(options.file);
  const calls = outgoing({ allowAddresses: options.allowAddresses, log });
  const { post, get } = calls;
  const runner = anchorRunner({
    anchors,
    performers: {
      rfc3161: (anchor) => timeStampAuthority({ ...anchor, post, get, wallClock }),
      folder: (anchor) => writeOnceFolder(anchor.path),
      witness: (anchor) =>
        witness({
          ...anchor,
          post,
          wallClock,
          consistencyPath: async (from, to) => {
            const checkpoint = await newestAnchorCheckpoint(database);
            if (checkpoint === undefined) throw new Error('the anchor stream has no checkpoint');
            const stream = { id: checkpoint.streamId, name: checkpoint.stream };
            return consistencyPath(from, to, await treeNodes(database, stream, to, consistencyNodes(from, to)));
          },
        }),
    },
    newestCheckpoint: async () => {
      if (!options.isLeading()) return undefined;
      const checkpoint = await newestAnchorCheckpoint(database);
      if (checkpoint === undefined) return undefined;
      const text = claimedText(checkpoint.note);
      return { note: checkpoint.note, text, size: decodeCheckpoint(text).size, stream: checkpoint.stream };
    },
    record: async ({ name, stream, ...record }) => {
      const checkpoint = await newestAnchorCheckpoint(database, stream);
      if (checkpoint === undefined) throw new Error(`${stream} has no checkpoint`);
      await recordEvidence(writer, { ...record, anchor: name, streamId: checkpoint.streamId });
    },
    last: async (name) => {
      const last = await lastEvidence(database, name);
      return last === undefined ? undefined : { stream: last.stream, size: last.size, at: last.recordedAt };
    },
    wallClock,
    log,
  });
  runner.start();
  return {
    state: () => runner.state(),
    async close() {
      await runner.close();
      calls.close();
    },
  };
}
