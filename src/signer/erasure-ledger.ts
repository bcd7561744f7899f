/**
 * The erasure ledger: what was erased, beside the signer's mark and out of the database's reach. A backup is older than an erasure that came after
 * it, and knows nothing of it; the ledger does, and what it lists is erased again before the signer lets a restored database in.
 *
 * The file `erasures.log` is lines of `<link> <JSON>`, one a certificate, where link = the first 16 hex digits of SHA-256(link before ‖ JSON), the
 * first one before being 16 zeros, as in the mark. A line is flushed before the first block that it tells of is sealed anew. A torn last line
 * was never flushed, and nothing was erased by it: it is cut off. Any other line that does not follow is damage.
 *
 * It names entries and parts, and nobody who was erased. Keep the folder in other backups than the database, and never restore an older one.
 */
import { open, readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { utf8 } from '../chain/bytes.ts';
import { canonicalText, decodeCanonical, type JsonObject } from '../chain/canonical.ts';
import { type Erasure, erasureDetails, readErasure } from '../chain/certificate.ts';
import { sha256Hex } from '../chain/sha256.ts';
import { EvidenceError, SettingsError } from '../errors.ts';

export interface LedgerLine extends Erasure {
  readonly tenant: string;
  /** The id of the certificate's event. */
  readonly certificate: string;
}

const FILE = 'erasures.log';
const NO_LINK = '0'.repeat(16);

/** Returns all lines. Throws a SettingsError where the file is damaged: what it lost would come back with the next restore. */
export async function readErasureLedger(folder: string): Promise<LedgerLine[]> {
  return (await readLines(folder)).lines;
}

/** Appends a line, unless it is there, and flushes it. The caller MUST be the one who holds the signer's folder. */
export async function noteErasure(folder: string, line: LedgerLine): Promise<void> {
  const { lines, link, length, isTorn } = await readLines(folder);
  if (lines.some(({ certificate }) => certificate === line.certificate)) return;
  const path = join(folder, FILE);
  if (isTorn) await truncate(path, length);
  const { tenant, certificate, ...erasure } = line;
  const text = canonicalText({ tenant, certificate, ...erasureDetails(erasure) });
  const file = await open(path, 'a', 0o600);
  try {
    await file.appendFile(`${linkOf(link, text)} ${text}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  // A new file is there only once its folder knows it.
  const own = await open(folder);
  await own.sync().finally(() => own.close());
}

async function readLines(
  folder: string,
): Promise<{ lines: LedgerLine[]; link: string; length: number; isTorn: boolean }> {
  const bytes = await readFile(join(folder, FILE)).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return Buffer.alloc(0);
    throw error;
  });
  const lines: LedgerLine[] = [];
  let [link, length] = [NO_LINK, 0];
  while (length < bytes.length) {
    const end = bytes.indexOf(0x0a, length);
    if (end < 0) break;
    const line = bytes.toString('utf8', length, end);
    const text = line.slice(17);
    if (line[16] !== ' ' || line.slice(0, 16) !== linkOf(link, text)) {
      // A crash leaves pages that were not written as zeros, and only in what was never flushed: the last line.
      if (end === bytes.length - 1 && line.includes('\0')) break;
      throw damaged(folder, lines.length + 1);
    }
    try {
      const { tenant, certificate, ...details } = decodeCanonical(utf8(text)) as JsonObject;
      if (typeof tenant !== 'string' || typeof certificate !== 'string') throw damaged(folder, lines.length + 1);
      lines.push({ tenant, certificate, ...readErasure(details as JsonObject, tenant) });
    } catch (error) {
      if (error instanceof EvidenceError) throw damaged(folder, lines.length + 1);
      throw error;
    }
    link = line.slice(0, 16);
    length = end + 1;
  }
  return { lines, link, length, isTorn: length < bytes.length };
}

function linkOf(before: string, text: string): string {
  return sha256Hex(before + text).slice(0, 16);
}

function damaged(folder: string, line: number): SettingsError {
  return new SettingsError([`${FILE} in ${folder} is damaged at line ${line}: restore it from a copy`]);
}
