/**
 * Looks for secrets wherever bytes lie: in the files of folders and in the rows of a database, in the spellings that programs give to bytes, and
 * in what is compressed. Who wants to show that something is nowhere shows as well that the same search finds what is there.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import pg from 'pg';

/** What is looked for, in all its spellings, by a name that tells them apart. */
export class Secrets {
  readonly #spellings: { readonly name: string; readonly bytes: Buffer }[] = [];
  /** By hash: a backup has most files of the data folder, and an archive most of its WAL. */
  readonly #searched = new Map<string, readonly string[]>();

  /** A text, or bytes: of a text at least 12 letters that stand nowhere else. */
  add(name: string, secret: string | Uint8Array): this {
    const bytes = Buffer.from(secret as string, 'utf8');
    this.#searched.clear();
    const spell = (as: string, spelled: Buffer): void => {
      if (!this.#spellings.some((known) => known.bytes.equals(spelled)))
        this.#spellings.push({ name: `${name} (${as})`, bytes: spelled });
    };
    spell('as it is', bytes);
    spell('hex', Buffer.from(bytes.toString('hex')));
    spell('HEX', Buffer.from(bytes.toString('hex').toUpperCase()));
    // Within other bytes it begins at any of three places; what depends on its neighbours is cut off.
    for (const encoding of ['base64', 'base64url'] as const)
      for (const before of [0, 1, 2]) {
        const text = Buffer.concat([Buffer.alloc(before), bytes])
          .toString(encoding)
          .replace(/=+$/, '');
        spell(`${encoding} ${before}`, Buffer.from(text.slice(before === 0 ? 0 : before + 1, -1)));
      }
    if (typeof secret === 'string') spell('UTF-16', Buffer.from(secret, 'utf16le'));
    return this;
  }

  /** Returns the names of what stands in the bytes, or in what is compressed in them. */
  in(bytes: Uint8Array): readonly string[] {
    // A segment of WAL ends in zeros.
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] === 0) end -= 1;
    const whole = Buffer.from(bytes.buffer, bytes.byteOffset, end);
    if (end < SMALL_BYTES) return this.#search(whole);
    const key = createHash('sha256').update(whole).digest('base64');
    const found = this.#searched.get(key) ?? this.#search(whole);
    this.#searched.set(key, found);
    return found;
  }

  #search(whole: Buffer): string[] {
    const found = new Set<string>();
    for (const piece of [whole, ...unpacked(whole)])
      for (const one of this.#spellings)
        if (piece.includes(one.bytes)) found.add(piece === whole ? one.name : `${one.name} in zstd`);
    return [...found];
  }

  /** Returns `<file>: <name>` of all that stands in the files of a folder. */
  async inFolder(folder: string): Promise<string[]> {
    const found: string[] = [];
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const bytes = await readFile(path);
      // A log of PostgreSQL has values in hex.
      const names = path.endsWith('.log') ? this.inText(bytes.toString('latin1')) : this.in(bytes);
      for (const name of names) found.push(`${relative(folder, path)}: ${name}`);
    }
    return found;
  }

  /** Returns what stands in a text, and in the bytes that are written in it as PostgreSQL writes them. */
  inText(text: string): string[] {
    const values = [...text.matchAll(/\\x([0-9a-f]{2,})/g)].map(([, hex]) => Buffer.from(hex!, 'hex'));
    return [...new Set([Buffer.from(text), ...values].flatMap((piece) => this.in(piece)))];
  }

  /**
   * Returns `<table>: <name>` of all that stands in the rows of a database, which has them whole: in its files large values are cut up, and
   * long texts compressed in a way of its own.
   */
  async inDatabase(superuser: pg.ClientConfig): Promise<string[]> {
    const client = new pg.Client(superuser);
    await client.connect();
    try {
      const { rows: tables } = await client.query<{ name: string }>(
        `SELECT c.oid::regclass::text AS name FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'sealog'::regnamespace`,
      );
      const found: string[] = [];
      for (const { name } of tables) {
        const { rows } = await client.query<{ text: string }>(`SELECT t::text AS text FROM ${name} AS t`);
        for (const what of new Set(rows.flatMap(({ text }) => this.inText(text)))) found.push(`${name}: ${what}`);
      }
      return found;
    } finally {
      await client.end();
    }
  }
}

const SMALL_BYTES = 8192;
const ZSTD_MAGIC = Buffer.from('28b52ffd', 'hex');

/** What the whole frames of zstd among the bytes hold, wherever they begin. */
function* unpacked(bytes: Buffer): Iterable<Buffer> {
  for (let at = bytes.indexOf(ZSTD_MAGIC); at >= 0; at = bytes.indexOf(ZSTD_MAGIC, at + 1)) {
    const end = frameEnd(bytes, at);
    if (end === undefined) continue;
    try {
      yield zstdDecompressSync(bytes.subarray(at, end), { maxOutputLength: 2 ** 24 });
    } catch {
      // Something else that looks like one, or one that is cut up.
    }
  }
}

/** Where a frame ends: RFC 8878 section 3.1.1. */
function frameEnd(bytes: Buffer, begin: number): number | undefined {
  const descriptor = bytes[begin + 4];
  if (descriptor === undefined) return undefined;
  const isSingle = (descriptor & 0x20) !== 0;
  const contentSize = [isSingle ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  let at = begin + 5 + (isSingle ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]! + contentSize;
  for (;;) {
    if (at + 3 > bytes.length) return undefined;
    const header = bytes.readUIntLE(at, 3);
    at += 3 + (((header >> 1) & 3) === 1 ? 1 : header >> 3);
    if ((header & 1) === 1) break;
  }
  const end = at + ((descriptor & 4) === 0 ? 0 : 4);
  return end <= bytes.length ? end : undefined;
}
