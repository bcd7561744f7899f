/**
 * `sealog verify --database`: checks every stored byte of every stream.
 *
 * Exit 0 intact, 1 tampered, 2 not everything could be checked: also where nothing could be, for whatever reason. That must never
 * look like a finding, nor like none.
 */
import { stat } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type pg from 'pg';
import { type Logger, pino } from 'pino';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { fileMonthKeys } from '../keys/file-month-keys.ts';
import { Keyring } from '../keys/keyring.ts';
import { connectionOf } from '../store/connection.ts';
import { lockDataDir } from '../store/data-dir-lock.ts';
import { findOrStoreKey, keyById } from '../store/data-keys.ts';
import { openDatabase } from '../store/database.ts';
import { clusterOf } from '../store/embedded/cluster.ts';
import { ifThere } from '../store/embedded/files.ts';
import { readEmbeddedConnection, startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { newerSchema, unknownMigrations } from '../store/migrate.ts';
import { listStreams } from '../store/streams.ts';
import { orphanedStreams, verifySource } from '../store/verify-source.ts';
import { orphanReport, type StreamReport, type Verdict, verifyStream } from '../verify/verify-stream.ts';
import { configuration } from './environment.ts';
import { tell } from './failure.ts';
import { orUsage, UsageError } from './usage.ts';

const EXIT: Readonly<Record<Verdict, number>> = { intact: 0, tampered: 1, incomplete: 2 };

export async function verifyCommand(args: string[]): Promise<number> {
  const { values } = orUsage(() =>
    parseArgs({
      args,
      options: { database: { type: 'boolean' }, stream: { type: 'string' }, json: { type: 'boolean' } },
    }),
  );
  if (values.database !== true) throw new UsageError('say what to verify: --database');
  try {
    const config = configuration();
    const log = pino({ level: config.logLevel, base: null }, pino.destination({ dest: 2, sync: true }));
    const reports = await withConnection(config, log, (connection) =>
      verifyAll(config, log, connection, values.stream),
    );
    const verdict = worst(reports.map((report) => report.verdict));
    process.stdout.write(
      values.json === true ? `${JSON.stringify({ verdict, streams: reports })}\n` : summary(reports, verdict),
    );
    return EXIT[verdict];
  } catch (error) {
    if (error instanceof UsageError) throw error;
    process.stderr.write('sealog: the log could not be checked\n');
    tell(error);
    return EXIT.incomplete;
  }
}

async function verifyAll(
  config: Config,
  log: Logger,
  connection: pg.ClientConfig,
  name: string | undefined,
): Promise<StreamReport[]> {
  const database = openDatabase({ connection, readersMax: 1, log });
  try {
    const newer = await unknownMigrations(database.verifier);
    if (newer.length > 0) throw newerSchema(newer);
    const keyring = new Keyring(fileMonthKeys(config.monthKeysDir), {
      findOrStore: (stream, month, make) => findOrStoreKey(database.writer, stream, month, make),
      byId: (id) => keyById(database.verifier, id),
    });
    const streams = (await listStreams(database.verifier)).filter(
      (stream) => name === undefined || stream.name === name,
    );
    if (name !== undefined && streams.length === 0) throw new UsageError(`there is no stream ${name}`);
    const reports: StreamReport[] = [];
    for (const stream of streams) reports.push(await verifyStream(verifySource(database.verifier, keyring, stream)));
    if (name === undefined) reports.push(...(await orphanedStreams(database.verifier)).map(orphanReport));
    return reports;
  } finally {
    await database.close();
  }
}

/** The service's database; that of the embedded mode is started for the check when the service does not run. */
async function withConnection<T>(
  config: Config,
  log: Logger,
  work: (connection: pg.ClientConfig) => Promise<T>,
): Promise<T> {
  if (config.databaseUrl !== undefined) return work(connectionOf(config.databaseUrl));
  const running = await readEmbeddedConnection(config.dataDir);
  if (running !== undefined) {
    try {
      return await work(running.app);
    } finally {
      running.close();
    }
  }
  // Nothing is made here: an empty log where somebody mistook the folder would be found intact.
  if ((await ifThere(stat(clusterOf(config.dataDir)))) === undefined)
    throw new SettingsError([`there is no log in ${config.dataDir}: set SEALOG_DATA_DIR to the service's data folder`]);
  const lock = await lockDataDir(config.dataDir);
  try {
    const postgres = await startEmbeddedPostgres({ dataDir: config.dataDir, log });
    // Interrupted, we leave no server behind.
    const end = () => void postgres.stop().finally(() => process.exit(EXIT.incomplete));
    process.once('SIGINT', end);
    process.once('SIGTERM', end);
    try {
      return await work(postgres.app);
    } finally {
      await postgres.stop();
      process.off('SIGINT', end);
      process.off('SIGTERM', end);
    }
  } finally {
    await lock.release();
  }
}

function worst(verdicts: readonly Verdict[]): Verdict {
  if (verdicts.includes('tampered')) return 'tampered';
  return verdicts.includes('incomplete') ? 'incomplete' : 'intact';
}

function summary(reports: readonly StreamReport[], verdict: Verdict): string {
  const lines: string[] = [];
  for (const report of reports) {
    lines.push(`${report.stream}: ${report.verdict}, ${report.size} entries`);
    for (const finding of report.findings)
      lines.push(`  ${finding.kind} at ${finding.seq ?? 'the stream'}: ${finding.detail}`);
    if (report.truncated) lines.push('  … more was found');
    for (const { seq, detail } of report.unchecked)
      lines.push(`  not checked, from ${seq ?? 'the stream'} on: ${detail}`);
  }
  const entries = reports.reduce((sum, report) => sum + report.size, 0);
  lines.push(`${verdict}: ${reports.length} streams, ${entries} entries`);
  if (verdict === 'intact')
    lines.push(
      'The database agrees with itself. That nobody replaced all of it is shown by checkpoints kept elsewhere.',
    );
  return `${lines.join('\n')}\n`;
}
