/**
 * The evidence bundle (docs/format.md section 22): what its writer and its verifier must agree on. Which files it has, the form of what
 * stands in them, and its summary.
 */
import type { Category } from './category.ts';
import type { PartName } from './part.ts';

/** Which entries the bundle is about: those recorded from `from` on and before `to`, instants in the only form that Sealog writes. */
export interface BundleQuestion {
  readonly tenant: string;
  readonly category: Category;
  readonly from?: string;
  readonly to?: string;
}

export interface BundleManifest {
  /** 2 where parts were erased: `certificates.ndjson` certifies that. */
  readonly bundle: 1 | 2;
  readonly files: readonly { readonly bytes: number; readonly name: string; readonly sha256: string }[];
  readonly origin: string;
  readonly question: BundleQuestion;
}

/** `range.json`: the entries from `first` up to, not including, `end`, and the tree around them. */
export interface BundleRange {
  readonly first: number;
  readonly end: number;
  /** The frontier of size `first`, hex. */
  readonly left: readonly string[];
  /** The hashes under which the entries from `end` up to the checkpoint's size are (`subtreesUpTo`), hex. */
  readonly right: readonly string[];
}

/** A part in `openings.ndjson`, but for the value's type. */
export type BundlePart =
  | { readonly salt: string; readonly value: unknown }
  | { readonly commitment: string; readonly state: 'erased' | 'withheld' };

export interface BundleOpening {
  readonly seq: number;
  readonly parts: { readonly [name in PartName]?: BundlePart };
}

/** An item of `consistency.json`: the stream had this root at size `from`. */
export interface BundleConsistency {
  readonly from: number;
  readonly root: string;
  readonly path: readonly string[];
}

/** A step of the path of a leaf in its tick's tree: the hash beside it, and on which side that stands. Hex. */
export type BundleStep = { readonly left: string } | { readonly right: string };

export type BundleEvidence =
  | {
      readonly kind: 'rfc3161';
      readonly name: string;
      readonly token: string;
      readonly certificates: readonly string[];
      readonly crls: readonly string[];
    }
  | { readonly kind: 'witness'; readonly name: string; readonly line: string };

/** An item of `anchors.json`. */
export interface BundleAnchor {
  /** The signed note of the anchor stream's checkpoint. */
  readonly checkpoint: string;
  readonly evidence: readonly BundleEvidence[];
  readonly leaf: { readonly blind: string; readonly path: readonly BundleStep[]; readonly size: number };
  readonly tick: { readonly path: readonly string[]; readonly record: string; readonly seq: number };
}

/** What is in a bundle before any stream, and of each stream in its folder, in this order. */
export const BUNDLE_FILES = ['manifest.json', 'summary.txt', 'keys.json'] as const;
/** Behind them, in version 2 alone. */
export const CERTIFICATES_FILE = 'certificates.ndjson';
export const STREAM_FILES = [
  'checkpoint',
  'range.json',
  'entries',
  'openings.ndjson',
  'consistency.json',
  'anchors.json',
] as const;

/** No bundle has more (docs/format.md section 22): so much a verifier reads, and then its time has an end. */
export const BUNDLE_LIMITS = {
  bytes: 2 ** 31,
  streams: 100,
  keyStatements: 1000,
  certificateEntries: 10_000,
  consistencies: 1000,
  anchors: 100,
  evidencePerAnchor: 20,
  /** Of all anchors together: each can cost some signatures. */
  evidence: 1000,
  /** Of certificates or revocation lists beside a token. */
  certificates: 20,
  /** Of one file of canonical JSON, or a line of `openings.ndjson`. */
  jsonBytes: 64 * 2 ** 20,
  /** Of a token, a certificate or a revocation list, in DER. */
  evidenceBytes: 256 * 1024,
} as const;

/** Origins of deployments. */
export const ORIGIN_PATTERN = /^[a-z0-9]([a-z0-9.:/_-]{0,200}[a-z0-9])?$/;

export interface SummaryStream {
  readonly name: string;
  /** The entries that were asked for: from `first` up to, not including, `end`. */
  readonly first: number;
  readonly end: number;
  /** Of the checkpoint. */
  readonly size: number;
  readonly anchors: number;
}

/** Returns `summary.txt`. */
export function summaryText(
  origin: string,
  question: BundleQuestion,
  streams: readonly SummaryStream[],
  version: 1 | 2 = 1,
): string {
  const { category, tenant, from, to } = question;
  const lines = [
    `Sealog evidence bundle, version ${version}`,
    `Log: ${origin}`,
    `Question: ${category} of ${tenant}, recorded from ${from ?? 'the beginning'} until before ${to ?? 'the end'}`,
    ...streams.map(({ name, first, end, size, anchors }) => {
      const entries = end > first ? `${end - first} entries, seq ${first} to ${end - 1}` : '0 entries';
      return `Stream ${name}: ${entries}, checkpoint of ${size} entries, ${anchors} anchors`;
    }),
    'Check it with: sealog verify BUNDLE --key VKEY',
  ];
  return lines.map((line) => `${line}\n`).join('');
}
