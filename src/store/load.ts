/**
 * A dump (`dump.ts`), poured into an empty database. Until `finishLoad` the tables lack what guards them: the service refuses such a database
 * (`settings-gate.ts`), so a load that was interrupted serves nobody. It is begun again in an empty database.
 */
import pg from 'pg';
import { SettingsError } from '../errors.ts';
import { PEER_OPTIONS } from './bounded-client.ts';
import { copyIn } from './copy-stream.ts';
import { type DumpFacts, inOrder, listed } from './dump.ts';
import { knownMigrations, makeSchema } from './migrate.ts';

const CONNECT_MAX_MS = 10_000;

export class Load {
  readonly #connection: pg.ClientConfig;
  readonly #client: pg.Client;
  readonly #facts: DumpFacts;
  /** What puts back what was taken from the tables. */
  readonly #undo: string[] = [];

  private constructor(connection: pg.ClientConfig, client: pg.Client, facts: DumpFacts) {
    this.#connection = connection;
    this.#client = client;
    this.#facts = facts;
  }

  /**
   * Makes the schema that the dump was taken from. The connection MUST be a role's that may migrate.
   *
   * @throws SettingsError where the database has a log, or the dump is of another schema than this version knows
   */
  static async begin(connection: pg.ClientConfig, facts: DumpFacts): Promise<Load> {
    const known = await knownMigrations();
    const unknown = facts.migrations.filter((name, i) => known[i] !== name);
    const behind = facts.migrations.at(-1);
    if (unknown.length > 0 || behind === undefined)
      throw new SettingsError([
        `the schema of the backup is not one that this version of Sealog knows (${unknown.join(', ')}): install the newer version`,
      ]);
    const client = new pg.Client({
      ...connection,
      application_name: 'sealog_restore',
      ...PEER_OPTIONS,
      connectionTimeoutMillis: CONNECT_MAX_MS,
      // What is lost of it in a crash is begun again.
      options: '-c search_path=pg_catalog -c synchronous_commit=off -c timezone=UTC',
    });
    client.on('error', () => {});
    await client.connect();
    try {
      const { rows } = await client.query("SELECT FROM pg_class WHERE relnamespace = to_regnamespace('sealog')");
      if (rows.length > 0)
        throw new SettingsError([
          'there is a log in this database, or what an interrupted restore left: take an empty one',
        ]);
      await makeSchema(connection, behind);
      const load = new Load(connection, client, facts);
      await load.#open();
      return load;
    } catch (error) {
      await client.end().catch(() => {});
      throw error;
    }
  }

  /** Takes away what refuses or changes rows that come in, and notes how it was. */
  async #open(): Promise<void> {
    await this.#client.query('SET ROLE sealog_owner');
    for (const month of this.#facts.dropMonths)
      await this.#client.query('SELECT sealog.ensure_drop_month($1)', [month]);
    // COPY takes no rows where row-level security binds whom it works for.
    const { rows: forced } = await this.#client.query<{ name: string }>(
      `SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relforcerowsecurity ORDER BY 1`,
    );
    for (const { name } of forced) {
      await this.#client.query(`ALTER TABLE ${name} NO FORCE ROW LEVEL SECURITY`);
      this.#undo.push(`ALTER TABLE ${name} FORCE ROW LEVEL SECURITY`);
    }
    // What migrations put there is in the dump as well.
    const tables = await inOrder(this.#client, Object.keys(this.#facts.tables));
    for (const table of tables.reverse()) await this.#client.query(`DELETE FROM sealog.${pg.escapeIdentifier(table)}`);
    const { rows: triggers } = await this.#client.query<{ name: string; trigger: string; mode: string }>(
      `SELECT t.tgrelid::regclass::text AS name, t.tgname::text AS trigger, t.tgenabled::text AS mode
       FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
       WHERE c.relnamespace = 'sealog'::regnamespace AND NOT t.tgisinternal AND t.tgtype & 4 <> 0 AND t.tgenabled <> 'D' ORDER BY 1, 2`,
    );
    for (const { name, trigger, mode } of triggers) {
      const own = pg.escapeIdentifier(trigger);
      await this.#client.query(`ALTER TABLE ONLY ${name} DISABLE TRIGGER ${own}`);
      this.#undo.push(
        `ALTER TABLE ONLY ${name} ENABLE ${mode === 'A' ? 'ALWAYS ' : mode === 'R' ? 'REPLICA ' : ''}TRIGGER ${own}`,
      );
    }
  }

  /** Takes rows of one table; returns how many. */
  async take(table: string, rows: AsyncIterable<Uint8Array>): Promise<number> {
    const columns = this.#facts.tables[table];
    if (columns === undefined)
      throw new SettingsError([`the backup has rows of ${table}, a table that it does not name`]);
    const into = `sealog.${pg.escapeIdentifier(table)} (${listed(columns)})`;
    return copyIn(this.#client, `COPY ${into} FROM STDIN WITH (FORMAT binary)`, rows);
  }

  /** Leaves out what came behind the moment of the dump, puts everything back that guards the tables, and brings the schema up to date. */
  async finish(): Promise<void> {
    const client = this.#client;
    await client.query('ANALYZE');
    for (const [table, place] of [
      ['tag', 'first_seq'],
      ['entry_id', 'first_seq'],
      ['entry_id', 'seq'],
    ] as const) {
      // Before 0017 there was a table of tags, and before 0016 a row for each id.
      if (!this.#facts.tables[table]?.includes(place)) continue;
      await client.query(
        `DELETE FROM sealog.${table} AS t WHERE NOT EXISTS (SELECT FROM sealog.stream AS s WHERE s.id = t.stream AND t.${place} < s.size)`,
      );
    }
    // A tick whose entry is not there means nothing; leaves of it must not speak of streams that are not there either.
    await client.query(
      `DELETE FROM sealog.anchor_leaf AS l
       WHERE (l.stream IS NOT NULL AND NOT EXISTS (SELECT FROM sealog.stream AS s WHERE s.id = l.stream AND l.size <= s.size))
          OR l.evidence > (SELECT coalesce(max(id), 0) FROM sealog.outside_evidence)`,
    );
    for (const [name, last] of Object.entries(this.#facts.sequences)) {
      const [table = '', column = ''] = name.split('.');
      await client.query(`SELECT setval(pg_get_serial_sequence(format('sealog.%I', $1::text), $2), $3::bigint)`, [
        table,
        column,
        last,
      ]);
    }
    for (const statement of this.#undo) await client.query(statement);
    await client.query('RESET ROLE; SET synchronous_commit = on');
    await makeSchema(this.#connection);
    // Up to PostgreSQL 15 whoever makes roles may not act as them by that. What was loaded is verified next.
    await client.query(`DO $$ BEGIN
      IF NOT pg_has_role(session_user, 'sealog_verifier', 'MEMBER') THEN
        EXECUTE format('GRANT sealog_verifier TO %I', session_user);
      END IF;
    END $$`);
    await client.query('ANALYZE');
  }

  async close(): Promise<void> {
    await this.#client.end().catch(() => {});
  }
}
