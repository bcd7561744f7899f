/**
 * The archive: what is about to be pruned, as signed evidence bundles in a folder, each read back and verified before anything is dropped.
 *
 *     <folder>/<tenant>/<category>[-eN]/<drop month>/<first>-<end>.tar
 *
 * Parts are withheld: an archive that could be opened would outlive the time that was promised to those who are named in them. It shows that the
 * entries were there, what they did, when, and what their parts were committed to. A file appears whole or not at all, and one that is there and
 * verifies is left as it is, so that a pruning which was interrupted goes on with it.
 */
import { mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EvidenceError } from '../errors.ts';
import { verifyBundle } from '../verify/bundle/verify-bundle.ts';

/** Entries `first` up to, not including, `end` of a stream. */
export interface ArchivedRange {
  readonly tenant: string;
  readonly stream: string;
  readonly first: number;
  readonly end: number;
}

export interface ArchiveDeps {
  readonly folder: string;
  /** Gives the bytes of a bundle that has these entries, parts withheld. */
  readonly bundle: (range: ArchivedRange) => Promise<AsyncIterable<Uint8Array>>;
  /** The vkey of the deployment, whose signatures count. */
  readonly key: () => Promise<string | undefined>;
  /** A month takes minutes: whoever stops leaves it to the next look. */
  readonly signal: AbortSignal;
}

/** Of one bundle: well under a second of work to verify it, beside everything else. */
const ENTRIES_A_BUNDLE = 10_000;

/** Returns what archives a range; it throws an EvidenceError where what was written is not what was to be kept. */
export function archiver({ folder, bundle, key, signal }: ArchiveDeps) {
  /** Returns what is wrong with a file, or undefined. */
  async function objectionTo(path: string, { stream, first, end }: ArchivedRange): Promise<string | undefined> {
    const vkey = await key();
    if (vkey === undefined) return 'nobody has signed anything yet';
    const trust = { key: vkey, checkpoints: [], authorities: [], witnesses: [] };
    const { findings, streams } = await verifyBundle(await readFile(path), trust);
    if (findings[0] !== undefined) return findings[0].detail;
    const shown = streams.find((one) => one.stream === stream);
    return shown !== undefined && shown.first <= first && shown.end >= end ? undefined : 'entries are missing in it';
  }

  async function write(path: string, range: ArchivedRange): Promise<void> {
    const aside = `${path}.new`;
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    try {
      const file = await open(aside, 'w', 0o600);
      try {
        for await (const bytes of await bundle(range)) {
          signal.throwIfAborted();
          await file.writeFile(bytes);
        }
        await file.sync();
      } finally {
        await file.close();
      }
      const wrong = await objectionTo(aside, range);
      if (wrong !== undefined)
        throw new EvidenceError(`the archive of ${range.stream} from ${range.first} on, read back: ${wrong}`);
      await rename(aside, path);
    } catch (error) {
      // Where the disk is full, what is left of it is in the way of the next try.
      await rm(aside, { force: true }).catch(() => {});
      throw error;
    }
    const parent = await open(dirname(path));
    await parent.sync().finally(() => parent.close());
  }

  return async (dropMonth: number, whole: ArchivedRange): Promise<void> => {
    const [, category, epoch] = whole.stream.split('/');
    const place = join(folder, whole.tenant, [category, epoch].filter(Boolean).join('-'), String(dropMonth));
    for (let first = whole.first; first < whole.end; first += ENTRIES_A_BUNDLE) {
      signal.throwIfAborted();
      const range = { ...whole, first, end: Math.min(whole.end, first + ENTRIES_A_BUNDLE) };
      const path = join(place, `${String(range.first).padStart(16, '0')}-${String(range.end).padStart(16, '0')}.tar`);
      const isThere = await stat(path).then(
        () => true,
        () => false,
      );
      if (isThere && (await objectionTo(path, range)) === undefined) continue;
      await write(path, range);
    }
  };
}
