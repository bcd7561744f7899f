/**
 * The clock of a simulation: ahead of the real one by a time that only the simulation moves. It runs, so that whatever waits for a second
 * waits for a real one.
 *
 * The service has it injected. PostgreSQL knows no other clock than the machine's, so in the simulation's own database its superuser puts
 * another function in the place of `clock_timestamp()`, before the schema is made. Whoever can do that to a log of production owns its
 * machine: that is what outside times are for (docs/retention.md, Clocks).
 */
import pg from 'pg';

const DATABASE_CLOCK = `
  CREATE SCHEMA simulation;
  GRANT USAGE ON SCHEMA simulation TO PUBLIC;
  CREATE TABLE simulation.clock (ahead double precision NOT NULL);
  INSERT INTO simulation.clock VALUES (0);
  ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock_timestamp;
  CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ SELECT true_clock_timestamp() + make_interval(secs => (SELECT ahead FROM simulation.clock) / 1000) $$;`;

/** Deeds of one instant take some time, and the next are an hour or so later. */
const LATE_MAX_MS = 10 * 60_000;

export class SimulatedClock {
  readonly #pool: pg.Pool;
  readonly #onMoved: (aheadMs: number) => void;
  #ahead = 0;
  /** What a jump adds to the service's clock alone, which no monotonic clock sees. */
  #jump = 0;

  private constructor(pool: pg.Pool, onMoved: (aheadMs: number) => void) {
    this.#pool = pool;
    this.#onMoved = onMoved;
  }

  /** Takes over the clock of an empty database. `onMoved` is called with what all clocks are ahead, wherever it changes. */
  static async takeOver(
    superuser: pg.ClientConfig,
    at: number,
    onMoved: (aheadMs: number) => void,
  ): Promise<SimulatedClock> {
    const pool = new pg.Pool({ ...superuser, max: 1, allowExitOnIdle: true });
    // Whoever drops the database may be quicker than our goodbye.
    pool.on('connect', (client) => client.on('error', () => {}));
    pool.on('error', () => {});
    await pool.query(DATABASE_CLOCK);
    const clock = new SimulatedClock(pool, onMoved);
    await clock.moveTo(at);
    return clock;
  }

  readonly wall = (): number => Date.now() + this.#ahead + this.#jump;

  /** Time that goes by is seen here, too: a machine that ran all the time. */
  readonly monotonic = (): number => performance.now() + this.#ahead;

  get now(): number {
    return Date.now() + this.#ahead;
  }

  /** Throws where that has been: what a deed took must end before the next begins. */
  async moveTo(instant: number): Promise<void> {
    if (this.#ahead !== 0 && this.now > instant + LATE_MAX_MS)
      throw new Error(`${new Date(instant).toISOString()} has been: it is ${new Date(this.now).toISOString()}`);
    const ahead = Math.max(instant - Date.now(), this.#ahead === 0 ? Number.NEGATIVE_INFINITY : this.#ahead);
    await this.#setDatabase(ahead);
    this.#ahead = ahead;
    this.#onMoved(ahead);
  }

  /** Sets clocks wrong while something is done. Nobody else's clock knows of it. */
  async whileWrong<T>(ms: number, clock: 'service' | 'database' | 'both', work: () => Promise<T>): Promise<T> {
    if (clock !== 'service') await this.#setDatabase(this.#ahead + ms);
    if (clock !== 'database') this.#jump = ms;
    try {
      return await work();
    } finally {
      this.#jump = 0;
      await this.#setDatabase(this.#ahead);
    }
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  async #setDatabase(ahead: number): Promise<void> {
    await this.#pool.query('UPDATE simulation.clock SET ahead = $1', [ahead]);
  }
}
