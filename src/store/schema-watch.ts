/**
 * Ends a service whose database was migrated past it. `sealog migrate` asks for replicas to be stopped that do not know what it changes; one
 * that it could not see, or that started at the same moment, finds out here.
 */
import type pg from 'pg';
import { knownMigrations } from './migrate.ts';
import { newerMigrations } from './schema-version.ts';

const LOOK_EVERY_MS = 5000;

export class SchemaWatch {
  readonly #writer: pg.Pool;
  readonly #onPast: (migrations: readonly string[]) => void;
  #timer: NodeJS.Timeout | undefined;

  /** `onPast` is called with the migrations that this program may not work beside. */
  constructor(writer: pg.Pool, onPast: (migrations: readonly string[]) => void) {
    this.#writer = writer;
    this.#onPast = onPast;
  }

  async start(): Promise<void> {
    // Now: later the files may be those of another version, put in place of ours.
    const known = await knownMigrations();
    this.#timer = setInterval(() => void this.#look(known), LOOK_EVERY_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #look(known: readonly string[]): Promise<void> {
    const found = await this.#writer
      .query<{ name: string }>('SELECT name FROM sealog.migration ORDER BY name')
      // A database that does not answer is somebody else's alarm.
      .catch(() => undefined);
    if (found === undefined) return;
    const done = found.rows.map(({ name }) => name);
    const { foreign } = newerMigrations(done, known);
    if (foreign.length === 0) return;
    this.stop();
    this.#onPast(foreign);
  }
}
