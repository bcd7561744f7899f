/**
 * A backup of the database: a folder with the rows of each table, the heads of all streams, and a manifest.
 *
 *     manifest.json          what was backed up, when, and SHA-256 and size of every other file; written last
 *     heads.ndjson.zst       a line a stream: {"stream", "size", "root"} at the moment of the backup
 *     tables/<table>-<n>.copy.zst   rows, as COPY … WITH (FORMAT binary) has them
 *
 * Nothing in it opens a part or signs: month keys and signing seeds are in a folder of their own (`keys-backup.ts`).
 */
import { Readable } from 'node:stream';
import { SettingsError } from '../errors.ts';
import type { Dump, DumpedHead, DumpFacts } from '../store/dump.ts';
import type { Load } from '../store/load.ts';
import { type CheckedFile, check, newFolder, readChecked, readManifest, writeChecked } from './checked-files.ts';

export interface DatabaseManifest extends Omit<DumpFacts, 'heads' | 'takenAt'> {
  readonly format: typeof FORMAT;
  /** Of the program that wrote it. */
  readonly version: string;
  /** RFC 3339; the database's clock. */
  readonly takenAt: string;
  readonly streams: number;
  readonly entries: number;
  readonly heads: CheckedFile;
  readonly rows: readonly (CheckedFile & { readonly table: string; readonly rows: number })[];
}

export interface WrittenBackup {
  readonly manifest: DatabaseManifest;
  /** SHA-256 of the manifest, hex: kept elsewhere, it vouches for all of it. */
  readonly sha256: string;
}

const FORMAT = 'sealog-backup/v1';
const MANIFEST = 'manifest.json';

/** Writes the backup to a folder that is not there yet. */
export async function writeDatabaseBackup(to: string, dump: Dump, version: string): Promise<WrittenBackup> {
  const { folder, complete } = await newFolder(to);
  const { heads, takenAt, ...facts } = dump.facts;
  const rows: DatabaseManifest['rows'][number][] = [];
  for await (const piece of dump.pieces()) {
    const file = await writeChecked(folder, `tables/${piece.table}-${rows.length}.copy.zst`, piece.stream);
    rows.push({ table: piece.table, rows: await piece.rows, ...file });
  }
  const manifest: DatabaseManifest = {
    format: FORMAT,
    version,
    takenAt: new Date(takenAt).toISOString(),
    ...facts,
    streams: heads.length,
    entries: heads.reduce((sum, { size }) => sum + size, 0),
    heads: await writeChecked(folder, 'heads.ndjson.zst', Readable.from(linesOf(heads), { objectMode: false })),
    rows,
  };
  return { manifest, sha256: await complete(MANIFEST, manifest) };
}

export async function readDatabaseManifest(folder: string): Promise<DatabaseManifest> {
  return readManifest<DatabaseManifest>(folder, MANIFEST, FORMAT);
}

/** Throws a SettingsError unless every file is there, and what the manifest says: before anything is made of one of them. */
export async function checkDatabaseBackup(folder: string, { heads, rows }: DatabaseManifest): Promise<void> {
  for (const file of [heads, ...rows]) await check(folder, file);
}

/** Returns the heads at the moment of the backup, by stream. */
export async function readHeads(folder: string, manifest: DatabaseManifest): Promise<ReadonlyMap<string, DumpedHead>> {
  const chunks: Buffer[] = [];
  for await (const chunk of readChecked(folder, manifest.heads)) chunks.push(chunk);
  const lines = Buffer.concat(chunks).toString().split('\n').slice(0, -1);
  const heads = lines.map((line) => JSON.parse(line) as DumpedHead);
  return new Map(heads.map((head) => [head.stream, head]));
}

/** Pours the rows into a database. Throws a SettingsError where a file has not as many as the manifest says. */
export async function loadDatabaseBackup(folder: string, { rows }: DatabaseManifest, load: Load): Promise<void> {
  for (const file of rows) {
    const taken = await load.take(file.table, readChecked(folder, file));
    if (taken !== file.rows)
      throw new SettingsError([
        `the backup in ${folder} is damaged: ${file.path} has ${taken} rows and not ${file.rows}`,
      ]);
  }
}

function* linesOf(heads: readonly DumpedHead[]): Generator<string> {
  for (const head of heads) yield `${JSON.stringify(head)}\n`;
}
