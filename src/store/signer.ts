/**
 * What the signer asks of PostgreSQL, on one connection of its own that holds its lease: an advisory lock, which the server takes back
 * with the connection. All that is read for signing comes over this connection, so it comes from the server that gave the lease.
 */
import { Kysely, PostgresDialect } from 'kysely';
import type pg from 'pg';
import type { ClientCategory } from '../chain/category.ts';
import type { CheckpointStore, SignableStream, SignedCheckpoint } from '../chain/checkpointer.ts';
import { ANCHOR_STREAM } from '../chain/key-statement.ts';
import { evidenceWithoutLeaf, type NewLeaf, saveLeaves } from './anchors.ts';
import { BoundedClient, PEER_SETTINGS } from './bounded-client.ts';
import { keyStatements, type StoredKeyStatement, saveCheckpoints, saveKeyStatement } from './checkpoints.ts';
import { typesOfDatabase } from './database.ts';
import { eraseAgain } from './erasures.ts';
import { finishProposal, generationOf, oldestApproved, ROTATION, savePlan } from './proposals.ts';
import type { Tables } from './tables.ts';
import { frontierAt, treeNodes } from './tree-hashes.ts';

/** What tells one server from another. */
export interface ServerIdentity {
  /** Made by initdb; a physical copy has it too. */
  readonly system: string;
  /** Grows with each promotion and each recovery to a point in time. */
  readonly timeline: number;
}

export interface StoredStream extends SignableStream {
  readonly closed: boolean;
  /** Closed at its last entry, for a shorter policy. */
  readonly turned: boolean;
}

/** A stream that keeps its entries longer than its policy says by now. */
export interface LongStream {
  readonly id: number;
  readonly name: string;
  readonly tenant: string;
  readonly category: ClientCategory;
  readonly epoch: number;
  /** Those of the policy. */
  readonly months: number;
}

/** A rotation that was approved. Planned and without a generation: the plan is none that the signer made. */
export interface PlannedRotation {
  readonly id: string;
  readonly isPlanned: boolean;
  readonly generation: number | undefined;
}

/** Where a pass over the streams is. */
export interface SignedPlace {
  readonly isAnchor: boolean;
  readonly id: number;
}

/**
 * SQL of what a restore of whatever kind changes: the start of the server, the database, the table in it. Not a function, which would
 * cost each commit 20 µs more.
 */
const INCARNATION = `concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
  (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()), pg_relation_filenode('sealog.signer'))`;

const CONNECT_MAX_MS = 2000;
const STATEMENT_MAX_MS = 4000;
const ANSWER_MAX_MS = 5000;

type ErasedAgain = Parameters<typeof eraseAgain> extends [unknown, ...infer What] ? What : never;

export class SignerLease {
  readonly #client: pg.Client;
  readonly #database: Kysely<Tables>;
  #lost = false;

  private constructor(client: pg.Client) {
    this.#client = client;
    const lent = { query: client.query.bind(client), release() {} } as unknown as pg.PoolClient;
    this.#database = new Kysely<Tables>({
      dialect: new PostgresDialect({ pool: { connect: async () => lent, end: async () => {}, options: {} } }),
    });
    client.on('error', () => {
      this.#lost = true;
    });
    client.on('end', () => {
      this.#lost = true;
    });
  }

  /** Returns the lease, or undefined when another signer has it. Throws what the driver throws. */
  static async take(connection: pg.ClientConfig): Promise<SignerLease | undefined> {
    const settings = {
      role: 'sealog_signer',
      search_path: 'pg_catalog',
      synchronous_commit: 'on',
      lock_timeout: '2000',
      statement_timeout: `${STATEMENT_MAX_MS}`,
      idle_in_transaction_session_timeout: '5000',
      ...PEER_SETTINGS,
    };
    const client = new BoundedClient({
      ...connection,
      types: typesOfDatabase,
      application_name: 'sealog_signer',
      connectionTimeoutMillis: CONNECT_MAX_MS,
      query_timeout: ANSWER_MAX_MS,
      options: Object.entries(settings)
        .map(([name, value]) => `-c ${name}=${value}`)
        .join(' '),
    });
    const lease = new SignerLease(client);
    try {
      await client.connect();
      const { rows } = await client.query<{ got: boolean }>(
        "SELECT pg_try_advisory_lock(hashtextextended('sealog.signer', 0)) AS got",
      );
      if (rows[0]?.got === true) return lease;
    } catch (error) {
      await lease.release();
      throw error;
    }
    await lease.release();
    return undefined;
  }

  /** The connection broke, and with it the lease. */
  get isLost(): boolean {
    return this.#lost;
  }

  async release(): Promise<void> {
    this.#lost = true;
    await this.#client.end().catch(() => {});
  }

  get database(): Kysely<Tables> {
    return this.#database;
  }

  /** Throws where the server is a standby: there is nothing to sign. */
  async identity(): Promise<ServerIdentity> {
    const { rows } = await this.#client.query<ServerIdentity>(
      `SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system,
              ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline`,
    );
    return rows[0]!;
  }

  /** Whether this start of the server is accepted, and nothing is refused. */
  async isAccepted(): Promise<boolean> {
    const { rows } = await this.#client.query<{ accepted: boolean }>(
      `SELECT EXISTS (SELECT FROM sealog.signer WHERE refusal IS NULL AND incarnation = ${INCARNATION}) AS accepted`,
    );
    return rows[0]!.accepted;
  }

  /** Lets appending go on at this start of the server, or says why not. */
  async accept(identity: ServerIdentity, refusal: string | undefined): Promise<void> {
    await this.#client.query(
      `INSERT INTO sealog.signer (system_identifier, timeline, incarnation, refusal)
       VALUES ($1, $2, ${INCARNATION}, $3)
       ON CONFLICT (one) DO UPDATE SET system_identifier = excluded.system_identifier, timeline = excluded.timeline,
         incarnation = excluded.incarnation, refusal = excluded.refusal, looked_at = clock_timestamp()`,
      [identity.system, identity.timeline, refusal ?? null],
    );
  }

  /**
   * Returns streams behind a place that grew since they were signed, or were signed by an older generation; the anchor stream's epochs
   * come last. From place to place each stream comes once, however fast the first ones grow.
   */
  async streamsToSign(
    generation: number,
    after: SignedPlace,
    limit: number,
  ): Promise<(SignableStream & { readonly isAnchor: boolean })[]> {
    const { rows } = await this.#client.query<SignableStream & { isAnchor: boolean }>({
      name: 'streams_to_sign',
      text: `SELECT s.id, s.tenant AS "tenantId", s.name, s.size, s.frontier, s.category = 'anchor' AS "isAnchor" FROM sealog.stream AS s
             LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
             WHERE s.size > 0 AND (NOT s.closed OR s.turned) AND (c.stream IS NULL OR c.size <> s.size OR c.generation <> $1)
               AND (s.category = 'anchor', s.id) > ($2, $3)
             ORDER BY s.category = 'anchor', s.id LIMIT $4`,
      values: [generation, after.isAnchor, after.id, limit],
    });
    return rows;
  }

  /** Returns all streams by name. */
  async streams(): Promise<Map<string, StoredStream>> {
    const streams = new Map<string, StoredStream>();
    let after = 0;
    for (;;) {
      const { rows } = await this.#client.query<StoredStream>(
        `SELECT id, tenant AS "tenantId", name, size, frontier, closed, turned FROM sealog.stream WHERE id > $1 ORDER BY id LIMIT 5000`,
        [after],
      );
      for (const row of rows) streams.set(row.name, row);
      const last = rows.at(-1);
      if (last === undefined) return streams;
      after = last.id;
    }
  }

  /** Closes an epoch, and makes the row of the next one; both may have been done before. */
  async closeEpoch(
    stream: string,
    next: { readonly tenant: string; readonly category: string; readonly epoch: number; readonly name: string },
  ): Promise<void> {
    await this.#client.query('INSERT INTO sealog.tenant (name) VALUES ($1) ON CONFLICT (name) DO NOTHING', [
      next.tenant,
    ]);
    await this.#client.query(
      `INSERT INTO sealog.stream (tenant, category, epoch, name)
       SELECT id, $2, $3, $4 FROM sealog.tenant WHERE name = $1 ON CONFLICT DO NOTHING`,
      [next.tenant, next.category, next.epoch, next.name],
    );
    await this.#client.query(
      'UPDATE sealog.stream SET closed = true, turned = false WHERE name = $1 AND (turned OR NOT closed)',
      [stream],
    );
  }

  /** Notes the months below which no policy goes. */
  async setFloors(floors: readonly (readonly [category: string, months: number])[]): Promise<void> {
    await this.#client.query(
      `INSERT INTO sealog.retention_floor (category, months) SELECT * FROM unnest($1::text[], $2::integer[])
       ON CONFLICT (category) DO UPDATE SET months = excluded.months WHERE retention_floor.months <> excluded.months`,
      [floors.map(([category]) => category), floors.map(([, months]) => months)],
    );
  }

  /** Returns streams behind this id that keep their entries longer than their policy says, as many as `limit`. */
  async longStreams(after: number, limit: number): Promise<LongStream[]> {
    const { rows } = await this.#client.query<LongStream>({
      name: 'long_streams',
      text: `SELECT s.id, s.name, t.name AS tenant, s.category, s.epoch, s.retention_next AS months
             FROM sealog.stream AS s JOIN sealog.tenant AS t ON t.id = s.tenant
             WHERE s.retention_next IS NOT NULL AND NOT s.closed AND s.id > $1 ORDER BY s.id LIMIT $2`,
      values: [after, limit],
    });
    return rows;
  }

  /** Closes an epoch at its last entry and makes the row of the next one, which keeps its entries as the policy says now; done once. */
  async turnEpoch(stream: string): Promise<void> {
    await this.#client.query('SELECT sealog.turn_epoch($1)', [stream]);
  }

  /** Returns the last size of an epoch that was turned, the months of both, and whether the next one has its opening entry. */
  async turnedEpoch(
    stream: string,
    next: string,
  ): Promise<{ id: number; size: number; before: number; after: number; isOpened: boolean } | undefined> {
    const { rows } = await this.#client.query<{
      id: number;
      size: number;
      before: number;
      after: number;
      isOpened: boolean;
    }>(
      `SELECT s.id, s.size, s.retention_months AS before, n.retention_months AS after, n.size > 0 AS "isOpened"
       FROM sealog.stream AS s, sealog.stream AS n WHERE s.name = $1 AND s.turned AND n.name = $2`,
      [stream, next],
    );
    return rows[0];
  }

  /** Returns the stored checkpoints of all streams that no recovery closed, as they stand there. */
  async storedNotes(): Promise<{ name: string; note: string }[]> {
    const { rows } = await this.#client.query<{ name: string; note: string }>(
      `SELECT s.name, c.note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream
       WHERE NOT s.closed OR s.turned`,
    );
    return rows;
  }

  /** Returns the newest checkpoints that no tick with an entry has a leaf of, those of streams behind `after` first; the anchor stream itself has none. */
  async checkpointsToAnchor(
    after: number,
    limit: number,
  ): Promise<{ streamId: number; tenantId: number; name: string; size: number; root: Buffer }[]> {
    const { rows } = await this.#client.query<{
      streamId: number;
      tenantId: number;
      name: string;
      size: number;
      root: Buffer;
    }>({
      name: 'checkpoints_to_anchor',
      text: `SELECT c.stream AS "streamId", c.tenant AS "tenantId", s.name, c.size, c.root
             FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream
             WHERE s.category <> 'anchor' AND (NOT s.closed OR s.turned) AND NOT EXISTS (
               SELECT FROM sealog.anchor_leaf AS l WHERE l.stream = c.stream AND l.size >= c.size AND sealog.is_tick(l.tick))
             ORDER BY c.stream <= $1, c.stream LIMIT $2`,
      values: [after, limit],
    });
    return rows;
  }

  /** Returns tokens of authorities that no tick has a leaf of. */
  evidenceToAnchor(limit: number): Promise<{ id: number; evidence: Uint8Array; ends: number | null }[]> {
    return evidenceWithoutLeaf(this.#database, limit);
  }

  /** Where the anchor stream stands: its last epoch and that one's size. */
  async anchorPlace(): Promise<{ epoch: number; size: number }> {
    const { rows } = await this.#client.query<{ epoch: number; size: number }>(
      `SELECT epoch, size FROM sealog.stream WHERE category = 'anchor' AND starts_with(name, $1) ORDER BY epoch DESC LIMIT 1`,
      [ANCHOR_STREAM],
    );
    return rows[0] ?? { epoch: 1, size: 0 };
  }

  /** Returns the keys of this name that are stated, by generation. */
  statedKeys(name: string): Promise<StoredKeyStatement[]> {
    return keyStatements(this.#database, [name]);
  }

  /** Returns the oldest rotation that two persons agreed on and that is not done, with the generation that was planned for it. */
  async approvedRotation(): Promise<PlannedRotation | undefined> {
    const approved = await oldestApproved(this.#client, ROTATION);
    if (approved === undefined) return undefined;
    const { id, plan } = approved;
    return { id, isPlanned: plan !== null, generation: generationOf(plan) };
  }

  /** Returns whether it was noted: the rotation is still approved. */
  planRotation(id: string, generation: number): Promise<boolean> {
    return savePlan(this.#client, id, { generation });
  }

  /** Done, unless there is an error. */
  finishRotation(id: string, error?: string): Promise<void> {
    return finishProposal(this.#client, id, error);
  }

  /** Erases parts again in a database that is not let in yet. Returns false where the block is another by now. */
  eraseAgain(...what: ErasedAgain): Promise<boolean> {
    return eraseAgain(this.#client, ...what);
  }

  saveLeaves(tick: Uint8Array, leaves: readonly NewLeaf[]): Promise<void> {
    return saveLeaves(this.#client, tick, leaves);
  }

  async saveKeyStatement(statement: StoredKeyStatement): Promise<void> {
    await saveKeyStatement(this.#client, statement);
  }

  /** Reads and writes for the checkpointer. */
  checkpoints(): CheckpointStore {
    return {
      subtreeHashes: async (stream, size, nodes) => {
        const node = await treeNodes(this.#database, stream, size, nodes);
        return nodes.map(({ level, index }) => node(level, index));
      },
      frontierAt: (stream, size) => frontierAt(this.#database, stream, size),
      save: (checkpoints: readonly SignedCheckpoint[]) => saveCheckpoints(this.#client, checkpoints),
    };
  }
}

/** Returns why appending is refused, or undefined; also where no signer ever was. */
export async function signerRefusal(writer: pg.Pool): Promise<string | undefined> {
  const { rows } = await writer.query<{ refusal: string }>(`SELECT ${SIGNER_REFUSAL} AS refusal`);
  const [{ refusal } = { refusal: NO_SIGNER }] = rows;
  return refusal === '' || refusal === NO_SIGNER ? undefined : refusal;
}

/** What `SIGNER_REFUSAL` is where no signer ever looked at the database. */
export const NO_SIGNER = 'no signer';

/** SQL of why appending is refused, empty where it is not; one row is looked at. */
export const SIGNER_REFUSAL = `coalesce((SELECT CASE WHEN s.refusal IS NOT NULL THEN s.refusal
  WHEN s.incarnation <> ${INCARNATION} THEN 'the signer has not looked at this database since it was started or made'
  ELSE '' END FROM sealog.signer AS s), '${NO_SIGNER}')`;
