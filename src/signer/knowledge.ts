/** What the signer's folder tells a verification, where there is one that can be read: the deployment's key, and its own record of what it signed. */
import { readMark, type SignedHead } from './mark.ts';
import { readSeeds, seedCount } from './seeds.ts';

export interface SignerKnowledge {
  readonly key: { readonly vkey: string; readonly trusted: 'signer' };
  /** The last signed head of each open epoch; undefined where nothing was signed yet. */
  readonly mark: ReadonlyMap<string, SignedHead> | undefined;
}

/** Returns undefined where there is no folder, or it is somebody else's. `stated` are the vkeys of the deployment that key statements have. */
export async function signerKnowledge(
  folder: string | undefined,
  origin: string,
  stated: () => Promise<ReadonlySet<string>>,
): Promise<SignerKnowledge | undefined> {
  if (folder === undefined || !(await isSigner(folder))) return undefined;
  const mark = await readMark(folder).catch((error: unknown) => {
    if (isGone(error)) return undefined;
    throw error;
  });
  const vkeys = (await readSeeds(folder)).map((keys) => keys.signer(origin).vkey);
  const known = await stated();
  // The newest may wait for the signer to take it into use.
  const vkey = vkeys.findLast((one) => known.has(one)) ?? vkeys[0]!;
  return { key: { vkey, trusted: 'signer' }, mark };
}

async function isSigner(folder: string): Promise<boolean> {
  try {
    return (await seedCount(folder)) > 0;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && ['ENOENT', 'EACCES'].includes(String(error.code));
}
