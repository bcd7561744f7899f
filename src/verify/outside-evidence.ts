/**
 * Which outside evidence counts: that of the authorities and witnesses that the verifier was told to trust, where it holds.
 */

import { fromUtf8 } from '../chain/bytes.ts';
import { checkCosignature, isLineOf, parseCosignerVkey } from '../chain/cosignature.ts';
import { parseSignatureLine } from '../chain/note.ts';
import { sha256 } from '../chain/sha256.ts';
import type { SourceEvidence } from './log-wide-source.ts';
import { checkTimeStamp } from './time-stamp.ts';

/** Evidence that holds. */
export interface HeldEvidence {
  /** Who gave it, in words. */
  readonly by: string;
  /** Milliseconds since 1970, as the one who gave it states; undefined where it states none. */
  readonly time: number | undefined;
}

/**
 * Says what the evidence is worth for the text of a checkpoint: undefined where it is of nobody that is trusted. Throws an EvidenceError
 * where it is of somebody who is, and does not hold.
 */
export type EvidenceChecker = (evidence: SourceEvidence, text: string) => Promise<HeldEvidence | undefined>;

/** Returns what checks the cosignatures of these witnesses, by their vkeys. Throws an EvidenceError where one is none. */
export function witnessChecker(vkeys: readonly string[]): EvidenceChecker {
  const keys = vkeys.map((vkey) => ({ vkey, key: parseCosignerVkey(vkey) }));
  return async ({ kind, evidence }, text) => {
    if (kind !== 'witness') return undefined;
    const line = fromUtf8(evidence);
    const parsed = parseSignatureLine(line);
    const known = keys.find(({ key }) => isLineOf(key, parsed));
    if (known === undefined) return undefined;
    const { name, time } = checkCosignature(line, text, known.vkey);
    return { by: `witness ${name}`, time: time * 1000 };
  };
}

/** Returns what checks time-stamp tokens whose chain ends in one of these certificates (DER). */
export function timeStampChecker(trusted: readonly Uint8Array[]): EvidenceChecker {
  return async ({ kind, evidence, certificates, crls }, text) => {
    if (kind !== 'rfc3161') return undefined;
    const verdict = await checkTimeStamp({ token: evidence, imprint: sha256(text), trusted, certificates, crls });
    return verdict.kind === 'good' ? { by: `time stamp of ${verdict.authority}`, time: verdict.time } : undefined;
  };
}

/** Asks one after the other. */
export function anyOf(checkers: readonly EvidenceChecker[]): EvidenceChecker {
  return async (evidence, text) => {
    for (const check of checkers) {
      const held = await check(evidence, text);
      if (held !== undefined) return held;
    }
    return undefined;
  };
}
