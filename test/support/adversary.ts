/**
 * The adversary owns the database: as superuser, triggers off, he rewrites what is stored, consistently where he can. What he does happens in an
 * open transaction, which is rolled back afterwards.
 */
import type pg from 'pg';
import { checkpointLeafHash, evidenceLeafHash, tickRoot } from '../../src/chain/anchor-tick.ts';
import { decodeRecords, encodeRecords, packPayload, unpackPayload } from '../../src/chain/block.ts';
import { concatBytes, toHex, utf8 } from '../../src/chain/bytes.ts';
import { encodeCheckpoint } from '../../src/chain/checkpoint.ts';
import { entryIdHash } from '../../src/chain/entry.ts';
import { appendLeaves, encodeFrontier, frontierRoot, leafHash } from '../../src/chain/merkle.ts';
import { type NoteSigner, signNote } from '../../src/chain/note.ts';
import { decodeRecord, encodeRecord, NO_PREVIOUS, type Rec } from '../../src/chain/record.ts';
import { fullTilesBetween, TILE_WIDTH, tileRoot } from '../../src/chain/tile.ts';

export interface Home {
  readonly id: number;
  readonly tenant: number;
  readonly name: string;
}

export class Adversary {
  readonly #pool: pg.Pool;
  readonly #origin: string;

  /** `pool` has one connection, in its transaction. */
  constructor(pool: pg.Pool, origin: string) {
    this.#pool = pool;
    this.#origin = origin;
  }

  // biome-ignore lint/suspicious/noExplicitAny: rows of every shape
  async run(text: string, values: readonly unknown[] = []): Promise<any[]> {
    return (await this.#pool.query(text, [...values])).rows;
  }

  async home(name: string): Promise<Home> {
    const [home] = await this.run('SELECT id, tenant, name FROM sealog.stream WHERE name = $1', [name]);
    return home;
  }

  /** The records of a stream, in order. */
  async records(stream: Home): Promise<Uint8Array[]> {
    const rows = await this.run('SELECT records FROM sealog.block WHERE stream = $1 ORDER BY first_seq', [stream.id]);
    return rows.flatMap(({ records }) => decodeRecords(unpackPayload(records)));
  }

  /** Changes records from `seq` on and works out everything that follows from them anew: links, tiles, head, frontier. */
  async rewrite(stream: Home, seq: number, change: (record: Rec, seq: number) => object): Promise<void> {
    const blocks = await this.run('SELECT first_seq, records FROM sealog.block WHERE stream = $1 ORDER BY first_seq', [
      stream.id,
    ]);
    const leaves: Uint8Array[] = [];
    for (const { first_seq, records } of blocks) {
      const own = decodeRecords(unpackPayload(records)).map((bytes, i) => {
        const at = first_seq + i;
        const record = decodeRecord(bytes);
        const before = leaves.at(-1);
        const previous = before === undefined ? NO_PREVIOUS : toHex(before);
        const written =
          at < seq
            ? bytes
            : utf8(encodeRecord({ ...record, ...change(record, at), previous: at === 0 ? NO_PREVIOUS : previous }));
        leaves.push(leafHash(written));
        return written;
      });
      await this.run('UPDATE sealog.block SET records = $3 WHERE stream = $1 AND first_seq = $2', [
        stream.id,
        first_seq,
        packPayload(encodeRecords(own)),
      ]);
    }
    await this.setTree(stream, leaves);
  }

  /** Makes tiles, head and frontier those of these leaves. */
  async setTree(stream: Home, leaves: readonly Uint8Array[]): Promise<void> {
    await this.run('DELETE FROM sealog.tile WHERE stream = $1', [stream.id]);
    const roots = new Map<string, Uint8Array>();
    for (const { level, index } of fullTilesBetween(0, leaves.length)) {
      const from = index * TILE_WIDTH;
      const hashes = Array.from({ length: TILE_WIDTH }, (_, i) =>
        level === 0 ? leaves[from + i]! : roots.get(`${level - 1} ${from + i}`)!,
      );
      const tile = concatBytes(...hashes);
      const root = tileRoot(tile);
      roots.set(`${level} ${index}`, root);
      await this.run('INSERT INTO sealog.tile VALUES ($1, $2, $3, $4, $5, $6)', [
        stream.tenant,
        stream.id,
        level,
        index,
        tile,
        root,
      ]);
    }
    await this.run('UPDATE sealog.stream SET size = $2, head = $3, frontier = $4 WHERE id = $1', [
      stream.id,
      leaves.length,
      leaves.at(-1) ?? new Uint8Array(32),
      encodeFrontier(appendLeaves(0, [], leaves)),
    ]);
  }

  /** Puts a stream back to an earlier size, as if it had never grown; `size` MUST be where a block begins. */
  async rollBack(stream: Home, size: number): Promise<void> {
    const kept = (await this.records(stream)).slice(0, size);
    for (const [table, column] of [
      ['block', 'first_seq'],
      ['entry_id', 'first_seq'],
    ])
      await this.run(`DELETE FROM sealog.${table} WHERE stream = $1 AND ${column} >= $2`, [stream.id, size]);
    await this.setTree(stream, kept.map(leafHash));
    const { recordedAt, retainUntil } = decodeRecord(kept.at(-1)!);
    await this.run('UPDATE sealog.stream SET recorded_at = $2, retain_until = $3 WHERE id = $1', [
      stream.id,
      Date.parse(recordedAt),
      retainUntil === undefined ? null : Date.parse(retainUntil),
    ]);
  }

  async rootAt(stream: Home, size: number): Promise<Uint8Array> {
    const leaves = (await this.records(stream)).slice(0, size).map(leafHash);
    return frontierRoot(size, appendLeaves(0, [], leaves));
  }

  /** The signed note of a checkpoint of the stream, as it stands now, at some size. */
  async signed(stream: Home, size: number, signer: NoteSigner): Promise<string> {
    return signNote(
      encodeCheckpoint({ origin: `${this.#origin}/${stream.name}`, size, root: await this.rootAt(stream, size) }),
      [signer],
    );
  }

  async setCheckpoint(stream: Home, size: number, note: string): Promise<void> {
    await this.run('UPDATE sealog.checkpoint SET size = $2, root = $3, note = $4 WHERE stream = $1', [
      stream.id,
      size,
      await this.rootAt(stream, size),
      note,
    ]);
  }

  /** Makes all leaves of ticks, the ticks and the anchor stream those of the streams as they stand now. */
  async rewriteAnchors(): Promise<void> {
    const anchor = await this.home('sealog/anchor');
    const names = new Map<number, Home>();
    for (const home of await this.run('SELECT id, tenant, name FROM sealog.stream')) names.set(home.id, home);
    const ids = new Map<string, string>();
    const ticks = await this.run('SELECT DISTINCT tick FROM sealog.anchor_leaf');
    for (const { tick } of ticks) {
      const leaves = await this.run(
        `SELECT l.*, e.evidence AS bytes FROM sealog.anchor_leaf AS l LEFT JOIN sealog.outside_evidence AS e ON e.id = l.evidence
         WHERE tick = $1 ORDER BY position`,
        [tick],
      );
      const hashes: Uint8Array[] = [];
      for (const leaf of leaves) {
        if (leaf.stream === null) {
          hashes.push(evidenceLeafHash(leaf.bytes));
          continue;
        }
        const home = names.get(leaf.stream)!;
        const root = await this.rootAt(home, leaf.size);
        const text = encodeCheckpoint({ origin: `${this.#origin}/${home.name}`, size: leaf.size, root });
        const hash = checkpointLeafHash(leaf.blind, text);
        hashes.push(hash);
        await this.run('UPDATE sealog.anchor_leaf SET root = $3, hash = $4 WHERE tick = $1 AND position = $2', [
          tick,
          leaf.position,
          root,
          hash,
        ]);
      }
      const root = tickRoot(hashes);
      ids.set(toHex(tick), toHex(root));
      await this.run('UPDATE sealog.anchor_leaf SET tick = $2 WHERE tick = $1', [tick, root]);
    }
    for (const [from, to] of ids)
      await this.run(
        `UPDATE sealog.entry_id SET ids = array_replace(ids, sealog.id_half($2), sealog.id_half($3)),
           ids_rest = array_replace(ids_rest, sealog.id_rest($2), sealog.id_rest($3)) WHERE stream = $1`,
        [anchor.id, entryIdHash(from), entryIdHash(to)],
      );
    await this.rewrite(anchor, 0, ({ id }) => ({ id: ids.get(id) ?? id }));
  }
}

/** Every table and, since triggers are each one's own, every partition; foreign keys too. */
export async function disarm(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT relname AS name FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p')
     AND relname !~ '^migration'`,
  );
  for (const { name } of rows) await pool.query(`ALTER TABLE sealog.${name} DISABLE TRIGGER ALL`);
}
