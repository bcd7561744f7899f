/**
 * `certificates.ndjson` of an evidence bundle of version 2: entries of the tenant's `log_administration`, each with its opening and its path to a
 * signed checkpoint (docs/format.md section 22). They certify what the openings of the bundle say was erased.
 */
import { CERTIFICATE_ACTIONS, streamParts } from '../../chain/certificate.ts';
import type { BundleManifest } from '../../chain/evidence-bundle.ts';
import { checkInclusion, leafHash } from '../../chain/merkle.ts';
import { isOpen, partsHashHex } from '../../chain/part.ts';
import { decodeRecord } from '../../chain/record.ts';
import { parseInstant } from '../../chain/retain-until.ts';
import { EvidenceError } from '../../errors.ts';
import { CertificateBook, type Certificates } from '../certificates.ts';
import type { TrustedKey } from '../trusted-keys.ts';
import { readCertificates } from './bundle-files.ts';
import type { BundleFindings } from './bundle-report.ts';
import { wordsOf } from './range-check.ts';
import { readStated, signersOf, signsNow } from './signed-checkpoint.ts';

/** Returns what is certified. What is wrong goes to `findings`, and certifies nothing; `isUnknownKey` says of which streams nobody knows who signs. */
export function checkCertificates(
  bytes: Uint8Array,
  manifest: BundleManifest,
  keys: readonly TrustedKey[],
  findings: BundleFindings,
  isUnknownKey: (stream: string) => boolean,
): Certificates {
  const book = new CertificateBook();
  let before: { readonly stream: string; readonly seq: number } | undefined;
  for (const line of readCertificates(bytes)) {
    const record = decodeRecord(line.record);
    const { stream, seq, action, id } = record;
    const of = streamParts(stream);
    if (of?.tenant !== manifest.question.tenant || of.category !== 'log_administration')
      throw new EvidenceError(`certificates.ndjson: an entry of ${stream}`);
    if (!CERTIFICATE_ACTIONS.includes(action) || record.source['service'] !== 'sealog')
      throw new EvidenceError('certificates.ndjson: an entry that is no certificate');
    if (before !== undefined && (before.stream === stream ? before.seq >= seq : byEpoch(before.stream, stream) >= 0))
      throw new EvidenceError('certificates.ndjson: not in order, or one stands twice');
    before = { stream, seq };
    try {
      if (partsHashHex(line.parts) !== record.parts) {
        findings.add('part', 'the parts of a certificate are not those that its record commits to', stream, seq);
        continue;
      }
      const stated = readStated(line.checkpoint);
      if (stated.origin !== `${manifest.origin}/${stream}`)
        throw new EvidenceError('its checkpoint is of another stream');
      checkInclusion(seq, stated.size, leafHash(line.record), line.path, stated.root);
      const details = line.parts.find(({ name }) => name === 'details');
      if (details === undefined || !isOpen(details)) throw new EvidenceError('its details are not open');
      // Whoever trusts the key of one stream can not tell who signs another: what such a certificate says is then not provable.
      let isSigned = false;
      if (!isUnknownKey(stream)) {
        const signers = signersOf(stated, keys);
        if (!signsNow(signers)) {
          findings.add('key', 'a certificate is signed by a key that signs no more', stream, seq);
          continue;
        }
        isSigned = true;
      }
      const recordedAt = parseInstant(record.recordedAt)!;
      book.add({ action, entry: { stream, seq, id, recordedAt, isSigned }, details: details.value });
    } catch (error) {
      findings.add('signature', `a certificate: ${wordsOf(error)}`, stream, seq);
    }
  }
  return book;
}

/** Of one category: shorter names first, then by their text, is by number. */
function byEpoch(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : 1);
}
