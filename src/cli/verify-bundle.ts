/** `sealog verify BUNDLE`: checks an evidence bundle, offline: without a database, a configuration or the network. */
import { readFile, stat } from 'node:fs/promises';
import { BUNDLE_LIMITS } from '../chain/evidence-bundle.ts';
import { EvidenceError, SettingsError } from '../errors.ts';
import type { BundleVerdict } from '../verify/bundle/bundle-report.ts';
import { reportLines } from '../verify/bundle/report-text.ts';
import { type BundleTrust, checkTrust, verifyBundle } from '../verify/bundle/verify-bundle.ts';
import { readCertificates } from '../verify/time-stamp.ts';
import { UsageError } from './usage.ts';

export interface BundleArguments {
  readonly bundle: string;
  readonly key: string | undefined;
  /** Files: notes of checkpoints; certificates of authorities in PEM. */
  readonly checkpoints: readonly string[];
  readonly authorities: readonly string[];
  /** vkeys. */
  readonly witnesses: readonly string[];
  readonly json: boolean;
}

const SMALL_FILE_BYTES_MAX = 1024 * 1024;

/** Returns what to say, and the verdict. Throws a UsageError where what was given to trust is malformed, and system errors. */
export async function verifyBundleFile(asked: BundleArguments): Promise<{ verdict: BundleVerdict; text: string }> {
  const { key, witnesses, json } = asked;
  if (key === undefined)
    throw new UsageError('say whose signature counts: --key VKEY, which you have from elsewhere than the bundle');
  const trust = await orMistake('--key or --witness', async () => {
    const keys: BundleTrust = { key, witnesses, checkpoints: [], authorities: [] };
    checkTrust(keys);
    return keys;
  });
  const authorities: Uint8Array[] = [];
  for (const path of asked.authorities)
    authorities.push(...(await orMistake(path, async () => readCertificates(await smallFile(path)))));
  const checkpoints: string[] = [];
  for (const path of asked.checkpoints) checkpoints.push(await smallFile(path));
  const tar = await readAtMost(asked.bundle, BUNDLE_LIMITS.bytes);
  const report = await verifyBundle(tar, { ...trust, authorities, checkpoints });
  const text = json ? JSON.stringify(report) : reportLines(report).join('\n');
  return { verdict: report.verdict, text: `${text}\n` };
}

async function smallFile(path: string): Promise<string> {
  return (await readAtMost(path, SMALL_FILE_BYTES_MAX)).toString('utf8');
}

async function readAtMost(path: string, bytesMax: number): Promise<Buffer> {
  const { size } = await stat(path);
  if (size > bytesMax) throw new SettingsError([`${path} has more than ${bytesMax} bytes`]);
  return readFile(path);
}

async function orMistake<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof EvidenceError) throw new UsageError(`${what}: ${error.message}`);
    throw error;
  }
}
