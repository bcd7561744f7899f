/**
 * Signing seeds: 32 random bytes each, one a generation, from which every signing key derives (docs/format.md section 19).
 *
 * They are files `seed-0001`, `seed-0002` … in the signer's folder, readable by the service's user only, never in the database.
 * The next generation is begun by making its file, by `sealog keys rotate` or by the signer itself; the running signer does the rest
 * (`signer.ts`).
 */
import { hkdfSync, randomBytes } from 'node:crypto';
import { chown, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { concatBytes, lengthPrefixed, utf8 } from '../chain/bytes.ts';
import { type NoteSigner, noteSigner } from '../chain/note.ts';
import { SettingsError } from '../errors.ts';
import { writeOnce } from '../keys/secret-file.ts';

const SEED_BYTES = 32;
const INFO = utf8('sealog/signing-key/v1\0');
/** Derived signers that are remembered; the least recently made go first. */
const SIGNERS_MAX = 20_000;

/** What signs in one generation. */
export class SigningKeys {
  readonly #seed: Uint8Array;
  readonly #signers = new Map<string, NoteSigner>();

  constructor(seed: Uint8Array) {
    this.#seed = seed;
  }

  /** Returns the signer of this name in notes: the deployment's origin, or a stream's. */
  signer(name: string): NoteSigner {
    let signer = this.#signers.get(name);
    if (signer === undefined) {
      const info = concatBytes(INFO, lengthPrefixed(utf8(name)));
      signer = noteSigner(name, new Uint8Array(hkdfSync('sha256', this.#seed, new Uint8Array(0), info, 32)));
      this.#signers.set(name, signer);
      if (this.#signers.size > SIGNERS_MAX) this.#signers.delete(this.#signers.keys().next().value!);
    }
    return signer;
  }
}

/** Returns the seeds of all generations, the first at 0; makes the first where there is none. Throws a SettingsError where one is missing or damaged. */
export async function readSeeds(folder: string): Promise<SigningKeys[]> {
  let generations = await generationsIn(folder);
  if (generations.length === 0) {
    await makeSeed(folder, 1);
    generations = await generationsIn(folder);
  }
  const keys: SigningKeys[] = [];
  for (const [index, generation] of generations.entries()) {
    if (generation !== index + 1)
      throw new SettingsError([`the signing seed of generation ${index + 1} is missing in ${folder}`]);
    const text = await readFile(join(folder, seedName(generation)), 'utf8');
    if (!/^[0-9a-f]{64}\n$/.test(text))
      throw new SettingsError([`the signing seed of generation ${generation} in ${folder} is damaged`]);
    keys.push(new SigningKeys(Buffer.from(text.trim(), 'hex')));
  }
  return keys;
}

/** Returns how many generations the folder has. */
export async function seedCount(folder: string): Promise<number> {
  return (await generationsIn(folder)).length;
}

/** Makes the seed of a generation, unless it is there. */
export async function makeSeed(folder: string, generation: number): Promise<void> {
  const path = join(folder, seedName(generation));
  await writeOnce(path, `${randomBytes(SEED_BYTES).toString('hex')}\n`);
  // The operator may be root, and the service somebody else, who owns the folder.
  const { uid, gid } = await stat(folder);
  if (process.getuid?.() === 0) await chown(path, uid, gid);
}

function seedName(generation: number): string {
  return `seed-${String(generation).padStart(4, '0')}`;
}

async function generationsIn(folder: string): Promise<number[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return names
    .flatMap((name) => (/^seed-\d{4,}$/.test(name) ? [Number(name.slice('seed-'.length))] : []))
    .sort((a, b) => a - b);
}
