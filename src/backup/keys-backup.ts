/**
 * A backup of what the database must not have: the signer's folder (seeds, mark, ledger of erasures), month keys that are files, and in embedded
 * mode the secret of tokens. It belongs on other storage than the backup of the database: who has both has everything.
 *
 *     keys.json             what is in it, and SHA-256 and size of every file; written last
 *     signer/               seed-0001 …, mark.log, erasures.log
 *     months/               month keys, and notes of those that were destroyed
 *     token-secret
 *
 * The order matters. The mark is read before the moment of the database's backup: what it says was signed is then in that backup. Everything else is
 * read behind it: the seeds of every generation, the month key of every data key, and every erasure that the backup may lack.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import {
  type CheckedFile,
  check,
  filesBelow,
  newFolder,
  putBack,
  readChecked,
  readManifest,
  writeChecked,
} from './checked-files.ts';

/** Where the folders are that hold keys; undefined = not on this machine, or in a key service. */
export interface KeyFolders {
  readonly signer: string | undefined;
  readonly months: string | undefined;
  readonly tokenSecret: string | undefined;
}

export interface KeysManifest {
  readonly format: typeof FORMAT;
  /** The moment of the database's backup that it belongs to. */
  readonly takenAt: string;
  readonly origin: string | null;
  /** What was not there to be copied: the operator backs it up elsewhere. */
  readonly absent: readonly ('signer' | 'months')[];
  readonly files: readonly CheckedFile[];
}

const FORMAT = 'sealog-keys-backup/v1';
const MANIFEST = 'keys.json';
const MARK = 'mark.log';

/** Reads the mark: MUST come before the dump of the database is opened. */
export async function readMarkFile({ signer }: KeyFolders): Promise<Buffer | undefined> {
  if (signer === undefined) return undefined;
  try {
    return await readFile(join(signer, MARK));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Writes the backup to a folder that is not there yet: MUST come behind the dump of the database. */
export async function writeKeysBackup(
  to: string,
  folders: KeyFolders,
  mark: Buffer | undefined,
  about: Pick<KeysManifest, 'takenAt' | 'origin'>,
): Promise<KeysManifest> {
  const { folder, complete } = await newFolder(to);
  const files: CheckedFile[] = [];
  const absent: ('signer' | 'months')[] = [];
  const take = async (path: string, from: string): Promise<void> => {
    files.push(await writeChecked(folder, path, Readable.from([await readFile(from)])));
  };
  if (mark !== undefined) files.push(await writeChecked(folder, `signer/${MARK}`, Readable.from([mark])));
  for (const kind of ['signer', 'months'] as const) {
    const from = folders[kind];
    const names = from === undefined ? [] : (await filesBelow(from)).filter((name) => isKept(kind, name));
    if (names.length === 0) absent.push(kind);
    for (const name of names) await take(`${kind}/${name}`, join(from!, name));
  }
  const { tokenSecret } = folders;
  if (tokenSecret !== undefined) await take('token-secret', tokenSecret);
  const manifest: KeysManifest = { format: FORMAT, ...about, absent, files };
  await complete(MANIFEST, manifest);
  return manifest;
}

export async function readKeysManifest(folder: string): Promise<KeysManifest> {
  return readManifest<KeysManifest>(folder, MANIFEST, FORMAT);
}

/** Puts the files of one kind where they are used. The place MUST be empty: nothing is written over, and no destroyed key comes back beside others. */
export async function putBackKeys(
  from: string,
  { files }: KeysManifest,
  kind: 'signer' | 'months',
  to: string,
): Promise<void> {
  await putBack(from, files, `${kind}/`, to);
}

/** Puts the secret of tokens back, unless there is one. */
export async function restoreTokenSecret(from: string, { files }: KeysManifest, to: string): Promise<void> {
  const file = files.find(({ path }) => path === 'token-secret');
  if (file === undefined) return;
  await check(from, file);
  const chunks: Buffer[] = [];
  for await (const chunk of readChecked(from, file)) chunks.push(chunk);
  await mkdir(dirname(to), { recursive: true, mode: 0o700 });
  await writeFile(to, Buffer.concat(chunks), { flag: 'wx', mode: 0o600, flush: true }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    },
  );
}

export async function isEmpty(folder: string): Promise<boolean> {
  return (await filesBelow(folder)).length === 0;
}

/** The mark was read before; what is written aside and not finished is nobody's. */
function isKept(kind: 'signer' | 'months', name: string): boolean {
  return !(kind === 'signer' && name.startsWith(MARK)) && !/(^|\/)\.|\.new$/.test(name);
}
