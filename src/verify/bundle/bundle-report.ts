/** What the verification of an evidence bundle says. */
import type { BundleQuestion } from '../../chain/evidence-bundle.ts';

/** `tampered` where something is wrong; else `incomplete` where something could not be checked; else `not_provable` where nothing outside vouches for some entry. */
export type BundleVerdict = 'intact' | 'tampered' | 'incomplete' | 'not_provable';

/** Kinds of docs/format.md section 22. */
export type BundleFindingKind =
  /** The form: tar, files, canonical JSON, members, hashes in the manifest, the summary. */
  | 'bundle'
  /** A note is not signed by a key that is trusted for it. */
  | 'signature'
  /** A key is not one of this log, or did not sign any more. */
  | 'key'
  /** The entries and the tree around them do not come to the checkpoint's root. */
  | 'checkpoint'
  | 'record'
  | 'link'
  | 'stamp'
  | 'part'
  /** A part was erased, and no certificate says so. */
  | 'erasure'
  /** Entries that were asked for may be missing. */
  | 'gap'
  /** A consistency path, an anchor or its evidence does not lead where it says. */
  | 'anchor'
  /** The stream was larger once. */
  | 'truncated'
  /** Two roots for one size. */
  | 'inconsistent';

export interface BundleFinding {
  /** Absent where it is the bundle as a whole. */
  readonly stream?: string;
  readonly seq?: number;
  readonly kind: BundleFindingKind;
  readonly detail: string;
}

export interface BundleUnchecked {
  readonly stream?: string;
  readonly detail: string;
}

/** Entries from seq `from` up to, not including, `to`. */
export interface SeqRange {
  readonly from: number;
  readonly to: number;
}

/** What vouches for an anchor: outside evidence, or a checkpoint of the anchor stream that the verifier was given. */
export interface Voucher {
  /** The anchor's name in the operator's file, or `checkpoint`. */
  readonly anchor: string;
  readonly kind: 'rfc3161' | 'witness' | 'checkpoint';
  /** An instant, as the authority or witness states it. */
  readonly time?: string;
}

export interface BundleStreamReport {
  readonly stream: string;
  /** Of the newest checkpoint. */
  readonly size: number;
  /** The range: with its neighbours. */
  readonly first: number;
  readonly end: number;
  /** The entries that were asked for. */
  readonly asked: SeqRange;
  readonly entries: number;
  /** Whether it was shown that these are all that were asked for, as of the checkpoint. */
  readonly complete: boolean;
  readonly anchored: readonly (SeqRange & { readonly by: readonly Voucher[] })[];
  readonly unanchored: readonly SeqRange[];
  /** Checkpoints that the verifier was given and that the bundle agrees with. */
  readonly pinned: readonly { readonly size: number }[];
}

/** Whose signatures count. That it was replaced since can not be seen from a bundle: give the newest vkey (docs/format.md section 19). */
export interface BundleKey {
  /** Of the deployment's key that was taken for the one that signs now; or the given key of one stream. */
  readonly vkey: string;
  /** Null for the key of one stream. */
  readonly generation: number | null;
}

export interface BundleReport {
  readonly verdict: BundleVerdict;
  /** Absent where the manifest can not be read. */
  readonly origin?: string;
  readonly question?: BundleQuestion;
  /** Absent where no key is trusted. */
  readonly key?: BundleKey;
  readonly findings: readonly BundleFinding[];
  /** Whether there were more than are told. */
  readonly truncated: boolean;
  readonly unchecked: readonly BundleUnchecked[];
  readonly streams: readonly BundleStreamReport[];
}

const FINDINGS_MAX = 1000;

/** Collects findings, up to a bound: where every one of a million entries is wrong, nobody reads them all. */
export class BundleFindings {
  readonly list: BundleFinding[] = [];
  truncated = false;
  /** Kinds found for each stream, also beyond the bound. */
  readonly #kinds = new Map<string, Set<BundleFindingKind>>();

  add(kind: BundleFindingKind, detail: string, stream?: string, seq?: number): void {
    const kinds = this.#kinds.get(stream ?? '') ?? new Set();
    this.#kinds.set(stream ?? '', kinds.add(kind));
    if (this.list.length >= FINDINGS_MAX) {
      this.truncated = true;
      return;
    }
    this.list.push({
      ...(stream === undefined ? {} : { stream }),
      ...(seq === undefined ? {} : { seq }),
      kind,
      detail,
    });
  }

  has(stream: string, kinds: readonly BundleFindingKind[]): boolean {
    return kinds.some((kind) => this.#kinds.get(stream)?.has(kind) === true);
  }
}
