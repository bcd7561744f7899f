/**
 * What was destroyed with a word: certificates out of a tenant's `log_administration`, for those who verify what is missing elsewhere.
 *
 * A certificate counts only where its entry is in a verified stream and its details could be opened. One that lies behind what is signed
 * counts for less: whoever could write the database could have written it too, so what it certifies is not provable (`isSigned`).
 */

import { decodeCanonical } from '../chain/canonical.ts';
import { ERASURE_CERTIFICATE, type Erasure, readErasure, streamParts } from '../chain/certificate.ts';
import type { PartName } from '../chain/part.ts';
import {
  ABANDONED_ACTION,
  abandonedId,
  decodePruningCertificate,
  PRUNED_ACTION,
  type ReadCertificate,
} from '../chain/pruning-certificate.ts';
import { EvidenceError } from '../errors.ts';

/** Where a certificate stands. */
export interface CertificateEntry {
  readonly stream: string;
  readonly seq: number;
  /** Of the event. */
  readonly id: string;
  /** Milliseconds since 1970. */
  readonly recordedAt: number;
  /** A signed checkpoint covers it, which agrees with the entries. */
  readonly isSigned: boolean;
}

export interface ErasureCertificate {
  readonly erasure: string;
  readonly entry: CertificateEntry;
}

export interface PruningCertificate extends ReadCertificate {
  readonly entry: CertificateEntry;
  /** The pruning was given up: nothing is gone by it, but what it says is held may have been moved already. */
  readonly isAbandoned: boolean;
}

export interface Certificates {
  /** What expired of a stream, by what is certified: in order of `first`. */
  prunedOf(stream: string): readonly PruningCertificate[];
  /** What certifies that a part was erased. */
  erasureOf(stream: string, seq: number, part: PartName): ErasureCertificate | undefined;
}

/** Returns the certificates of a tenant; `isFresh` = also those that came since they were read last. */
export type FindCertificates = (isFresh: boolean) => Promise<Certificates>;

/** An entry that says that it is a certificate: its details as they are stored. */
export interface FoundCertificate {
  readonly action: string;
  readonly entry: CertificateEntry;
  readonly details: Uint8Array;
}

/** What a certificate says, where it says what one may. */
export type CertificateSays =
  | { readonly kind: 'erased'; readonly erasure: Erasure }
  | { readonly kind: 'pruned'; readonly pruning: ReadCertificate }
  | { readonly kind: 'abandoned'; readonly run: string };

/** Reads a certificate; undefined where it is malformed: it certifies nothing, and nothing of it need be kept. */
export function readCertificate({
  action,
  entry,
  details,
}: Pick<FoundCertificate, 'action' | 'details'> & {
  readonly entry: Pick<CertificateEntry, 'stream' | 'id'>;
}): CertificateSays | undefined {
  const tenant = streamParts(entry.stream)?.tenant;
  if (tenant === undefined) return undefined;
  try {
    const says = decodeCanonical(details);
    if (action === ERASURE_CERTIFICATE) return { kind: 'erased', erasure: readErasure(says, tenant) };
    if (action === ABANDONED_ACTION) {
      const { run } = (says ?? {}) as { readonly run?: unknown };
      return typeof run === 'string' && entry.id === abandonedId(run) ? { kind: 'abandoned', run } : undefined;
    }
    if (action !== PRUNED_ACTION) return undefined;
    const pruning = decodePruningCertificate(says);
    // Nobody vouches for another tenant's entries, nor for the destruction of certificates.
    const of = streamParts(pruning.stream);
    return of?.tenant !== tenant || of.category === 'log_administration' ? undefined : { kind: 'pruned', pruning };
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    return undefined;
  }
}

/** Certificates of one tenant, as they are found. */
export class CertificateBook implements Certificates {
  /** By stream, then seq: what each certificate says of the entry. */
  readonly #erased = new Map<string, Map<number, { parts: readonly PartName[]; by: ErasureCertificate }[]>>();
  readonly #pruned = new Map<string, Omit<PruningCertificate, 'isAbandoned'>[]>();
  readonly #abandoned = new Set<string>();
  /** What `prunedOf` said, until another certificate is taken. */
  readonly #listed = new Map<string, readonly PruningCertificate[]>();

  /** Takes a certificate; one that is malformed certifies nothing. */
  add(found: FoundCertificate): void {
    const says = readCertificate(found);
    if (says !== undefined) this.take(says, found.entry);
  }

  /** Takes what `readCertificate` read. */
  take(says: CertificateSays, entry: CertificateEntry): void {
    this.#listed.clear();
    if (says.kind === 'abandoned') this.#abandoned.add(says.run);
    else if (says.kind === 'erased') {
      const { erasure, entries } = says.erasure;
      for (const { stream, seq, parts } of entries) this.#addErased(stream, seq, parts, { erasure, entry });
    } else {
      const { pruning } = says;
      const known = this.#pruned.get(pruning.stream) ?? [];
      this.#pruned.set(pruning.stream, known);
      known.push({ ...pruning, entry });
    }
  }

  prunedOf(stream: string): readonly PruningCertificate[] {
    const known = this.#listed.get(stream);
    if (known !== undefined) return known;
    const all = (this.#pruned.get(stream) ?? []).map((one) => ({ ...one, isAbandoned: this.#abandoned.has(one.run) }));
    const listed = all.sort((a, b) => a.first - b.first);
    this.#listed.set(stream, listed);
    return listed;
  }

  erasureOf(stream: string, seq: number, part: PartName): ErasureCertificate | undefined {
    const of = (this.#erased.get(stream)?.get(seq) ?? []).filter(({ parts }) => parts.includes(part));
    return (of.find(({ by }) => by.entry.isSigned) ?? of[0])?.by;
  }

  #addErased(stream: string, seq: number, parts: readonly PartName[], by: ErasureCertificate): void {
    const entries =
      this.#erased.get(stream) ?? new Map<number, { parts: readonly PartName[]; by: ErasureCertificate }[]>();
    this.#erased.set(stream, entries);
    const known = entries.get(seq) ?? [];
    entries.set(seq, known);
    known.push({ parts, by });
  }
}

/** For whoever looks at a stream alone: nothing is certified. */
export const NO_CERTIFICATES: Certificates = new CertificateBook();
