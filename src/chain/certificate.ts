/**
 * Certificates: entries in which the log says what it is about to destroy, and why (docs/format.md sections 24 and 26). They stand in the tenant's
 * `log_administration`, which is kept for ever and of which nothing is ever erased; what they say stands in `details`.
 *
 *     erasure.certified   {"entries":[{"parts":[name…],"seq":…,"stream":…}…],"erasure":id}
 *     retention.pruned    pruning-certificate.ts
 *     retention.abandoned {"run":id…}: the certificates of this pruning certify nothing any more
 */
import { EvidenceError } from '../errors.ts';
import type { JsonObject, JsonValue } from './canonical.ts';
import { CATEGORIES, type Category, TENANT_PATTERN } from './category.ts';
import { PART_NAMES, type PartName } from './part.ts';
import { ABANDONED_ACTION, PRUNED_ACTION } from './pruning-certificate.ts';

export const ERASURE_CERTIFICATE = 'erasure.certified';
export const CERTIFICATE_ACTIONS: readonly string[] = [ERASURE_CERTIFICATE, PRUNED_ACTION, ABANDONED_ACTION];

/** In one certificate, so that whoever verifies is not given more to remember than was signed for. */
export const ERASED_ENTRIES_MAX = 500;

/** Parts of one entry, in name order. */
export interface ErasedEntry {
  readonly stream: string;
  readonly seq: number;
  readonly parts: readonly PartName[];
}

/** What the details of an erasure's certificate say. */
export interface Erasure {
  /** Of the request that two persons agreed on. */
  readonly erasure: string;
  readonly entries: readonly ErasedEntry[];
}

/** Streams that nothing is erased from: what the log says of itself, and ticks. */
export function isErasable(category: Category): boolean {
  return category !== 'log_administration' && category !== 'anchor';
}

/** Returns tenant, category and epoch of a stream's name; undefined where it is none. */
export function streamParts(
  name: string,
): { readonly tenant: string; readonly category: Category; readonly epoch: number } | undefined {
  const match = /^([^/]+)\/([a-z_]+)(?:\/e([2-9]|[1-9][0-9]+))?$/.exec(name);
  const category = CATEGORIES.find((one) => one === match?.[2]);
  if (match === null || category === undefined || !TENANT_PATTERN.test(match[1]!)) return undefined;
  return { tenant: match[1]!, category, epoch: Number(match[3] ?? 1) };
}

export function erasureDetails({ erasure, entries }: Erasure): JsonObject {
  return { erasure, entries: entries.map(({ stream, seq, parts }) => ({ stream, seq, parts: [...parts] })) };
}

/** Reads what a certificate of this tenant says. Throws an EvidenceError where it is none: one that is half right certifies nothing. */
export function readErasure(details: JsonValue, tenant: string): Erasure {
  const { erasure, entries, ...others } = objectOf(details);
  if (Object.keys(others).length > 0 || typeof erasure !== 'string' || !Array.isArray(entries)) throw malformed();
  if (entries.length > ERASED_ENTRIES_MAX) throw malformed();
  return {
    erasure,
    entries: entries.map((one) => {
      const { stream, seq, parts, ...more } = objectOf(one);
      if (Object.keys(more).length > 0 || typeof stream !== 'string' || !isCount(seq)) throw malformed();
      const of = streamParts(stream);
      // Nobody vouches for another tenant's entries, nor for the destruction of certificates.
      if (of?.tenant !== tenant || !isErasable(of.category)) throw malformed();
      return { stream, seq, parts: partNames(parts) };
    }),
  };
}

function partNames(value: JsonValue | undefined): PartName[] {
  if (!Array.isArray(value) || value.length === 0) throw malformed();
  const names = PART_NAMES.filter((name) => value.includes(name));
  if (names.length !== value.length || names.some((name, i) => name !== value[i])) throw malformed();
  return names;
}

function objectOf(value: JsonValue | undefined): { readonly [name: string]: JsonValue | undefined } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed();
  return value as JsonObject;
}

function isCount(value: JsonValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function malformed(): EvidenceError {
  return new EvidenceError('the details of a certificate are malformed');
}
