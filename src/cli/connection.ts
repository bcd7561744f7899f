/** Where a command's database is: the service's, or that of the embedded mode, started for the command when the service does not run. */
import { stat } from 'node:fs/promises';
import type pg from 'pg';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { connectionOf, loginsOf } from '../store/connection.ts';
import { lockDataDir } from '../store/data-dir-lock.ts';
import type { Logins } from '../store/database.ts';
import { clusterOf } from '../store/embedded/cluster.ts';
import { ifThere } from '../store/embedded/files.ts';
import { readEmbeddedConnection, startEmbeddedPostgres } from '../store/embedded-postgres.ts';

/** The work was interrupted: not everything was done. */
const INTERRUPTED = 2;

/**
 * Runs `work` with connections as the service's login roles, and as whoever may read everything: with DATABASE_URL whom that names. Nothing is
 * made here: an empty log where somebody mistook the folder would look sound.
 */
export async function withConnection<T>(
  config: Config,
  log: Logger,
  work: (connection: pg.ClientConfig, logins: Logins, admin: pg.ClientConfig) => Promise<T>,
): Promise<T> {
  if (config.databaseUrl !== undefined) {
    const connection = connectionOf(config.databaseUrl);
    return work(connection, loginsOf(config.ownDatabaseUrls), connection);
  }
  const running = await readEmbeddedConnection(config.dataDir);
  if (running !== undefined) {
    try {
      return await work(running.app, running.logins, running.admin);
    } finally {
      running.close();
    }
  }
  if ((await ifThere(stat(clusterOf(config.dataDir)))) === undefined)
    throw new SettingsError([`there is no log in ${config.dataDir}: set SEALOG_DATA_DIR to the service's data folder`]);
  const lock = await lockDataDir(config.dataDir);
  try {
    const postgres = await startEmbeddedPostgres({ dataDir: config.dataDir, log });
    // Interrupted, we leave no server behind.
    const end = () => void postgres.stop().finally(() => process.exit(INTERRUPTED));
    process.once('SIGINT', end);
    process.once('SIGTERM', end);
    try {
      return await work(postgres.app, postgres.logins, postgres.admin);
    } finally {
      await postgres.stop();
      process.off('SIGINT', end);
      process.off('SIGTERM', end);
    }
  } finally {
    await lock.release();
  }
}
